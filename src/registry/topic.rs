//! A topic, and what it may be called.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use super::{
    Position, Retention,
    log::TopicLog,
    waiters::{Slot, Waiters},
};
use crate::{event::Quoted, sync::lock};

/// Names with this at their start are the registry's own: `$client/ID` is the topic of one client.
const RESERVED: char = '$';

/// The longest name that a topic may have, in bytes.
pub const MAX_TOPIC: usize = 256;

/// Refuses a name that is no topic name: 1 to [`MAX_TOPIC`] bytes, `/`-separated segments of which none is empty, no
/// control characters, no `*` (kept for patterns), no `$` at the start (kept for the registry).
pub(crate) fn check(name: &str) -> Result<(), TopicError> {
    let problem = if name.is_empty() {
        Problem::Empty
    } else if name.len() > MAX_TOPIC {
        Problem::TooLong
    } else if name.starts_with(RESERVED) {
        Problem::Reserved
    } else if name.contains('*') {
        Problem::Wildcard
    } else if name.contains(char::is_control) {
        Problem::Control
    } else if name.split('/').any(str::is_empty) {
        Problem::EmptySegment
    } else {
        return Ok(());
    };
    Err(TopicError { name: name.to_owned(), problem })
}

/// A name that no topic can have. The message quotes the name and says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicError {
    name: String,
    problem: Problem,
}

impl TopicError {
    /// The name that was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Empty,
    TooLong,
    Reserved,
    Wildcard,
    Control,
    EmptySegment,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Quoted(&self.name);
        match self.problem {
            Problem::Empty => write!(f, "the topic name is empty"),
            Problem::TooLong => {
                write!(f, "the topic name {name} has {} bytes, more than {MAX_TOPIC}", self.name.len())
            }
            Problem::Reserved => write!(f, "the topic name {name} starts with `{RESERVED}`, which is reserved"),
            Problem::Wildcard => write!(f, "the topic name {name} contains `*`, which is reserved for patterns"),
            Problem::Control => write!(f, "the topic name {name} contains a control character"),
            Problem::EmptySegment => write!(f, "the topic name {name} has an empty segment"),
        }
    }
}

impl std::error::Error for TopicError {}

/// A name, and the log and the waiters behind it.
#[derive(Debug)]
pub(crate) struct Topic {
    id: u64,
    name: Box<str>,
    pub(super) retention: Retention,
    /// The log's tail, to be looked at without the lock.
    pub(super) tail: AtomicU64,
    pub(super) state: Mutex<TopicState>,
}

#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) log: TopicLog,
    pub(super) waiters: Waiters<Waker>,
    pub(super) subscribers: usize,
}

impl Topic {
    /// What a topic takes in memory besides its name: itself, its place in the set, the first allocation of its log.
    pub(super) const OVERHEAD: usize = 768;

    /// `floor`: up to where its events count as evicted.
    pub(super) fn new(id: u64, name: &str, retention: Retention, floor: Position) -> Self {
        let state = TopicState { log: TopicLog::new(floor), waiters: Waiters::new(), subscribers: 0 };
        Self { id, name: name.into(), retention, tail: AtomicU64::new(0), state: Mutex::new(state) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Takes a waiter out that waits for the event with the index `next`, unless that came and it was woken.
    pub(super) fn unpark(&self, slot: Slot, next: u64) -> Option<Waker> {
        lock(&self.state).unpark(slot, next)
    }

    pub(super) fn cost(&self) -> usize {
        self.name.len() + Self::OVERHEAD
    }
}

impl TopicState {
    pub(super) fn unpark(&mut self, slot: Slot, next: u64) -> Option<Waker> {
        if self.log.tail() == next { self.waiters.remove(slot) } else { None }
    }
}

/// A topic in the set of topics, which finds it by its name.
pub(super) struct ByName(pub(super) Arc<Topic>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.name.hash(hasher);
    }
}

/// A hash of a topic's name that is the same in every process: what a resume position names topics with.
/// It is FNV-1a with 64 bits.
pub(crate) fn stable_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "prices/AAPL", "user/42/inbox", "Zürich/Gleis 7", "a$b", &"x".repeat(MAX_TOPIC)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn others_are_refused_with_a_sentence_that_quotes_them() {
        let long = "x".repeat(MAX_TOPIC + 1);
        for name in ["", &long, "$client/1", "a/*", "**", "a\nb", "a\0", "a\u{85}", "/a", "a/", "a//b", "/"] {
            let error = check(name).unwrap_err();
            assert_eq!(error.name(), name);
            assert!(error.to_string().len() < 250, "{error}");
            assert!(name.is_empty() || error.to_string().contains(&Quoted(name).to_string()), "{error}");
        }
    }

    #[test]
    fn the_stable_hash_is_the_published_one() {
        assert_eq!(stable_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(stable_hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
