//! Bodies that pass through: how slow they may be, and what of their trailers goes on.

use std::{
    error::Error,
    fmt::{self, Display},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::headers::{leave_hop_by_hop_behind, remove_claims};

/// What a body has to bring, but for a time in which it may bring nothing.
const BYTES_PER_SECOND: u32 = 500;

/// A body that passes through.
pub(crate) struct Passing<B> {
    body: B,
    pace: Option<Pace>,
}

impl<B> Passing<B> {
    /// `silence`: for how long whoever sends it may be waited for. What was used of that comes back at a second for each 500
    /// bytes. The time that whoever takes it is waited for does not count. `None`: for ever, as for an event stream.
    pub(crate) fn new(body: B, silence: Option<Duration>) -> Self {
        Self { body, pace: silence.map(|most| Pace { most, left: most, waits: None }) }
    }
}

struct Pace {
    most: Duration,
    left: Duration,
    /// Since when, and until when it may.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// Ready when too little has come for too long.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (_, over) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(self.left))));
        over.as_mut().poll(cx)
    }

    fn has_come(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waits.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.left = self.most.min(self.left + Duration::from_secs(1) * bytes.min(1 << 20) as u32 / BYTES_PER_SECOND);
    }
}

impl<B> Body for Passing<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let frame = match (Pin::new(&mut this.body).poll_frame(cx), &mut this.pace) {
            (Poll::Ready(frame), _) => frame,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(pace)) => {
                ready!(pace.poll_over(cx));
                return Poll::Ready(Some(Err(Fault::TooSlow)));
            }
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(Fault::Broken)?;
        if let (Some(data), Some(pace)) = (frame.data_ref(), &mut this.pace) {
            pace.has_come(data.len());
        }
        if let Some(trailers) = frame.trailers_mut() {
            leave_hop_by_hop_behind(trailers);
            // Not even a proxy says them there.
            remove_claims(trailers, false);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a body did not come to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    TooSlow,
    Broken(hyper::Error),
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow => f.write_str("the body came too slowly"),
            Self::Broken(_) => f.write_str("the body broke"),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooSlow => None,
            Self::Broken(error) => Some(error),
        }
    }
}

/// How far the body of a request is.
pub(crate) struct Upload(Mutex<State>);

struct State {
    went_on: Instant,
    has_failed: bool,
}

impl Upload {
    pub(crate) fn begins() -> Self {
        Self(Mutex::new(State { went_on: Instant::now(), has_failed: false }))
    }

    /// This body is it.
    pub(crate) fn watch<B: Body>(self: &Arc<Self>, body: B) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        let (goes_on, fails) = (Arc::clone(self), Arc::clone(self));
        body.inspect_frame(move |_| goes_on.state().went_on = Instant::now())
            .inspect_err(move |_| fails.state().has_failed = true)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// What becomes of the request. `None`: for so long the upstream has neither answered nor taken more of the body.
    pub(crate) async fn answered_within<T>(&self, time: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            let went_on = self.state().went_on;
            match timeout_at(went_on + time, answer.as_mut()).await {
                Ok(answer) => return Some(answer),
                Err(_) if self.state().went_on == went_on => return None,
                Err(_) => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
