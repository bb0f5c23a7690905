//! Where an event stands in the registry's one order, and what a client says of it when it comes back.

use std::{fmt, str::FromStr};

use super::topic::stable_hash;
use crate::event::Quoted;

/// Where an event stands in the registry's one order: what goes out as `id:` and comes back as `Last-Event-ID`.
///
/// Written `ms-seq`, as a Redis Stream id is: the milliseconds since the Unix epoch when it was published (they never
/// go back), and a counter within them. Printable ASCII, and in order across restarts of a process.
///
/// ```
/// use tower_sse::Position;
///
/// let position: Position = "1763612345678-2".parse()?;
/// assert!(position > "1763612345678-1".parse()?);
/// assert_eq!(position.to_string(), "1763612345678-2");
/// # Ok::<(), tower_sse::InvalidPosition>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    ms: u64,
    seq: u64,
}

impl Position {
    /// The position of these milliseconds and this counter.
    #[must_use]
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// The milliseconds since the Unix epoch.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The counter within the millisecond.
    #[must_use]
    pub const fn seq(self) -> u64 {
        self.seq
    }

    /// The position that an event published at `now_ms` gets when this was the last one.
    pub(crate) fn next(self, now_ms: u64) -> Self {
        match now_ms > self.ms {
            true => Self::new(now_ms, 0),
            false => {
                self.seq.checked_add(1).map_or(Self::new(self.ms.saturating_add(1), 0), |seq| Self::new(self.ms, seq))
            }
        }
    }

    /// Two numbers of 20 digits and a hyphen.
    pub(crate) const MAX_LENGTH: usize = 41;

    /// The last one that can be before this.
    pub(crate) fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self::new(self.ms, seq),
            None => Self::new(self.ms.saturating_sub(1), u64::MAX),
        }
    }

    /// Appends what [`Display`](fmt::Display) writes.
    pub(crate) fn write(self, wire: &mut Vec<u8>) {
        push_decimal(wire, self.ms);
        wire.push(b'-');
        push_decimal(wire, self.seq);
    }
}

fn push_decimal(wire: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    wire.extend_from_slice(&digits[start..]);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    /// Reads what [`Display`](fmt::Display) writes, and nothing else: no sign, no leading zeros, no spaces.
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let number = |digits: &str| {
            let canonical = digits == "0" || !digits.starts_with(['0', '+']);
            canonical.then(|| digits.parse().ok()).flatten()
        };
        text.split_once('-')
            .and_then(|(ms, seq)| Some(Self::new(number(ms)?, number(seq)?)))
            .ok_or_else(|| InvalidPosition { value: text.to_owned() })
    }
}

/// A text that is no [`Position`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPosition {
    value: String,
}

impl fmt::Display for InvalidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no position: expected milliseconds, a hyphen and a counter", Quoted(&self.value))
    }
}

impl std::error::Error for InvalidPosition {}

/// How far a client had read when its last event with an id went out.
///
/// That is one position, but for a client that was catching up on topics it had subscribed to late, from a point
/// before what it had already seen: of those topics it has seen everything up to `late`, of the others up to `seen`.
/// It is written `SEEN;LATE;TOPIC,TOPIC`, the topics as hashes, so that a cut in the middle of catching up loses nothing and repeats nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) seen: Position,
    late: Option<(Position, Late)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Late {
    Topics(Vec<u64>),
    /// There were too many to name them all: resuming repeats something rather than losing it.
    Any,
}

impl Progress {
    /// How many late topics an id names.
    const NAMED: usize = 8;

    pub(crate) fn catching_up<'a>(seen: Position, late: Position, topics: impl Iterator<Item = &'a str>) -> Self {
        let mut hashes: Vec<u64> = topics.take(Self::NAMED + 1).map(stable_hash).collect();
        hashes.sort_unstable();
        let topics = if hashes.len() > Self::NAMED { Late::Any } else { Late::Topics(hashes) };
        Self { seen, late: Some((late, topics)) }
    }

    /// After which position the client goes on in this topic.
    pub(crate) fn of(&self, topic: &str) -> Position {
        match &self.late {
            Some((late, Late::Any)) => *late,
            Some((late, Late::Topics(hashes))) if hashes.contains(&stable_hash(topic)) => *late,
            _ => self.seen,
        }
    }
}

impl From<Position> for Progress {
    fn from(seen: Position) -> Self {
        Self { seen, late: None }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seen)?;
        match &self.late {
            None => Ok(()),
            Some((late, Late::Any)) => write!(f, ";{late};*"),
            Some((late, Late::Topics(hashes))) => {
                write!(f, ";{late};")?;
                hashes
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, hash)| write!(f, "{}{hash:016x}", if index == 0 { "" } else { "," }))
            }
        }
    }
}

impl FromStr for Progress {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let invalid = || InvalidPosition { value: text.to_owned() };
        let mut parts = text.split(';');
        let seen = parts.next().unwrap_or_default().parse()?;
        let late = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(late), Some("*"), None) => Some((late.parse()?, Late::Any)),
            (Some(late), Some(topics), None) => {
                let hash = |text: &str| {
                    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
                };
                let hashes: Option<Vec<u64>> = topics.split(',').take(Self::NAMED + 1).map(hash).collect();
                let hashes = hashes.filter(|hashes| hashes.len() <= Self::NAMED).ok_or_else(invalid)?;
                Some((late.parse()?, Late::Topics(hashes)))
            }
            _ => return Err(invalid()),
        };
        Ok(Self { seen, late })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_never_go_back_and_never_repeat() {
        let first = Position::default().next(5);
        assert_eq!(first, Position::new(5, 0));
        assert_eq!(first.next(5), Position::new(5, 1));
        assert_eq!(first.next(3), Position::new(5, 1), "a clock that was set back");
        assert_eq!(first.next(6), Position::new(6, 0));
        assert_eq!(Position::new(5, u64::MAX).next(5), Position::new(6, 0));
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-0",
            "1-+0",
            "01-0",
            "1-00",
            " 1-0",
            "1-0 ",
            "1-0-0",
            "1_0",
            "a-b",
            "18446744073709551616-0",
            "1-0;",
            "٣-0",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
        for text in ["1-0;", "1-0;2-0", "1-0;2-0;", "1-0;2-0;xyz", "1-0;2-0;*;", "1-0;2-0;+000000000000001", ";;"] {
            assert!(text.parse::<Progress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_client_that_was_catching_up_goes_on_where_it_was_in_each_topic() {
        let (seen, late) = (Position::new(100, 0), Position::new(60, 0));
        let progress = Progress::catching_up(seen, late, ["b"].into_iter());
        assert_eq!((progress.of("a"), progress.of("b")), (seen, late));
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let progress = Progress::catching_up(seen, late, many.iter().map(String::as_str));
        assert_eq!(progress.to_string(), "100-0;60-0;*");
        assert_eq!(progress.of("other"), late);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ms: u64, seq: u64, late in (any::<u64>(), any::<u64>()), topics in prop::collection::vec(".*", 1..12)) {
            let position = Position::new(ms, seq);
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            let mut wire = Vec::new();
            position.write(&mut wire);
            prop_assert_eq!(String::from_utf8(wire).ok(), Some(position.to_string()));
            let plain = Progress::from(position);
            prop_assert_eq!(plain.to_string().parse(), Ok(plain));
            let progress = Progress::catching_up(position, Position::new(late.0, late.1), topics.iter().map(String::as_str));
            prop_assert!(progress.to_string().len() <= crate::Event::MAX_ID);
            prop_assert_eq!(progress.to_string().parse(), Ok(progress));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = text.parse::<Progress>();
        }

        #[test]
        fn before_and_next_are_neighbours(ms in 1u64.., seq in 1u64..u64::MAX) {
            let position = Position::new(ms, seq);
            prop_assert_eq!(position.before().next(0), position);
            prop_assert!(Position::new(ms, 0).before() < Position::new(ms, 0));
        }
    }
}
