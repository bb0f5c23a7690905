//! A cursor: how far a client has read one topic or pattern.

use std::sync::Arc;

use super::{filter::Filter, picked::Plain};
use crate::{
    log::{Entry, Log, Outcome, Position, Progress, topic_name},
    sync::lock,
    topics::{Bound, CursorStart, Deferred, Latest, SharedLog, Topics, WaiterSlot},
};

/// How far a client has read one topic or pattern.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(super) shared_log: Arc<SharedLog>,
    /// The number of the next event.
    pub(super) next: u64,
    /// How many events the log has ever had before `next`.
    pub(super) read: u64,
    /// How many of the events that the log has lost the client knows of, or do not concern it.
    pub(super) known_lost: u64,
    /// From this number on, the client gets every event that the filter lets through.
    pub(super) since: u64,
    /// The cursor's slot among the log's waiters. `None` when an event may have been published since.
    pub(super) parked: Option<WaiterSlot>,
    /// Events after this position were evicted before the client started here, and the client has not been notified
    /// yet. Boxed, because few cursors have one.
    pub(super) missed: Option<Box<Position>>,
    pub(super) filter: Option<Filter>,
    /// The missing events come after the client's `Last-Event-ID`.
    pub(super) asked: bool,
    /// The cursor resumes after the client's `Last-Event-ID`.
    pub(super) resumes: bool,
    /// The cursor is catching up: it started before the client's position, and has not reached that position yet.
    pub(super) catches_up: bool,
    /// The client's stream has begun, and the log counts this reader.
    pub(super) is_read: bool,
}

/// What an idle client checks, without a lock, to see that there is no new event.
///
/// The log is the client's only one, or the registry's empty log if the client has no subscriptions.
#[derive(Debug)]
pub(crate) struct IdleMark {
    pub(super) shared_log: Arc<SharedLog>,
    pub(super) next: u64,
}

impl IdleMark {
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        !self.shared_log.reaches(self.next)
    }
}

impl Cursor {
    pub(crate) fn name(&self) -> &str {
        self.shared_log.name()
    }

    /// Whether other clients can read the topic too.
    pub(super) fn is_shared(&self) -> bool {
        !topic_name::is_of_one_client(self.name())
    }

    /// The client leaves the log. The filter may run user code when it is dropped, so it is dropped later.
    pub(super) fn leave(self, topics: &Topics, deferred: &mut Deferred) {
        if self.is_read {
            self.shared_log.remove_reader();
        }
        topics.leave(&self.shared_log, self.parked, deferred);
        deferred.drop(self);
    }

    /// Whether there may be an event to read. The log's newest number is read without a lock; only the log itself has
    /// the exact answer.
    pub(super) fn is_pending(&self) -> bool {
        self.missed.is_some() || self.shared_log.reaches(self.next)
    }

    /// Whether an event up to this number, or a gap, waits to be read.
    pub(super) fn is_behind(&self, number: u64) -> bool {
        if !self.is_pending() {
            return false;
        }
        let log = &lock(&self.shared_log.state).log;
        let is_waiting = log.next_from(self.next).is_some_and(|next| next.number <= number);
        is_waiting || self.missed.is_some() || self.has_lost(log)
    }

    /// Returns how the topic ended, if the cursor has reached the end.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let end = self.shared_log.end().filter(|end| self.missed.is_none() && end.number < self.next)?;
        Some(end.outcome)
    }

    /// Returns the idle mark, if the cursor waits for the next event. `was_idle_on`: the reader's former mark, to use
    /// again.
    pub(super) fn idle_mark(&self, was_idle_on: Option<IdleMark>) -> Option<IdleMark> {
        self.parked?;
        let shared_log = match was_idle_on {
            Some(IdleMark { shared_log, .. }) if Arc::ptr_eq(&shared_log, &self.shared_log) => shared_log,
            _ => Arc::clone(&self.shared_log),
        };
        Some(IdleMark { shared_log, next: self.next })
    }

    /// Whether events that the client should get were evicted, and the client has not been notified.
    #[inline]
    pub(super) fn has_lost(&self, log: &Log) -> bool {
        log.has_lost(self.next, self.known_lost)
    }

    /// Returns the first event to read, if no event is missing and no filter has to be called.
    pub(super) fn plain_from<'a>(&self, log: &'a Log) -> Option<&'a Arc<Entry>> {
        let is_plain = self.missed.is_none() && self.filter.is_none() && !self.has_lost(log) && !log.has_exceptions();
        log.next_from(self.next).filter(|_| is_plain)
    }

    /// Takes the events that another cursor took from the same number on, if those are all events and this cursor may
    /// have them.
    #[inline]
    pub(super) fn take_latest(&mut self, latest: &Latest, seen: &mut Position, horizon: u64) -> Option<Plain> {
        let is_all = latest.newest == self.shared_log.newest() && latest.newest <= horizon;
        if !is_all || self.known_lost < latest.known_lost || *seen >= latest.first {
            return None;
        }
        (self.next, self.read, *seen) = (latest.newest + 1, latest.read, latest.last);
        let Latest { events, has_id, .. } = *latest;
        Some(Plain { wire: latest.wire.clone(), events, has_id, has_more: false, is_live: false })
    }

    pub(super) fn set(&mut self, start: CursorStart) {
        (self.next, self.read, self.known_lost, self.missed) =
            (start.next, start.read, start.known_lost, start.missed.map(Box::new));
    }

    /// Moves the cursor to where the client resumes. Returns whether events are missing.
    pub(super) fn resume(
        &mut self,
        topics: &Topics,
        progress: Option<&Progress>,
        seen: Position,
        bound: Bound,
        deferred: &mut Deferred,
    ) -> bool {
        // An unknown id resumes before the first event.
        let after = progress.map(|progress| progress.of(self.shared_log.name())).unwrap_or_default();
        self.set(topics.locate(&self.shared_log, after, bound, deferred));
        self.catches_up = after < seen;
        // The start of the former subscription is unknown. The client rather gets an event twice than not at all.
        self.since = self.next;
        self.asked = self.missed.is_some();
        self.asked
    }

    /// Whether the client gets every event that this cursor reads. A filter may hold an event back.
    pub(super) fn gives_all(&self) -> bool {
        self.filter.is_none() && !self.catches_up
    }

    /// Whether this cursor has already given an event to the client, if its filter agreed.
    pub(super) fn has_given(&self, entry: &Entry) -> bool {
        !self.catches_up && (self.since..self.next).contains(&entry.number) && self.shared_log.has(&entry.topic)
    }
}
