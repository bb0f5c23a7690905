use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{beats::Beats, body::EarlyHeadBody};
use crate::{
    layer::sse_layer::Config,
    stream::{
        Wrapped,
        headers::{self, Caching, EVENT_STREAM},
    },
};

pin_project! {
    /// The response future of an [`EarlyHeadService`](crate::EarlyHeadService).
    pub struct EarlyHeadFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        // The response has no head before the handler answers.
        Plain {
            #[pin]
            inner: F,
        },
        Timed { timed: Option<Timed<F>> },
    }
}

/// A response whose head is sent when the time is over.
struct Timed<F> {
    /// Boxed, because the body of the response takes it over.
    inner: Pin<Box<F>>,
    /// `None` until the future is polled, because a timer needs the runtime that polls it.
    timer: Option<Pin<Box<Sleep>>>,
    early_head: EarlyHead,
}

/// The head of a stream that opens before its handler answers.
pub(super) struct EarlyHead {
    pub(super) open_after: Duration,
    pub(super) keeps_alive: bool,
    pub(super) caching: Caching,
    pub(super) config: Arc<Config>,
}

impl EarlyHead {
    fn response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        headers::prepare(response.headers_mut(), self.keeps_alive, self.caching);
        // An outer layer leaves the body as it is: what comes in it is wrapped.
        response.extensions_mut().insert(Wrapped);
        response
    }
}

impl<F> EarlyHeadFuture<F> {
    pub(super) fn new(inner: F, early_head: Option<EarlyHead>) -> Self {
        let kind = match early_head {
            None => Kind::Plain { inner },
            Some(early_head) => Kind::Timed { timed: Some(Timed { inner: Box::pin(inner), timer: None, early_head }) },
        };
        Self { kind }
    }
}

impl<F, B, E> Future for EarlyHeadFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<EarlyHeadBody<B, F>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let timed = match self.project().kind.project() {
            KindProjection::Plain { inner } => return Poll::Ready(ready!(inner.poll(cx)).map(in_time)),
            KindProjection::Timed { timed } => timed,
        };
        let Some(Timed { inner, timer, early_head }) = timed else { return Poll::Pending };
        if let Poll::Ready(answer) = inner.as_mut().poll(cx) {
            *timed = None;
            return Poll::Ready(answer.map(in_time));
        }
        ready!(timer.get_or_insert_with(|| Box::pin(sleep(early_head.open_after))).as_mut().poll(cx));
        let Some(Timed { inner, timer: Some(timer), early_head }) = timed.take() else { return Poll::Pending };
        let beats = Beats::new(Arc::clone(&early_head.config), timer);
        Poll::Ready(Ok(early_head.response(EarlyHeadBody::waiting(inner, beats))))
    }
}

fn in_time<B: Body<Data = Bytes>, F>(response: Response<B>) -> Response<EarlyHeadBody<B, F>> {
    response.map(EarlyHeadBody::in_time)
}

impl<F> fmt::Debug for EarlyHeadFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyHeadFuture").finish_non_exhaustive()
    }
}
