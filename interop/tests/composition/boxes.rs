//! tower's adapters: boxed services, retries, several services as one, and functions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{
    Layer, ServiceBuilder, ServiceExt,
    retry::{Policy, RetryLayer},
    steer::Steer,
    util::{
        BoxCloneService, BoxCloneSyncService, BoxCloneSyncServiceLayer, BoxService, MapErrLayer, MapRequestLayer,
        MapResponseLayer, option_layer,
    },
};
use tower_http::{map_request_body::MapRequestBodyLayer, map_response_body::MapResponseBodyLayer};
use tower_sse::{Limit, RefusedReason, Registry, SseLayer};

use crate::{
    client::VERSIONS,
    handlers::Handlers,
    test_server::{self, Stream, TestServer},
};

#[tokio::test]
async fn functions_compose_in_both_orders() {
    in_both_orders!(MapRequestLayer::new(|request: Request<_>| request));
    in_both_orders!(MapResponseLayer::new(|response: Response<_>| response));
    in_both_orders!(MapErrLayer::new(|error| error));
}

#[tokio::test]
async fn a_boxed_stack_works_like_the_stack_itself() {
    for version in VERSIONS {
        let registry = Registry::new();
        let boxed = BoxCloneSyncService::new(test_server::layer(&registry).layer(Handlers));
        let address = test_server::serve(boxed).await;
        test_server::within(TestServer::new(address, registry, version).streams()).await;

        let registry = Registry::new();
        let boxed = BoxCloneSyncServiceLayer::new(test_server::layer(&registry));
        let address = test_server::serve_router(crate::handlers::router().layer(boxed)).await;
        test_server::within(TestServer::new(address, registry, version).streams()).await;
    }
}

#[tokio::test]
async fn boxed_services_without_send_stream_too() {
    let registry = Registry::new();
    let request = || Request::builder().uri("/own").body(()).unwrap();
    let boxed = BoxService::new(test_server::layer(&registry).layer(Handlers));
    let cloned = BoxCloneService::new(test_server::layer(&registry).layer(Handlers)).clone();
    Stream::of(boxed.oneshot(request()).await.unwrap()).having("data: own\n\n").await.until(":\n\n").await;
    Stream::of(cloned.oneshot(request()).await.unwrap()).having("data: own\n\n").await.until(":\n\n").await;
    assert_eq!(registry.stats().clients, 0);
}

#[tokio::test]
async fn an_optional_layer_needs_one_body_type() {
    for version in VERSIONS {
        for is_on in [true, false] {
            let registry = Registry::new();
            let sse = is_on.then(|| (MapResponseBodyLayer::new(Body::new), test_server::layer(&registry)));
            let stack = ServiceBuilder::new().layer(option_layer(sse)).layer(MapResponseBodyLayer::new(Body::new));
            let address = test_server::serve(stack.service(Handlers)).await;
            let test_server = TestServer::new(address, registry, version);
            match is_on {
                true => test_server::within(test_server.streams()).await,
                false => assert!(!test_server.get("/quiet").await.headers().contains_key("x-accel-buffering")),
            }
        }
    }
}

#[tokio::test]
async fn one_of_several_layers_is_chosen_by_the_request() {
    for version in VERSIONS {
        let registry = Registry::new();
        let [open, full] = [test_server::layer(&registry), test_server::layer(&registry).limit(Limit::streams(0))];
        let by_path = |request: &Request<_>, _: &[_]| usize::from(request.uri().path() == "/quiet");
        let address = test_server::serve(Steer::new([open, full].map(|sse| sse.layer(Handlers)), by_path)).await;
        let test_server = TestServer::new(address, registry, version);
        test_server::within(async {
            test_server.streams().await;
            assert_eq!(test_server.get("/quiet").await.status(), 503);
        })
        .await;
    }
}

/// Retries up to three attempts, but not a request that was refused for lack of a slot.
#[derive(Clone)]
struct Attempts(usize);

impl<B: Clone, R, E> Policy<Request<B>, Response<R>, E> for Attempts {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Result<Response<R>, E>) -> Option<Self::Future> {
        let response = result.as_ref().ok()?;
        let is_over = response.extensions().get::<RefusedReason>().is_some() || !response.status().is_server_error();
        self.0 = self.0.checked_sub(1)?;
        (!is_over).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

/// Removes the request's body, as retries need requests that can be cloned.
fn without_body<B>() -> MapRequestBodyLayer<fn(B) -> Empty<Bytes>> {
    MapRequestBodyLayer::new(|_| Empty::new())
}

/// Makes every second response fail.
fn fail_first<B>(has_failed: &Arc<AtomicBool>) -> impl Fn(Response<B>) -> Response<B> + Clone + use<B> {
    let has_failed = Arc::clone(has_failed);
    move |mut response| {
        if !has_failed.fetch_xor(true, Ordering::Relaxed) {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        response
    }
}

/// A layer with one slot that counts the clients that it creates.
fn counting(sse: SseLayer, clients: &Arc<AtomicUsize>) -> SseLayer {
    let clients = Arc::clone(clients);
    sse.limit(Limit::streams(1)).metadata(move |_| Some(clients.fetch_add(1, Ordering::Relaxed)))
}

#[tokio::test]
async fn outer_retries_create_a_client_for_each_attempt() {
    let (has_failed, clients) = (Arc::default(), Arc::default());
    behind!(
        |sse| ServiceBuilder::new()
            .layer(without_body())
            .layer(RetryLayer::new(Attempts(2)))
            .layer(counting(sse, &clients))
            .map_response(fail_first(&has_failed)),
        async |test_server: TestServer| {
            test_server.streams().await;
            let before = clients.load(Ordering::Relaxed);
            let _stream = test_server.open("/news").await;
            assert_eq!(clients.load(Ordering::Relaxed), before + 2);
            let stats = test_server.registry.stats();
            assert_eq!((stats.clients, stats.subscriptions, stats.refused_streams), (1, 1, 0));
        }
    );
}

#[tokio::test]
async fn inner_retries_have_one_client() {
    let (has_failed, clients) = (Arc::default(), Arc::default());
    behind!(
        |sse| ServiceBuilder::new()
            .layer(counting(sse, &clients))
            .layer(without_body())
            .layer(RetryLayer::new(Attempts(2)))
            .map_response(fail_first(&has_failed)),
        async |test_server: TestServer| {
            test_server.streams().await;
            let before = clients.load(Ordering::Relaxed);
            let _stream = test_server.open("/news").await;
            assert_eq!(clients.load(Ordering::Relaxed), before + 1);
            let stats = test_server.registry.stats();
            assert_eq!((stats.clients, stats.subscriptions, stats.refused_streams), (1, 1, 0));
        }
    );
}

#[tokio::test]
async fn a_retry_policy_can_detect_a_refusal() {
    behind!(
        |sse| ServiceBuilder::new()
            .layer(without_body())
            .layer(RetryLayer::new(Attempts(2)))
            .layer(sse.limit(Limit::streams(0))),
        async |test_server: TestServer| {
            assert_eq!(test_server.get("/news").await.status(), 503);
            assert_eq!(test_server.registry.stats().refused_streams, 1);
        }
    );
}
