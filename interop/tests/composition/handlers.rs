//! Handlers that need no layer except `SseLayer`: as an axum router, and as a tower service for any request body.

use std::{
    convert::Infallible,
    future::{Pending, pending, ready},
    marker::PhantomData,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Router,
    response::{
        IntoResponse,
        sse::{self, Sse},
    },
    routing::{any, get},
};
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use tokio_stream::{self as stream, StreamExt};
use tower::Service;
use tower_sse::{ClientHandle, EventStream, SubscribeError};

use crate::bodies::{AnyBody, any as any_body, event_stream};

/// A response that is no stream. It is long enough to be compressed.
pub(crate) const PLAIN: &str = "An answer that is no stream. An answer that is no stream. An answer that is no stream.";

pub(crate) fn router() -> Router {
    Router::new()
        .route("/news", any(news))
        .route("/own", get(own))
        .route("/quiet", get(async || Sse::new(pending_after([]))))
        .route("/plain", any(async || PLAIN))
        .route("/never", get(async || pending::<()>().await))
        .route("/panic", get(panics))
        .route("/panic-later", get(panics_later))
}

/// A stream of the registry's events only.
async fn news(client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe("news")?;
    Ok(client.into_stream())
}

/// A stream of one event of the handler's, and then the registry's events.
async fn own(client: ClientHandle) -> Result<impl IntoResponse, SubscribeError> {
    client.subscribe("news")?;
    Ok(Sse::new(pending_after([sse::Event::default().data("own")])))
}

async fn panics(client: ClientHandle) {
    client.subscribe("news").unwrap();
    panic!("the handler's");
}

async fn panics_later(client: ClientHandle) -> impl IntoResponse {
    client.subscribe("news").unwrap();
    Sse::new(panicking_after(sse::Event::default().data("own")))
}

fn pending_after<T>(items: impl IntoIterator<Item = T>) -> impl Stream<Item = Result<T, Infallible>> {
    stream::iter(items.into_iter().map(Ok).collect::<Vec<_>>()).chain(stream::pending())
}

fn panicking_after<T>(item: T) -> impl Stream<Item = Result<T, Infallible>> {
    stream::iter([Ok(item)]).chain(Panicking { has_waited: false, items: PhantomData })
}

/// A stream that waits once, so that the bytes before it are sent, and then panics.
struct Panicking<T> {
    has_waited: bool,
    items: PhantomData<fn() -> T>,
}

impl<T> Stream for Panicking<T> {
    type Item = Result<T, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        assert!(!mem::replace(&mut self.has_waited, true), "the stream's");
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The same handlers on plain tower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handlers;

type Answer = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, Infallible>> + Send>>;

impl<B> Service<Request<B>> for Handlers {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let client = || request.extensions().get::<ClientHandle>().expect("the layer's").clone();
        let body = match request.uri().path() {
            "/news" => {
                client().subscribe("news").unwrap();
                return Box::pin(ready(Ok(client().into_stream().into_response())));
            }
            "/own" => {
                client().subscribe("news").unwrap();
                any_body(StreamBody::new(pending_after([frame("data: own\n\n")])))
            }
            "/quiet" => any_body(StreamBody::new(pending_after::<Frame<Bytes>>([]))),
            "/panic" => {
                let client = client();
                return Box::pin(async move {
                    client.subscribe("news").unwrap();
                    panic!("the handler's")
                });
            }
            "/panic-later" => {
                client().subscribe("news").unwrap();
                any_body(StreamBody::new(panicking_after(frame("data: own\n\n"))))
            }
            "/never" => {
                let never: Pending<_> = pending();
                return Box::pin(never);
            }
            "/plain" => {
                let mut response = Response::new(any_body(Full::new(Bytes::from_static(PLAIN.as_bytes()))));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                return Box::pin(ready(Ok(response)));
            }
            _ => {
                let mut response = Response::new(AnyBody::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                return Box::pin(ready(Ok(response)));
            }
        };
        Box::pin(ready(Ok(event_stream(body))))
    }
}

fn frame(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}
