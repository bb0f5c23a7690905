//! Where a cursor starts or resumes.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    deferred::Deferred,
    order::Order,
    shared_log::{SharedLog, SharedLogState},
    start::Start,
    store::Topics,
};
use crate::{
    log::{Position, Progress, SlowClientPolicy},
    sync::lock,
};

/// The maximum number of missed events that a client gets of a topic when it resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bound(Option<NonZeroU32>);

impl Bound {
    pub(crate) fn of(events: u32) -> Self {
        // One more, because the bound may be 0. `u32::MAX` is no bound.
        Self(NonZeroU32::new(events.wrapping_add(1)))
    }

    fn events(self) -> Option<usize> {
        self.0.map(|events| events.get() as usize - 1)
    }
}

/// Where a cursor starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CursorStart {
    pub(crate) next: u64,
    pub(crate) read: u64,
    pub(crate) known_lost: u64,
    /// Events after this position are missing.
    pub(crate) missed: Option<Position>,
}

/// A new subscription, which the log already counts.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) shared_log: Arc<SharedLog>,
    pub(crate) start: CursorStart,
}

impl Topics {
    /// Returns where a client continues after a position, within a bound, and whether it misses events.
    pub(crate) fn locate(
        &self,
        shared_log: &SharedLog,
        after: Position,
        bound: Bound,
        deferred: &mut Deferred,
    ) -> CursorStart {
        let mut order = self.order(deferred);
        let cursor_start = self.cursor_start(&mut order, shared_log, Start::After(after));
        match bound.events().filter(|events| lock(&shared_log.state).log.count_from(cursor_start.next) > *events) {
            Some(events) => {
                let missed =
                    (shared_log.retention.slow_client_policy != SlowClientPolicy::SkipSilently).then_some(after);
                CursorStart { missed, ..self.cursor_start(&mut order, shared_log, Start::Last(events)) }
            }
            None => cursor_start,
        }
    }

    /// Returns where a client resumes after this id. `all`: the client's logs, because the id may come from any of
    /// them.
    pub(crate) fn cursor_start_after_id(
        &self,
        shared_log: &SharedLog,
        all: &[Arc<SharedLog>],
        last_event_id: &str,
        bound: Bound,
    ) -> CursorStart {
        let mut deferred = Deferred::default();
        let progress = self.progress(all.iter().map(|shared_log| &**shared_log), last_event_id, &mut deferred);
        // An unknown id resumes before the first event.
        let after = progress.map(|progress| progress.of(shared_log.name())).unwrap_or_default();
        self.locate(shared_log, after, bound, &mut deferred)
    }

    /// Returns the last position that a client with an unknown position has in common with this log.
    ///
    /// `None`: the position is of another log. A position of this log that is ahead may come from a node that has read more.
    fn last_shared(&self, order: &Order, position: Position) -> Option<Position> {
        let is_ahead = self.replica.is_some() && position.era() == order.last.era() && position > order.last;
        if is_ahead { Some(order.last) } else { order.lost_ranges.before(position) }
    }

    /// Returns where a subscription starts.
    pub(crate) fn cursor_start_at(&self, shared_log: &SharedLog, start: Start) -> CursorStart {
        let mut deferred = Deferred::default();
        self.cursor_start(&mut self.order(&mut deferred), shared_log, start)
    }

    /// Returns how far a client with this id had read these logs. `None`: the id is unknown.
    ///
    /// A publisher may give an event the id of an earlier event. Then the earlier position counts, so that nothing is
    /// lost.
    pub(crate) fn progress<'a>(
        &self,
        shared_logs: impl Iterator<Item = &'a SharedLog>,
        id: &str,
        deferred: &mut Deferred,
    ) -> Option<Progress> {
        let mut order = self.order(deferred);
        let is_of_this_log =
            |progress: &Progress| order.has_issued(progress.seen) || self.last_shared(&order, progress.seen).is_some();
        match id.parse::<Progress>().ok().filter(is_of_this_log) {
            Some(issued) => Some(issued.for_names(shared_logs.map(|shared_log| &**shared_log.name()))),
            None => self.find(&mut order, shared_logs, id).map(Progress::from),
        }
    }

    /// Returns the position of the event with this publisher's id, the oldest if there are several.
    ///
    /// `None` if no such event is retained, or if an event with that id was evicted, which may be the one that the
    /// client has read.
    pub(super) fn find<'a>(
        &self,
        order: &mut Order,
        shared_logs: impl Iterator<Item = &'a SharedLog>,
        own_id: &str,
    ) -> Option<Position> {
        let mut first: Option<Position> = None;
        for shared_log in shared_logs {
            if order
                .evicted_ids
                .has(own_id, shared_log.name(), |topic| shared_log.is_pattern() && shared_log.has(topic))
            {
                return None;
            }
            if shared_log.is_pattern() {
                self.complete(order, shared_log);
            }
            let found = lock(&shared_log.state).log.find(own_id);
            first = first.into_iter().chain(found).min();
        }
        first
    }

    pub(super) fn cursor_start(&self, order: &mut Order, shared_log: &SharedLog, start: Start) -> CursorStart {
        let now_ms = self.now_ms();
        if shared_log.is_pattern() {
            if start != Start::Now {
                self.complete(order, shared_log);
            }
            self.evict_too_old(order, shared_log, now_ms);
        } else {
            self.evict_from(order, shared_log, &mut lock(&shared_log.state), now_ms);
        }
        let mut state = lock(&shared_log.state);
        let SharedLogState { log, began, .. } = &mut *state;
        let oldest = log.oldest().map_or(log.newest() + 1, |entry| entry.number);
        let (next, missed) = match start {
            Start::Now | Start::LastEventId => {
                let next =
                    if shared_log.has_last_word() { log.last(1) } else { log.newest().max(self.to_be_loaded()) + 1 };
                (next, None)
            }
            // A client that asks for a producer's first event is notified if that event is not retained.
            Start::Oldest => (oldest, began.filter(|began| !log.covers(*began))),
            Start::Last(events) => (log.last(events), None),
            Start::After(position) => {
                let is_known = order.has_issued(position);
                // What a client has that the engine has lost is not the latest.
                let is_told = shared_log.retention.slow_client_policy != SlowClientPolicy::SkipSilently
                    || order.lost_ranges.before(position).is_some();
                let missed = is_told && !(is_known && log.covers(position));
                let known = if is_known { Some(position) } else { self.last_shared(order, position) };
                // The log of a pattern may retain events from before the position although later ones were evicted.
                (known.map_or(oldest, |position| log.after(position)), missed.then_some(position))
            }
        };
        CursorStart { next, read: log.ordinal_before(next), known_lost: log.known_lost_from(next), missed }
    }
}
