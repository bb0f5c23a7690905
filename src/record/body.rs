//! The body of a response behind the record layer.

use std::{
    error::Error,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{failure::Incomplete, recording::Reading};
use crate::{
    client::ClientHandle,
    log::Outcome,
    stream::{TIME_TO_WRITE, into_bytes},
};

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

pin_project! {
    /// The response body of a [`RecordService`](crate::RecordService).
    ///
    /// The body of a request without a key passes unchanged. The body of a recorded response has no bytes of its own:
    /// the [`SseLayer`](crate::SseLayer) around the layer inserts the events of the recording. It ends with the
    /// recording. It ends with an error if the recording failed or was cancelled, and if the server ends the stream before
    /// the end of the recording.
    pub struct RecordBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Untouched {
            #[pin]
            inner: B,
        },
        Recorded { recorded: Box<Recorded> },
        // Boxed, so that it does not make other bodies larger.
        Text { text: Box<Bytes> },
    }
}

/// A reader of a recording.
struct Recorded {
    client: ClientHandle,
    /// `None` if the recording is not one of this process.
    _reading: Option<Reading>,
    /// The stream ends, and is not whole. The server has this long to write the last event.
    written: Option<Pin<Box<Sleep>>>,
}

impl<B> RecordBody<B> {
    pub(super) fn untouched(inner: B) -> Self {
        Self { kind: Kind::Untouched { inner } }
    }

    pub(super) fn recorded(client: ClientHandle, reading: Option<Reading>) -> Self {
        Self { kind: Kind::Recorded { recorded: Box::new(Recorded { client, _reading: reading, written: None }) } }
    }
}

/// A body of text, for an error.
impl<B> From<String> for RecordBody<B> {
    fn from(text: String) -> Self {
        Self { kind: Kind::Text { text: Box::new(text.into()) } }
    }
}

impl<B: Default> Default for RecordBody<B> {
    /// Wraps the default body of the handler's type.
    fn default() -> Self {
        Self::untouched(B::default())
    }
}

impl Recorded {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        match self.client.client.completed() {
            Some(Outcome::Finished) => return Poll::Ready(None),
            // The reader wakes this task when it has read all.
            None if self.client.client.over().is_none() => return Poll::Pending,
            Some(Outcome::Cancelled | Outcome::Failed) | None => {}
        }
        let written = self.written.get_or_insert_with(|| Box::pin(sleep(TIME_TO_WRITE)));
        ready!(written.as_mut().poll(cx));
        Poll::Ready(Some(Incomplete.into()))
    }
}

impl<B> Body for RecordBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::Untouched { inner } => {
                inner.poll_frame(cx).map_ok(|frame| frame.map_data(into_bytes)).map_err(Into::into)
            }
            KindProjection::Recorded { recorded } => recorded.poll_end(cx).map(|error| error.map(Err)),
            KindProjection::Text { text } => {
                let text = mem::take(&mut **text);
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { inner } => inner.is_end_stream(),
            Kind::Recorded { .. } => false,
            Kind::Text { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { inner } => inner.size_hint(),
            Kind::Recorded { .. } => SizeHint::default(),
            Kind::Text { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for RecordBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RecordBody");
        match &self.kind {
            Kind::Untouched { inner } => debug.field("inner", inner),
            Kind::Recorded { recorded } => debug.field("client", &recorded.client),
            Kind::Text { text } => debug.field("text", text),
        };
        debug.finish()
    }
}
