//! Bodies that pass through the gateway: their minimum pace, and the trailers that are forwarded.

use std::{
    error::Error,
    fmt::{self, Display},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::headers::clean_trailers;

/// The minimum pace of a body, apart from the time for which it may be silent.
const BYTES_PER_SECOND: u32 = 500;

/// A body that passes through the gateway.
pub(crate) struct Passing<B> {
    /// What was read of it already.
    first: Option<Frame<Bytes>>,
    body: B,
    pace: Option<Pace>,
    /// An event stream has broken. A server drops what it has not written when it gets the error, so it has so long to write.
    broken: Option<(Fault, Pin<Box<Sleep>>)>,
}

/// How long a server has to write what it was given before an error.
const TIME_TO_WRITE: Duration = Duration::from_millis(100);

impl<B> Passing<B> {
    /// `silence` is how long the gateway waits for the sender. Used waiting time is regained at a second per 500 bytes.
    /// The time for which the receiver is slow does not count. `None` means no limit, as for an event stream.
    pub(crate) fn new(body: B, silence: Option<Duration>) -> Self {
        Self { first: None, body, pace: silence.map(|most| Pace { most, left: most, waits: None }), broken: None }
    }

    /// The same with what was read of the body already.
    pub(crate) fn after(self, first: Option<Frame<Bytes>>) -> Self {
        Self { first, ..self }
    }
}

struct Pace {
    most: Duration,
    left: Duration,
    /// Since when the gateway waits, and the timer of the limit.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// Ready when too few bytes have come for too long.
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
        if let Some((_, written)) = &mut this.broken {
            ready!(written.as_mut().poll(cx));
            return Poll::Ready(this.broken.take().map(|(fault, _)| Err(fault)));
        }
        let polled = match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut this.body).poll_frame(cx),
        };
        let frame = match (polled, &mut this.pace) {
            (Poll::Ready(frame), _) => frame,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(pace)) => {
                ready!(pace.poll_over(cx));
                return Poll::Ready(Some(Err(Fault::TooSlow)));
            }
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = match frame.map_err(Fault::Broken) {
            Ok(frame) => frame,
            Err(fault) if this.pace.is_some() => return Poll::Ready(Some(Err(fault))),
            Err(fault) => {
                this.broken = Some((fault, Box::pin(sleep(TIME_TO_WRITE))));
                return self.poll_frame(cx);
            }
        };
        if let (Some(data), Some(pace)) = (frame.data_ref(), &mut this.pace) {
            pace.has_come(data.len());
        }
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Why a body did not end cleanly.
#[derive(Debug)]
pub(crate) enum Fault {
    TooSlow,
    /// Its place was needed, and its client did not take it.
    MadeRoom,
    Broken(hyper::Error),
    /// The upstream was asked again for a stream, and does not go on where it broke.
    NotResumed,
    /// The gateway ends before the upstream has ended its answer.
    Cut,
    /// A recording, or what was read of it, is not complete.
    Recording(BoxError),
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow => f.write_str("the body came too slowly"),
            Self::MadeRoom => f.write_str("it was not taken, and made room for another"),
            Self::Broken(_) => f.write_str("the body broke"),
            Self::NotResumed => f.write_str("the stream does not go on where it broke"),
            Self::Cut => f.write_str("the gateway ended before the answer did"),
            Self::Recording(_) => f.write_str("the answer broke where it was recorded"),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooSlow | Self::MadeRoom | Self::NotResumed | Self::Cut => None,
            Self::Broken(error) => Some(error),
            Self::Recording(error) => Some(&**error),
        }
    }
}
