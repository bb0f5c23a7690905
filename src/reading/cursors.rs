//! All cursors of one client, and the client's position.

use std::{mem, sync::Arc, task::Waker};

use super::{
    cursor::{Cursor, IdleMark},
    filter::Filter,
};
use crate::{
    collections::SmallList,
    log::{Gap, Outcome, Position, Progress, topic_name},
    sync::lock,
    topics::{Bound, CursorStart, Deferred, Joining, SharedLog, Topics},
};

/// One client's cursors, one for each subscription.
///
/// Events are sent in position order. A read never goes beyond the newest position that was fully published when the
/// read began. So when a client has seen a position, it has seen every event before that position.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Cursors {
    /// Most clients have one.
    pub(super) cursors: SmallList<Cursor>,
    /// The newest position that was sent, or that the client brought. The default position if there is none.
    pub(super) seen: Position,
}

impl Cursors {
    pub(crate) fn len(&self) -> usize {
        self.cursors.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names().any(|known| &**known == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.cursors.iter().map(|cursor| cursor.shared_log.name())
    }

    /// How many subscriptions are to patterns.
    pub(crate) fn patterns(&self) -> usize {
        self.names().filter(|name| topic_name::is_pattern(name)).count()
    }

    /// How many subscriptions include the events of this topic.
    pub(crate) fn having(&self, topic: &str) -> usize {
        self.cursors.iter().filter(|cursor| cursor.shared_log.has(topic)).count()
    }

    /// Whether an event or a gap waits to be read.
    pub(crate) fn is_pending(&self) -> bool {
        self.cursors.iter().any(Cursor::is_pending)
    }

    /// Whether the client has read every event up to this number, and was notified of every gap.
    pub(crate) fn has_read(&self, number: u64) -> bool {
        !self.cursors.iter().any(|cursor| cursor.is_behind(number))
    }

    /// Adds a subscription. `resumes`: a `Last-Event-ID` overrides the start.
    pub(crate) fn subscribe(&mut self, frames: Joining, filter: Option<Filter>, resumes: bool) {
        let Joining { shared_log, start } = frames;
        let mut cursor = Cursor {
            shared_log,
            next: 0,
            read: 0,
            known_lost: 0,
            since: start.next,
            parked: None,
            missed: None,
            filter,
            asked: false,
            resumes,
            catches_up: false,
            is_read: false,
        };
        cursor.set(start);
        self.cursors.push(cursor);
    }

    /// Returns the logs of all subscriptions.
    pub(crate) fn shared_logs(&self) -> Vec<Arc<SharedLog>> {
        self.cursors.iter().map(|cursor| Arc::clone(&cursor.shared_log)).collect()
    }

    /// Returns the log of the subscription with this name.
    pub(crate) fn shared_log(&self, name: &str) -> Option<Arc<SharedLog>> {
        self.cursors.iter().map(|cursor| &cursor.shared_log).find(|shared_log| &**shared_log.name() == name).cloned()
    }

    /// Changes the start or the filter of a subscription.
    ///
    /// Returns the former filter, which must be dropped when no lock is held. `had_nothing`: the stream has not begun.
    pub(crate) fn change(
        &mut self,
        shared_log: &Arc<SharedLog>,
        start: Option<CursorStart>,
        filter: Option<Filter>,
        had_nothing: bool,
    ) -> Result<Option<Filter>, NotSubscribed> {
        let cursor =
            self.cursors.iter_mut().find(|cursor| Arc::ptr_eq(&cursor.shared_log, shared_log)).ok_or(NotSubscribed)?;
        match start {
            Some(start) if had_nothing || start.next < cursor.since => {
                if let Some(parked) = cursor.parked.take() {
                    drop(cursor.shared_log.unpark(parked));
                }
                cursor.set(start);
                (cursor.since, cursor.catches_up, cursor.asked) = (start.next, false, false);
            }
            // The client has already had every retained event from there on. It is notified of the others.
            Some(CursorStart { missed: Some(missed), .. }) => cursor.missed = Some(Box::new(missed)),
            _ => {}
        }
        if filter.is_some() {
            // What the former filter let through is unknown. The client rather gets an event twice than not at all.
            cursor.since = cursor.next;
        }
        Ok(filter.and_then(|filter| cursor.filter.replace(filter)))
    }

    /// Counts the client as a reader of all its subscriptions, when its stream begins.
    ///
    /// Returns the names that were not read before and that the caller `asks_for`.
    pub(crate) fn count_as_read(&mut self, asks_for: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.is_read) {
            cursor.is_read = true;
            cursor.shared_log.add_reader();
            names.extend(Some(cursor.shared_log.name()).filter(|name| asks_for(name)).cloned());
        }
        names
    }

    /// Removes a subscription. Returns `false` if there is none.
    pub(crate) fn unsubscribe(&mut self, topics: &Topics, name: &str, deferred: &mut Deferred) -> bool {
        let at = self.cursors.iter().position(|cursor| &**cursor.shared_log.name() == name);
        if let Some(at) = at {
            self.cursors.swap_remove(at).leave(topics, deferred);
        }
        at.is_some()
    }

    /// Removes all subscriptions.
    pub(crate) fn clear(&mut self, topics: &Topics, deferred: &mut Deferred) {
        mem::take(&mut self.cursors).into_vec().into_iter().for_each(|cursor| cursor.leave(topics, deferred));
    }

    /// Removes the subscriptions whose topics have ended and are read to the end. Returns their names, and the worst
    /// outcome.
    pub(crate) fn take_ended(&mut self, topics: &Topics, deferred: &mut Deferred) -> (Vec<Arc<str>>, Option<Outcome>) {
        let (mut ended, mut worst) = (Vec::new(), None);
        let next = |(at, cursor): (usize, &Cursor)| Some((at, cursor.outcome()?));
        while let Some((at, outcome)) = self.cursors.iter().enumerate().find_map(next) {
            worst = worst.max(Some(outcome));
            let cursor = self.cursors.swap_remove(at);
            ended.push(Arc::clone(cursor.shared_log.name()));
            cursor.leave(topics, deferred);
        }
        (ended, worst)
    }

    /// Whether any cursor has reached the end of its topic.
    pub(crate) fn has_ended(&self) -> bool {
        self.cursors.iter().any(|it| it.outcome().is_some())
    }

    /// Returns the worst outcome of the topics, if all cursors have reached the end.
    ///
    /// Returns `None` while an event waits that was sent to this client alone.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut worst = None;
        for cursor in &*self.cursors {
            match cursor.is_shared() {
                true => worst = worst.max(Some(cursor.outcome()?)),
                false if cursor.is_pending() => return None,
                false => {}
            }
        }
        worst
    }

    /// Whether any subscription is to a topic other than the client's own, which never ends.
    pub(crate) fn has_public(&self) -> bool {
        self.cursors.iter().any(Cursor::is_shared)
    }

    /// Moves the cursors to where the client resumes. Returns the gap, if events after that are not retained or are
    /// more than the bound allows.
    pub(crate) fn resume(
        &mut self,
        topics: &Topics,
        last_event_id: &str,
        bound: Bound,
        deferred: &mut Deferred,
    ) -> Option<Gap> {
        let resuming = self.cursors.iter().filter(|cursor| cursor.resumes);
        let progress = topics.progress(resuming.map(|cursor| &*cursor.shared_log), last_event_id, deferred);
        self.seen = progress.as_ref().map(|progress| progress.seen).unwrap_or_default();
        let mut names = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.resumes) {
            if cursor.resume(topics, progress.as_ref(), self.seen, bound, deferred) {
                names.push(cursor.shared_log.name().to_string());
            }
        }
        (!names.is_empty()).then(|| Gap { topics: names, after: last_event_id.into(), position: None })
    }

    /// Resumes a subscription that was just added to an open stream.
    pub(crate) fn resume_newest(
        &mut self,
        topics: &Topics,
        last_event_id: &str,
        bound: Bound,
        deferred: &mut Deferred,
    ) {
        // The id may come from any of the subscriptions.
        let progress = topics.progress(self.cursors.iter().map(|cursor| &*cursor.shared_log), last_event_id, deferred);
        let Some(cursor) = self.cursors.last_mut() else { return };
        cursor.resume(topics, progress.as_ref(), self.seen, bound, deferred);
    }

    /// Returns the position of a client whose stream begins without a `Last-Event-ID`. All events that the client
    /// should get come after it.
    ///
    /// One position must cover all subscriptions. If they start at different points, a client that resumes from it may
    /// get an event twice, but never loses one. If some subscriptions wait for new events and others begin with
    /// retained events, the progress names the latter.
    ///
    /// `None` if events are missing already. The client is then notified of the gap first, and no id may skip that gap.
    pub(crate) fn standing(&self, topics: &Topics) -> Option<Progress> {
        let newest = topics.position();
        let (mut late, mut has_waiting) = (Vec::new(), false);
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_shared()) {
            let log = &lock(&cursor.shared_log.state).log;
            if cursor.missed.is_some() || cursor.has_lost(log) {
                return None;
            }
            match log.next_from(cursor.next).map(|entry| entry.position).filter(|first| *first <= newest) {
                Some(first) => late.push((first.before(), &**cursor.shared_log.name())),
                None => has_waiting |= !log.is_empty(),
            }
        }
        Some(match late.iter().map(|(before, _)| *before).min() {
            None => newest.into(),
            Some(before) if has_waiting => {
                Progress::catching_up(newest, before, late.into_iter().map(|(_, name)| name))
            }
            Some(before) => before.into(),
        })
    }

    /// Sets the client's position when its stream begins.
    pub(crate) fn begin(&mut self, standing: &Progress) {
        self.seen = standing.only().unwrap_or_default();
    }

    /// Returns the newest position that was sent, or that the client brought.
    pub(crate) fn seen(&self) -> Position {
        self.seen
    }

    /// Returns the client's position, if it has read everything.
    pub(crate) fn seen_all(&self) -> Option<Position> {
        let is_through = !self.cursors.iter().any(|it| it.is_pending() || it.catches_up);
        (is_through && self.seen != Position::default()).then_some(self.seen)
    }

    /// Moves all cursors to after the position of a snapshot. Events that were sent to the client alone are in no
    /// snapshot, so they stay.
    pub(crate) fn skip_to(&mut self, topics: &Topics, position: Position, deferred: &mut Deferred) {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_shared()) {
            cursor.set(topics.locate(&cursor.shared_log, position, Bound::default(), deferred));
            (cursor.since, cursor.resumes, cursor.catches_up, cursor.asked) = (cursor.next, false, false, false);
        }
        self.seen = Some(position).filter(|position| topics.has_issued(*position)).unwrap_or_default();
    }

    /// Removes the client from every log's waiters, because another waker will be woken.
    pub(crate) fn unpark(&mut self) {
        for cursor in &mut *self.cursors {
            if let Some(parked) = cursor.parked.take() {
                drop(cursor.shared_log.unpark(parked));
            }
        }
    }

    /// Returns the idle mark of a reader that waits for the next event on all logs.
    pub(crate) fn idle_mark(&self, topics: &Topics) -> Option<IdleMark> {
        match &self.cursors[..] {
            [] => Some(IdleMark { shared_log: Arc::clone(&topics.nothing), next: u64::MAX }),
            [only] => only.idle_mark(None),
            _ => None,
        }
    }

    /// Adds the waker to every log's waiters. Returns `false` if an event was published meanwhile.
    pub(crate) fn park(&mut self, waker: &Waker) -> bool {
        self.cursors.iter_mut().all(|cursor| {
            if cursor.is_pending() {
                return false;
            }
            if cursor.parked.is_some() {
                return true;
            }
            cursor.parked = cursor.shared_log.park(cursor.next, waker);
            cursor.parked.is_some()
        })
    }
}

/// The subscription does not exist any more.
pub(crate) struct NotSubscribed;
