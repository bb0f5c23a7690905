//! Who holds a client: its reader, and before that the request that is being answered.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use super::{
    CloseReason,
    client::{Client, Phase},
    cursor::{Cursors, Frame, Rest, Taken},
    shared::Shared,
};
use crate::sync::lock;

/// Whoever reads a client's events: the body of its response, or [`Events`](crate::Events). When it goes, the client is over.
#[derive(Debug)]
pub(crate) struct Reader {
    client: Arc<Client>,
    waker: Option<Waker>,
    rest: Option<Rest>,
    /// The client's changes that were seen.
    changes: u32,
}

impl Reader {
    /// The stream of this client begins.
    pub(crate) fn open(client: &Arc<Client>) -> Self {
        client.open();
        Self { client: Arc::clone(client), waker: None, rest: None, changes: 0 }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The next frame. `Err` when there is no more: the client was closed and has all that was published until then,
    /// or nothing of its own is to come (`own_ended`) and nothing holds it open.
    #[inline]
    pub(crate) fn poll_frame(&mut self, cx: &Context<'_>, own_ended: bool) -> Poll<Result<Frame, CloseReason>> {
        let waker = cx.waker();
        if self.is_at_rest(waker) {
            return Poll::Pending;
        }
        let mut rest = self.rest.take();
        let result = self.poll_take(waker, own_ended, |cursors, shared, horizon| {
            cursors.take_frame(waker, shared, horizon, &mut rest)
        });
        self.rest = rest;
        result
    }

    /// The same, event by event.
    pub(crate) fn poll_events(&mut self, cx: &Context<'_>) -> Poll<Result<Taken, CloseReason>> {
        self.poll_take(cx.waker(), false, |cursors, _, horizon| cursors.take_events(horizon))
    }

    /// Whether the client was closed, for a reader that cannot give it anything.
    pub(crate) fn poll_closing(&mut self, cx: &Context<'_>) -> Poll<CloseReason> {
        let Self { client, waker: heard, .. } = self;
        let _old;
        let mut state = lock(&client.state);
        _old = state.listen(heard, cx.waker());
        match (state.phase, state.closing) {
            (Phase::Over(reason), _) | (_, Some((reason, _))) => Poll::Ready(reason),
            _ => Poll::Pending,
        }
    }

    /// Whether nothing can have come since it last looked.
    fn is_at_rest(&self, waker: &Waker) -> bool {
        self.rest.as_ref().is_some_and(Rest::goes_on)
            && self.client.changes.load(Ordering::Acquire) == self.changes
            && self.waker.as_ref().is_some_and(|heard| heard.will_wake(waker))
    }

    #[inline]
    fn poll_take<T>(
        &mut self,
        waker: &Waker,
        own_ended: bool,
        mut take: impl FnMut(&mut Cursors, &Shared, u64) -> Option<T>,
    ) -> Poll<Result<T, CloseReason>> {
        let Self { client, waker: heard, changes, .. } = self;
        let seen = client.changes.load(Ordering::Acquire);
        let _old;
        let mut state = lock(&client.state);
        if let Phase::Over(reason) = state.phase {
            return Poll::Ready(Err(reason));
        }
        // A client that was closed does not rest: after what it takes now comes its end.
        if state.closing.is_none() {
            *changes = seen;
        }
        _old = state.listen(heard, waker);
        loop {
            let horizon = state.closing.map_or_else(|| client.shared().horizon(), |(_, horizon)| horizon);
            if let Some(taken) = take(&mut state.cursors, client.shared(), horizon) {
                return Poll::Ready(Ok(taken));
            }
            if let Some((reason, _)) = state.closing {
                return Poll::Ready(Err(reason));
            }
            if own_ended && !state.held && state.cursors.is_empty() {
                return Poll::Ready(Err(CloseReason::Ended));
            }
            if state.cursors.park(waker) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.client.end(CloseReason::Gone);
    }
}

/// Holds a client whose request is being answered: when it goes and no stream has begun, the client is over.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) Arc<Client>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.0.is_open() {
            self.0.end(CloseReason::NoStream);
        }
    }
}
