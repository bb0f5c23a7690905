//! axum's own middleware, on both sides of `SseLayer`.

use axum::{
    Json,
    body::Body,
    extract::{DefaultBodyLimit, Request},
    middleware::{Next, ResponseAxumBodyLayer, from_fn, map_request, map_response},
    response::{IntoResponse, Response},
};
use http::Version;
use serde_json::json;
use tower::{Layer, ServiceBuilder};
use tower_sse::{ClientHandle, Limit, RefusedReason, Registry, SseBody, SseLayer};

use crate::{
    client::VERSIONS,
    handlers,
    test_server::{self, TestServer, text},
};

/// Runs a test against the handlers behind a stack in axum only, as axum's middleware needs its body type.
macro_rules! behind_axum {
    (|$sse:ident| $stack:expr, $test:expr) => {
        for version in VERSIONS {
            let registry = Registry::new();
            let $sse: SseLayer = test_server::layer(&registry);
            let test_server = open(handlers::router().layer($stack), registry, version).await;
            test_server::within($test(test_server)).await;
        }
    };
}

async fn open(router: axum::Router, registry: Registry, version: Version) -> TestServer {
    TestServer::new(test_server::serve_router(router).await, registry, version)
}

/// Uses the client of a request whose handler does not use it.
async fn greet(request: Request, next: Next) -> Response {
    if let Some(client) = request.extensions().get::<ClientHandle>() {
        client.insert_metadata("greeted");
        client.send(tower_sse::Event::data("hello")).unwrap();
    }
    next.run(request).await
}

/// Explains a refusal to the client.
async fn explain(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match response.extensions().get::<RefusedReason>() {
        Some(refused) => (refused.status(), Json(json!({ "error": refused.to_string() }))).into_response(),
        None => response,
    }
}

#[tokio::test]
async fn functions_compose_in_both_orders() {
    macro_rules! in_both_orders_of_axum {
        ($layer:expr) => {
            behind_axum!(|sse| (sse, $layer), async |test_server: TestServer| test_server.streams().await);
            behind_axum!(|sse| ServiceBuilder::new().layer($layer).layer(sse), async |test_server: TestServer| {
                test_server.streams().await
            });
        };
    }
    in_both_orders_of_axum!(from_fn(explain));
    in_both_orders_of_axum!(from_fn(async |request: Request, next: Next| next.run(request).await));
    in_both_orders_of_axum!(map_request(async |request: Request| request));
    in_both_orders_of_axum!(ResponseAxumBodyLayer);
    in_both_orders_of_axum!(DefaultBodyLimit::max(1000));
}

/// A function of responses accepts one body type. Outside, that is axum's if the function is a layer of its own, and
/// `SseBody` in one stack with `SseLayer`.
#[tokio::test]
async fn functions_of_responses_compose_in_both_orders() {
    let same = || map_response(async |response: Response| response);
    behind_axum!(|sse| ServiceBuilder::new().layer(sse).layer(same()), async |test_server: TestServer| test_server
        .streams()
        .await);
    for version in VERSIONS {
        let registry = Registry::new();
        let router = handlers::router().layer(test_server::layer(&registry)).layer(same());
        test_server::within(open(router, registry, version).await.streams()).await;
    }
    let same = || map_response(async |response: Response<SseBody<Body>>| response);
    behind_axum!(|sse| ServiceBuilder::new().layer(same()).layer(sse), async |test_server: TestServer| test_server
        .streams()
        .await);
}

#[tokio::test]
async fn an_inner_function_has_the_client_before_the_handler() {
    behind_axum!(|sse| ServiceBuilder::new().layer(sse).layer(from_fn(greet)), async |test_server: TestServer| {
        let _stream = test_server.open("/news").await.having("data: hello\n").await;
        assert_eq!(test_server.registry.clients()[0].metadata().get(), Some(&"greeted"));
    });
}

#[tokio::test]
async fn an_outer_function_has_no_client_yet() {
    behind_axum!(|sse| ServiceBuilder::new().layer(from_fn(greet)).layer(sse), async |test_server: TestServer| {
        test_server.streams().await;
        let stream = test_server.open("/news").await.having(":\n\n").await;
        assert!(!stream.had.contains("hello"));
        assert_eq!(test_server.registry.clients()[0].metadata().get::<&str>(), None);
    });
}

#[tokio::test]
async fn an_outer_function_can_replace_a_refusal() {
    behind_axum!(
        |sse| ServiceBuilder::new().layer(from_fn(explain)).layer(sse.limit(Limit::streams(0))),
        async |test_server: TestServer| {
            let answer = test_server.get("/news").await;
            assert_eq!(answer.status(), 503);
            assert_eq!(text(answer).await, r#"{"error":"event streams are disabled: the limit is 0"}"#);
        }
    );
    behind_axum!(
        |sse| ServiceBuilder::new().layer(sse.limit(Limit::streams(0))).layer(from_fn(explain)),
        async |test_server: TestServer| assert_eq!(
            text(test_server.get("/news").await).await,
            "event streams are disabled: the limit is 0"
        )
    );
}

#[tokio::test]
async fn axum_extras_optional_layer_composes() {
    for version in VERSIONS {
        for is_on in [true, false] {
            let registry = Registry::new();
            let sse = is_on.then(|| test_server::layer(&registry));
            let router = handlers::router().layer(axum_extra::middleware::option_layer(sse));
            let test_server = open(router, registry, version).await;
            match is_on {
                true => test_server::within(test_server.streams()).await,
                false => assert_eq!(
                    text(test_server.get("/news").await).await,
                    "no SseLayer is around this route: add one with Router::layer"
                ),
            }
        }
    }
}

#[tokio::test]
async fn the_layer_can_wrap_a_whole_router() {
    for version in VERSIONS {
        let registry = Registry::new();
        let address = test_server::serve(test_server::layer(&registry).layer(handlers::router())).await;
        test_server::within(TestServer::new(address, registry, version).streams()).await;
    }
}
