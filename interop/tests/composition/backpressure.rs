//! tower's limits, its buffer and its load shedding. They count requests without a response: a stream is no longer
//! counted once its head was sent.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::error_handling::HandleErrorLayer;
use http::{Request, StatusCode, Version};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    buffer::BufferLayer,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer, RateLimitLayer},
    load_shed::LoadShedLayer,
};
use tower_sse::{Limit, Registry, SseLayer};

use crate::{
    client::get,
    handlers::{self, Handlers},
    test_server::{self, TestServer, until},
};

async fn handle(error: BoxError) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).header("accept", "text/event-stream").body(()).unwrap()
}

fn is_ready<S: Service<Request<()>> + Unpin>(service: &mut task::Spawn<S>) -> Poll<Result<(), S::Error>> {
    service.enter(|cx, mut service| service.poll_ready(cx))
}

#[tokio::test]
async fn readiness_is_that_of_the_inner_service() {
    let registry = Registry::new();
    let stack = (SseLayer::new(&registry), ConcurrencyLimitLayer::new(1)).layer(Handlers);
    let mut service = task::spawn(stack);
    assert_ready_ok!(is_ready(&mut service));
    let answer = service.call(request("/never"));
    assert_pending!(is_ready(&mut service));
    assert!(!service.is_woken());
    drop(answer);
    assert!(service.is_woken());
    assert_ready_ok!(is_ready(&mut service));
}

/// A concurrency limit panics if another clone is called, as the permit belongs to the clone that was polled.
#[tokio::test]
async fn the_layer_calls_the_service_that_was_polled_ready() {
    let registry = Registry::new();
    let mut service = (SseLayer::new(&registry), ConcurrencyLimitLayer::new(2)).layer(Handlers);
    let ready: Result<(), _> = std::future::poll_fn(|cx| Service::<Request<()>>::poll_ready(&mut service, cx)).await;
    ready.unwrap();
    let mut clone = service.clone();
    assert_eq!(service.call(request("/plain")).await.unwrap().status(), 200);
    assert!(
        catch_unwind(AssertUnwindSafe(|| drop(clone.call(request("/plain"))))).is_err(),
        "the clone was not polled ready"
    );
    assert!(
        catch_unwind(AssertUnwindSafe(|| drop(service.call(request("/plain"))))).is_err(),
        "the service was not polled ready again"
    );
}

#[tokio::test]
async fn a_concurrency_limit_admits_any_number_of_streams_in_both_orders() {
    let many = async |test_server: TestServer| {
        let mut streams = Vec::new();
        for open in 1..=5 {
            streams.push(test_server.open("/news").await);
            assert_eq!(test_server.registry.stats().clients, open);
        }
    };
    in_both_orders!(ConcurrencyLimitLayer::new(1), many);
    in_both_orders!(GlobalConcurrencyLimitLayer::new(1), many);
}

#[tokio::test]
async fn a_limit_of_streams_counts_until_they_end() {
    behind!(|sse| ServiceBuilder::new().layer(sse.limit(Limit::streams(1))), async |test_server: TestServer| {
        test_server.streams().await;
        let stream = test_server.open("/news").await;
        assert_eq!(test_server.get("/news").await.status(), 503);
        drop(stream);
        test_server.until_open(0).await;
        test_server.open("/news").await;
    });
}

#[tokio::test]
async fn a_refused_request_releases_what_it_reserved() {
    let permits = Arc::new(Semaphore::new(1));
    behind!(
        |sse| ServiceBuilder::new()
            .layer(sse.limit(Limit::streams(0)))
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits))),
        async |test_server: TestServer| {
            for _ in 0..3 {
                assert_eq!(test_server.get("/news").await.status(), 503);
            }
            until(|| permits.available_permits() == 1).await;
        }
    );
}

/// One request waits for its response, and the stack has room for one.
async fn sheds(test_server: TestServer) {
    test_server.streams().await;
    let _stream = test_server.open("/news").await;
    let never = async { test_server.try_send(get("/never")).await.map(drop) };
    let shed = async {
        loop {
            // This request is over the limit once the other one has arrived.
            let answer = test_server.get("/plain").await;
            if answer.status() == 503 {
                return answer;
            }
        }
    };
    tokio::select! {
        answered = never => panic!("{answered:?}"),
        shed = shed => assert!(!shed.headers().contains_key("retry-after"), "the error is tower's and not a refusal of the layer"),
    }
    until_answered(&test_server).await;
    assert_eq!(test_server.registry.stats().clients, 1, "the stream goes on");
}

async fn until_answered(test_server: &TestServer) {
    while test_server.get("/plain").await.status() != 200 {}
}

#[tokio::test]
async fn load_shedding_counts_waiting_requests_and_no_open_streams() {
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(1))
            .layer(sse),
        sheds
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(LoadShedLayer::new())
            .layer(sse)
            .layer(GlobalConcurrencyLimitLayer::new(1)),
        sheds
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(sse)
            .layer(HandleErrorLayer::new(handle))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(1)),
        sheds
    );
}

#[tokio::test]
async fn a_buffer_composes_in_both_orders() {
    behind!(
        |sse| ServiceBuilder::new().layer(HandleErrorLayer::new(handle)).layer(BufferLayer::new(4)).layer(sse),
        async |test_server: TestServer| test_server.streams().await
    );
    behind!(
        |sse| ServiceBuilder::new().layer(HandleErrorLayer::new(handle)).layer(sse).layer(BufferLayer::new(4)),
        async |test_server: TestServer| test_server.streams().await
    );
}

const ONE_AN_HOUR: RateLimitLayer = RateLimitLayer::new(1, Duration::from_secs(3600));

#[tokio::test]
async fn towers_rate_limit_delays_requests() {
    let waits = async |test_server: TestServer| {
        let _stream = test_server.open("/news").await;
        assert!(timeout(Duration::from_millis(100), test_server.get("/news")).await.is_err());
        assert_eq!(test_server.registry.stats().clients, 1);
    };
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(BufferLayer::new(4))
            .layer(ONE_AN_HOUR)
            .layer(sse),
        waits
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(sse)
            .layer(BufferLayer::new(4))
            .layer(ONE_AN_HOUR),
        async |test_server: TestServer| {
            let _stream = test_server.open("/news").await;
            assert!(timeout(Duration::from_millis(100), test_server.get("/news")).await.is_err());
        }
    );
}

#[tokio::test]
async fn towers_rate_limit_with_load_shedding_refuses_requests() {
    behind!(
        |sse| ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(BufferLayer::new(4))
            .layer(LoadShedLayer::new())
            .layer(ONE_AN_HOUR)
            .layer(sse),
        async |test_server: TestServer| {
            let _stream = test_server.open("/news").await;
            assert_eq!(test_server.get("/news").await.status(), 503);
            assert_eq!(test_server.registry.stats().refused_streams, 0, "the registry does not count the refusal");
        }
    );
}

/// A limit of tower counts per application of its layer. A `Limit` of this crate counts over all its clones.
#[tokio::test]
async fn towers_limit_is_per_route_and_per_connection_if_axum_serves_the_router() {
    let of_towers = |registry: &Registry| {
        let stack = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle))
            .layer(BufferLayer::new(4))
            .layer(LoadShedLayer::new())
            .layer(ONE_AN_HOUR)
            .layer(test_server::layer(registry));
        handlers::router().layer(stack)
    };
    let registry = Registry::new();
    let address = test_server::serve_router(of_towers(&registry)).await;
    let test_server = TestServer::new(address, registry, Version::HTTP_11);
    let _streams = [test_server.open("/news").await, test_server.open("/own").await];
    assert_eq!(test_server.get("/news").await.status(), 503);
    assert_eq!(test_server.get("/own").await.status(), 503);

    let registry = Registry::new();
    let test_server = serve_itself(of_towers(&registry), registry).await;
    let _streams = [test_server.open("/news").await, test_server.open("/news").await, test_server.open("/own").await];

    let registry = Registry::new();
    let of_ours = test_server::layer(&registry).limit(Limit::rate(1, Duration::from_secs(3600), 1));
    let test_server = serve_itself(handlers::router().layer(of_ours), registry).await;
    let _stream = test_server.open("/news").await;
    assert_eq!(test_server.get("/news").await.status(), 503);
    assert_eq!(test_server.get("/own").await.status(), 503);
}

async fn serve_itself(router: axum::Router, registry: Registry) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    TestServer::new(address, registry, Version::HTTP_11)
}

/// The alternative in this crate: it refuses at once, and says when to try again.
#[tokio::test]
async fn a_rate_of_streams_refuses_at_once() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse.limit(Limit::rate(1, Duration::from_secs(3600), 1))),
        async |test_server: TestServer| {
            let _stream = test_server.open("/news").await;
            let answer = test_server.get("/news").await;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            assert_eq!(test_server.registry.stats().refused_streams, 1);
        }
    );
}

#[tokio::test]
async fn a_service_that_fails_leaves_no_client() {
    let registry = Registry::new();
    let shed = (SseLayer::new(&registry), LoadShedLayer::new(), ConcurrencyLimitLayer::new(0)).layer(Handlers);
    let answer = shed.oneshot(request("/news")).await;
    assert!(answer.unwrap_err().is::<tower::load_shed::error::Overloaded>());
    assert_eq!(registry.stats().clients, 0);
}
