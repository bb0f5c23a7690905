use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{asked::Asked, body::SseBody, sse_layer::Config};
use crate::{
    client::{CatchingUp, Client},
    handle::StreamOf,
    limit::{Hold, RefusedReason},
    reader::Reader,
    stream::{CloseReason, Wrapped, headers},
};

pin_project! {
    /// The response future of an [`SseService`](crate::SseService).
    pub struct SseFuture<F> {
        #[pin]
        inner: Inner<F>,
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<F> {
        Asked {
            #[pin]
            inner: F,
            pending: Option<Pending>,
            // The handler is not polled before this is ready: until then, the client's resume is not known.
            catching_up: Option<CatchingUp>,
        },
        Refused { response: Option<Response<Bytes>> },
    }
}

/// What is kept of a request until its response comes.
///
/// If no response comes, the client ends.
pub(crate) struct Pending {
    // The first field, so that the slots are free before the client learns of its end.
    pub(crate) hold: Option<Hold>,
    pub(crate) client: Unanswered,
    pub(crate) is_connect: bool,
    /// The response may carry `connection: keep-alive`.
    pub(crate) keeps_alive: bool,
    pub(crate) asked: Asked,
    /// A copy of the request, for a [`RefusedResponse`](crate::RefusedResponse) of the program.
    pub(crate) request: Option<Box<Parts>>,
}

/// Holds a client while its request has no response.
///
/// If no stream has begun when it is dropped, the client ends.
pub(crate) struct Unanswered {
    // `None` only after the client was handed over or dropped.
    client: Option<Arc<Client>>,
    config: Arc<Config>,
}

impl Unanswered {
    pub(crate) fn new(client: Arc<Client>, config: Arc<Config>) -> Self {
        Self { client: Some(client), config }
    }

    /// Lets the client outlive the response, because the connection goes on after it.
    ///
    /// The client ends when its last handle is dropped.
    fn hand_over(&mut self, slots: Option<Hold>) {
        if let Some(client) = self.client.take().and_then(|client| self.config.client_pool.keep(client)) {
            client.keep_slots(slots);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let used = self.client.take().and_then(|client| self.config.client_pool.keep(client));
        if let Some(client) = used.filter(|client| !client.is_open()) {
            client.end(CloseReason::NoStream);
        }
    }
}

impl<F> SseFuture<F> {
    pub(crate) fn new(inner: F, pending: Pending, catching_up: Option<CatchingUp>) -> Self {
        Self { inner: Inner::Asked { inner, pending: Some(pending), catching_up } }
    }

    pub(crate) fn refused(response: Response<Bytes>) -> Self {
        Self { inner: Inner::Refused { response: Some(response) } }
    }
}

impl<F, Out, E> Future for SseFuture<F>
where
    F: Future<Output = Result<Response<Out>, E>>,
    Out: Body,
{
    type Output = Result<Response<SseBody<Out>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().inner.project() {
            InnerProjection::Asked { inner, pending, catching_up } => {
                if let Some(waiting) = catching_up {
                    ready!(waiting.as_mut().poll(cx));
                    *catching_up = None;
                }
                let result = ready!(inner.poll(cx));
                let pending = pending.take();
                let response = result?;
                Poll::Ready(Ok(match pending {
                    Some(pending) => pending.wrap(response),
                    None => response.map(SseBody::plain),
                }))
            }
            InnerProjection::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(SseBody::full))),
                None => Poll::Pending,
            },
        }
    }
}

impl Pending {
    fn wrap<Out: Body>(mut self, mut response: Response<Out>) -> Response<SseBody<Out>> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect && status.is_success() {
            self.client.hand_over(self.hold.take());
            return response.map(SseBody::plain);
        }
        let is_event_stream = headers::is_event_stream(response.status(), response.headers());
        let (Unanswered { client: Some(client), config }, true) = (&self.client, is_event_stream) else {
            return response.map(SseBody::plain);
        };
        if response.extensions().get::<RefusedReason>().is_some() && !client.is_head() {
            return response.map(SseBody::plain);
        }
        let is_wrapped = response.extensions().get::<Wrapped>().is_some();
        if !is_wrapped && response.extensions().get::<StreamOf>().is_some_and(|of| !of.is(client)) {
            client.note_refused(&RefusedReason::OtherClient);
            return config
                .refused_response
                .response(&RefusedReason::OtherClient, self.request.as_deref())
                .map(SseBody::full);
        }
        let is_encoded = headers::is_encoded(response.headers());
        // The registry could not resume a handler's own stream. Whoever made that stream may say hello in it, as an
        // upstream does.
        let is_of_registry = || !is_encoded && (response.body().is_end_stream() || client.has_public());
        let asked = self.asked.if_possible(is_of_registry);
        if client.is_head() {
            // The same headers as a GET gets, without the stream.
            if !client.is_read_by_handler() && response.extensions().get::<RefusedReason>().is_none() {
                let caching = asked.caching(response.headers(), config.is_private);
                headers::prepare(response.headers_mut(), self.keeps_alive, caching);
                response.extensions_mut().insert(Wrapped);
            }
            return response.map(|_| SseBody::head());
        }
        if client.is_open() {
            return response.map(SseBody::plain);
        }
        if let Err(refused) = client.acquire_slot() {
            return config.refused_response.response(&refused, self.request.as_deref()).map(SseBody::full);
        }
        if is_wrapped || client.over().is_some() {
            // The client of the inner layer may not have the slots of this layer, so this body holds them.
            // A client that was read with `into_events` may have ended. It gets no second stream.
            if let Some(admission) = client.admission() {
                let _ = admission.begin();
            }
            return response.map(|body| SseBody::wrapped(body, self.hold));
        }
        if asked.hello {
            client.change_style(|style| style.ids_in_arrays = true);
        }
        let (reader, own) = match Reader::open(client) {
            Ok(opened) => opened,
            Err(refused) => {
                return config.refused_response.response(&refused, self.request.as_deref()).map(SseBody::full);
            }
        };
        let caching = asked.caching(response.headers(), config.is_private);
        headers::prepare(response.headers_mut(), self.keeps_alive, caching);
        response.extensions_mut().insert(Wrapped);
        response.map(|body| SseBody::stream(body, reader, &own, Arc::clone(config), asked, is_encoded))
    }
}

impl<F> fmt::Debug for SseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseFuture").finish_non_exhaustive()
    }
}
