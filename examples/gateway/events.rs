//! The events of a stream that passes: where each ends, and from where the stream can be asked for again.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};

/// Removed at the beginning of a stream, as it would be a part of an event in the middle of one.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Holds back an event until it is whole, so that a stream that breaks has sent no half of one.
///
/// It knows what the HTML standard says of lines, ids and reconnection times, and changes no byte but a byte-order mark.
#[derive(Default)]
pub(crate) struct Events {
    /// What is held back: an event that is not whole, or a part of a line.
    held: BytesMut,
    /// Where the last line of `held` begins, and how much of `held` was looked at.
    line: usize,
    seen: usize,
    has_begun: bool,
    /// A line feed at this place belongs to the line end before it.
    is_after_cr: bool,
    /// What the unfinished event has: any field, an `id`, any `data`.
    is_within: bool,
    id: Option<Vec<u8>>,
    has_data: bool,
    /// Nothing is held back any more.
    is_too_large: bool,
    last_id: Option<Vec<u8>>,
    retry: Option<u64>,
    number: u64,
}

impl Events {
    /// The most of one event that is held back. A stream with a larger event passes as it comes from there on.
    const MOST_HELD: usize = 1 << 20;

    /// Takes bytes of the stream, and returns those that can be sent: whole events, and whole lines between events.
    pub(crate) fn push(&mut self, data: &[u8]) -> Bytes {
        if self.is_too_large {
            return Bytes::copy_from_slice(data);
        }
        self.held.extend_from_slice(data);
        if !self.has_begun {
            if self.held.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(&self.held) {
                return Bytes::new();
            }
            self.has_begun = true;
            if self.held.starts_with(BYTE_ORDER_MARK) {
                self.held.advance(BYTE_ORDER_MARK.len());
            }
        }
        let mut whole = 0;
        for at in self.seen..self.held.len() {
            let (byte, follows_cr) = (self.held[at], mem::take(&mut self.is_after_cr));
            if byte == b'\n' && follows_cr {
                self.line = at + 1;
            } else if byte == b'\n' || byte == b'\r' {
                let line = self.held[self.line..at].to_vec();
                self.take_line(&line);
                self.line = at + 1;
                self.is_after_cr = byte == b'\r';
            } else {
                continue;
            }
            if !self.is_within {
                whole = at + 1;
            }
        }
        let sent = self.held.split_to(whole);
        self.line -= whole;
        self.seen = self.held.len();
        if self.seen <= Self::MOST_HELD {
            return sent.freeze();
        }
        self.is_too_large = true;
        [&sent[..], &self.take_rest()].concat().into()
    }

    fn take_line(&mut self, line: &[u8]) {
        let name_ends = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(name_ends);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" if line.is_empty() => {
                if let Some(id) = self.id.take() {
                    self.last_id = Some(id).filter(|id| !id.is_empty());
                }
                self.number += u64::from(mem::take(&mut self.has_data));
                self.is_within = false;
                return;
            }
            // A comment.
            b"" => return,
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"data" => self.has_data = true,
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                self.retry = std::str::from_utf8(value).ok().and_then(|it| it.parse().ok()).or(self.retry);
            }
            _ => {}
        }
        self.is_within = true;
    }

    /// Whether the stream is in the middle of an event.
    pub(crate) fn is_within_event(&self) -> bool {
        self.is_within || self.held.get(self.line).is_some_and(|first| *first != b':')
    }

    /// What was held back.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        (self.line, self.seen) = (0, 0);
        mem::take(&mut self.held).freeze()
    }

    /// The stream goes on in another response. What was held back of this one is not sent.
    pub(crate) fn begin_again(&mut self) {
        let (last_id, retry) = (self.last_id.take(), self.retry);
        *self = Self { last_id, retry, number: self.number, ..Self::default() };
    }

    /// Whether a part of an event has been sent, or may have been.
    pub(crate) fn has_sent_a_part(&self) -> bool {
        self.is_too_large
    }

    /// The id of the last event that was sent, if events have ids.
    pub(crate) fn last_id(&self) -> Option<&[u8]> {
        self.last_id.as_deref()
    }

    /// How many events have been sent. An event without data is none.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// After how many milliseconds the upstream wants to be asked again.
    pub(crate) fn retry(&self) -> Option<u64> {
        self.retry
    }
}
