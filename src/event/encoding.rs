//! Encodes an event for the wire, and decodes it again.

use std::borrow::Cow;

use bytes::Bytes;

/// Appends one field as a line. The value must not contain a line end.
pub(crate) fn push_field(wire: &mut Vec<u8>, name: &str, value: &str) {
    wire.extend_from_slice(name.as_bytes());
    wire.extend_from_slice(b": ");
    wire.extend_from_slice(value.as_bytes());
    wire.push(b'\n');
}

/// Ends the block with a blank line. A block without fields stays empty.
pub(crate) fn finish(mut wire: Vec<u8>) -> Bytes {
    if !wire.is_empty() {
        wire.push(b'\n');
    }
    Bytes::from(wire)
}

/// Returns the event type of an event that this module encoded.
pub(crate) fn decode_type(wire: &[u8]) -> Option<&str> {
    let line = wire.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"event: "))?;
    std::str::from_utf8(line).ok()
}

/// Returns the data of an event that this module encoded.
///
/// Line ends are LF. Data of one line is not copied.
pub(crate) fn decode_data(wire: &[u8]) -> Option<Cow<'_, str>> {
    let mut lines = wire.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(DATA));
    let first = String::from_utf8_lossy(lines.next()?);
    Some(lines.fold(first, |mut data, line| {
        data.to_mut().push('\n');
        data.to_mut().push_str(&String::from_utf8_lossy(line));
        data
    }))
}

pub(super) const DATA: &[u8] = b"data: ";
pub(super) const COMMENT: &[u8] = b": ";

/// The bytes of `id: `, its line end and the blank line.
pub(crate) const ROOM_FOR_ID: usize = 6;
/// The same, and a position of 13 + 1 + 4 + 1 + 9 characters.
///
/// A buffer that is one byte too short is doubled, and so is the memory of the event.
pub(super) const ROOM_FOR_POSITION: usize = ROOM_FOR_ID + 28;

/// Writes text, which may come in pieces, as lines.
///
/// The text is split at CRLF, LF and CR. Each line gets the prefix and an LF.
pub(super) struct Lines {
    prefix: &'static [u8],
    wire: Vec<u8>,
    after_cr: bool,
}

impl Lines {
    pub(super) fn with_capacity(prefix: &'static [u8], capacity: usize) -> Self {
        let mut wire = Vec::with_capacity(capacity);
        wire.extend_from_slice(prefix);
        Self { prefix, wire, after_cr: false }
    }

    pub(super) fn push(&mut self, mut text: &[u8]) {
        if self.after_cr && !text.is_empty() {
            self.after_cr = false;
            text = text.strip_prefix(b"\n").unwrap_or(text);
        }
        while let Some(end) = line_end(text) {
            self.wire.extend_from_slice(&text[..end]);
            self.wire.push(b'\n');
            self.wire.extend_from_slice(self.prefix);
            let cr = text[end] == b'\r';
            text = &text[end + 1..];
            if cr {
                self.after_cr = text.is_empty();
                text = text.strip_prefix(b"\n").unwrap_or(text);
            }
        }
        self.wire.extend_from_slice(text);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.wire.push(b'\n');
        self.wire
    }
}

/// Returns the index of the next line end.
///
/// It skips pieces of 32 bytes that contain no line end, because a large event has few line ends.
pub(super) fn line_end(text: &[u8]) -> Option<usize> {
    const PIECE: usize = 32;
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let is_clean = |piece: &&[u8]| !piece.iter().fold(false, |found, byte| found | is_end(byte));
    let clean = text.chunks_exact(PIECE).take_while(is_clean).count() * PIECE;
    text[clean..].iter().position(is_end).map(|at| clean + at)
}

#[cfg(feature = "json")]
impl std::io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
