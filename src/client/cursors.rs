//! All cursors of a client: what it is subscribed to, and where it stands.

use std::{mem, sync::Arc, task::Waker};

use super::{
    cursor::{Cursor, IdleMark},
    subscription::Filter,
};
use crate::{
    collections::SmallList,
    log::{Gap, Outcome, Position, Progress, topic_name},
    sync::lock,
    topics::{Bound, Deferred, Joining, Place, SharedLog, Topics},
};

/// One client's cursors, over all topics and patterns that it is subscribed to.
///
/// Events leave in position order, and never beyond the newest position that was fully published when the reading
/// began: so whatever a client has seen, it has seen everything before it.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Cursors {
    /// Most clients have one.
    pub(super) cursors: SmallList<Cursor>,
    /// The newest position that was given out, or that the client came with: the very first if there is none.
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

    /// How many of them are on patterns.
    pub(crate) fn patterns(&self) -> usize {
        self.names().filter(|name| topic_name::is_pattern(name)).count()
    }

    /// How many of them have the events of this topic.
    pub(crate) fn having(&self, topic: &str) -> usize {
        self.cursors.iter().filter(|cursor| cursor.shared_log.has(topic)).count()
    }

    /// Whether something waits to be read.
    pub(crate) fn is_pending(&self) -> bool {
        self.cursors.iter().any(Cursor::is_pending)
    }

    /// `resumes`: a `Last-Event-ID`, if there is one, goes before where it starts.
    pub(crate) fn subscribe(&mut self, frames: Joining, filter: Option<Filter>, resumes: bool) {
        let Joining { shared_log, start } = frames;
        let mut cursor = Cursor {
            shared_log,
            next: 0,
            read: 0,
            told: 0,
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

    /// What all subscriptions read.
    pub(crate) fn shared_logs(&self) -> Vec<Arc<SharedLog>> {
        self.cursors.iter().map(|cursor| Arc::clone(&cursor.shared_log)).collect()
    }

    /// What the subscription with this name reads.
    pub(crate) fn shared_log(&self, name: &str) -> Option<Arc<SharedLog>> {
        self.cursors.iter().map(|cursor| &cursor.shared_log).find(|shared_log| &**shared_log.name() == name).cloned()
    }

    /// Gives a subscription another start or another filter, if it is asked for one. The filter that it had is given back, to be dropped when no lock is
    /// held. `Err`: there is no such subscription. `had_nothing`: the stream has not begun.
    pub(crate) fn change(
        &mut self,
        shared_log: &Arc<SharedLog>,
        start: Option<Place>,
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
            // It has had everything from there on that there is, and is told of what is not.
            Some(Place { missed: Some(missed), .. }) => cursor.missed = Some(Box::new(missed)),
            _ => {}
        }
        if filter.is_some() {
            // What the one before let through, nobody knows any more: rather something twice than not at all.
            cursor.since = cursor.next;
        }
        Ok(filter.and_then(|filter| cursor.filter.replace(filter)))
    }

    /// The stream has begun: all that it is subscribed to is read from now on. Gives the names of those that were not
    /// read before and that somebody `asks_for`.
    pub(crate) fn count_as_read(&mut self, asks_for: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.is_read) {
            cursor.is_read = true;
            cursor.shared_log.add_reader();
            names.extend(Some(cursor.shared_log.name()).filter(|name| asks_for(name)).cloned());
        }
        names
    }

    /// Takes a subscription off. `false`: there is none.
    pub(crate) fn unsubscribe(&mut self, topics: &Topics, name: &str, deferred: &mut Deferred) -> bool {
        let at = self.cursors.iter().position(|cursor| &**cursor.shared_log.name() == name);
        if let Some(at) = at {
            self.cursors.swap_remove(at).leave(topics, deferred);
        }
        at.is_some()
    }

    /// The same for all.
    pub(crate) fn clear(&mut self, topics: &Topics, deferred: &mut Deferred) {
        mem::take(&mut self.cursors).into_vec().into_iter().for_each(|cursor| cursor.leave(topics, deferred));
    }

    /// The same for those that have come to the end of their topics. Gives their names, and the worst of how those ended.
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

    /// Whether any has come to the end of its topic.
    pub(crate) fn has_ended(&self) -> bool {
        self.cursors.iter().any(|it| it.outcome().is_some())
    }

    /// The worst of how their topics ended, if all have come to the end, and nothing waits that was sent to the client alone.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut worst = None;
        for cursor in &*self.cursors {
            match cursor.is_public() {
                true => worst = worst.max(Some(cursor.outcome()?)),
                false if cursor.is_pending() => return None,
                false => {}
            }
        }
        worst
    }

    /// Whether any is on something else than the client's own topic, which has no end.
    pub(crate) fn has_public(&self) -> bool {
        self.cursors.iter().any(Cursor::is_public)
    }

    /// Sets the cursors to where the client was cut off, and says what is no longer retained from there on, or is more
    /// than it may have.
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

    /// The same for a subscription that was just made while the stream is open.
    pub(crate) fn resume_newest(
        &mut self,
        topics: &Topics,
        last_event_id: &str,
        bound: Bound,
        deferred: &mut Deferred,
    ) {
        // Any of them may have given that id.
        let progress = topics.progress(self.cursors.iter().map(|cursor| &*cursor.shared_log), last_event_id, deferred);
        let Some(cursor) = self.cursors.last_mut() else { return };
        cursor.resume(topics, progress.as_ref(), self.seen, bound, deferred);
    }

    /// Where a client stands whose stream begins and that brought no id: what it is to have comes after that.
    ///
    /// So that this is one position, who has several subscriptions that start at different points may get more on coming back, and
    /// never less: where some wait for what comes and others begin with what is there, those that do are named.
    ///
    /// `None` if something is missing already: it is to be told of that first, and no id may pass over it.
    pub(crate) fn standing(&self, topics: &Topics) -> Option<Progress> {
        let newest = topics.position();
        let (mut late, mut has_waiting) = (Vec::new(), false);
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_public()) {
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

    /// The stream begins, and with that the client stands where it stands.
    pub(crate) fn begin(&mut self, standing: &Progress) {
        self.seen = standing.only().unwrap_or_default();
    }

    /// The newest position that was given out, or that the client came with.
    pub(crate) fn seen(&self) -> Position {
        self.seen
    }

    /// Where a client stands that has read everything.
    pub(crate) fn seen_all(&self) -> Option<Position> {
        let is_through = !self.cursors.iter().any(|it| it.is_pending() || it.catches_up);
        (is_through && self.seen != Position::default()).then_some(self.seen)
    }

    /// Sets all cursors to after a position, up to which the client gets to know everything by other means. What was
    /// sent to it alone is in no snapshot.
    pub(crate) fn skip_to(&mut self, topics: &Topics, position: Position, deferred: &mut Deferred) {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_public()) {
            cursor.set(topics.locate(&cursor.shared_log, position, Bound::default(), deferred));
            (cursor.since, cursor.resumes, cursor.catches_up, cursor.asked) = (cursor.next, false, false, false);
        }
        self.seen = Some(position).filter(|position| topics.has_issued(*position)).unwrap_or_default();
    }

    /// Takes itself off every log's waiters: another waker is to be woken.
    pub(crate) fn unpark(&mut self) {
        for cursor in &mut *self.cursors {
            if let Some(parked) = cursor.parked.take() {
                drop(cursor.shared_log.unpark(parked));
            }
        }
    }

    /// What a reader may rest on that waits for the next event on all logs.
    pub(crate) fn idle_mark(&self, topics: &Topics) -> Option<IdleMark> {
        match &self.cursors[..] {
            [] => Some(IdleMark { shared_log: Arc::clone(&topics.nothing), next: u64::MAX }),
            [only] => only.idle_mark(None),
            _ => None,
        }
    }

    /// Registers as a waiter of every log. `false`: something came in, so look again.
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

/// There is no such subscription any more.
pub(crate) struct NotSubscribed;
