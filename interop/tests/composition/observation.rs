//! Layers that observe. Outside of `SseLayer` they see what the client gets, inside what the handler returns.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION, request::Parts, response};
use tower::ServiceBuilder;
use tower_http::{
    metrics::InFlightRequestsLayer,
    on_early_drop::{OnBodyDropFn, OnEarlyDropLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    sensitive_headers::SetSensitiveHeadersLayer,
    trace::TraceLayer,
};
use tower_sse::{Limit, SseLayer};
use tracing::Span;

use crate::test_server::{TestServer, until};

/// A record of what a layer saw, as text.
#[derive(Debug, Default, Clone)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn push(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().unwrap().iter().any(|seen| seen == what)
    }
}

/// A `TraceLayer` that records everything. It is a macro, as its type cannot be written.
macro_rules! trace {
    ($seen:expr) => {{
        let [request, response, chunk, end, failure] = std::array::from_fn(|_| $seen.clone());
        TraceLayer::new_for_http()
            .on_request(move |_: &Request<_>, _: &Span| request.push("request"))
            .on_response(move |it: &Response<_>, _: Duration, _: &Span| {
                response.push(format!("response {}", it.status().as_u16()));
            })
            .on_body_chunk(move |it: &Bytes, _: Duration, _: &Span| {
                let text = String::from_utf8_lossy(it).into_owned();
                // The id of an event differs from run to run.
                chunk.push(text.split("id:").next().unwrap_or_default().to_owned());
            })
            .on_eos(move |_: Option<&HeaderMap>, _: Duration, _: &Span| end.push("end"))
            .on_failure(move |what: tower_http::classify::ServerErrorsFailureClass, _: Duration, _: &Span| {
                failure.push(format!("failure: {what}"));
            })
    }};
}

#[tokio::test]
async fn trace_composes_in_both_orders() {
    in_both_orders!(TraceLayer::new_for_http());
}

#[tokio::test]
async fn outer_trace_sees_each_event_and_heartbeat_and_the_end_of_the_stream() {
    let seen = Seen::default();
    behind!(|sse| ServiceBuilder::new().layer(trace!(seen)).layer(sse), async |test_server: TestServer| {
        seen.take();
        let mut stream = test_server.open("/news").await;
        assert_eq!(seen.take()[..2], ["request", "response 200"]);
        stream.until(":\n\n").await;
        test_server.publish("one");
        stream.until("data: one\n").await;
        assert!(seen.has(":\n\n") && seen.has("data: one\n"), "{seen:?}");
        assert!(!seen.has("end"));
        test_server.close_all();
        stream.ends().await;
        until(|| seen.has("end")).await;
    });
}

#[tokio::test]
async fn inner_trace_sees_the_handlers_body_and_an_early_end_of_registry_streams() {
    let seen = Seen::default();
    behind!(|sse| ServiceBuilder::new().layer(sse).layer(trace!(seen)), async |test_server: TestServer| {
        seen.take();
        let mut stream = test_server.open("/news").await.having(":\n\n").await;
        test_server.publish("one");
        stream.until("data: one\n").await;
        assert_eq!(seen.take(), ["request", "response 200", "end"], "while the stream is open");

        let mut stream = test_server.open("/own").await.having("data: own\n\n").await;
        test_server.publish("two");
        stream.until("data: two\n").await;
        assert_eq!(seen.take(), ["request", "response 200", "data: own\n\n"]);
    });
}

#[tokio::test]
async fn outer_trace_logs_a_503_as_failure_and_inner_trace_sees_no_refusal() {
    let seen = Seen::default();
    behind!(
        |sse| ServiceBuilder::new().layer(trace!(seen)).layer(sse.limit(Limit::streams(0))),
        async |test_server: TestServer| {
            seen.take();
            assert_eq!(test_server.get("/news").await.status(), 503);
            let seen = seen.take();
            assert_eq!(seen[..2], ["request", "response 503"]);
            assert!(seen.iter().any(|it| it.starts_with("failure: ")), "{seen:?}");
        }
    );
    behind!(
        |sse| ServiceBuilder::new().layer(sse.limit(Limit::streams(0))).layer(trace!(seen)),
        async |test_server: TestServer| {
            seen.take();
            assert_eq!(test_server.get("/news").await.status(), 503);
            assert_eq!(seen.take(), [""; 0]);
        }
    );
}

#[tokio::test]
async fn no_trace_sees_the_end_of_a_stream_whose_client_leaves() {
    let (seen, inside) = (Seen::default(), Seen::default());
    behind!(
        |sse| ServiceBuilder::new().layer(trace!(seen)).layer(sse).layer(trace!(inside)),
        async |test_server: TestServer| {
            drop(test_server.open("/own").await.having("data: own\n\n").await);
            test_server.until_open(0).await;
            assert!(!seen.has("end") && !inside.has("end"));
        }
    );
}

/// Records when a body is dropped before its end.
macro_rules! on_early_drop {
    ($seen:expr) => {{
        let seen = $seen.clone();
        OnEarlyDropLayer::builder().on_body_drop(OnBodyDropFn::new(move |request: &Request<_>| {
            let (seen, path) = (seen.clone(), request.uri().path().to_owned());
            move |_: &response::Parts| move || seen.push(path)
        }))
    }};
}

#[tokio::test]
async fn an_outer_early_drop_is_a_client_that_left() {
    let seen = Seen::default();
    behind!(|sse| ServiceBuilder::new().layer(on_early_drop!(seen)).layer(sse), async |test_server: TestServer| {
        test_server.streams().await;
        assert_eq!(seen.take(), ["/own"], "the stream whose client left, and not the closed one");
        drop(test_server.open("/news").await);
        until(|| seen.has("/news")).await;
        seen.take();
    });
}

#[tokio::test]
async fn an_inner_early_drop_is_an_unfinished_body_of_a_handler() {
    let seen = Seen::default();
    behind!(|sse| ServiceBuilder::new().layer(sse).layer(on_early_drop!(seen)), async |test_server: TestServer| {
        drop(test_server.open("/news").await);
        test_server.until_open(0).await;
        assert_eq!(seen.take(), [""; 0]);
        let stream = test_server.open("/own").await.having("data: own\n\n").await;
        test_server.close_all();
        stream.ends().await;
        until(|| seen.has("/own")).await;
        seen.take();
    });
}

#[tokio::test]
async fn requests_in_flight_include_open_streams_in_both_orders() {
    let (outside, counter) = InFlightRequestsLayer::pair();
    in_both_orders!(outside.clone(), async |test_server: TestServer| {
        until(|| counter.get() == 0).await;
        let [first, second] = [test_server.open("/news").await, test_server.open("/own").await];
        assert_eq!(counter.get(), 2);
        drop(first);
        until(|| counter.get() == 1).await;
        test_server.close_all();
        second.ends().await;
        until(|| counter.get() == 0).await;
    });
}

fn id_of(request: &Parts) -> Option<RequestId> {
    request.extensions.get().cloned()
}

fn ids() -> tower::layer::util::Stack<PropagateRequestIdLayer, SetRequestIdLayer<MakeRequestUuid>> {
    let set = SetRequestIdLayer::x_request_id(MakeRequestUuid);
    tower::layer::util::Stack::new(PropagateRequestIdLayer::x_request_id(), set)
}

#[tokio::test]
async fn a_request_id_of_an_outer_layer_is_in_metadata_and_on_refusals() {
    behind!(
        |sse| ServiceBuilder::new().layer(ids()).layer(sse.metadata(id_of).limit(Limit::streams(1))),
        async |test_server: TestServer| {
            test_server.streams().await;
            let stream = test_server.open("/news").await;
            let known = test_server.registry.clients()[0].metadata().get::<RequestId>().cloned().unwrap();
            assert_eq!(stream.headers["x-request-id"], known.header_value());
            let answer = test_server.get("/news").await;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("x-request-id"));
        }
    );
}

#[tokio::test]
async fn a_request_id_of_an_inner_layer_is_not_in_metadata_or_on_refusals() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse.metadata(id_of).limit(Limit::streams(1))).layer(ids()),
        async |test_server: TestServer| {
            test_server.streams().await;
            let stream = test_server.open("/news").await;
            assert!(stream.headers.contains_key("x-request-id"));
            assert!(test_server.registry.clients()[0].metadata().get::<RequestId>().is_none());
            let answer = test_server.get("/news").await;
            assert_eq!(answer.status(), 503);
            assert!(!answer.headers().contains_key("x-request-id"));
        }
    );
}

/// A header that must not be logged.
#[derive(Clone)]
struct Token(HeaderValue);

fn with_token(sse: SseLayer) -> SseLayer {
    sse.metadata(|request| Some(Token(request.headers.get(AUTHORIZATION)?.clone())))
}

#[tokio::test]
async fn headers_marked_as_sensitive_outside_are_sensitive_in_metadata() {
    let is_sensitive = async |test_server: &TestServer| {
        test_server.streams().await;
        let _stream = test_server.open("/news").await;
        test_server.registry.clients()[0].metadata().get::<Token>().unwrap().0.is_sensitive()
    };
    let marked = || SetSensitiveHeadersLayer::new([AUTHORIZATION]);
    behind!(|sse| ServiceBuilder::new().layer(marked()).layer(with_token(sse)), async |test_server: TestServer| {
        assert!(is_sensitive(&test_server).await);
    });
    behind!(|sse| ServiceBuilder::new().layer(with_token(sse)).layer(marked()), async |test_server: TestServer| {
        assert!(!is_sensitive(&test_server).await);
    });
}
