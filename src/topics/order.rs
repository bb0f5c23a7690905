//! The one order of events, with all topics, patterns and retained events.

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
    replica::LostRanges,
    shared_log::{ByName, SharedLog, SharedLogState},
    steps::step,
};
use crate::{
    collections::{EvictionQueue, SmallList, Ticket},
    log::{Entry, EvictedIds, Forgotten, Log, Patterns, Position, SlowClientPolicy, topic_name},
    sync::{MutexGuard, lock},
};

/// The state behind the publishers' lock. The fields that each publish needs come first, in few cache lines.
#[repr(C)]
pub(crate) struct Order {
    pub(crate) last: Position,
    /// The number of the newest event or end.
    pub(crate) number: u64,
    pub(crate) published: u64,
    /// The memory of the retained events and of the topics that nobody holds.
    pub(crate) cost: usize,
    pub(crate) eviction_queue: EvictionQueue<Arc<SharedLog>>,
    /// Evicted events, to be dropped after the lock is released.
    pub(super) gone: SmallList<Arc<Entry>>,
    pub(crate) topics: HashSet<ByName>,
    /// The topics in the order of their names, to find those with the same prefix.
    pub(super) by_name: BTreeSet<ByName>,
    /// The ended topics that will be forgotten, in the order of their ends.
    pub(crate) ended: EvictionQueue<EndedTopic>,
    /// The patterns that have subscribers.
    pub(super) patterns: Patterns<Arc<SharedLog>>,
    /// The patterns as a list, to be trimmed in turn.
    pub(super) pattern_list: Vec<Arc<SharedLog>>,
    /// The index of the pattern to trim next.
    pub(super) pattern_turn: usize,
    /// The memory of the patterns' logs, which is a part of `cost`.
    pub(crate) rows: usize,
    /// The last id of a topic, a pattern or a producer.
    last_id: u64,
    pub(super) forgotten: Forgotten,
    pub(super) evicted_ids: EvictedIds,
    /// What the engine has lost, if there is a backplane.
    pub(super) lost_ranges: LostRanges,
}

/// A topic that has ended.
#[derive(Debug)]
pub(crate) struct EndedTopic {
    pub(crate) topic: Arc<SharedLog>,
    /// The number of the end, in the order of events.
    pub(crate) number: u64,
    /// When the topic ended, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// When the topic is forgotten, in milliseconds since the Unix epoch.
    pub(super) forget_at: u64,
}

/// The memory that the logs of patterns may take: of all together, and of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) all: usize,
    pub(super) each: usize,
}

/// The locked order.
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
    /// `begin`: the position before the first event.
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
            last_id: 0,
            forgotten: Forgotten::new(begin),
            evicted_ids: EvictedIds::default(),
            lost_ranges: LostRanges::default(),
        }
    }

    pub(super) fn has_issued(&self, position: Position) -> bool {
        position.era() == self.last.era() && position <= self.last && self.lost_ranges.before(position).is_none()
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<SharedLog>> {
        self.topics.get(name).map(|ByName(topic)| Arc::clone(topic))
    }

    /// Returns the topics that match a pattern.
    pub(super) fn matching(&self, pattern: &str) -> impl Iterator<Item = &Arc<SharedLog>> {
        // All other topics have another prefix.
        let begin = &pattern[..pattern.find('*').unwrap_or(pattern.len())];
        let topics = self.by_name.range::<str, _>((Included(begin), Unbounded)).map(|ByName(topic)| topic);
        let topics = topics.take_while(move |topic| topic.name().starts_with(begin)).inspect(|_| step());
        topics.filter(move |topic| topic_name::is_public(topic.name()) && topic_name::matches(pattern, topic.name()))
    }

    /// Changes who holds a topic or a pattern, and updates the cost: the memory of a topic that nobody holds counts as
    /// retained.
    pub(crate) fn update_holders(
        &mut self,
        shared_log: &SharedLog,
        state: &mut SharedLogState,
        change: impl FnOnce(&mut SharedLogState),
    ) {
        let was_held = state.is_held();
        change(state);
        match (was_held, state.is_held()) {
            (false, true) => self.cost -= shared_log.cost(),
            (true, false) => self.cost += shared_log.cost(),
            _ => {}
        }
    }

    /// Returns the topic that ended first, if no retained event is older than its end, except for the newest `keep`
    /// events.
    pub(super) fn oldest_is_an_end(&self, keep: usize) -> Option<Arc<SharedLog>> {
        let end = self.ended.oldest()?;
        if !lock(&end.topic.state).log.is_empty() {
            // The topic's last event is the newest of all events, and was published with the end.
            return None;
        }
        let event = self.eviction_queue.oldest().filter(|_| self.eviction_queue.len() > keep);
        let number = event.and_then(|topic| Some(lock(&topic.state).log.oldest()?.number));
        number.is_none_or(|number| end.number < number).then(|| Arc::clone(&end.topic))
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn evict_oldest_of(&mut self, state: &mut SharedLogState) {
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

    /// Returns the share of each pattern's log, if all may take so much.
    pub(super) fn share(&self, all: usize) -> Share {
        Share { all, each: all / self.pattern_list.len().max(1) }
    }

    /// Evicts the oldest events from the log of a pattern that is larger than its share, if the logs of all patterns
    /// are too large.
    ///
    /// The events stay in their topics. It evicts at most four events, because a share may shrink suddenly. Returns
    /// `true` if more may have to be evicted.
    pub(super) fn trim(&mut self, pattern: &SharedLog, log: &mut Log, share: Share) -> bool {
        for _ in 0..4 {
            let is_too_much = self.rows > share.all && log.cost() > share.each && log.len() > 1;
            let Some(oldest) = log.oldest().filter(|_| is_too_much).cloned() else { return false };
            step();
            self.free_rows(log.remove(&oldest));
            self.left_out(&oldest, pattern.name());
        }
        true
    }

    /// Trims up to four more patterns, if the logs of all patterns are too large. Their shares may have shrunk since
    /// they were filled.
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

    /// Records that a log no longer has an event. Returns the event's position, unless its loss is skipped silently.
    pub(super) fn left_out(&mut self, entry: &Entry, by: &Arc<str>) -> Option<Position> {
        if entry.slow_client_policy == SlowClientPolicy::SkipSilently {
            return None;
        }
        if let Some(id) = entry.own_id() {
            self.evicted_ids.insert(id, by);
        }
        Some(entry.position)
    }

    /// Evicts the oldest event of a topic from its log and from the logs of matching patterns. Returns its ticket in
    /// the eviction queue.
    pub(super) fn drop_oldest_of(&mut self, state: &mut SharedLogState) -> Option<Ticket> {
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
