//! The one order of events, and what is in it: topics, patterns, and what is retained.

use std::{
    collections::{BTreeSet, HashSet},
    ops::{
        Bound::{Included, Unbounded},
        Deref, DerefMut,
    },
    sync::Arc,
};

use super::{
    deferred::Deferred,
    feed::{ByName, Feed, FeedState},
    production::Ending,
    steps::step,
};
use crate::{
    collections::{EvictionQueue, SmallList, Ticket},
    log::{Entry, EvictedIds, Forgotten, Log, Patterns, Position, SlowClientPolicy, topic_name},
    sync::{MutexGuard, lock},
};

/// What each publish needs comes first, in few cache lines.
#[repr(C)]
pub(crate) struct Order {
    pub(crate) last: Position,
    /// Of the newest event or end.
    pub(crate) number: u64,
    pub(crate) published: u64,
    /// What the retained events take, and the topics that nobody holds.
    pub(crate) cost: usize,
    pub(crate) eviction_queue: EvictionQueue<Arc<Feed>>,
    /// Events that went, for whoever has it locked to drop later.
    pub(super) gone: SmallList<Arc<Entry>>,
    pub(crate) topics: HashSet<ByName>,
    /// The same in the order of their names: those that begin alike are next to each other.
    pub(super) by_name: BTreeSet<ByName>,
    /// Topics that have ended and are to be forgotten, by their ends.
    pub(crate) ended: EvictionQueue<Ending>,
    /// The patterns that have subscribers.
    pub(super) patterns: Patterns<Arc<Feed>>,
    /// The same, to be looked at in turn.
    pub(super) pattern_list: Vec<Arc<Feed>>,
    /// Which of them is next.
    pub(super) pattern_turn: usize,
    /// What their logs take, as a part of the cost.
    pub(crate) rows: usize,
    /// The next topic's or pattern's.
    pub(super) feed_id: u64,
    pub(super) forgotten: Forgotten,
    pub(super) evicted_ids: EvictedIds,
}

/// What the logs of patterns may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) all: usize,
    pub(super) each: usize,
}

/// The order, locked.
pub(crate) struct OrderGuard<'a> {
    pub(super) guard: MutexGuard<'a, Order>,
    pub(super) deferred: &'a mut Deferred,
}

impl Deref for OrderGuard<'_> {
    type Target = Order;

    fn deref(&self) -> &Order {
        &self.guard
    }
}

impl DerefMut for OrderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Order {
        &mut self.guard
    }
}

impl Drop for OrderGuard<'_> {
    fn drop(&mut self) {
        if !self.guard.gone.is_empty() {
            self.deferred.drop_entries(&mut self.guard.gone);
        }
    }
}

impl Order {
    /// `begin`: before the first event.
    pub(crate) fn new(begin: Position) -> Self {
        Self {
            last: begin,
            number: 0,
            published: 0,
            cost: 0,
            eviction_queue: EvictionQueue::new(),
            gone: SmallList::default(),
            topics: HashSet::new(),
            by_name: BTreeSet::new(),
            ended: EvictionQueue::new(),
            patterns: Patterns::new(),
            pattern_list: Vec::new(),
            pattern_turn: 0,
            rows: 0,
            feed_id: 0,
            forgotten: Forgotten::new(begin),
            evicted_ids: EvictedIds::default(),
        }
    }

    pub(super) fn has_issued(&self, position: Position) -> bool {
        position.era() == self.last.era() && position <= self.last
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Feed>> {
        self.topics.get(name).map(|ByName(topic)| Arc::clone(topic))
    }

    /// The topics that match a pattern.
    pub(super) fn matching(&self, pattern: &str) -> impl Iterator<Item = &Arc<Feed>> {
        // All others begin otherwise.
        let begin = &pattern[..pattern.find('*').unwrap_or(pattern.len())];
        let topics = self.by_name.range::<str, _>((Included(begin), Unbounded)).map(|ByName(topic)| topic);
        let topics = topics.take_while(move |topic| topic.name().starts_with(begin)).inspect(|_| step());
        topics.filter(move |topic| topic_name::is_public(topic.name()) && topic_name::matches(pattern, topic.name()))
    }

    /// Somebody comes to a topic or a pattern or leaves it: nobody pays for its name but who holds it, or what is retained.
    pub(crate) fn hold(&mut self, feed: &Feed, state: &mut FeedState, change: impl FnOnce(&mut FeedState)) {
        let was_held = state.is_held();
        change(state);
        match (was_held, state.is_held()) {
            (false, true) => self.cost -= feed.cost(),
            (true, false) => self.cost += feed.cost(),
            _ => {}
        }
    }

    /// The topic that ended first, if nothing retained is older than its end but the newest `keep` events.
    pub(super) fn oldest_is_an_end(&self, keep: usize) -> Option<Arc<Feed>> {
        let end = self.ended.oldest()?;
        if !lock(&end.topic.state).log.is_empty() {
            // Its last event is the newest of all, and came with the end.
            return None;
        }
        let event = self.eviction_queue.oldest().filter(|_| self.eviction_queue.len() > keep);
        let number = event.and_then(|topic| Some(lock(&topic.state).log.oldest()?.number));
        number.is_none_or(|number| end.number < number).then(|| Arc::clone(&end.topic))
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.feed_id += 1;
        self.feed_id
    }

    pub(crate) fn evict_oldest_of(&mut self, state: &mut FeedState) {
        if let Some(ticket) = self.drop_oldest_of(state) {
            self.eviction_queue.remove(ticket);
        }
    }

    pub(super) fn add_rows(&mut self, cost: usize) {
        (self.cost, self.rows) = (self.cost + cost, self.rows + cost);
    }

    pub(super) fn free_rows(&mut self, cost: usize) {
        (self.cost, self.rows) = (self.cost - cost, self.rows - cost);
    }

    /// What the log of one pattern may take, if all may take so much.
    pub(super) fn share(&self, all: usize) -> Share {
        Share { all, each: all / self.pattern_list.len().max(1) }
    }

    /// If all patterns together have too much, takes the oldest events out of the log of one that has more than its share. They stay in
    /// their topics. A few at a time, as a share may become small all of a sudden: `true` if it may have more still.
    pub(super) fn trim(&mut self, pattern: &Feed, log: &mut Log, share: Share) -> bool {
        for _ in 0..4 {
            let is_too_much = self.rows > share.all && log.cost() > share.each && log.len() > 1;
            let Some(oldest) = log.oldest().filter(|_| is_too_much).cloned() else { return false };
            step();
            self.free_rows(log.remove(&oldest));
            self.left_out(&oldest, pattern.name());
        }
        true
    }

    /// If all have too much, looks at a few more of them, which may have kept from a time with fewer what is not their share any more.
    pub(super) fn trim_next(&mut self, all: usize) {
        for _ in 0..4 {
            if self.rows <= all || self.pattern_list.is_empty() {
                return;
            }
            self.pattern_turn = (self.pattern_turn + 1) % self.pattern_list.len();
            let (pattern, share) = (Arc::clone(&self.pattern_list[self.pattern_turn]), self.share(all));
            self.trim(&pattern, &mut lock(&pattern.state).log, share);
        }
    }

    /// The log of a topic or a pattern does not have an event any more. Gives where that is, unless its loss is passed over.
    pub(super) fn left_out(&mut self, entry: &Entry, by: &Arc<str>) -> Option<Position> {
        if entry.slow_client_policy == SlowClientPolicy::SkipSilently {
            return None;
        }
        if let Some(id) = entry.own_id() {
            self.evicted_ids.insert(id, by);
        }
        Some(entry.position)
    }

    /// The same for an event that the ledger does not have any more.
    pub(super) fn drop_oldest_of(&mut self, state: &mut FeedState) -> Option<Ticket> {
        let (entry, cost) = state.log.pop()?;
        self.cost -= cost;
        self.left_out(&entry, &entry.topic);
        for pattern in &state.patterns {
            let cost = lock(&pattern.state).log.remove(&entry);
            self.free_rows(cost);
        }
        let ticket = entry.ticket;
        self.gone.push(entry);
        Some(ticket)
    }
}
