//! Where a client that comes back goes on, and how it is told where it stands.

use super::{
    error::ResumeError,
    shared::Shared,
    state::{Client, Phase, State},
};
use crate::{
    event::Event,
    log::{Gap, Outcome, Position},
    sync::lock,
    topics::{Bound, Deferred},
};

/// How the resume of a client went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// The client brought no `Last-Event-ID`: there was nothing to resume.
    Fresh,
    /// Everything after the client's `Last-Event-ID` is retained, on all topics that it is subscribed to: it misses nothing.
    Continued,
    /// Some of it is not. The client is told with a [`GapEvent`](crate::GapEvent) and goes on at the oldest retained event.
    Gap(Gap),
}

impl Client {
    /// What it had last, by what it says elsewhere than in its request.
    pub(crate) fn resume_from(&self, id: &str) -> Result<(), ResumeError> {
        let state = lock(&self.state);
        match state.phase {
            Phase::Waiting => self
                .last_event_id
                .set(Box::new(id.into()))
                .map_err(|_| ResumeError::Known { last_event_id: self.last_event_id().unwrap_or_default().to_owned() }),
            Phase::Open | Phase::Over => Err(ResumeError::Late),
        }
    }

    pub(crate) fn resume(&self) -> Resume {
        let mut deferred = Deferred::default();
        lock(&self.state).resume(&self.shared, self.last_event_id(), &mut deferred)
    }

    /// Begins with this event, which says how everything is at a position, and goes on after that.
    pub(crate) fn snapshot(&self, event: Event, position: Position) {
        let mut deferred = Deferred::default();
        let mut state = lock(&self.state);
        if state.phase == Phase::Waiting {
            state.cursors.skip_to(&self.shared.topics, position, &mut deferred);
            let rare = state.rare();
            rare.has_snapshot = true;
            deferred.drop(rare.snapshot.replace(event));
        }
    }

    /// How its topics have ended, if there is nothing to come on any of them: all have ended, and it had all of them.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut deferred = Deferred::default();
        let mut state = lock(&self.state);
        state.resume(&self.shared, self.last_event_id(), &mut deferred);
        let is_to_begin_with_one = state.rare.as_ref().is_some_and(|rare| rare.snapshot.is_some());
        if is_to_begin_with_one { None } else { state.cursors.outcome() }
    }

    /// How many events of a topic it gets at most that it has missed.
    pub(crate) fn bound_resume(&self, events: u32) {
        lock(&self.state).rare().resume_bound = Bound::of(events);
    }

    /// Where a client with subscriptions stands whose stream begins, as an id from which it can go on.
    pub(super) fn stands_at(&self, state: &State) -> String {
        match self.last_event_id() {
            _ if state.rare.as_ref().is_some_and(|rare| rare.has_snapshot) => state.cursors.seen().to_string(),
            Some(id) if Event::data("").id(id).is_ok() => id.to_owned(),
            // Who comes back with what nobody knows is told of what is missing.
            Some(_) => Position::default().to_string(),
            None => {
                let standing = state.cursors.standing(&self.shared.topics);
                standing.unwrap_or_else(|| Position::default().into()).to_string()
            }
        }
    }

    /// The id that its stream begins with, which says where the client stands: so that it can come back before it had an event.
    ///
    /// None if it has no subscriptions, or if a gap has one, or will. An id that nobody knows may be the handler's own business, so
    /// it stays what the client has, too, where gaps are not told.
    pub(crate) fn standing(&self) -> Option<String> {
        let state = lock(&self.state);
        let (gap, has_snapshot) = state.rare.as_ref().map_or((None, false), |it| (it.gap.as_ref(), it.has_snapshot));
        match self.last_event_id() {
            _ if !state.cursors.has_public() => None,
            _ if has_snapshot => Some(state.cursors.seen().to_string()),
            Some(_) if gap.is_some() => None,
            // It comes from whoever sent the request.
            Some(id) => Event::data("").id(id).is_ok().then(|| id.to_owned()),
            None => state.cursors.standing(&self.shared.topics).map(|standing| standing.to_string()),
        }
    }

    /// Whether its stream begins with a gap that it asked for.
    pub(crate) fn begins_with_gap(&self) -> bool {
        lock(&self.state).rare.as_ref().is_some_and(|rare| rare.gap.is_some())
    }
}

impl State {
    pub(super) fn resume_bound(&self) -> Bound {
        self.rare.as_ref().map(|rare| rare.resume_bound).unwrap_or_default()
    }

    /// How the resume went, or goes as far as can be known: what is subscribed to from now on may add to it until the stream begins.
    pub(super) fn resume(&mut self, shared: &Shared, last_event_id: Option<&str>, deferred: &mut Deferred) -> Resume {
        let known = self.rare.as_ref().map(|rare| (&rare.gap, rare.has_snapshot));
        match (known, last_event_id) {
            (Some((Some(gap), _)), _) => Resume::Gap(gap.clone()),
            (Some((_, true)), _) => Resume::Continued,
            (_, None) => Resume::Fresh,
            (_, Some(id)) if self.phase == Phase::Waiting => self
                .cursors
                .resume(&shared.topics, id, self.resume_bound(), deferred)
                .map_or(Resume::Continued, Resume::Gap),
            (_, Some(_)) => Resume::Continued,
        }
    }
}
