use std::{collections::VecDeque, mem, time::Duration};

use super::received::{Received, ReceivedEvent};
use crate::event::{LineReader, field};

/// What a stream contains, in the order of the stream.
#[derive(Debug)]
pub(super) enum Item {
    Received(Received),
    /// The id that a client sends when it reconnects from now on.
    ///
    /// The id of an event comes right before the event.
    LastEventId(String),
}

/// Decodes an event stream that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    lines: LineReader,
    block: Block,
}

/// The fields of a block whose end has not arrived, and the id that a client keeps.
#[derive(Debug, Default)]
struct Block {
    data: Option<String>,
    event_type: String,
    last_event_id: String,
    /// The current block has set `last_event_id`.
    has_id: bool,
}

impl Decoder {
    pub(super) fn decode(&mut self, mut bytes: &[u8], items: &mut VecDeque<Item>) {
        while let Some(line) = self.lines.next(&mut bytes) {
            self.block.interpret(line, items);
        }
    }
}

impl Block {
    /// Interprets one line, by the rules of the HTML standard.
    ///
    /// <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
    fn interpret(&mut self, line: &[u8], items: &mut VecDeque<Item>) {
        if line.is_empty() {
            return self.dispatch(items);
        }
        let (name, value) = field(line);
        let value = &*String::from_utf8_lossy(value);
        match name {
            b"" => items.push_back(Item::Received(Received::Comment(value.to_owned()))),
            b"event" => value.clone_into(&mut self.event_type),
            b"data" => match &mut self.data {
                Some(data) => data.extend(["\n", value]),
                None => self.data = Some(value.to_owned()),
            },
            b"id" if !value.contains('\0') => {
                value.clone_into(&mut self.last_event_id);
                self.has_id = true;
            }
            b"retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                let delay = Duration::from_millis(value.parse().unwrap_or(u64::MAX));
                items.push_back(Item::Received(Received::Retry(delay)));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, items: &mut VecDeque<Item>) {
        if mem::take(&mut self.has_id) {
            items.push_back(Item::LastEventId(self.last_event_id.clone()));
        }
        let event_type = mem::take(&mut self.event_type);
        let Some(data) = self.data.take() else { return };
        let event_type = if event_type.is_empty() { "message".to_owned() } else { event_type };
        let event = ReceivedEvent { event_type, data, last_event_id: self.last_event_id.clone() };
        items.push_back(Item::Received(Received::Event(event)));
    }
}
