//! Decodes an event stream into events that can be published.

use std::{borrow::Cow, str::from_utf8, time::Duration};

use super::{
    Event,
    encoding::{DATA, push_field},
    line_reader::{LineReader, field},
};

/// Decodes an event stream that arrives in pieces of any size, by the rules of the HTML standard.
///
/// Comments and unknown fields are left out, and so is an event that is unfinished at the end of the stream. Bytes that
/// are not UTF-8 become U+FFFD. An id that [`Event::id`] refuses is left out, and an id without data too.
///
/// <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
#[derive(Debug)]
pub(crate) struct EventDecoder {
    lines: LineReader,
    block: Block,
    limit: usize,
}

/// The fields of a block whose end has not arrived.
#[derive(Debug, Default)]
struct Block {
    /// Encoded lines.
    data: Vec<u8>,
    event_type: Option<Box<str>>,
    id: Option<Box<str>>,
    retry: Option<Duration>,
}

/// An event has more bytes than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl EventDecoder {
    /// `limit`: how many bytes an event may have.
    pub(crate) fn new(limit: usize) -> Self {
        Self { lines: LineReader::default(), block: Block::default(), limit }
    }

    /// Returns the next event of a piece, and removes its bytes from the piece.
    ///
    /// `None`: the piece has no further event. What follows is kept as the beginning of the next one.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the event has more bytes than the limit. Nothing can be decoded after it.
    pub(crate) fn next(&mut self, piece: &mut &[u8]) -> Result<Option<Event>, TooLong> {
        while let Some(line) = self.lines.next(piece) {
            match line {
                [] => {
                    if let Some(event) = std::mem::take(&mut self.block).finish() {
                        return Ok(Some(event));
                    }
                }
                line => self.block.add(line),
            }
            self.check(0)?;
        }
        self.check(self.lines.unfinished())?;
        Ok(None)
    }

    fn check(&self, unfinished: usize) -> Result<(), TooLong> {
        if self.block.size() + unfinished > self.limit { Err(TooLong) } else { Ok(()) }
    }
}

impl Block {
    fn add(&mut self, line: &[u8]) {
        let (name, value) = field(line);
        // Most values are UTF-8, which is checked several bytes at a time.
        let text = || from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed);
        match name {
            b"data" => {
                // Once, as most events have one line.
                self.data.reserve(DATA.len() + value.len() + 1);
                push_field(&mut self.data, "data", &text());
            }
            b"event" => self.event_type = (!value.is_empty()).then(|| text().into()),
            b"id" if !value.contains(&0) => self.id = Some(text().into()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry = Some(Duration::from_millis(text().parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }

    fn size(&self) -> usize {
        let texts = [&self.event_type, &self.id].into_iter().flatten();
        self.data.len() + texts.map(|text| text.len()).sum::<usize>()
    }

    /// Returns the event, if a client does anything with it.
    fn finish(self) -> Option<Event> {
        let Self { data, event_type, id, retry } = self;
        match (data.is_empty(), retry) {
            (true, None) => None,
            (true, retry) => Some(Event { retry, ..Event::default() }),
            (false, retry) => {
                let id = id.filter(|id| Event::is_valid_id(id));
                Some(Event { data, event_type, id, retry, ..Event::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(stream: &[u8], piece: usize) -> Vec<Event> {
        let (mut decoder, mut events) = (EventDecoder::new(1000), Vec::new());
        for mut piece in stream.chunks(piece) {
            while let Some(event) = decoder.next(&mut piece).unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn all_fields_of_an_event_are_decoded_from_any_pieces() {
        let stream = ": c\r\nevent: t\rdata: a\ndata:b\ndata\nid: 7\nretry: 10\nother: x\n\ndata: second\r\n\r\n";
        let first = Event::data("a\nb\n").event("t").id("7").unwrap().retry(Duration::from_millis(10));
        for piece in 1..=stream.len() {
            assert_eq!(decoded(stream.as_bytes(), piece), [first.clone(), Event::data("second")], "{piece}");
        }
    }

    #[test]
    fn what_no_client_dispatches_is_left_out() {
        let stream = b":\n\nevent: t\n\nid: 1\n\nretry: x\n\nretry:\n\nfoo\n\n\n\ndata: unfinished\n";
        assert_eq!(decoded(stream, 7), []);
    }

    #[test]
    fn a_reconnection_time_alone_is_an_event() {
        let events = decoded(b"event: t\nretry: 99999999999999999999\n\nretry: 5\n\n", 3);
        let times = [u64::MAX, 5].map(|ms| Event::empty().retry(Duration::from_millis(ms)));
        assert_eq!(events, times);
    }

    #[test]
    fn an_id_that_no_client_could_send_back_is_left_out() {
        for id in ["", "é", " a", "a ", &"x".repeat(257)] {
            assert_eq!(decoded(format!("id: {id}\ndata: d\n\n").as_bytes(), 9), [Event::data("d")], "{id}");
        }
        let kept = Event::data("d").id("1").unwrap();
        assert_eq!(decoded(b"id: 1\nid: a\0b\ndata: d\n\n", 9), [kept]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(decoded(b"data: a\xFFb\nevent: \xE2\x82\n\n", 5), [Event::data("a\u{fffd}b").event("\u{fffd}")]);
    }

    #[test]
    fn an_event_of_more_bytes_than_the_limit_is_refused_before_its_end() {
        let limit = 100;
        for field in ["data: ", "event: ", "id: ", ": "] {
            let mut decoder = EventDecoder::new(limit);
            let line = [field, &"x".repeat(limit + 1)].concat();
            let refused = line.as_bytes().chunks(7).find_map(|mut piece| decoder.next(&mut piece).err());
            assert_eq!(refused, Some(TooLong), "{field}");
        }
        let mut decoder = EventDecoder::new(limit);
        let mut lines = std::iter::repeat_n(&b"data: x\n"[..], limit);
        assert!(lines.any(|mut line| decoder.next(&mut line).is_err()));
        let mut decoder = EventDecoder::new(limit);
        let mut many = "data: x\n\n".repeat(limit).into_bytes();
        many.extend_from_slice(": a comment\n".repeat(limit).as_bytes());
        let mut piece = &many[..];
        assert_eq!(std::iter::from_fn(|| decoder.next(&mut piece).unwrap()).count(), limit);
    }
}
