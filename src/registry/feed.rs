//! What can be subscribed to.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use super::{
    Position, Retention,
    log::Log,
    produce::Production,
    topic,
    waiters::{Slot, Waiters},
};
use crate::sync::{AtomicU64, Mutex, lock};

/// A name, and the log and the waiters behind it: a topic, or a pattern, whose log has the events of all topics that match it.
#[derive(Debug)]
pub(crate) struct Feed {
    id: u64,
    name: Arc<str>,
    pub(super) retention: Retention,
    /// The log's newest number, to be looked at without the lock.
    newest: AtomicU64,
    /// The number of the end, after which nothing comes: 0 before there is one.
    end: AtomicU64,
    pub(super) state: Mutex<FeedState>,
}

#[derive(Debug)]
pub(super) struct FeedState {
    pub(super) log: Log,
    pub(super) waiters: Waiters<Waker>,
    pub(super) subscribers: usize,
    /// Of a topic: the patterns that match it and have subscribers.
    pub(super) patterns: Vec<Arc<Feed>>,
    /// Of a pattern: up to this number, what was published before it had subscribers is not in its log yet.
    pub(super) lacks: u64,
    /// When a topic that has ended is to be forgotten, in milliseconds: while the order has it among those.
    pub(super) forget_at: Option<u64>,
    /// Who fills the topic, if that is one producer.
    pub(super) production: Option<Arc<Production>>,
}

impl Feed {
    /// What a topic takes in memory besides its name: itself, its place in the set, the first allocation of its log.
    pub(super) const OVERHEAD: usize = 768;

    /// `floor`: up to where its events count as evicted.
    pub(super) fn new(id: u64, name: &str, retention: Retention, floor: Position) -> Self {
        let state = FeedState {
            log: Log::new(floor),
            waiters: Waiters::new(),
            subscribers: 0,
            patterns: Vec::new(),
            lacks: 0,
            forget_at: None,
            production: None,
        };
        Self {
            id,
            name: name.into(),
            retention,
            newest: AtomicU64::new(0),
            end: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_pattern(&self) -> bool {
        topic::is_pattern(&self.name)
    }

    /// Whether it gives this topic's events.
    pub(super) fn has(&self, topic: &str) -> bool {
        *self.name == *topic || topic::is_public(topic) && topic::matches(&self.name, topic)
    }

    /// Whether there is anything from this number on.
    #[inline]
    pub(super) fn reaches(&self, number: u64) -> bool {
        self.newest.load(Ordering::Acquire) >= number
    }

    /// Lets readers see, without the lock, that there is something up to this number.
    pub(super) fn reach(&self, number: u64) {
        self.newest.store(number, Ordering::Release);
    }

    /// Whether it has ended before this number.
    pub(super) fn has_ended_before(&self, number: u64) -> bool {
        let end = self.end.load(Ordering::Acquire);
        end > 0 && end < number
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended_before(u64::MAX)
    }

    /// `end`: the end's number, or 0 if it goes on.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    pub(super) fn unpark(&self, slot: Slot) -> Option<Waker> {
        lock(&self.state).waiters.remove(slot)
    }

    pub(super) fn cost(&self) -> usize {
        self.name.len() + Self::OVERHEAD
    }
}

/// A topic in the set of topics, which finds it by its name.
pub(super) struct ByName(pub(super) Arc<Feed>);

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
