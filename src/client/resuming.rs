//! Where a client resumes, and how it learns its position.

use super::{
    error::ResumeError,
    shared::Shared,
    state::{Client, ClientState, Phase},
};
use crate::{
    event::Event,
    log::{Gap, Outcome, Position},
    sync::lock,
    topics::{Bound, Deferred},
};

/// How the resume of a client went: see [`ClientHandle::resume`](crate::ClientHandle::resume).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// The client has no `Last-Event-ID`, so there is nothing to resume.
    Fresh,
    /// All events after the client's `Last-Event-ID` are retained, on all topics that it is subscribed to.
    Continued,
    /// Some events after the `Last-Event-ID` are not retained. The client is notified with a
    /// [`GapEvent`](crate::GapEvent), and continues at the oldest retained event.
    Gap(Gap),
}

impl Client {
    /// Sets the id that the client resumes from, if its request has none.
    pub(crate) fn resume_from(&self, id: &str) -> Result<(), ResumeError> {
        let state = lock(&self.state);
        match state.phase {
            Phase::Waiting if self.identity.resume_from(id) => Ok(()),
            Phase::Waiting => {
                Err(ResumeError::Known { last_event_id: self.last_event_id().unwrap_or_default().to_owned() })
            }
            Phase::Open | Phase::Over => Err(ResumeError::Late),
        }
    }

    pub(crate) fn resume(&self) -> Resume {
        let mut deferred = Deferred::default();
        lock(&self.state).resume(&self.shared, self.last_event_id(), &mut deferred)
    }

    /// Sets the snapshot event that the stream begins with. The stream continues after its position.
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

    /// Returns how the client's topics have ended, if all have ended and the client has read them to the end.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut deferred = Deferred::default();
        let mut state = lock(&self.state);
        state.resume(&self.shared, self.last_event_id(), &mut deferred);
        let is_to_begin_with_one = state.rare.as_ref().is_some_and(|rare| rare.snapshot.is_some());
        if is_to_begin_with_one { None } else { state.cursors.outcome() }
    }

    /// Sets how many missed events of each topic the client gets.
    pub(crate) fn bound_resume(&self, events: u32) {
        lock(&self.state).rare().resume_bound = Bound::of(events);
    }

    /// Returns the id from which a client with subscriptions can resume when its stream begins.
    pub(super) fn stands_at(&self, state: &ClientState) -> String {
        match self.last_event_id() {
            _ if state.rare.as_ref().is_some_and(|rare| rare.has_snapshot) => state.cursors.seen().to_string(),
            Some(id) if Event::data("").id(id).is_ok() => id.to_owned(),
            // A client that resumes from an unknown id is notified of a gap.
            Some(_) => Position::default().to_string(),
            None => {
                let standing = state.cursors.standing(&self.shared.topics);
                standing.unwrap_or_else(|| Position::default().into()).to_string()
            }
        }
    }

    /// Returns the id that the stream begins with, so that the client can resume before it got any event.
    ///
    /// `None` if the client has no subscriptions, or if a gap event brings the id. An unknown id may belong to the
    /// handler. So the client keeps it if gap events are off.
    pub(crate) fn standing(&self) -> Option<String> {
        let state = lock(&self.state);
        let (gap, has_snapshot) = state.rare.as_ref().map_or((None, false), |it| (it.gap.as_ref(), it.has_snapshot));
        match self.last_event_id() {
            _ if !state.cursors.has_public() => None,
            _ if has_snapshot => Some(state.cursors.seen().to_string()),
            Some(_) if gap.is_some() => None,
            // The id comes from the request, so it is checked.
            Some(id) => Event::data("").id(id).is_ok().then(|| id.to_owned()),
            None => state.cursors.standing(&self.shared.topics).map(|standing| standing.to_string()),
        }
    }

    /// Returns how the resume went, in one word, once the stream has begun.
    ///
    /// `None`: the client brought an id and has no subscription yet.
    pub(crate) fn resumed(&self) -> Option<&'static str> {
        if self.last_event_id().is_none() {
            return Some("fresh");
        }
        let state = lock(&self.state);
        let is_gap = state.rare.as_ref().is_some_and(|rare| rare.gap.is_some());
        state.cursors.has_public().then_some(if is_gap { "gap" } else { "continued" })
    }

    /// Whether the stream begins with a snapshot that was not sent yet.
    pub(crate) fn begins_with_snapshot(&self) -> bool {
        lock(&self.state).rare.as_ref().is_some_and(|rare| rare.snapshot.is_some())
    }

    /// Whether the stream begins with a gap after the client's `Last-Event-ID`.
    pub(crate) fn begins_with_gap(&self) -> bool {
        lock(&self.state).rare.as_ref().is_some_and(|rare| rare.gap.is_some())
    }
}

impl ClientState {
    pub(super) fn resume_bound(&self) -> Bound {
        self.rare.as_ref().map(|rare| rare.resume_bound).unwrap_or_default()
    }

    /// Returns how the resume went. Before the stream begins, later subscriptions may still change the result.
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
