//! Answers that end because the gateway does: half of one does not look complete.
//!
//! The layer ends all open streams cleanly, between two events. An `EventSource` comes back then, so for the stream of a GET
//! this is right. Whoever sends a question in a POST reads to the end and takes what came for the answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::{
    bodies::Fault,
    gateway::{Answer, is_event_stream},
};

/// Whether the upstream has ended its answer. The layer is between who says it and who asks.
#[derive(Clone, Default)]
pub(crate) struct End(Arc<AtomicBool>);

impl End {
    /// `None`: the answer may end before its end.
    pub(crate) fn of_request(method: &Method) -> Option<Self> {
        (![Method::GET, Method::HEAD].contains(method)).then(Self::default)
    }

    /// The upstream's answer for the layer.
    pub(crate) fn reported_by(self, response: Response<Answer>) -> Response<Answer> {
        if !is_stream(&response) {
            // The server knows where it ends. As an event of a stream that is open already, it may be shortened.
            self.0.store(true, Ordering::Relaxed);
            return response;
        }
        response.map(|body| Reports { body, end: self }.boxed_unsync())
    }

    /// The layer's answer for the client.
    pub(crate) fn awaited_by(self, response: Response<Answer>) -> Response<Answer> {
        if !is_stream(&response) {
            return response;
        }
        response.map(|body| Awaits { body: Some(body), end: self, has_paused: false }.boxed_unsync())
    }
}

fn is_stream(response: &Response<Answer>) -> bool {
    response.status().is_success() && is_event_stream(response.headers())
}

struct Reports {
    body: Answer,
    end: End,
}

impl Body for Reports {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.end.0.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Awaits {
    /// Until it has ended.
    body: Option<Answer>,
    end: End,
    has_paused: bool,
}

impl Body for Awaits {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if let Some(body) = &mut this.body {
            let frame = ready!(Pin::new(body).poll_frame(cx));
            if frame.is_some() {
                return Poll::Ready(frame);
            }
            this.body = None;
        }
        if this.end.0.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        // A server drops what it has not written when it gets an error, and writes when there is nothing at the moment.
        if !this.has_paused {
            this.has_paused = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.end.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(Fault::Cut)))
    }
}
