//! What can be subscribed to.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock, atomic::Ordering},
    task::Waker,
};

use super::{
    Position, Retention,
    lanes::Lanes,
    log::Log,
    produce::Production,
    topic,
    waiters::{Slot, ToWake, Waiters},
};
use crate::sync::{AtomicU64, Mutex, lane, lock};

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
    /// Where its readers wait since it has had many of them.
    lanes: OnceLock<Lanes<Waiters<Waker>>>,
    pub(super) state: Mutex<FeedState>,
}

/// A reader's place among those who wait for a feed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parked {
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
            lanes: OnceLock::new(),
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
        self.newest() >= number
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

    /// The log's newest number.
    #[inline]
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Makes lanes if so many subscribers are worth them. The state is locked.
    pub(super) fn prepare_for(&self, subscribers: usize) {
        if lane::is_worth_it(subscribers) {
            self.lanes.get_or_init(Lanes::new);
        }
    }

    #[inline]
    pub(super) fn has_lanes(&self) -> bool {
        self.lanes.get().is_some()
    }

    /// Lets a reader wait that has read everything before a number. `None`: there is something from there on.
    #[inline]
    pub(super) fn park(&self, next: u64, waker: &Waker) -> Option<Parked> {
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
    pub(super) fn park_locked(&self, state: &mut FeedState, waker: &Waker) -> Parked {
        match self.lanes.get() {
            Some(lanes) => {
                let lane = lane::mine();
                Parked::in_lane(lane, &mut lock(lanes.of(lane)), waker)
            }
            None => Parked { slot: state.waiters.insert(waker.clone()), among: Among::All },
        }
    }

    pub(super) fn unpark(&self, parked: Parked) -> Option<Waker> {
        match self.lane_of(parked) {
            Some(waiters) => lock(waiters).remove(parked.slot),
            None => lock(&self.state).waiters.remove(parked.slot),
        }
    }

    /// The same with the state locked.
    pub(super) fn unpark_locked(&self, state: &mut FeedState, parked: Parked) -> Option<Waker> {
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
    pub(super) fn take_waiters(&self, state: &mut FeedState, to_wake: &mut ToWake) {
        to_wake.take(&mut state.waiters);
        if let Some(lanes) = self.lanes.get() {
            lanes.iter().for_each(|waiters| to_wake.take(&mut lock(waiters)));
        }
    }

    pub(super) fn cost(&self) -> usize {
        self.name.len() + Self::OVERHEAD + self.lanes.get().map_or(0, Lanes::size)
    }
}

impl Parked {
    #[inline]
    fn in_lane(lane: usize, waiters: &mut Waiters<Waker>, waker: &Waker) -> Self {
        Self { slot: waiters.insert(waker.clone()), among: Among::Lane(lane as u8) }
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
