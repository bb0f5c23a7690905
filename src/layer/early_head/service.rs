use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::EarlyHeadBody,
    future::{EarlyHead, EarlyHeadFuture},
};
use crate::{
    layer::{asked::Asked, body::SseBody, future::SseFuture, service::SseService},
    stream::headers::{self, Caching},
};

/// The service that an [`EarlyHeadLayer`](crate::EarlyHeadLayer) puts around another service.
#[derive(Debug, Clone)]
pub struct EarlyHeadService<S> {
    inner: SseService<S>,
    open_after: Duration,
}

impl<S> EarlyHeadService<S> {
    pub(super) fn new(inner: SseService<S>, open_after: Duration) -> Self {
        Self { inner, open_after }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        self.inner.get_ref()
    }

    /// Returns the inner service, for changes.
    pub fn get_mut(&mut self) -> &mut S {
        self.inner.get_mut()
    }

    /// Unwraps the inner service.
    pub fn into_inner(self) -> S {
        self.inner.into_inner()
    }

    /// Returns the head of the stream, if this request may get it before its handler answers.
    fn early_head<B>(&self, request: &Request<B>) -> Option<EarlyHead> {
        let config = self.inner.config();
        let may_open = self.open_after < Duration::MAX
            && headers::asks_only_for_event_stream(request.method(), request.headers())
            && Asked::of(request, config).wait.is_none();
        may_open.then(|| EarlyHead {
            open_after: self.open_after,
            keeps_alive: headers::keeps_alive(request.version(), request.headers()),
            caching: if config.is_private { Caching::NoStore } else { Caching::NoCache },
            config: Arc::clone(config),
        })
    }
}

impl<S, In, Out> Service<Request<In>> for EarlyHeadService<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    Out: Body,
{
    type Response = Response<EarlyHeadBody<SseBody<Out>, SseFuture<S::Future>>>;
    type Error = S::Error;
    type Future = EarlyHeadFuture<SseFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let early_head = self.early_head(&request);
        EarlyHeadFuture::new(self.inner.call(request), early_head)
    }
}
