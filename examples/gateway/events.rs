//! The events of a stream that passes: where each ends, and from where the stream can be asked for again.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem,
};

use bytes::{Buf, Bytes, BytesMut};

use crate::delivered::{Block, Delivered, Resumed, Unclear, Verdict};

/// Removed at the beginning of a stream, as it would be a part of an event in the middle of one.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Holds back an event until it is whole, so that a stream that breaks has sent no half of one. Leaves out what a further
/// response repeats.
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
    /// What the unfinished event has: any field, an `id`, any `data`, and the digest of its content.
    is_within: bool,
    id: Option<Vec<u8>>,
    has_data: bool,
    content: Option<DefaultHasher>,
    /// Nothing is held back any more.
    is_too_large: bool,
    retry: Option<u64>,
    delivered: Delivered,
    /// A further response, until it is known where it begins.
    further: Option<Further>,
}

#[derive(Default)]
struct Further {
    resumed: Resumed,
    /// Whole blocks that wait for the next id.
    waiting: BytesMut,
    blocks: Vec<Block>,
    /// Of the last block.
    verdict: Option<Verdict>,
}

impl Events {
    /// The most of one event that is held back. A stream with a larger event passes as it comes from there on.
    const MOST_HELD: usize = 1 << 20;

    /// Takes bytes of the stream, and returns those that can be sent: whole events, and whole lines between events.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<Bytes, Unclear> {
        if self.is_too_large {
            return Ok(Bytes::copy_from_slice(data));
        }
        self.held.extend_from_slice(data);
        if !self.has_begun {
            if self.held.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(&self.held) {
                return Ok(Bytes::new());
            }
            self.has_begun = true;
            if self.held.starts_with(BYTE_ORDER_MARK) {
                self.held.advance(BYTE_ORDER_MARK.len());
            }
        }
        let mut sent = BytesMut::new();
        let (mut at, mut whole) = (self.seen, 0);
        while at < self.held.len() {
            let (byte, follows_cr) = (self.held[at], mem::take(&mut self.is_after_cr));
            let mut block = None;
            let is_rest_of_line_end = byte == b'\n' && follows_cr;
            if !is_rest_of_line_end && (byte == b'\n' || byte == b'\r') {
                let line = self.held[self.line..at].to_vec();
                block = self.take_line(&line);
                self.is_after_cr = byte == b'\r';
            } else if !is_rest_of_line_end {
                at += 1;
                continue;
            }
            at += 1;
            self.line = at;
            if self.is_within {
                continue;
            }
            if self.further.is_some() {
                let lines = self.held.split_to(at);
                (at, self.line) = (0, 0);
                self.take_further(&lines, block, is_rest_of_line_end, &mut sent)?;
            } else {
                block.into_iter().for_each(|block| self.delivered.add(block));
                whole = at;
            }
        }
        let passed = self.held.split_to(whole);
        self.line -= whole;
        self.seen = self.held.len();
        sent.unsplit(passed);
        if self.seen + self.further.as_ref().map_or(0, |further| further.waiting.len()) <= Self::MOST_HELD {
            return Ok(sent.freeze());
        }
        // Whatever was delivered of this stream is smaller.
        if self.further.is_some() {
            return Err(Unclear);
        }
        self.is_too_large = true;
        Ok([&sent[..], &self.take_rest()].concat().into())
    }

    /// Takes lines of a further response that has not been seen to go on yet: a block, or what is between two.
    fn take_further(
        &mut self,
        lines: &[u8],
        block: Option<Block>,
        is_rest_of_line_end: bool,
        sent: &mut BytesMut,
    ) -> Result<(), Unclear> {
        let Some(further) = &mut self.further else { return Ok(()) };
        let verdict = match &block {
            Some(block) => further.resumed.judge(block, &further.blocks, &self.delivered)?,
            None => further.verdict.filter(|_| is_rest_of_line_end).unwrap_or(Verdict::Passes),
        };
        further.verdict = Some(verdict);
        match verdict {
            Verdict::Passes => sent.extend_from_slice(lines),
            Verdict::Waits => {
                further.waiting.extend_from_slice(lines);
                further.blocks.extend(block);
            }
            Verdict::Repeated => {
                further.waiting.clear();
                further.blocks.clear();
            }
            Verdict::New => {
                sent.extend_from_slice(&further.waiting);
                sent.extend_from_slice(lines);
                let blocks = mem::take(&mut further.blocks);
                self.further = None;
                blocks.into_iter().chain(block).for_each(|block| self.delivered.add(block));
            }
        }
        Ok(())
    }

    /// Returns the block that ends with this line.
    fn take_line(&mut self, line: &[u8]) -> Option<Block> {
        let name_ends = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(name_ends);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" if line.is_empty() => {
                let content = self.content.take().filter(|_| mem::take(&mut self.has_data));
                let block = Block { id: self.id.take(), content: content.map(|content| content.finish()) };
                return mem::take(&mut self.is_within).then_some(block);
            }
            // A comment.
            b"" => return None,
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"data" | b"event" => {
                self.has_data |= name == b"data";
                (name, value).hash(self.content.get_or_insert_with(|| self.delivered.digest()));
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                self.retry = std::str::from_utf8(value).ok().and_then(|it| it.parse().ok()).or(self.retry);
            }
            _ => {}
        }
        self.is_within = true;
        None
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
        let delivered = mem::take(&mut self.delivered);
        let further = (!delivered.is_empty()).then(Further::default);
        *self = Self { retry: self.retry, delivered, further, ..Self::default() };
    }

    /// Whether events wait for an id, or are left out until the last id comes. An end here would lose events.
    pub(crate) fn is_unclear(&self) -> bool {
        self.further.as_ref().is_some_and(|further| !further.blocks.is_empty() || further.resumed.misses_last_id())
    }

    /// Whether a part of an event has been sent, or may have been.
    pub(crate) fn has_sent_a_part(&self) -> bool {
        self.is_too_large
    }

    /// The id of the last event that was sent, if events have ids.
    pub(crate) fn last_id(&self) -> Option<&[u8]> {
        self.delivered.last_id()
    }

    /// How many events have been sent. An event without data is none.
    pub(crate) fn number(&self) -> u64 {
        self.delivered.number()
    }

    /// After how many milliseconds the upstream wants to be asked again.
    pub(crate) fn retry(&self) -> Option<u64> {
        self.retry
    }
}
