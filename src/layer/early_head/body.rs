use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::PoisonError,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{answer::Answer, beats::Beats};
use crate::{
    stream::{TIME_TO_WRITE, headers},
    sync::Mutex,
};

pin_project! {
    /// The response body of an [`EarlyHeadService`](crate::EarlyHeadService).
    ///
    /// If the head was sent before the handler answered, it contains the handler's future, and sends heartbeats until
    /// the future is ready. Any other body passes unchanged.
    pub struct EarlyHeadBody<B, F>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B, F>,
        // `None`: the head was sent when the handler answered.
        beats: Option<Box<Beats>>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B, F>
    where
        B: Body,
    {
        // Never locked: with the mutex, a body is `Sync` although the future is not.
        Waiting { answer: Mutex<Pin<Box<F>>> },
        // The body of the handler's answer.
        Answered {
            #[pin]
            inner: B,
        },
        // The body of an answer that is no event stream, although the head of one was sent.
        NoStream {
            #[pin]
            inner: B,
            answer: Box<Answer>,
        },
        // The end, which is an error if that body has failed. The server has so long to write the event before it.
        Ended { error: Option<(B::Error, Pin<Box<Sleep>>)> },
    }
}

impl<B: Body, F> EarlyHeadBody<B, F> {
    pub(super) fn in_time(inner: B) -> Self {
        Self { kind: Kind::Answered { inner }, beats: None }
    }

    pub(super) fn waiting(answer: Pin<Box<F>>, beats: Beats) -> Self {
        Self { kind: Kind::Waiting { answer: Mutex::new(answer) }, beats: Some(Box::new(beats)) }
    }
}

impl<B: Body + Default, F> Default for EarlyHeadBody<B, F> {
    /// Wraps the default body of the inner type.
    fn default() -> Self {
        Self::in_time(B::default())
    }
}

impl<B, F, E> Body for EarlyHeadBody<B, F>
where
    B: Body<Data = Bytes>,
    F: Future<Output = Result<Response<B>, E>>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let (mut kind, beats) = (this.kind, this.beats);
        let mut beat = |cx: &mut Context<'_>| match beats {
            Some(beats) => beats.poll(cx).map(|bytes| Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        };
        loop {
            match kind.as_mut().project() {
                KindProjection::Answered { inner } => return inner.poll_frame(cx),
                KindProjection::Waiting { answer } => {
                    let answer = answer.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let Poll::Ready(answer) = answer.as_mut().poll(cx) else { return beat(cx) };
                    let Ok(response) = answer else {
                        kind.set(Kind::Ended { error: None });
                        return Poll::Ready(Some(Ok(Frame::data(Answer::failed().encode()))));
                    };
                    let (head, inner) = response.into_parts();
                    let is_event_stream = headers::is_event_stream(head.status, &head.headers);
                    kind.set(match is_event_stream && !headers::is_encoded(&head.headers) {
                        true => Kind::Answered { inner },
                        false => Kind::NoStream { inner, answer: Box::new(Answer::of(&head)) },
                    });
                }
                KindProjection::NoStream { inner, answer } => {
                    let error = match inner.poll_frame(cx) {
                        Poll::Pending => return beat(cx),
                        Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_none_or(|data| answer.push(data)) => {
                            continue;
                        }
                        Poll::Ready(Some(Ok(_)) | None) => None,
                        Poll::Ready(Some(Err(error))) => {
                            answer.cut();
                            Some((error, Box::pin(sleep(TIME_TO_WRITE))))
                        }
                    };
                    let event = answer.encode();
                    kind.set(Kind::Ended { error });
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                KindProjection::Ended { error } => {
                    if let Some((_, written)) = error {
                        ready!(written.as_mut().poll(cx));
                    }
                    return Poll::Ready(error.take().map(|(error, _)| Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Answered { inner } => inner.is_end_stream(),
            Kind::Waiting { .. } | Kind::NoStream { .. } => false,
            Kind::Ended { error } => error.is_none(),
        }
    }

    /// The size of a stream that was opened early is unknown.
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Answered { inner } if self.beats.is_none() => inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl<B: Body + fmt::Debug, F> fmt::Debug for EarlyHeadBody<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EarlyHeadBody");
        if let Kind::Answered { inner } | Kind::NoStream { inner, .. } = &self.kind {
            debug.field("inner", inner);
        }
        debug.finish_non_exhaustive()
    }
}
