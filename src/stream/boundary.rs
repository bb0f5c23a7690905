//! Where in somebody else's byte stream something may be put in.

/// Follows an event stream frame by frame and knows whether the bytes so far end at a boundary: a point where a whole
/// block may be put in without any client seeing the events around it differently.
///
/// That is the start of the stream, the point after a blank line, and the starts of lines in a block that so far has
/// only comment lines. Whether a CR is a line end of its own or the first half of a CRLF is not known until the next
/// byte, so a stream that ends its lines with LF is not at a boundary right after a CR.
///
/// Cost: the last few bytes of each frame are looked at, whatever its size. What they cannot tell is taken for the
/// inside of an event; so a boundary may be missed (until the next blank line), but never made up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boundary {
    place: Place,
    line_end: LineEnd,
    /// The last byte was a CR: an LF would belong to it.
    after_cr: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the start of a line; the block has nothing yet, or comments only.
    Open,
    /// In a comment line of a block of comments only.
    Comment,
    /// In a line of a block that has fields.
    Field,
    /// At the start of a line of a block that has fields.
    AfterField,
}

/// What the stream ends its lines with, by the last one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Unknown,
    Cr,
    Lf,
}

impl Boundary {
    /// How many bytes at the end of a frame are looked at.
    const WINDOW: usize = 64;

    pub(crate) fn new() -> Self {
        Self { place: Place::Open, line_end: LineEnd::Unknown, after_cr: false }
    }

    /// Whether something may be put in here.
    pub(crate) fn is_here(&self) -> bool {
        self.place == Place::Open && !(self.after_cr && self.line_end != LineEnd::Cr)
    }

    /// Moves over the stream's next bytes.
    pub(crate) fn advance(&mut self, frame: &[u8]) {
        if frame.ends_with(b"\n\n") || frame.ends_with(b"\n\r\n") || frame.ends_with(b"\r\r\n") {
            *self = Self { place: Place::Open, line_end: LineEnd::Lf, after_cr: false };
        } else if let Some(start) = frame.len().checked_sub(Self::WINDOW).filter(|start| *start > 0) {
            self.place = Place::Field;
            self.after_cr = false;
            self.walk(&frame[start..]);
        } else {
            self.walk(frame);
        }
    }

    /// Nothing comes after: a CR at the end is a line end of its own.
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
                    self.place = match self.place {
                        Place::Open | Place::Comment | Place::AfterField => Place::Open,
                        Place::Field => Place::AfterField,
                    };
                    self.after_cr = *byte == b'\r';
                    if *byte == b'\n' {
                        self.line_end = LineEnd::Lf;
                    }
                }
                _ => {
                    self.settle();
                    self.place = match self.place {
                        Place::Open if *byte == b':' => Place::Comment,
                        Place::Comment => Place::Comment,
                        Place::Open | Place::Field | Place::AfterField => Place::Field,
                    };
                }
            }
        }
    }

    /// The byte after a CR was no LF, so the CR was a line end of its own.
    fn settle(&mut self) {
        if self.after_cr {
            self.after_cr = false;
            self.line_end = LineEnd::Cr;
        }
    }
}

/// Takes the byte-order mark off that a stream begins with, in whatever frames it comes.
///
/// The standard has clients ignore one, but several do not, and with something put in before it, it would be data. A second one is part of a
/// field's name, which nobody knows; as it must not be the first of what goes out, an empty comment goes before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeadingMark {
    /// How many bytes of two marks are held back.
    held: u8,
    /// The stream has begun with something else.
    is_decided: bool,
}

impl LeadingMark {
    const BYTES: &'static [u8] = b"\xEF\xBB\xBF\xEF\xBB\xBF";
    /// How long one is.
    const ONE: usize = Self::BYTES.len() / 2;
    const SECOND: &'static [u8] = b":\n\xEF\xBB\xBF";

    pub(crate) fn new() -> Self {
        Self { held: 0, is_decided: false }
    }

    /// Whether the stream has begun.
    pub(crate) fn is_decided(&self) -> bool {
        self.is_decided
    }

    /// What is left of the stream's next frame without the mark: what goes out instead of bytes that were held back, and
    /// how many of the frame's bytes go away.
    ///
    /// Bytes that may still turn out to be a mark's are held back: they go away here, and come as own bytes later.
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
            _ => (own(held), 0),
        }
    }

    /// What was held back when the stream ended.
    pub(crate) fn held(&self) -> &'static [u8] {
        if self.is_decided { b"" } else { own(self.held.into()) }
    }
}

/// What is a stream's own of so many bytes that look like the beginning of two marks: a whole one goes away.
fn own(held: usize) -> &'static [u8] {
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
        assert!(!after(&[": c\r"]), "whether an LF follows is not known yet");
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
        /// Byte by byte, with nothing left out, is what it is measured against.
        #[test]
        fn looking_at_the_end_of_a_frame_makes_up_no_boundary(frames in pieces()) {
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
        fn a_leading_mark_goes_and_a_second_one_is_not_the_first_of_what_goes_out(bytes in prop::collection::vec(prop_oneof![Just(0xEFu8), Just(0xBB), Just(0xBF), Just(b'x')], 0..8), cuts in prop::collection::vec(0usize..8, 0..4)) {
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
