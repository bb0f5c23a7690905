//! Finds the points in an event stream where the crate may insert bytes.

/// Follows an event stream and knows whether its bytes so far end at a boundary.
///
/// A boundary is a point where a whole block can be inserted without changing the events around it for any client.
/// Boundaries are the start of the stream, the point after a blank line, and the start of a line in a block that has
/// only comment lines so far.
///
/// A CR can be a line end, or the first half of a CRLF. Only the next byte tells. So a stream that ends its lines with
/// LF is not at a boundary right after a CR.
///
/// Cost: only the last 64 bytes of each frame are read, whatever its size. If they do not tell, the frame counts as the
/// inside of an event. So a boundary may be missed until the next blank line, but never invented.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boundary {
    state: ParseState,
    line_end: LineEnd,
    /// The last byte was a CR. An LF would belong to the same line end.
    after_cr: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParseState {
    /// At the start of a line. The block is empty, or has only comments.
    Open,
    /// Inside a comment line. The block has only comments.
    Comment,
    /// Inside a line. The block has fields.
    Field,
    /// At the start of a line. The block has fields.
    AfterField,
}

/// The line end that the stream used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Unknown,
    Cr,
    Lf,
}

impl Boundary {
    /// The number of bytes at the end of a frame that are read.
    const WINDOW: usize = 64;

    pub(crate) fn new() -> Self {
        Self { state: ParseState::Open, line_end: LineEnd::Unknown, after_cr: false }
    }

    /// Returns whether bytes may be inserted here.
    pub(crate) fn is_here(&self) -> bool {
        self.state == ParseState::Open && !(self.after_cr && self.line_end != LineEnd::Cr)
    }

    /// Moves over the next frame of the stream.
    pub(crate) fn advance(&mut self, frame: &[u8]) {
        if frame.ends_with(b"\n\n") || frame.ends_with(b"\n\r\n") || frame.ends_with(b"\r\r\n") {
            *self = Self { state: ParseState::Open, line_end: LineEnd::Lf, after_cr: false };
        } else if let Some(start) = frame.len().checked_sub(Self::WINDOW).filter(|start| *start > 0) {
            self.state = ParseState::Field;
            self.after_cr = false;
            self.walk(&frame[start..]);
        } else {
            self.walk(frame);
        }
    }

    /// Marks the end of the stream: a CR at the end is a line end.
    pub(crate) fn end(&mut self) {
        self.settle();
    }

    fn walk(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    self.line_end = LineEnd::Lf;
                }
                b'\n' | b'\r' => {
                    self.settle();
                    self.state = match self.state {
                        ParseState::Open | ParseState::Comment | ParseState::AfterField => ParseState::Open,
                        ParseState::Field => ParseState::AfterField,
                    };
                    self.after_cr = *byte == b'\r';
                    if *byte == b'\n' {
                        self.line_end = LineEnd::Lf;
                    }
                }
                _ => {
                    self.settle();
                    self.state = match self.state {
                        ParseState::Open if *byte == b':' => ParseState::Comment,
                        ParseState::Comment => ParseState::Comment,
                        ParseState::Open | ParseState::Field | ParseState::AfterField => ParseState::Field,
                    };
                }
            }
        }
    }

    /// Counts the CR before this byte as a line end, as the byte is not an LF.
    fn settle(&mut self) {
        if self.after_cr {
            self.after_cr = false;
            self.line_end = LineEnd::Cr;
        }
    }
}

/// Removes the byte-order mark at the start of a stream.
///
/// The mark may be split into frames at any byte.
///
/// The standard tells clients to ignore one leading mark, but several clients do not. And if the crate inserts bytes
/// before a mark, the mark becomes data.
///
/// A second mark is part of a field name that no client knows. It must not be the first bytes that are sent, so an
/// empty comment is sent before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeadingMark {
    /// The number of held-back bytes that match the beginning of two marks.
    held: u8,
    /// The stream has begun with bytes that are not a mark.
    is_decided: bool,
}

impl LeadingMark {
    const BYTES: &'static [u8] = b"\xEF\xBB\xBF\xEF\xBB\xBF";
    /// The length of one mark in bytes.
    const ONE: usize = Self::BYTES.len() / 2;
    const SECOND: &'static [u8] = b":\n\xEF\xBB\xBF";

    pub(crate) fn new() -> Self {
        Self { held: 0, is_decided: false }
    }

    /// Returns whether no further bytes can belong to a leading mark.
    pub(crate) fn is_decided(&self) -> bool {
        self.is_decided
    }

    /// Removes the mark from the next frame of the stream.
    ///
    /// Returns the bytes to send before the frame, and the number of bytes to cut off the start of the frame.
    ///
    /// Bytes that may still become a mark are held back: they are cut off here, and are sent later if they are not a
    /// mark.
    pub(crate) fn strip(&mut self, frame: &[u8]) -> (&'static [u8], usize) {
        if self.is_decided {
            return (b"", 0);
        }
        let held = usize::from(self.held);
        let rest = &Self::BYTES[held..];
        let matching = rest.iter().zip(frame).take_while(|(a, b)| a == b).count();
        if matching == rest.len() {
            self.is_decided = true;
            return (Self::SECOND, matching);
        }
        if matching == frame.len() {
            self.held += matching as u8;
            return (b"", matching);
        }
        self.is_decided = true;
        match Self::ONE.checked_sub(held) {
            Some(missing) if missing <= matching => (b"", missing),
            _ => (without_first_mark(held), 0),
        }
    }

    /// Returns the bytes that were held back when the stream ended.
    pub(crate) fn held(&self) -> &'static [u8] {
        if self.is_decided { b"" } else { without_first_mark(self.held.into()) }
    }
}

/// Returns the held-back bytes without a complete first mark.
fn without_first_mark(held: usize) -> &'static [u8] {
    let bytes = &LeadingMark::BYTES[..held];
    bytes.get(LeadingMark::ONE..).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(frames: &[&str]) -> bool {
        let mut boundary = Boundary::new();
        frames.iter().for_each(|frame| boundary.advance(frame.as_bytes()));
        boundary.is_here()
    }

    #[test]
    fn the_start_and_the_point_after_a_blank_line_are_boundaries() {
        assert!(after(&[]));
        assert!(after(&["data: x\n\n"]));
        assert!(after(&["data: x\n", "\n"]));
        assert!(after(&["data: x\r\n\r\n"]));
        assert!(after(&["data: x\r\n\r", "\n"]));
        assert!(after(&["data: x\r", "\n", "\r", "\n"]));
        assert!(after(&["data: x\r\r"]));
        assert!(after(&["data: x\r", "\r"]));
        assert!(after(&["data: x\r\r\n"]));
        assert!(after(&["\n"]));
    }

    #[test]
    fn the_inside_of_an_event_is_no_boundary() {
        for inside in
            ["d", "data: x", "data: x\n", "data: x\r\n", "data: x\r", ": c\ndata: x\n", "data: x\n: c\n", " \n"]
        {
            assert!(!after(&[inside]), "{inside:?}");
            assert!(!after(&["data: 0\n\n", inside]), "{inside:?} after an event");
        }
    }

    #[test]
    fn the_middle_of_a_line_end_is_no_boundary() {
        assert!(!after(&["data: x\n\r"]));
        assert!(!after(&["data: x\r\n\r"]));
        assert!(!after(&["data: x\r\n\r\n: c\r"]));
        assert!(!after(&[": c\r"]), "an LF may follow");
    }

    #[test]
    fn a_block_of_comments_is_a_boundary_at_its_line_starts() {
        assert!(after(&[": c\n"]));
        assert!(after(&[":\n:\n", ":\n"]));
        assert!(after(&["data: x\n\n: c\n"]));
        assert!(after(&["data: x\n\n: c\r", "\n"]));
        assert!(after(&[":a\r:b\r"]));
        assert!(!after(&[": c"]));
        assert!(!after(&[": c\n: d"]));
    }

    #[test]
    fn a_long_frame_is_read_at_its_end() {
        let long = format!("data: {}", "x".repeat(100_000));
        assert!(!after(&[&long]));
        assert!(!after(&[&format!("{long}\n")]));
        assert!(after(&[&format!("{long}\n\n")]));
        assert!(after(&[&format!("{long}\r\n\r\n: c\r\n")]));
        assert!(after(&[&long, "\n", "\n"]));
    }

    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just("\r\n".to_owned()),
            Just(":".to_owned()),
            Just("data: x".to_owned()),
            Just("y".repeat(70)),
        ];
        let frame = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        prop::collection::vec(frame, 0..8)
    }

    proptest! {
        /// Compares with a walk over every byte of every frame.
        #[test]
        fn reading_only_the_end_of_a_frame_finds_no_false_boundary(frames in pieces()) {
            let (mut quick, mut whole) = (Boundary::new(), Boundary::new());
            for frame in &frames {
                quick.advance(frame.as_bytes());
                whole.walk(frame.as_bytes());
                prop_assert!(!quick.is_here() || whole.is_here());
                if frames.iter().all(|frame| frame.len() <= Boundary::WINDOW) {
                    prop_assert_eq!(quick.is_here(), whole.is_here());
                }
            }
        }

        #[test]
        fn a_leading_mark_is_removed_and_a_second_one_is_not_sent_first(bytes in prop::collection::vec(prop_oneof![Just(0xEFu8), Just(0xBB), Just(0xBF), Just(b'x')], 0..8), cuts in prop::collection::vec(0usize..8, 0..4)) {
            let mut mark = LeadingMark::new();
            let mut out = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                let frame = &bytes[pair[0]..pair[1]];
                let (held, gone) = mark.strip(frame);
                out.extend_from_slice(held);
                out.extend_from_slice(&frame[gone..]);
            }
            out.extend_from_slice(mark.held());
            let mark = b"\xEF\xBB\xBF";
            let rest = bytes.strip_prefix(mark).unwrap_or(&bytes);
            let expected = if rest.len() < bytes.len() && rest.starts_with(mark) { [b":\n", rest].concat() } else { rest.to_vec() };
            prop_assert_eq!(out, expected);
        }
    }
}
