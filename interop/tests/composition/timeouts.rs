//! Layers that limit time. Limits on the response head cut no stream. Limits on a body do.

use std::time::{Duration, Instant};

use axum::error_handling::HandleErrorLayer;
use http::StatusCode;
use tower::{BoxError, ServiceBuilder, timeout};
use tower_http::timeout::{
    RequestBodyDeadlineLayer, RequestBodyTimeoutLayer, ResponseBodyDeadlineLayer, ResponseBodyTimeoutLayer,
    TimeoutLayer,
};
use tower_sse::{CloseReason, Heartbeat};

use crate::test_server::TestServer;

/// Long enough for a response head and for several heartbeats.
const TIME: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_timeout_limits_the_head_in_both_orders_and_cuts_no_stream() {
    in_both_orders!(
        TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, TIME),
        async |test_server: TestServer| {
            let mut stream = test_server.open("/news").await;
            assert_eq!(test_server.get("/never").await.status(), 504);
            stream.lasts(TIME).await;
            test_server.publish("later");
            stream.until("data: later\n").await;
            assert_eq!(test_server.registry.stats().clients, 1, "the cancelled request has no client");
        }
    );
}

#[tokio::test]
async fn towers_timeout_does_the_same_with_an_error_that_axum_handles() {
    let handle = async |_: BoxError| StatusCode::GATEWAY_TIMEOUT;
    let test = async |test_server: TestServer| {
        test_server.streams().await;
        let mut stream = test_server.open("/news").await;
        assert_eq!(test_server.get("/never").await.status(), 504);
        stream.lasts(TIME).await;
        test_server.publish("later");
        stream.until("data: later\n").await;
        assert_eq!(test_server.registry.stats().clients, 1);
    };
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(timeout::TimeoutLayer::new(TIME))
            .layer(sse),
        test
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(sse)
            .layer(timeout::TimeoutLayer::new(TIME)),
        test
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(sse)
            .layer(HandleErrorLayer::new(handle))
            .layer(timeout::TimeoutLayer::new(TIME)),
        test
    );
}

#[tokio::test]
async fn limits_of_the_request_body_do_not_affect_the_stream() {
    let outlives = async |test_server: TestServer| test_server.open("/news").await.lasts(TIME + TIME / 4).await;
    in_both_orders!(RequestBodyTimeoutLayer::new(TIME), outlives);
    in_both_orders!(RequestBodyDeadlineLayer::new(TIME), outlives);
}

#[tokio::test]
async fn heartbeats_prevent_an_outer_body_timeout() {
    // Long enough that even a busy machine sends a heartbeat in time.
    let time = Duration::from_secs(1);
    behind!(
        |sse| ServiceBuilder::new().layer(ResponseBodyTimeoutLayer::new(time)).layer(sse),
        async |test_server: TestServer| {
            test_server.streams_alone().await;
            let [mut stream, quiet] = [test_server.open("/news").await, test_server.open("/quiet").await];
            stream.lasts(time + TIME).await;
            quiet.having(&":\n\n".repeat(3)).await;
            test_server.publish("later");
            stream.until("data: later\n").await;
        }
    );
}

#[tokio::test]
async fn an_outer_body_timeout_breaks_a_stream_without_heartbeats() {
    behind!(
        |sse| {
            let silent = sse.heartbeat(Heartbeat::off());
            ServiceBuilder::new().layer(ResponseBodyTimeoutLayer::new(TIME)).layer(silent)
        },
        async |test_server: TestServer| {
            let asked = Instant::now();
            let had = test_server.open("/news").await.breaks().await;
            assert!(
                had.starts_with("event: position\n") && had.matches("\n\n").count() == 1,
                "no more than that: {had:?}"
            );
            assert!(asked.elapsed() >= TIME);
            test_server.until_open(0).await;
            assert_eq!(test_server.closed(CloseReason::ClientDisconnected), 1);
        }
    );
}

#[tokio::test]
async fn an_inner_body_timeout_breaks_a_handlers_silent_body() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(ResponseBodyTimeoutLayer::new(TIME)),
        async |test_server: TestServer| {
            test_server.streams_alone().await;
            let had = test_server.open("/quiet").await.breaks().await;
            assert!(had.starts_with(":\n\n:\n\n"), "the opening and heartbeats came before the break: {had:?}");
            test_server.until_open(0).await;
            assert_eq!(test_server.closed(CloseReason::BodyFailed), 1);
        }
    );
}

#[tokio::test]
async fn an_inner_body_timeout_does_not_affect_the_registrys_streams() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(ResponseBodyTimeoutLayer::new(TIME)),
        async |test_server: TestServer| {
            test_server.open("/news").await.lasts(TIME + TIME / 2).await;
        }
    );
}

#[tokio::test]
async fn an_outer_body_deadline_breaks_every_stream() {
    behind!(
        |sse| ServiceBuilder::new().layer(ResponseBodyDeadlineLayer::new(TIME)).layer(sse),
        async |test_server: TestServer| {
            let stream = test_server.open("/news").await;
            test_server.publish("one");
            let had = stream.breaks().await;
            assert!(had.contains("data: one\n") && had.ends_with("\n\n"), "{had:?}");
            test_server.until_open(0).await;
            assert_eq!(test_server.closed(CloseReason::ClientDisconnected), 1);
        }
    );
}

#[tokio::test]
async fn an_inner_body_deadline_breaks_only_handlers_own_bodies() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(ResponseBodyDeadlineLayer::new(TIME)),
        async |test_server: TestServer| {
            let had = test_server.open("/own").await.breaks().await;
            assert!(had.starts_with("event: position\n") && had.contains("\n\ndata: own\n\n"), "{had:?}");
            until_broken(&test_server).await;
            test_server.open("/news").await.lasts(TIME + TIME / 4).await;
        }
    );
}

async fn until_broken(test_server: &TestServer) {
    test_server.until_open(0).await;
    assert_eq!(test_server.closed(CloseReason::BodyFailed), 1);
}

/// The alternative in this crate.
#[tokio::test]
async fn max_age_ends_streams_cleanly() {
    behind!(|sse| ServiceBuilder::new().layer(sse.max_age(TIME)), async |test_server: TestServer| {
        test_server.open("/own").await.ends().await;
        test_server.until_open(0).await;
        assert_eq!(test_server.closed(CloseReason::MaxAge), 1);
    });
}
