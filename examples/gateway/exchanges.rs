//! Requests that wait for their clients: the body is still arriving, or nobody takes the answer. They make room for others.

use std::{
    cmp::Reverse,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    bodies::Fault,
    places::{Permits, Share},
};

/// A client that takes an answer needs no longer for a part of it.
const TAKING: Duration = Duration::from_secs(1);

/// The requests that may be able to make room.
#[derive(Default)]
pub(crate) struct Exchanges(Mutex<Vec<Weak<Exchange>>>);

impl Exchanges {
    pub(crate) fn add(&self, exchange: &Arc<Exchange>) {
        let mut exchanges = lock(&self.0);
        if exchanges.len() == exchanges.capacity() {
            exchanges.retain(|exchange| exchange.upgrade().is_some_and(|it| !it.is_over()));
        }
        exchanges.push(Arc::downgrade(exchange));
    }

    /// Ends the request that has waited for its client for the longest time, of the address that has most. `false`: no request
    /// can make room.
    ///
    /// An answer has a second to be taken. It has none if its address has more requests than the new request's address, which
    /// has so many.
    pub(crate) fn make_room(&self, requests_of_its_address: usize) -> bool {
        loop {
            let exchanges: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
            let waiting = exchanges.iter().filter_map(|it| Some((it.waits()?, it.share.taken(), it)));
            let is_late = |since: &Option<Instant>| since.is_none_or(|since| since.elapsed() > TAKING);
            let may_end = waiting.filter(|(wait, taken, _)| is_late(&wait.untaken) || *taken > requests_of_its_address);
            let first = may_end.min_by_key(|(wait, taken, _)| (!is_late(&wait.untaken), Reverse(*taken), wait.since));
            match first {
                // It may have gone on since.
                Some((_, _, exchange)) if !exchange.end() => {}
                first => return first.is_some(),
            }
        }
    }
}

/// A request and its answer.
pub(crate) struct Exchange {
    share: Arc<Share>,
    began: Instant,
    state: Mutex<State>,
    /// Until it has ended.
    answer: Mutex<Option<(UnsyncBoxBody<Bytes, Fault>, Permits)>>,
    ended: Notify,
}

struct State {
    phase: Phase,
    /// When the body of the request last went on.
    went_on: Instant,
    has_failed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The body of the request is not there to its end, and the upstream has not answered yet.
    Arriving,
    /// It is the upstream's turn.
    Upstream,
    /// The client has not taken what there was last of the answer.
    Untaken(Instant),
    /// It made room for another.
    Ended,
}

struct Wait {
    since: Instant,
    /// The same if it is for an answer to be taken.
    untaken: Option<Instant>,
}

/// Why a request gets no answer.
pub(crate) enum Unanswered {
    MadeRoom,
    TimedOut,
}

impl Exchange {
    /// `share`: of its address.
    pub(crate) fn new(share: Arc<Share>, has_body: bool) -> Self {
        let began = Instant::now();
        let phase = if has_body { Phase::Arriving } else { Phase::Upstream };
        let state = State { phase, went_on: began, has_failed: false };
        Self { share, began, state: Mutex::new(state), answer: Mutex::default(), ended: Notify::new() }
    }

    /// Follows the body of the request.
    pub(crate) fn watch<B: Body>(self: &Arc<Self>, body: B) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        let (arriving, fails) = (Arriving(Arc::clone(self)), Arc::clone(self));
        body.inspect_frame(move |_| lock(&arriving.0.state).went_on = Instant::now())
            .inspect_err(move |_| lock(&fails.state).has_failed = true)
    }

    /// Waits until it has made room for another request.
    pub(crate) async fn is_ended(&self) {
        self.ended.notified().await;
    }

    /// The body of the request broke.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).has_failed
    }

    /// Waits for an answer, for so long since the body last went on.
    pub(crate) async fn answered_within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, Unanswered> {
        let mut answer = pin!(answer);
        loop {
            let went_on = lock(&self.state).went_on;
            tokio::select! {
                answer = answer.as_mut() => return self.settle(answer),
                () = self.ended.notified() => return Err(Unanswered::MadeRoom),
                () = sleep_until(went_on + time) => {
                    if lock(&self.state).went_on == went_on {
                        return Err(Unanswered::TimedOut);
                    }
                }
            }
        }
    }

    /// From the answer's head on, a body that is still arriving makes room for nobody.
    fn settle<T>(&self, answer: T) -> Result<T, Unanswered> {
        if self.go_on(Phase::Upstream) { Ok(answer) } else { Err(Unanswered::MadeRoom) }
    }

    /// The answer as the client gets it. The place is taken until it has ended, or makes room.
    pub(crate) fn answer(self: Arc<Self>, body: UnsyncBoxBody<Bytes, Fault>, place: Permits) -> Answer {
        *lock(&self.answer) = Some((body, place));
        self.go_on(Phase::Untaken(Instant::now()));
        Answer(self)
    }

    /// `false`: it has ended.
    fn go_on(&self, phase: Phase) -> bool {
        let mut state = lock(&self.state);
        let goes_on = state.phase != Phase::Ended;
        if goes_on {
            state.phase = phase;
        }
        goes_on
    }

    fn waits(&self) -> Option<Wait> {
        match lock(&self.state).phase {
            Phase::Arriving => Some(Wait { since: self.began, untaken: None }),
            Phase::Untaken(since) => Some(Wait { since, untaken: Some(since) }),
            Phase::Upstream | Phase::Ended => None,
        }
    }

    fn is_over(&self) -> bool {
        lock(&self.state).phase == Phase::Ended
    }

    /// `false`: it waits for its client no more.
    fn end(&self) -> bool {
        let mut state = lock(&self.state);
        if !matches!(state.phase, Phase::Arriving | Phase::Untaken(_)) {
            return false;
        }
        state.phase = Phase::Ended;
        drop(state);
        self.ended.notify_one();
        let answer = lock(&self.answer).take();
        drop(answer);
        true
    }
}

/// Held by the body of a request, as long as there is more of it.
struct Arriving(Arc<Exchange>);

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if state.phase == Phase::Arriving {
            state.phase = Phase::Upstream;
        }
    }
}

/// The body of an answer. A client of HTTP/2 whose window is shut never asks for it, so it can be ended from elsewhere.
pub(crate) struct Answer(Arc<Exchange>);

impl Drop for Answer {
    fn drop(&mut self) {
        let answer = lock(&self.0.answer).take();
        drop(answer);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut answer = lock(&self.0.answer);
        let Some((body, _)) = answer.as_mut() else { return Poll::Ready(Some(Err(Fault::MadeRoom))) };
        let polled = Pin::new(body).poll_frame(cx);
        drop(answer);
        self.0.go_on(match polled {
            // Whoever asks for more after this has taken it.
            Poll::Ready(_) => Phase::Untaken(Instant::now()),
            Poll::Pending => Phase::Upstream,
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0.answer).as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0.answer).as_ref().map_or_else(SizeHint::default, |(body, _)| body.size_hint())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
