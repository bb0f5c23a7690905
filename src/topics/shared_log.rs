//! What can be subscribed to.

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
    sync::{AtomicU64, Mutex, lane, lock},
};

/// A topic or a pattern: its name, its log and those who wait for it. A pattern's log has the events of all topics that match it.
#[derive(Debug)]
pub(crate) struct SharedLog {
    id: u64,
    name: Arc<str>,
    pub(crate) retention: Retention,
    /// The log's newest number, to be looked at without the lock.
    newest: AtomicU64,
    /// Where it ended and how, in one word: 0 before there is an end.
    end: AtomicU64,
    /// How many of its subscriptions are of clients whose streams have begun.
    readers: AtomicU64,
    /// Where its readers wait since it has had many of them.
    lanes: OnceLock<PerCore<Waiters<Waker>>>,
    pub(crate) state: Mutex<SharedLogState>,
}

/// A reader's place among those who wait for a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parked {
    slot: Slot,
    among: Among,
}

#[derive(Debug, Clone, Copy)]
enum Among {
    /// All of them, as there are few.
    All,
    /// Those of one lane.
    Lane(u8),
}

#[derive(Debug)]
pub(crate) struct SharedLogState {
    pub(crate) log: Log,
    pub(crate) waiters: Waiters<Waker>,
    pub(crate) subscribers: usize,
    /// Of a topic: the patterns that match it and have subscribers.
    pub(crate) patterns: Vec<Arc<SharedLog>>,
    /// Of a pattern: up to this number, what was published before it had subscribers is not in its log yet.
    pub(crate) lacks: u64,
    /// Of a topic that has ended: what keeps it.
    pub(crate) kept: Option<Kept>,
    /// Who fills the topic, if that is one producer.
    pub(crate) production: Option<Arc<Production>>,
    /// Of a topic that is filled by producers: what there was before the first event of the one that has it, or had it last.
    pub(crate) began: Option<Position>,
}

/// What keeps a topic that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Its place among those that have ended: its time is not over, and there is room.
    Ending(Ticket),
    /// Only its subscribers, who may not have looked yet. It is forgotten when the last of them leaves.
    Subscribers,
}

impl SharedLogState {
    /// Whether somebody holds a topic, who pays for its name: it is not part of what is retained, and cannot be evicted.
    pub(crate) fn is_held(&self) -> bool {
        self.subscribers > 0 || self.production.is_some()
    }
}

impl SharedLog {
    /// What a topic takes in memory besides its name: itself, its place in the set, the first allocation of its log.
    pub(crate) const OVERHEAD: usize = 768;

    /// `floor`: up to where its events count as evicted.
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
            readers: AtomicU64::new(0),
            lanes: OnceLock::new(),
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

    /// Whether it gives this topic's events.
    pub(crate) fn has(&self, topic: &str) -> bool {
        *self.name == *topic || topic_name::is_public(topic) && topic_name::matches(&self.name, topic)
    }

    /// Whether it is a pattern that gives all that another topic or pattern does.
    pub(crate) fn covers(&self, other: &str) -> bool {
        *self.name != *other && topic_name::is_public(other) && topic_name::covers(&self.name, other)
    }

    /// Whether there is anything from this number on.
    #[inline]
    pub(crate) fn reaches(&self, number: u64) -> bool {
        self.newest() >= number
    }

    /// Lets readers see, without the lock, that there is something up to this number.
    pub(crate) fn reach(&self, number: u64) {
        self.newest.store(number, Ordering::Release);
    }

    /// Where it has ended, and how: `None` if it goes on.
    pub(crate) fn end(&self) -> Option<End> {
        End::decode(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) > 0
    }

    /// `None`: it goes on.
    pub(crate) fn set_end(&self, end: Option<End>) {
        self.end.store(end.map_or(0, End::encode), Ordering::Release);
    }

    /// The number of the event that says that it was not finished: all who come are to have it, wherever they start.
    pub(crate) fn last_word(&self) -> Option<u64> {
        let end = self.end().filter(|end| end.outcome > Outcome::Finished && end.has_last_word)?;
        Some(end.number - 1)
    }

    /// Whether there is more to it than who waits for it: events that are not older than `horizon`, a producer, or an end.
    pub(crate) fn exists(&self, horizon: u64) -> bool {
        let state = lock(&self.state);
        let is_recent = || state.log.entries().next_back().is_some_and(|newest| newest.position.ms() >= horizon);
        state.production.is_some() || self.has_ended() || is_recent()
    }

    /// A stream that is subscribed to it begins, or a stream that has begun is subscribed to it.
    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// Such a subscription is over.
    pub(crate) fn remove_reader(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed) as usize
    }

    /// The log's newest number.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Makes lanes if so many subscribers are worth them. The state is locked.
    pub(crate) fn prepare_for(&self, subscribers: usize) {
        if lane::is_worth_it(subscribers) {
            self.lanes.get_or_init(PerCore::new);
        }
    }

    #[inline]
    pub(crate) fn has_lanes(&self) -> bool {
        self.lanes.get().is_some()
    }

    /// Lets a reader wait that has read everything before a number. `None`: there is something from there on.
    #[inline]
    pub(crate) fn park(&self, next: u64, waker: &Waker) -> Option<Parked> {
        let Some(lanes) = self.lanes.get() else {
            let mut state = lock(&self.state);
            return (state.log.newest() < next).then(|| self.park_locked(&mut state, waker));
        };
        let lane = lane::mine();
        let mut waiters = lock(lanes.of(lane));
        // Who publishes lets this be seen before the waiters are taken: it is seen here, or this waiter is there.
        (!self.reaches(next)).then(|| Parked::in_lane(lane, &mut waiters, waker))
    }

    /// The same with the state locked, for one that has read everything.
    #[inline]
    pub(crate) fn park_locked(&self, state: &mut SharedLogState, waker: &Waker) -> Parked {
        match self.lanes.get() {
            Some(lanes) => {
                let lane = lane::mine();
                Parked::in_lane(lane, &mut lock(lanes.of(lane)), waker)
            }
            None => Parked { slot: state.waiters.insert(waker.clone()), among: Among::All },
        }
    }

    pub(crate) fn unpark(&self, parked: Parked) -> Option<Waker> {
        match self.lane_of(parked) {
            Some(waiters) => lock(waiters).remove(parked.slot),
            None => lock(&self.state).waiters.remove(parked.slot),
        }
    }

    /// The same with the state locked.
    pub(crate) fn unpark_locked(&self, state: &mut SharedLogState, parked: Parked) -> Option<Waker> {
        match self.lane_of(parked) {
            Some(waiters) => lock(waiters).remove(parked.slot),
            None => state.waiters.remove(parked.slot),
        }
    }

    fn lane_of(&self, parked: Parked) -> Option<&Mutex<Waiters<Waker>>> {
        match parked.among {
            Among::All => None,
            Among::Lane(lane) => self.lanes.get().map(|lanes| lanes.of(lane.into())),
        }
    }

    /// All who wait, to be woken when nothing is locked any more. There must be something to read by now, without the lock too.
    #[inline]
    pub(crate) fn take_waiters(&self, state: &mut SharedLogState, to_wake: &mut ToWake) {
        to_wake.take(&mut state.waiters);
        if let Some(lanes) = self.lanes.get() {
            lanes.iter().for_each(|waiters| to_wake.take(&mut lock(waiters)));
        }
    }

    pub(crate) fn cost(&self) -> usize {
        self.name.len() + Self::OVERHEAD + self.lanes.get().map_or(0, PerCore::size)
    }
}

impl Parked {
    #[inline]
    fn in_lane(lane: usize, waiters: &mut Waiters<Waker>, waker: &Waker) -> Self {
        Self { slot: waiters.insert(waker.clone()), among: Among::Lane(lane as u8) }
    }
}

/// A topic in the set of topics, which finds it by its name.
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
