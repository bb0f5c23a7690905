//! A topic or a pattern, as a log that clients share.

use std::{
    borrow::Borrow,
    cmp,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock, atomic::Ordering},
    task::Waker,
};

use super::{deferred::ToWake, production::Production};
use crate::{
    collections::{PerCore, Slot, Ticket, Waiters},
    log::{End, Log, Outcome, Position, Retention, topic_name},
    sync::{AtomicBool, AtomicU64, Mutex, lock, shard},
};

/// A topic or a pattern: its name, its log and its waiters. The log of a pattern has the events of all topics that
/// match it.
#[derive(Debug)]
pub(crate) struct SharedLog {
    id: u64,
    name: Arc<str>,
    pub(crate) retention: Retention,
    /// The log's newest number, to be read without the lock.
    newest: AtomicU64,
    /// The encoded end of the topic. 0 while it has none.
    end: AtomicU64,
    /// Its end no longer counts for readers: a producer of this process begins, and the log of the backplane does not say so yet.
    begins_again: AtomicBool,
    /// How many of its subscriptions belong to clients whose streams have begun.
    readers: AtomicU64,
    /// The waiters of each shard. Made when the log has many subscribers.
    shards: OnceLock<PerCore<Waiters<Waker>>>,
    pub(crate) state: Mutex<SharedLogState>,
}

/// A waiter's slot in a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaiterSlot {
    slot: Slot,
    among: WaiterList,
}

#[derive(Debug, Clone, Copy)]
enum WaiterList {
    /// The one list, because there are few waiters.
    All,
    /// The list of one shard.
    Shard(u8),
}

#[derive(Debug)]
pub(crate) struct SharedLogState {
    pub(crate) log: Log,
    pub(crate) waiters: Waiters<Waker>,
    pub(crate) subscribers: usize,
    /// For a topic: the patterns that match it and have subscribers.
    pub(crate) patterns: Vec<Arc<SharedLog>>,
    /// For a pattern: events up to this number are not in its log yet, because the pattern had no subscribers then.
    pub(crate) lacks: u64,
    /// For an ended topic: why it is kept.
    pub(crate) kept: Option<Kept>,
    /// The topic's producer, if it has one.
    pub(crate) production: Option<Arc<Production>>,
    /// For a topic with producers: the position before the first event of the current or last producer.
    pub(crate) began: Option<Position>,
}

/// Why an ended topic is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The topic is in the queue of ended topics: its time is not over, and there is room.
    Ending(Ticket),
    /// The topic has subscribers that may not have read its end. It is forgotten when the last of them leaves.
    Subscribers,
}

impl SharedLogState {
    /// Whether a subscriber or a producer holds the topic. Its name then does not count as retained, and it cannot be
    /// evicted.
    pub(crate) fn is_held(&self) -> bool {
        self.subscribers > 0 || self.production.is_some()
    }
}

impl SharedLog {
    /// The memory of a topic without its name: the topic, its entry in the set, and the first allocation of its log.
    pub(crate) const OVERHEAD: usize = 768;

    /// `floor`: the position up to which events count as evicted.
    pub(crate) fn new(id: u64, name: &str, retention: Retention, floor: Position) -> Self {
        let state = SharedLogState {
            log: Log::new(floor),
            waiters: Waiters::new(),
            subscribers: 0,
            patterns: Vec::new(),
            lacks: 0,
            kept: None,
            production: None,
            began: None,
        };
        Self {
            id,
            name: name.into(),
            retention,
            newest: AtomicU64::new(0),
            end: AtomicU64::new(0),
            begins_again: AtomicBool::new(false),
            readers: AtomicU64::new(0),
            shards: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn is_pattern(&self) -> bool {
        topic_name::is_pattern(&self.name)
    }

    /// Whether it includes this topic's events.
    pub(crate) fn has(&self, topic: &str) -> bool {
        *self.name == *topic || topic_name::is_public(topic) && topic_name::matches(&self.name, topic)
    }

    /// Whether it is a pattern that includes all events of another topic or pattern.
    pub(crate) fn covers(&self, other: &str) -> bool {
        *self.name != *other && topic_name::is_public(other) && topic_name::covers(&self.name, other)
    }

    /// Whether there is an event or an end from this number on.
    #[inline]
    pub(crate) fn reaches(&self, number: u64) -> bool {
        self.newest() >= number
    }

    /// Publishes the newest number, for readers without the lock.
    pub(crate) fn reach(&self, number: u64) {
        self.newest.store(number, Ordering::Release);
    }

    /// Returns where and how the topic has ended, for its readers. `None`: it has not ended, or is about to begin again.
    pub(crate) fn end(&self) -> Option<End> {
        self.end_in_log().filter(|_| !self.begins_again.load(Ordering::Relaxed))
    }

    /// Returns where and how the topic has ended by what was read of the log.
    pub(crate) fn end_in_log(&self) -> Option<End> {
        End::decode(self.end.load(Ordering::Acquire))
    }

    /// A producer of this process begins, and the record that says so is on its way. Who subscribes from now on waits for its events.
    pub(crate) fn begin_again(&self) {
        self.begins_again.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) > 0
    }

    /// Sets or removes the end of the topic.
    pub(crate) fn set_end(&self, end: Option<End>) {
        if end.is_none() {
            self.begins_again.store(false, Ordering::Relaxed);
        }
        self.end.store(end.map_or(0, End::encode), Ordering::Release);
    }

    /// Whether the newest event is the last one of a topic that failed or was cancelled. Every client gets that event, wherever it starts.
    pub(crate) fn has_last_word(&self) -> bool {
        self.end().is_some_and(|end| end.outcome > Outcome::Finished && end.has_last_word)
    }

    /// Whether the topic has events not older than `horizon`, a producer, or an end.
    pub(crate) fn exists(&self, horizon: u64) -> bool {
        let state = lock(&self.state);
        let is_recent = || state.log.entries().next_back().is_some_and(|newest| newest.at_ms >= horizon);
        state.production.is_some() || self.has_ended() || is_recent()
    }

    /// Counts a subscription of a stream that has begun.
    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of such a subscription.
    pub(crate) fn remove_reader(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed) as usize
    }

    /// Returns the log's newest number.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Makes the shards, if this many subscribers are worth them. The state must be locked.
    pub(crate) fn prepare_for(&self, subscribers: usize) {
        if shard::is_worth_it(subscribers) {
            self.shards.get_or_init(PerCore::new);
        }
    }

    #[inline]
    pub(crate) fn is_sharded(&self) -> bool {
        self.shards.get().is_some()
    }

    /// Adds the waker of a reader that has read everything before a number. `None`: there is an event from there on.
    #[inline]
    pub(crate) fn park(&self, next: u64, waker: &Waker) -> Option<WaiterSlot> {
        let Some(shards) = self.shards.get() else {
            let mut state = lock(&self.state);
            return (state.log.newest() < next).then(|| self.park_locked(&mut state, waker));
        };
        let shard = shard::mine();
        let mut waiters = lock(shards.of(shard));
        // A publisher stores the newest number before it takes the waiters. So either the number is seen here, or the
        // publisher takes this waiter.
        (!self.reaches(next)).then(|| WaiterSlot::in_shard(shard, &mut waiters, waker))
    }

    /// Adds the waker of a reader that has read everything. The state must be locked.
    #[inline]
    pub(crate) fn park_locked(&self, state: &mut SharedLogState, waker: &Waker) -> WaiterSlot {
        match self.shards.get() {
            Some(shards) => {
                let shard = shard::mine();
                WaiterSlot::in_shard(shard, &mut lock(shards.of(shard)), waker)
            }
            None => WaiterSlot { slot: state.waiters.insert(waker.clone()), among: WaiterList::All },
        }
    }

    pub(crate) fn unpark(&self, parked: WaiterSlot) -> Option<Waker> {
        match self.shard_of(parked) {
            Some(waiters) => lock(waiters).remove(parked.slot),
            None => lock(&self.state).waiters.remove(parked.slot),
        }
    }

    /// Removes a waiter. The state must be locked.
    pub(crate) fn unpark_locked(&self, state: &mut SharedLogState, parked: WaiterSlot) -> Option<Waker> {
        match self.shard_of(parked) {
            Some(waiters) => lock(waiters).remove(parked.slot),
            None => state.waiters.remove(parked.slot),
        }
    }

    fn shard_of(&self, parked: WaiterSlot) -> Option<&Mutex<Waiters<Waker>>> {
        match parked.among {
            WaiterList::All => None,
            WaiterList::Shard(shard) => self.shards.get().map(|shards| shards.of(shard.into())),
        }
    }

    /// Takes all waiters, to be woken when no lock is held. The newest number must be stored before.
    #[inline]
    pub(crate) fn take_waiters(&self, state: &mut SharedLogState, to_wake: &mut ToWake) {
        to_wake.take(&mut state.waiters);
        if let Some(shards) = self.shards.get() {
            shards.iter().for_each(|waiters| to_wake.take(&mut lock(waiters)));
        }
    }

    pub(crate) fn cost(&self) -> usize {
        self.name.len() + Self::OVERHEAD + self.shards.get().map_or(0, PerCore::size)
    }
}

impl WaiterSlot {
    #[inline]
    fn in_shard(shard: usize, waiters: &mut Waiters<Waker>, waker: &Waker) -> Self {
        Self { slot: waiters.insert(waker.clone()), among: WaiterList::Shard(shard as u8) }
    }
}

/// A topic in the set of topics, compared by name.
pub(crate) struct ByName(pub(crate) Arc<SharedLog>);

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

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.name.hash(hasher);
    }
}
