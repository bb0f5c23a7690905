use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::{BoxError, RecordBody},
    config::Config,
    future::RecordFuture,
    table::{Claim, Table},
};

/// The service that [`RecordLayer`](crate::RecordLayer) puts around another service.
#[derive(Debug, Clone)]
pub struct RecordService<S> {
    inner: S,
    table: Arc<Table>,
    config: Arc<Config>,
}

impl<S> RecordService<S> {
    pub(super) fn new(inner: S, table: Arc<Table>, config: Arc<Config>) -> Self {
        Self { inner, table, config }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, for changes.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Unwraps the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, In, Out> Service<Request<In>> for RecordService<S>
where
    S: Service<Request<In>, Response = Response<Out>, Error: Send + 'static, Future: Send + 'static>,
    S: Clone + Send + 'static,
    In: Send + 'static,
    Out: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<RecordBody<Out>>;
    type Error = S::Error;
    type Future = RecordFuture<S::Future, Out, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<In>) -> Self::Future {
        match self.config.may_record(&request) {
            true => self.call_with_key(request),
            false => RecordFuture::untouched(self.inner.call(request)),
        }
    }
}

impl<S> RecordService<S> {
    /// Answers a request that may have a key. A function of its own, so that other requests run less code.
    fn call_with_key<In, Out>(&mut self, request: Request<In>) -> RecordFuture<S::Future, Out, S::Error>
    where
        S: Service<Request<In>, Response = Response<Out>, Error: Send + 'static, Future: Send + 'static>,
        S: Clone + Send + 'static,
        In: Send + 'static,
        Out: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let asked = match self.config.asked(&parts, &self.table.registry) {
            Ok(asked) => asked,
            Err(error) => return RecordFuture::refused(error.into_response()),
        };
        let request = Request::from_parts(parts, body);
        let Some(asked) = asked else { return RecordFuture::untouched(self.inner.call(request)) };
        let config = Arc::clone(&self.config);
        match self.table.claim(&asked, &config) {
            Claim::Run(lead, reading) => {
                // Before the handler runs, which would go on for a stream that is refused.
                if let Err(refused) = asked.client.client.acquire_slot() {
                    return RecordFuture::refused(refused.into_response());
                }
                let handler = self.inner.call(request);
                RecordFuture::with_key(async move { asked.run(&config, lead, reading, handler).await })
            }
            claim => {
                // The inner service that is ready may hold a permit for a request that it probably does not get.
                let clone = self.inner.clone();
                drop(mem::replace(&mut self.inner, clone.clone()));
                RecordFuture::with_key(asked.answer(Arc::clone(&self.table), config, claim, clone, request))
            }
        }
    }
}
