use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Method, Response, Version};
use pin_project_lite::pin_project;

use crate::{body::SseBody, headers, layer::Config, registry::Unanswered};

pin_project! {
    /// The answer of a [`SseService`](crate::SseService), to come.
    pub struct SseFuture<F> {
        #[pin]
        inner: F,
        pending: Option<Pending>,
    }
}

/// What is kept of a request until it is answered. If it never is, the client is over.
pub(crate) struct Pending {
    pub(crate) client: Unanswered,
    pub(crate) config: Arc<Config>,
    pub(crate) method: Method,
    pub(crate) version: Version,
}

impl<F> SseFuture<F> {
    pub(crate) fn new(inner: F, pending: Pending) -> Self {
        Self { inner, pending: Some(pending) }
    }
}

impl<F, Out, E> Future for SseFuture<F>
where
    F: Future<Output = Result<Response<Out>, E>>,
{
    type Output = Result<Response<SseBody<Out>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.pending.take() {
            Some(pending) => pending.wrap(response),
            None => response.map(SseBody::plain),
        }))
    }
}

/// In the extensions of a response whose body is an [`SseBody`] already: a layer further out leaves it alone.
#[derive(Debug, Clone, Copy)]
struct Wrapped;

impl Pending {
    fn wrap<Out>(self, mut response: Response<Out>) -> Response<SseBody<Out>> {
        let is_event_stream = headers::is_event_stream(&self.method, response.status(), response.headers());
        let Unanswered(client) = &self.client;
        if !is_event_stream || response.extensions().get::<Wrapped>().is_some() || client.is_open() {
            return response.map(SseBody::plain);
        }
        headers::prepare(response.headers_mut(), self.version);
        response.extensions_mut().insert(Wrapped);
        let is_encoded = headers::is_encoded(response.headers());
        response.map(|body| SseBody::stream(body, client, self.config, is_encoded))
    }
}

impl<F> fmt::Debug for SseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseFuture").finish_non_exhaustive()
    }
}
