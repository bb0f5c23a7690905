//! Splits an event stream into lines, and a line into its field.

use std::mem;

use super::encoding::line_end;

/// Splits an event stream that arrives in pieces of any size into lines.
///
/// A line ends with LF, CR or CRLF. A byte-order mark at the start of the stream is removed. A line that lies in one
/// piece is not copied.
#[derive(Debug, Default)]
pub(crate) struct LineReader {
    /// The beginning of a line whose end has not arrived.
    unfinished: Vec<u8>,
    /// `unfinished` was returned as a line, and is empty from the next call on.
    is_returned: bool,
    /// The last line ended with a CR. An LF that comes next belongs to it.
    after_cr: bool,
    has_begun: bool,
}

impl LineReader {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    /// The capacity that is kept after a long line.
    const SPARE: usize = 4096;

    /// Returns the next line of a piece without its line end, and removes it from the piece.
    ///
    /// `None`: the piece has no further line end. The rest of the piece is kept as the beginning of the next line.
    pub(crate) fn next<'a, 'p: 'a>(&'a mut self, piece: &mut &'p [u8]) -> Option<&'a [u8]> {
        if mem::take(&mut self.is_returned) {
            self.unfinished.clear();
            self.unfinished.shrink_to(Self::SPARE);
        }
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            *piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        let Some(end) = line_end(piece) else {
            self.unfinished.extend_from_slice(piece);
            *piece = &[];
            return None;
        };
        let (line, rest) = piece.split_at(end);
        self.after_cr = rest.starts_with(b"\r");
        *piece = &rest[1..];
        let is_first = !mem::replace(&mut self.has_begun, true);
        let line = match self.unfinished.is_empty() {
            true => line,
            false => {
                self.unfinished.extend_from_slice(line);
                self.is_returned = true;
                &self.unfinished
            }
        };
        Some(line.strip_prefix(Self::MARK).filter(|_| is_first).unwrap_or(line))
    }

    /// Returns how many bytes are kept of a line whose end has not arrived.
    pub(crate) fn unfinished(&self) -> usize {
        if self.is_returned { 0 } else { self.unfinished.len() }
    }
}

/// Splits a line into the name and the value of its field. The name of a comment is empty.
pub(crate) fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return (line, b"") };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let (mut reader, mut lines) = (LineReader::default(), Vec::new());
        for piece in pieces {
            let mut piece = piece.as_bytes();
            while let Some(line) = reader.next(&mut piece) {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        lines
    }

    #[test]
    fn each_kind_of_line_end_ends_one_line_in_any_pieces() {
        for pieces in [
            &["a\nb\r\rc\r\nd\n"][..],
            &["a", "\n", "b", "\r", "\r", "c", "\r", "\n", "d", "\n"],
            &["a\nb\r", "\rc\r", "\nd\n"],
            &["a\nb\r", "", "\rc\r", "", "\nd\nleft out"],
        ] {
            assert_eq!(lines(pieces), ["a", "b", "", "c", "d"], "{pieces:?}");
        }
    }

    #[test]
    fn one_mark_at_the_start_is_removed_in_any_pieces() {
        let text = "\u{feff}\u{feff}a\n\u{feff}b\n".as_bytes();
        for cut in 0..text.len() {
            let (mut reader, mut lines) = (LineReader::default(), Vec::new());
            for mut piece in [&text[..cut], &text[cut..]] {
                while let Some(line) = reader.next(&mut piece) {
                    lines.push(line.to_vec());
                }
            }
            assert_eq!(lines, ["\u{feff}a".as_bytes(), "\u{feff}b".as_bytes()]);
        }
    }

    #[test]
    fn a_field_has_one_space_less_than_its_line() {
        for (line, expected) in
            [("data", ("data", "")), ("data:a:b", ("data", "a:b")), ("data:  a", ("data", " a")), (": c", ("", "c"))]
        {
            assert_eq!(field(line.as_bytes()), (expected.0.as_bytes(), expected.1.as_bytes()));
        }
    }

    #[test]
    fn a_long_line_does_not_keep_its_memory() {
        let mut reader = LineReader::default();
        let long = vec![b'x'; 1 << 20];
        assert_eq!(reader.next(&mut &long[..]), None);
        assert_eq!(reader.unfinished(), 1 << 20);
        assert_eq!(reader.next(&mut &b"\n"[..]).map(<[u8]>::len), Some(1 << 20));
        assert_eq!(reader.next(&mut &b"y"[..]), None);
        assert_eq!(reader.unfinished(), 1);
        assert!(reader.unfinished.capacity() <= LineReader::SPARE);
    }
}
