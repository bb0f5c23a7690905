use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{asked::Asked, open_stream::OpenStream, sse_layer::Config};
use crate::{
    limit::Hold,
    reader::Reader,
    reading::Picked,
    stream::{TIME_TO_WRITE, into_bytes},
};

pin_project! {
    /// The response body of an [`SseService`](crate::SseService).
    ///
    /// In an event stream, the frames of the handler's own body pass without a copy. The registry's events and the
    /// heartbeats are inserted between these frames, at boundaries. Any other body passes unchanged.
    ///
    /// The stream ends when the body is dropped. Its subscriptions are then removed, and
    /// [`closed`](crate::ClientHandle::closed) returns why the stream ended.
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
        // Not an event stream, or an event stream that an inner layer has wrapped.
        Plain {
            // The slots of a wrapped stream. The first field, so that the slots are free before the client is told of
            // its end.
            hold: Option<Hold>,
            #[pin]
            inner: B,
        },
        Stream {
            #[pin]
            inner: B,
            stream: Box<OpenStream>,
        },
        // An event stream whose handler's own body failed. Its last event is written first, then comes the error.
        Failed { error: Option<B::Error>, written: Pin<Box<Sleep>> },
        // The complete body of a refusal. Boxed, so that it does not make streams larger.
        Full { data: Box<Bytes> },
        // The response to a HEAD whose GET would get a stream.
        Head,
    }
}

impl<B: Body> SseBody<B> {
    /// Wraps a body that is not an event stream.
    pub(crate) fn plain(inner: B) -> Self {
        Self::wrapped(inner, None)
    }

    /// Wraps an event stream that another layer has wrapped already.
    pub(crate) fn wrapped(inner: B, hold: Option<Hold>) -> Self {
        Self { kind: Kind::Plain { inner, hold } }
    }

    /// Makes a complete body that does not come from the handler.
    pub(crate) fn full(data: Bytes) -> Self {
        Self { kind: Kind::Full { data: Box::new(data) } }
    }

    /// Makes the empty body of a response to a HEAD.
    pub(crate) fn head() -> Self {
        Self { kind: Kind::Head }
    }

    /// Wraps an event stream and adds the events of a reader.
    ///
    /// `own`: events that are sent before all published events.
    pub(crate) fn stream(
        inner: B,
        reader: Reader,
        own: &[Picked],
        config: Arc<Config>,
        asked: Asked,
        is_encoded: bool,
    ) -> Self {
        Self { kind: Kind::Stream { inner, stream: Box::new(OpenStream::new(reader, own, config, asked, is_encoded)) } }
    }
}

impl<B: Body + Default> Default for SseBody<B> {
    /// Wraps the default body of the handler's type.
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
                // Returned as it is, without a copy.
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
            KindProjection::Full { data } if data.is_empty() => Poll::Ready(None),
            KindProjection::Full { data } => Poll::Ready(Some(Ok(Frame::data(mem::take(&mut **data))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.is_end_stream(),
            Kind::Stream { stream, .. } => stream.over && !stream.is_cut,
            Kind::Failed { error, .. } => error.is_none(),
            Kind::Full { data } => data.is_empty(),
            Kind::Head => true,
        }
    }

    /// The size of an event stream is unknown.
    ///
    /// An exact size would become a `content-length`, also in the response to a HEAD.
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.size_hint(),
            Kind::Stream { .. } | Kind::Failed { .. } | Kind::Head => SizeHint::default(),
            Kind::Full { data } => SizeHint::with_exact(data.len() as u64),
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
            Kind::Full { data } => f.debug_struct("SseBody").field("data", data).finish(),
            Kind::Head => f.debug_struct("SseBody").finish(),
        }
    }
}
