//! Positions in the registry's order, and how far a client has read.

use std::{fmt, str::FromStr};

use super::topic_name::stable_hash;
use crate::event::{Quoted, random_bits};

/// The position of an event in the registry's order.
///
/// It is sent as `id:`, and comes back as `Last-Event-ID`.
///
/// The text form is `ms-seq-era`:
///
/// - `ms`: when the event was published, in milliseconds since the Unix epoch. It never goes back.
/// - `seq`: a counter within the millisecond.
/// - `era`: nine characters that identify the registry.
///
/// Before the first event of a millisecond is the largest `seq` of the millisecond before it: a registry without events is at
/// `ms-4294967295-era`.
///
/// Each [`Registry`](crate::Registry) without a [backplane](crate::backplane) chooses its era at random when it is made. So a position of another
/// registry, of another process or of the time before a restart never counts as one of this registry, whatever the clocks say. With a
/// backplane, the era is that of the engine's log, so all nodes know each other's positions, and those from before a restart.
///
/// Positions of one registry compare in the order of its events. The order of positions of different registries has no
/// meaning.
///
/// ```
/// use tower_sse::Position;
///
/// let position: Position = "1763612345678-2-7k3m9p2xr".parse()?;
/// assert!(position > "1763612345678-1-7k3m9p2xr".parse()?);
/// assert_eq!((position.ms(), position.seq()), (1763612345678, 2));
/// assert_eq!(position.to_string(), "1763612345678-2-7k3m9p2xr");
/// # Ok::<(), tower_sse::InvalidPosition>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// 48 bits of milliseconds, which last until the year 10889, and the upper half of the counter. Two words, because
    /// each retained event and each client has a position.
    high: u64,
    /// The lower half of the counter, and the era.
    low: u64,
}

/// The registry of a position: a random number that each registry chooses when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Era(u64);

impl Era {
    /// The bits of nine digits.
    const BITS: u32 = 5 * Self::DIGITS as u32;
    const DIGITS: usize = 9;
    /// Digits that are easy to tell apart.
    const ALPHABET: [u8; 32] = *b"0123456789abcdefghjkmnpqrstvwxyz";

    /// Chooses a random era. There are 2^45.
    ///
    /// # Panics
    ///
    /// Panics if the operating system has no randomness.
    pub(crate) fn random() -> Self {
        let bits = u64::from_ne_bytes(random_bits()) & ((1 << Self::BITS) - 1);
        // No registry has the era 0.
        Self(bits.max(1))
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    /// `None`: no registry has such an era.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (1..1 << Self::BITS).contains(&bits).then_some(Self(bits))
    }

    fn digits(self) -> [u8; Self::DIGITS] {
        std::array::from_fn(|at| Self::ALPHABET[(self.0 >> (5 * (Self::DIGITS - 1 - at))) as usize & 31])
    }

    fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| Self::ALPHABET.iter().position(|digit| *digit == byte);
        let era = text.bytes().try_fold(0, |era, byte| Some(era << 5 | digit(byte)? as u64))?;
        (text.len() == Self::DIGITS).then_some(Self(era))
    }
}

impl Position {
    const MAX_MS: u64 = (1 << 48) - 1;

    /// Creates a position.
    pub(crate) const fn new(era: Era, ms: u64, seq: u32) -> Self {
        let ms = if ms < Self::MAX_MS { ms } else { Self::MAX_MS };
        Self { high: ms << 16 | (seq >> 16) as u64, low: (seq as u64 & 0xffff) << 48 | era.0 }
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.high >> 16
    }

    /// Returns the counter within the millisecond.
    #[must_use]
    pub const fn seq(self) -> u32 {
        (self.high as u32 & 0xffff) << 16 | (self.low >> 48) as u32
    }

    pub(crate) const fn era(self) -> Era {
        Era(self.low & ((1 << Era::BITS) - 1))
    }

    /// Returns the position of the next event after this one, published at `now_ms`.
    pub(crate) fn next(self, now_ms: u64) -> Self {
        match (now_ms.min(Self::MAX_MS) > self.ms(), self.seq().checked_add(1)) {
            (true, _) => Self::new(self.era(), now_ms, 0),
            (false, Some(seq)) => Self::new(self.era(), self.ms(), seq),
            (false, None) => Self::new(self.era(), self.ms() + 1, 0),
        }
    }

    /// The length of the text form: 15 digits, 10 digits, the era, and two hyphens.
    pub(crate) const MAX_LENGTH: usize = 15 + 10 + Era::DIGITS + 2;

    /// Returns the last possible position before this one.
    pub(crate) fn before(self) -> Self {
        match self.seq().checked_sub(1) {
            Some(seq) => Self::new(self.era(), self.ms(), seq),
            None => Self::new(self.era(), self.ms().saturating_sub(1), u32::MAX),
        }
    }

    /// Appends the text form. It writes two digits at a time, because each publish calls it.
    pub(crate) fn write(self, wire: &mut Vec<u8>) {
        let mut text = [b'-'; Self::MAX_LENGTH];
        let era = Self::MAX_LENGTH - Era::DIGITS;
        text[era..].copy_from_slice(&self.era().digits());
        let seq = write_before(&mut text, era - 1, self.seq().into());
        let ms = write_before(&mut text, seq - 1, self.ms());
        wire.extend_from_slice(&text[ms..]);
    }

    /// Parses `ms-seq` as a position of this era.
    fn parse_without_era(text: &str, era: Era) -> Option<Self> {
        let is_canonical = |digits: &str| digits == "0" || !digits.starts_with(['0', '+']);
        let (ms, seq) = text.split_once('-').filter(|(ms, seq)| is_canonical(ms) && is_canonical(seq))?;
        let ms = ms.parse().ok().filter(|ms| *ms <= Self::MAX_MS)?;
        Some(Self::new(era, ms, seq.parse().ok()?))
    }
}

/// Writes a number in decimal up to `end`, and returns where it begins.
fn write_before(text: &mut [u8; Position::MAX_LENGTH], end: usize, mut number: u64) -> usize {
    /// `00` to `99`.
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut number = 0;
        while number < 100 {
            pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
            number += 1;
        }
        pairs
    };
    let mut start = end;
    while number >= 10 {
        start -= 2;
        text[start..start + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if number > 0 || start == end {
        start -= 1;
        text[start] = b'0' + number as u8;
    }
    start
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let era = self.era().digits();
        write!(f, "{}-{}-{}", self.ms(), self.seq(), std::str::from_utf8(&era).unwrap_or_default())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({self})")
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    /// Parses exactly what [`Display`](fmt::Display) writes: no sign, no leading zeros, no spaces.
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        text.rsplit_once('-')
            .and_then(|(position, era)| Self::parse_without_era(position, Era::parse(era)?))
            .ok_or_else(|| InvalidPosition { value: text.to_owned() })
    }
}

/// The error for a text that is not a [`Position`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPosition {
    value: String,
}

impl fmt::Display for InvalidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is not a position: expected milliseconds, a counter and an era, separated by hyphens",
            Quoted(&self.value)
        )
    }
}

impl std::error::Error for InvalidPosition {}

/// How far a client had read when its last event with an id was sent.
///
/// Usually that is one position. A client that catches up on late subscriptions has two: it has read the named topics
/// up to `late`, and all others up to `seen`. So a client that disconnects while it catches up loses nothing and gets
/// nothing twice.
///
/// The text form is `SEEN;LATE;TOPIC,TOPIC`. `LATE` has no era, because it is that of `SEEN`. The topics are hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) seen: Position,
    late: Option<(Position, Late)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Late {
    Topics(Vec<u64>),
    /// There were too many topics to name. A resume then repeats events rather than losing them.
    Any,
}

impl Progress {
    /// How many late topics an id can name.
    const NAMED: usize = 8;

    pub(crate) fn catching_up<'a>(seen: Position, late: Position, topics: impl Iterator<Item = &'a str>) -> Self {
        let mut hashes: Vec<u64> = topics.take(Self::NAMED + 1).map(stable_hash).collect();
        hashes.sort_unstable();
        let topics = if hashes.len() > Self::NAMED { Late::Any } else { Late::Topics(hashes) };
        Self { seen, late: Some((late, topics)) }
    }

    /// Returns the position, if the client was not catching up.
    pub(crate) fn only(&self) -> Option<Position> {
        self.late.is_none().then_some(self.seen)
    }

    /// Adapts the progress to the client's subscriptions.
    ///
    /// If a late topic is not among them, the client may now read its events by another name: by a pattern, or by a
    /// topic that a pattern matched. Then every subscription counts as late.
    pub(crate) fn for_names<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        if let Some((_, late @ Late::Topics(_))) = &mut self.late {
            let known: Vec<u64> = names.map(stable_hash).collect();
            if matches!(late, Late::Topics(hashes) if !hashes.iter().all(|hash| known.contains(hash))) {
                *late = Late::Any;
            }
        }
        self
    }

    /// Returns the position after which the client continues in this topic.
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
            Some((late, Late::Any)) => write!(f, ";{}-{};*", late.ms(), late.seq()),
            Some((late, Late::Topics(hashes))) => {
                write!(f, ";{}-{};", late.ms(), late.seq())?;
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
        let seen: Position = parts.next().unwrap_or_default().parse()?;
        let before_seen =
            |late: &str| Position::parse_without_era(late, seen.era()).filter(|late| *late <= seen).ok_or_else(invalid);
        let late = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(late), Some("*"), None) => Some((before_seen(late)?, Late::Any)),
            (Some(late), Some(topics), None) => {
                let hash = |text: &str| {
                    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
                };
                let hashes: Option<Vec<u64>> = topics.split(',').take(Self::NAMED + 1).map(hash).collect();
                let hashes = hashes.filter(|hashes| hashes.len() <= Self::NAMED).ok_or_else(invalid)?;
                Some((before_seen(late)?, Late::Topics(hashes)))
            }
            _ => return Err(invalid()),
        };
        Ok(Self { seen, late })
    }
}

#[cfg(test)]
impl Position {
    /// A position of a fixed era.
    pub(crate) const fn at(ms: u64, seq: u32) -> Self {
        Self::new(Era(7), ms, seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64, seq: u32) -> Position {
        Position::at(ms, seq)
    }

    #[test]
    fn positions_never_go_back_and_never_repeat() {
        let first = at(0, 0).next(5);
        assert_eq!(first, at(5, 0));
        assert_eq!(first.next(5), at(5, 1));
        assert_eq!(first.next(3), at(5, 1), "the clock was set back");
        assert_eq!(first.next(6), at(6, 0));
        assert_eq!(at(5, u32::MAX).next(5), at(6, 0));
        assert_eq!(at(5, 0).next(u64::MAX), at(Position::MAX_MS, 0));
    }

    #[test]
    fn eras_are_told_apart() {
        let [one, other] = [(); 2].map(|()| Era::random());
        assert_ne!(one, other);
        assert_ne!(Position::new(one, 7, 7), Position::new(other, 7, 7));
    }

    #[test]
    fn text_that_is_no_position_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-0",
            "1--0123456789",
            "-1-012345678",
            "+1-0-012345678",
            "1-+0-012345678",
            "01-0-012345678",
            "1-00-012345678",
            " 1-0-012345678",
            "1-0-012345678 ",
            "1-0-0-012345678",
            "1-0-01234567",
            "1-0-0123456789",
            "1-0-01234567u",
            "1-0-01234567A",
            "1_0_012345678",
            "a-b-012345678",
            "281474976710656-0-012345678",
            "1-4294967296-012345678",
            "1-0-012345678;",
            "٣-0-012345678",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
        for late in ["", ";", "1-0", "1-0;", "1-0;xyz", "1-0;*;", "1-0;+000000000000001", "2-1;*", "1-0-012345678;*"] {
            let text = format!("2-0-012345678;{late}");
            assert!(text.parse::<Progress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_catching_up_client_continues_each_topic_from_its_own_position() {
        let (seen, late) = (at(100, 0), at(60, 0));
        let progress = Progress::catching_up(seen, late, ["b"].into_iter());
        assert_eq!((progress.of("a"), progress.of("b")), (seen, late));
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let progress = Progress::catching_up(seen, late, many.iter().map(String::as_str));
        assert_eq!(progress.to_string(), format!("{seen};60-0;*"));
        assert_eq!(progress.of("other"), late);
    }

    #[test]
    fn progress_of_an_unknown_name_counts_for_every_name() {
        let (seen, late) = (at(100, 0), at(60, 0));
        let progress = || Progress::catching_up(seen, late, ["a/*"].into_iter());
        assert_eq!(progress().for_names(["a/*", "b"].into_iter()).of("b"), seen);
        assert_eq!(progress().for_names(["a/x", "b"].into_iter()).of("a/x"), late);
    }

    proptest! {
        #[test]
        fn a_printed_position_can_be_parsed(ms in 0..=Position::MAX_MS, seq: u32, era in 0u64..1 << Era::BITS, late in (any::<u64>(), any::<u32>()), topics in prop::collection::vec(".*", 1..12)) {
            let position = Position::new(Era(era), ms, seq);
            prop_assert_eq!((position.ms(), position.seq(), position.era()), (ms, seq, Era(era)));
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            let mut wire = Vec::new();
            position.write(&mut wire);
            prop_assert!(wire.len() <= Position::MAX_LENGTH);
            prop_assert_eq!(String::from_utf8(wire).ok(), Some(position.to_string()));
            let plain = Progress::from(position);
            prop_assert_eq!(plain.to_string().parse(), Ok(plain));
            let late = Position::new(Era(era), late.0, late.1).min(position);
            let progress = Progress::catching_up(position, late, topics.iter().map(String::as_str));
            prop_assert!(progress.to_string().len() <= crate::Event::MAX_ID);
            prop_assert_eq!(progress.to_string().parse(), Ok(progress));
        }

        #[test]
        fn positions_compare_as_their_times_and_counters(left in (0..1u64 << 48, any::<u32>()), right in (0..1u64 << 48, any::<u32>())) {
            prop_assert_eq!(at(left.0, left.1).cmp(&at(right.0, right.1)), left.cmp(&right));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = text.parse::<Progress>();
        }

        #[test]
        fn before_and_next_are_neighbours(ms in 1..=Position::MAX_MS, seq in 1..u32::MAX) {
            let position = at(ms, seq);
            prop_assert_eq!(position.before().next(0), position);
            prop_assert!(at(ms, 0).before() < at(ms, 0));
        }
    }
}
