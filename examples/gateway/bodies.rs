//! Bodies that pass through: how slow they may be, and what of their trailers goes on.

use std::{
    collections::VecDeque,
    error::Error,
    fmt::{self, Display},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::headers::clean_trailers;

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
            clean_trailers(trailers);
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

/// The requests whose bodies are arriving, those first that began first.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<VecDeque<Weak<Upload>>>);

impl Uploads {
    pub(crate) fn begin(&self) -> Arc<Upload> {
        let state = State { went_on: Instant::now(), is_over: false, has_failed: false };
        let upload = Arc::new(Upload { state: Mutex::new(state), makes_room: Notify::new() });
        let mut uploads = lock(&self.0);
        if uploads.len() == uploads.capacity() {
            uploads.retain(|upload| upload.upgrade().is_some_and(|upload| !lock(&upload.state).is_over));
        }
        uploads.push_back(Arc::downgrade(&upload));
        upload
    }

    /// Ends the oldest one. `false`: there is none.
    pub(crate) fn make_room(&self) -> bool {
        let mut uploads = lock(&self.0);
        while let Some(upload) = uploads.pop_front() {
            if let Some(upload) = upload.upgrade().filter(|upload| !lock(&upload.state).is_over) {
                upload.makes_room.notify_one();
                return true;
            }
        }
        false
    }
}

/// How far the body of a request is.
pub(crate) struct Upload {
    state: Mutex<State>,
    makes_room: Notify,
}

struct State {
    went_on: Instant,
    is_over: bool,
    has_failed: bool,
}

/// Who is late, if there is no answer.
pub(crate) enum Late {
    Client,
    Upstream,
}

impl Upload {
    /// This body is it.
    pub(crate) fn watch<B: Body>(self: &Arc<Self>, body: B) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        lock(&self.state).is_over = body.is_end_stream();
        let (ends, fails) = (Ends(Arc::clone(self)), Arc::clone(self));
        body.inspect_frame(move |_| lock(&ends.0.state).went_on = Instant::now())
            .inspect_err(move |_| lock(&fails.state).has_failed = true)
    }

    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).has_failed
    }

    /// Waits for an answer, for so long since the body last went on.
    pub(crate) async fn answered_within<T>(&self, time: Duration, answer: impl Future<Output = T>) -> Result<T, Late> {
        let mut answer = pin!(answer);
        loop {
            let went_on = lock(&self.state).went_on;
            tokio::select! {
                answer = answer.as_mut() => return Ok(answer),
                () = self.makes_room.notified() => return Err(Late::Client),
                () = sleep_until(went_on + time) => {
                    if lock(&self.state).went_on == went_on {
                        return Err(Late::Upstream);
                    }
                }
            }
        }
    }
}

/// Held by a body, as long as there is more of it.
struct Ends(Arc<Upload>);

impl Drop for Ends {
    fn drop(&mut self) {
        lock(&self.0.state).is_over = true;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
