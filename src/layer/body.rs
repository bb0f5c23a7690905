use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{open_stream::OpenStream, open_stream::into_bytes, sse_layer::Config};
use crate::{
    client::{Picked, Reader},
    limit::Hold,
};

/// How long a server may take to write the last event of a stream whose handler's own body has failed. After that it gets the error, and servers drop
/// what they have not written by then. With HTTP/2 another task writes, and no body is told when it has.
const TIME_TO_WRITE: Duration = Duration::from_millis(100);

pin_project! {
    /// The body of a response of a [`SseService`](crate::SseService).
    ///
    /// If the response is an event stream, the handler's own frames pass through by reference count, and the
    /// registry's events and the heartbeats come in between them, at boundaries. Any other body passes as it is.
    ///
    /// Dropping it is how the client's stream ends: its subscriptions go, and [`closed`](crate::ClientHandle::closed) says so.
    pub struct SseBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B>
    where
        B: Body,
    {
        // No event stream, or one that a layer further in has wrapped.
        Plain {
            // The slots of what has been wrapped already. First, so that there is room again when it is told that its client is over.
            hold: Option<Hold>,
            #[pin]
            inner: B,
        },
        Stream {
            #[pin]
            inner: B,
            stream: Box<OpenStream>,
        },
        // An event stream whose handler's own body has failed: what was sent last goes out, and then the error.
        Failed { error: Option<B::Error>, written: Pin<Box<Sleep>> },
        // Not from the handler. Boxed, so that it makes no stream larger.
        Whole { data: Box<Bytes> },
        // The answer to a HEAD whose GET would get a stream.
        Head,
    }
}

impl<B: Body> SseBody<B> {
    /// A body that is no event stream.
    pub(crate) fn plain(inner: B) -> Self {
        Self::wrapped(inner, None)
    }

    /// A body that another layer has made an event stream.
    pub(crate) fn wrapped(inner: B, hold: Option<Hold>) -> Self {
        Self { kind: Kind::Plain { inner, hold } }
    }

    /// A body without a handler's.
    pub(crate) fn whole(data: Bytes) -> Self {
        Self { kind: Kind::Whole { data: Box::new(data) } }
    }

    /// No body, where there would be an event stream.
    pub(crate) fn head() -> Self {
        Self { kind: Kind::Head }
    }

    /// An event stream, with what this reader has. `own`: what goes out before all that is published.
    pub(crate) fn stream(inner: B, reader: Reader, own: &[Picked], config: Arc<Config>, is_encoded: bool) -> Self {
        Self { kind: Kind::Stream { inner, stream: Box::new(OpenStream::new(reader, own, config, is_encoded)) } }
    }
}

impl<B: Body + Default> Default for SseBody<B> {
    /// A default body of the handler's, as it is.
    fn default() -> Self {
        Self::plain(B::default())
    }
}

impl<B: Body> Body for SseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut kind = self.project().kind;
        match kind.as_mut().project() {
            KindProjection::Plain { inner, .. } => inner.poll_frame(cx).map_ok(|frame| frame.map_data(into_bytes)),
            KindProjection::Stream { inner, stream } => {
                // Given on as it is, without a copy.
                let polled = stream.poll_frame(inner, cx);
                let Poll::Ready(Some(Err(error))) = polled else { return polled };
                let Some(last_words) = stream.fail() else { return Poll::Ready(Some(Err(error))) };
                kind.set(Kind::Failed { error: Some(error), written: Box::pin(sleep(TIME_TO_WRITE)) });
                Poll::Ready(Some(Ok(Frame::data(last_words))))
            }
            KindProjection::Failed { error, written } => {
                ready!(written.as_mut().poll(cx));
                Poll::Ready(error.take().map(Err))
            }
            KindProjection::Head => Poll::Ready(None),
            KindProjection::Whole { data } if data.is_empty() => Poll::Ready(None),
            KindProjection::Whole { data } => Poll::Ready(Some(Ok(Frame::data(mem::take(&mut **data))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.is_end_stream(),
            Kind::Stream { stream, .. } => stream.over,
            Kind::Failed { error, .. } => error.is_none(),
            Kind::Whole { data } => data.is_empty(),
            Kind::Head => true,
        }
    }

    /// Of an event stream nothing is known: what is exact would become a `content-length`, in the answer to a HEAD too.
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.size_hint(),
            Kind::Stream { .. } | Kind::Failed { .. } | Kind::Head => SizeHint::default(),
            Kind::Whole { data } => SizeHint::with_exact(data.len() as u64),
        }
    }
}

impl<B: Body + fmt::Debug> fmt::Debug for SseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Plain { inner, .. } => f.debug_struct("SseBody").field("inner", inner).finish(),
            Kind::Stream { inner, stream } => {
                let client = stream.reader.client();
                f.debug_struct("SseBody").field("inner", inner).field("client", client).finish_non_exhaustive()
            }
            Kind::Failed { .. } => f.debug_struct("SseBody").finish_non_exhaustive(),
            Kind::Whole { data } => f.debug_struct("SseBody").field("data", data).finish(),
            Kind::Head => f.debug_struct("SseBody").finish(),
        }
    }
}
