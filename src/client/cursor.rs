//! How far a client has read one topic or pattern.

use std::sync::Arc;

use super::{subscription::Filter, taking::Plain};
use crate::{
    log::{Entry, Log, Outcome, Position, Progress, topic_name},
    topics::{Bound, Deferred, Latest, Parked, Place, SharedLog, Topics},
};

/// How far a client has read one topic or pattern.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(super) shared_log: Arc<SharedLog>,
    /// The number of the next event.
    pub(super) next: u64,
    /// How many events there ever were before that one.
    pub(super) read: u64,
    /// How many of the events that the log has lost the client knows of, or do not concern it.
    pub(super) told: u64,
    /// The number from which on the client gets everything that the filter lets through.
    pub(super) since: u64,
    /// Its place among the log's waiters, while nothing was published since.
    pub(super) parked: Option<Parked>,
    /// Events after this position are missing from before the client came, and it has not been told. Few ever have one.
    pub(super) missed: Option<Box<Position>>,
    pub(super) filter: Option<Filter>,
    /// The client asked for what is missing, with its `Last-Event-ID`.
    pub(super) asked: bool,
    /// It goes on where the client was cut off.
    pub(super) resumes: bool,
    /// It is catching up: it started before what the client had seen, and has not reached that yet.
    pub(super) catches_up: bool,
    /// Its stream has begun, and its log counts it among those that are read.
    pub(super) is_read: bool,
}

/// What is enough to know, without a lock, that there is nothing new for a client that has read everything and waits.
///
/// It is its only topic, or the registry's log of nothing if it has none.
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

    pub(super) fn is_public(&self) -> bool {
        topic_name::is_public(self.name())
    }

    /// Its client leaves. What it holds of the program's is dropped later.
    pub(super) fn leave(self, topics: &Topics, deferred: &mut Deferred) {
        if self.is_read {
            self.shared_log.remove_reader();
        }
        topics.leave(&self.shared_log, self.parked, deferred);
        deferred.drop(self);
    }

    /// Whether there may be something to read: more than the log's newest number, which is looked up without a lock,
    /// says only the log itself.
    pub(super) fn is_pending(&self) -> bool {
        self.missed.is_some() || self.shared_log.reaches(self.next)
    }

    /// How its topic ended, if it has come to the end.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let end = self.shared_log.end().filter(|end| self.missed.is_none() && end.number < self.next)?;
        Some(end.outcome)
    }

    /// What its reader may rest on, if it waits for the next event. `rested` is what it rested on before.
    pub(super) fn idle_mark(&self, was_idle_on: Option<IdleMark>) -> Option<IdleMark> {
        self.parked?;
        let shared_log = match was_idle_on {
            Some(IdleMark { shared_log, .. }) if Arc::ptr_eq(&shared_log, &self.shared_log) => shared_log,
            _ => Arc::clone(&self.shared_log),
        };
        Some(IdleMark { shared_log, next: self.next })
    }

    /// Whether it was to have something that is gone, and its client does not know.
    #[inline]
    pub(super) fn has_lost(&self, log: &Log) -> bool {
        log.has_lost(self.next, self.told)
    }

    /// The first event that it is to have, if nothing is missing and nobody has to be asked for any.
    pub(super) fn plain_from<'a>(&self, log: &'a Log) -> Option<&'a Arc<Entry>> {
        let is_plain = self.missed.is_none() && self.filter.is_none() && !self.has_lost(log) && !log.has_exceptions();
        log.next_from(self.next).filter(|_| is_plain)
    }

    /// Takes what another cursor took from the same number on, if that is all that there is, and it is for this one too.
    #[inline]
    pub(super) fn take_latest(&mut self, latest: &Latest, seen: &mut Position, horizon: u64) -> Option<Plain> {
        let is_all = latest.newest == self.shared_log.newest() && latest.newest <= horizon;
        if !is_all || self.told < latest.told || *seen >= latest.first {
            return None;
        }
        (self.next, self.read, *seen) = (latest.newest + 1, latest.read, latest.last);
        let Latest { events, has_id, .. } = *latest;
        Some(Plain { wire: latest.wire.clone(), events, has_id, has_more: false, is_live: false })
    }

    pub(super) fn set(&mut self, place: Place) {
        (self.next, self.read, self.told, self.missed) =
            (start.next, start.read, start.told, start.missed.map(Box::new));
    }

    /// Goes on where its client was cut off, as far as anybody knows, and says whether something is missing.
    pub(super) fn resume(
        &mut self,
        topics: &Topics,
        progress: Option<&Progress>,
        seen: Position,
        bound: Bound,
        deferred: &mut Deferred,
    ) -> bool {
        // What nobody knows comes before everything.
        let after = progress.map(|progress| progress.of(self.shared_log.name())).unwrap_or_default();
        self.set(topics.locate(&self.shared_log, after, bound, deferred));
        self.catches_up = after < seen;
        // Since when it had been subscribed, nobody knows any more: rather something twice than not at all.
        self.since = self.next;
        self.asked = self.missed.is_some();
        self.asked
    }

    /// Whether an event that came before is one that this cursor had its client see, if the filter agrees.
    pub(super) fn has_given(&self, entry: &Entry) -> bool {
        !self.catches_up && (self.since..self.next).contains(&entry.number) && self.shared_log.has(&entry.topic)
    }
}
