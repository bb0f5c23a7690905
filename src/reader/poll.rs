//! The reader of a client's events.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use super::{
    countdown::Countdown,
    frame::{EventFrame, FastRead, OwnBody},
};
use crate::{
    client::{Client, ClientState, Closing, Phase, Style, TellDeferred},
    event::Event,
    limit::{Hold, RefusedReason},
    log::Position,
    reading::{IdleMark, Picked, Plain, Taken, Taker, Taking},
    stream::{Batching, CloseReason},
    sync::lock,
    topics::Deferred,
};

/// How often a reader looks again at once before it yields to other tasks. It looks again if an event was published
/// meanwhile, or if filters held back all events that it took.
const MAX_ATTEMPTS: usize = 16;

/// The one reader of a client's events: the body of the response, or [`Events`](crate::Events). Dropping it closes the
/// client.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Reader {
    pub(super) client: Arc<Client>,
    pub(super) idle_mark: Option<IdleMark>,
    pub(super) waker: Option<Waker>,
    /// The count of the client's changes at the last look.
    pub(super) changes: u32,
    /// The reader has reached the end of the stream.
    pub(super) has_ended: bool,
    /// Another task reads now than before.
    pub(super) has_moved: bool,
    /// The reader has read further than the last id that was sent.
    pub(super) is_ahead: bool,
    /// The style at the last look.
    pub(super) style: Style,
    pub(super) countdown: Countdown,
    /// The stream's slots of the limits.
    pub(super) hold: Option<Hold>,
}

impl Reader {
    /// Begins the client's stream. Returns the reader and the events that are sent first.
    ///
    /// It fails if the stream has begun before, has ended, or has no free slot. A missing slot also closes the client.
    pub(crate) fn open(client: &Arc<Client>) -> Result<(Self, Vec<Picked>), RefusedReason> {
        // A client whose stream has ended acquires no slot.
        let hold = match client.over() {
            None => client.take_slots(),
            Some(_) => None,
        };
        let room = match (&hold, client.admission()) {
            (Some(_), Some(admission)) => admission.begin(),
            _ => Ok(()),
        };
        if let Err(refused) = room {
            client.note_refused(&refused);
            // The stream never began, so observers are not notified of its end.
            client.end(CloseReason::Refused);
            return Err(refused);
        }
        let own = client.open().inspect_err(|refused| client.note_refused(refused))?;
        let reader = Self {
            client: Arc::clone(client),
            style: client.style(),
            waker: None,
            idle_mark: None,
            changes: 0,
            countdown: Countdown::of(client),
            has_ended: false,
            has_moved: false,
            is_ahead: false,
            hold,
        };
        lock(&client.state).note_sent(own.len() as u64, 0);
        Ok((reader, own))
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Whether another task reads now than at the last call.
    #[inline]
    pub(crate) fn take_moved(&mut self) -> bool {
        mem::take(&mut self.has_moved)
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Takes the snapshot that is sent first.
    pub(crate) fn take_snapshot(&self) -> Option<Event> {
        lock(&self.client.state).rare.as_mut()?.snapshot.take()
    }

    /// Returns the id that the stream begins with, if its subscriptions need one.
    pub(crate) fn standing(&self) -> Option<String> {
        self.client.standing()
    }

    /// Whether the stream begins with a gap.
    pub(crate) fn begins_with_gap(&self) -> bool {
        self.client.begins_with_gap()
    }

    /// Whether the open stream has read every event up to this number, and was notified of every gap.
    pub(crate) fn has_read(&self, number: u64) -> bool {
        let state = lock(&self.client.state);
        state.is_open() && state.cursors.has_read(number)
    }

    /// Returns the client's position, if no id that was sent says so.
    pub(crate) fn take_ahead(&mut self) -> Option<Position> {
        let seen = if self.is_ahead { lock(&self.client.state).cursors.seen_all() } else { None };
        self.is_ahead &= seen.is_none();
        seen
    }

    /// The fast path: an idle client with one subscription checks for new events, and nothing else has changed.
    #[inline]
    pub(crate) fn poll_fast(&mut self, cx: &mut Context<'_>) -> FastRead {
        self.countdown.poll(&self.client, cx);
        let Self { client, idle_mark: Some(idle_mark), waker: Some(heard), changes, style, .. } = self else {
            return FastRead::Unclear;
        };
        if client.changes.load(Ordering::Acquire) != *changes
            || !heard.will_wake(cx.waker())
            || style.batching.is_some()
        {
            return FastRead::Unclear;
        }
        if idle_mark.goes_on() {
            return FastRead::Nothing;
        }
        let mut state = lock(&client.state);
        if state.phase != Phase::Open || state.closing.is_some() {
            return FastRead::Unclear;
        }
        let topics = &client.shared().topics;
        let (identity, topic_as_event_type) = (&client.identity, style.topic_as_event_type);
        let taker = Taker { identity, topics, waker: cx.waker(), topic_as_event_type };
        let Some(Plain { wire, events, has_id, .. }) =
            state.cursors.take_when_idle(taker, topics.horizon(), &mut self.idle_mark)
        else {
            return FastRead::Unclear;
        };
        state.note_sent(events, wire.len());
        state.reads = state.reads.wrapping_add(1);
        self.is_ahead = !has_id;
        FastRead::Live(wire)
    }

    /// Whether no event was published since the last look, and no time is waited for.
    #[inline]
    pub(crate) fn is_quiet(&self, waker: &Waker) -> bool {
        self.is_idle(waker) && self.countdown.is_none(self.changes)
    }

    /// Polls for the next frame. `Err` at the end of the stream.
    ///
    /// The stream ends if the client was closed and has read all events until then, if all of its topics have ended, or
    /// if the handler's body has ended and nothing keeps the stream open.
    #[inline]
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        own_body: OwnBody,
    ) -> Poll<Result<EventFrame, CloseReason>> {
        self.countdown.poll(&self.client, cx);
        let waker = cx.waker();
        if self.is_idle(waker) {
            return Poll::Pending;
        }
        for _ in 0..MAX_ATTEMPTS {
            let result = self.poll_take(waker, own_body, |client, state, horizon, idle_mark, deferred| {
                let Style { batching, topic_as_event_type, .. } = state.style;
                match batching.is_some_and(Batching::is_array) {
                    true => state
                        .cursors
                        .take_events(&client.identity, horizon, deferred)
                        .map(|taken| Taking::Events(Box::new(taken))),
                    false => {
                        let (identity, topics) = (&client.identity, &client.shared().topics);
                        let taker = Taker { identity, topics, waker, topic_as_event_type };
                        take(state, taker, horizon, idle_mark, deferred)
                    }
                }
            });
            match ready!(result) {
                Ok(Taking::Plain(Plain { wire, has_id, is_live, has_more, .. })) => {
                    self.is_ahead = !has_id;
                    return Poll::Ready(Ok(EventFrame { gap: None, wire, is_live, has_more }));
                }
                Ok(Taking::Events(taken)) => {
                    if let Some(frame) = self.frame(*taken) {
                        return Poll::Ready(Ok(frame));
                    }
                }
                Err(reason) => return Poll::Ready(Err(reason)),
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    /// As `poll_frame`, event by event.
    pub(crate) fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Result<Taken, CloseReason>> {
        self.countdown.poll(&self.client, cx);
        for _ in 0..MAX_ATTEMPTS {
            let take = |client: &Client, state: &mut ClientState, horizon, _: &mut _, deferred: &mut _| {
                state.cursors.take_events(&client.identity, horizon, deferred)
            };
            let mut taken = ready!(self.poll_take(cx.waker(), OwnBody::Absent, take))?;
            if let Some(reason) = self.apply_filters(&mut taken) {
                return Poll::Ready(Err(reason));
            }
            if taken.gap.is_some() || !taken.events.is_empty() {
                lock(&self.client.state).sent.events += taken.events.len() as u64;
                return Poll::Ready(Ok(taken));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Polls for the close reason, for a reader that cannot deliver events.
    pub(crate) fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.countdown.poll(&self.client, cx);
        self.poll_over(cx, |_| true)
    }

    /// Polls for an immediate close, for a reader that is not at a boundary.
    pub(crate) fn poll_cut(&mut self, cx: &Context<'_>) -> Poll<CloseReason> {
        self.poll_over(cx, |closing| closing.is_cut)
    }

    fn poll_over(&mut self, cx: &Context<'_>, is_over: impl Fn(&Closing) -> bool) -> Poll<CloseReason> {
        let Self { client, waker: heard, idle_mark, has_moved, style, .. } = self;
        // The logs do not know the new waker yet, so the reader is not idle.
        *idle_mark = None;
        let _old;
        let mut state = lock(&client.state);
        *style = state.style;
        _old = state.listen(heard, cx.waker());
        *has_moved |= _old.is_some();
        let closed = state.closing.as_deref().filter(|closing| is_over(closing)).map(|closing| closing.reason);
        state.over().or(closed).map_or(Poll::Pending, Poll::Ready)
    }

    /// Ends the client's stream. The reader polls no more.
    pub(crate) fn end(&mut self, reason: CloseReason) {
        self.client.end(reason);
        if !mem::replace(&mut self.has_ended, true) {
            self.client.shared().draining.remove();
            self.client.note_reader_ended();
        }
    }

    /// Releases the slots, and then ends the stream: whoever learns of the end finds the slots free.
    fn leave(&mut self, reason: CloseReason) {
        self.hold = None;
        self.end(reason);
    }

    /// Clears the idle mark, because the handler's body has changed and the stream may have ended.
    pub(crate) fn stop_resting(&mut self) {
        self.idle_mark = None;
    }

    /// Records that the reader is alive although it takes no new events: it delivers events that it took before, or
    /// waits for a good reason.
    pub(crate) fn note_read(&self) {
        let mut state = lock(&self.client.state);
        state.reads = state.reads.wrapping_add(1);
    }

    /// Whether no event was published since the last look.
    #[inline]
    fn is_idle(&self, waker: &Waker) -> bool {
        self.idle_mark.as_ref().is_some_and(IdleMark::goes_on)
            && self.client.changes.load(Ordering::Acquire) == self.changes
            && self.waker.as_ref().is_some_and(|heard| heard.will_wake(waker))
    }

    #[inline]
    fn poll_take<T>(
        &mut self,
        waker: &Waker,
        own_body: OwnBody,
        mut take: impl FnMut(&Client, &mut ClientState, u64, &mut Option<IdleMark>, &mut Deferred) -> Option<T>,
    ) -> Poll<Result<T, CloseReason>> {
        let Self { client, waker: heard, changes, idle_mark, has_moved, style, .. } = self;
        let seen = client.changes.load(Ordering::Acquire);
        let _old;
        let mut telling = TellDeferred::of(client);
        let mut deferred = Deferred::default();
        let mut state = lock(&client.state);
        if let Some(reason) = state.over() {
            return Poll::Ready(Err(reason));
        }
        state.reads = state.reads.wrapping_add(1);
        *style = state.style;
        // A closed client is never idle: its end comes after the events that it takes now.
        if state.closing.is_none() {
            *changes = seen;
        }
        _old = state.listen(heard, waker);
        *has_moved |= _old.is_some();
        for _ in 0..MAX_ATTEMPTS {
            if let Some(Closing { reason, is_cut: true, .. }) = state.closing.as_deref() {
                return Poll::Ready(Err(*reason));
            }
            let horizon =
                state.closing.as_ref().map_or_else(|| client.shared().topics.horizon(), |closing| closing.horizon);
            if let Some(taken) = take(client, &mut state, horizon, idle_mark, &mut deferred) {
                return Poll::Ready(Ok(taken));
            }
            if let Some(closing) = state.closing.as_deref() {
                return Poll::Ready(Err(closing.reason));
            }
            if state.cursors.has_ended() {
                let (ended, outcome) = state.cursors.take_ended(&client.shared().topics, &mut deferred);
                client.left(&state, ended.iter().map(|name| &**name), Some(&mut telling), &mut deferred);
                state.note_ended(outcome);
                state.is_complete = !state.cursors.has_public();
                if state.is_complete && own_body == OwnBody::Open {
                    // The handler's body may end, or fail, because the topics have ended.
                    deferred.wake([waker.clone()]);
                }
            }
            if state.is_complete && own_body != OwnBody::Open {
                return Poll::Ready(Err(state.outcome().into()));
            }
            if own_body == OwnBody::Ended && !state.is_kept_open && state.cursors.is_empty() {
                return Poll::Ready(Err(CloseReason::BodyEnded));
            }
            if state.cursors.park(waker) {
                *idle_mark = state.cursors.idle_mark(&client.shared().topics);
                return Poll::Pending;
            }
        }
        deferred.wake([waker.clone()]);
        Poll::Pending
    }
}

/// Takes the pending events, and counts those that are sent as they are.
#[inline]
fn take(
    state: &mut ClientState,
    taker: Taker<'_>,
    horizon: u64,
    idle_mark: &mut Option<IdleMark>,
    deferred: &mut Deferred,
) -> Option<Taking> {
    let taking = state.cursors.take(taker, horizon, idle_mark, deferred)?;
    if let Taking::Plain(plain) = &taking {
        state.note_sent(plain.events, plain.wire.len());
    }
    Some(taking)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave(CloseReason::ClientDisconnected);
    }
}
