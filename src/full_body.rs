//! The body of responses that are no streams.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A complete response body, as that of a [`TopicsService`](crate::TopicsService).
#[derive(Debug, Clone, Default)]
pub struct FullBody(Option<Bytes>);

impl FullBody {
    pub(crate) fn new(data: impl Into<Bytes>) -> Self {
        Self(Some(data.into()).filter(|data| !data.is_empty()))
    }
}

impl Body for FullBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}
