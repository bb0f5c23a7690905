//! Tests the places where an axum application can have an `SseLayer`, and the routes that the layer then covers. Over
//! sockets, HTTP/1.1 and HTTP/2.
//!
//! Each layer here sends its name in a comment at the beginning of its streams, and in their heartbeats.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    handler::Handler,
    response::{
        IntoResponse, Response, Sse,
        sse::{self, Event as OwnEvent},
    },
    routing::{MethodRouter, get, post},
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::StreamExt;
use tower::{Layer, Service, ServiceBuilder, make::Shared, service_fn};
use tower_http::{
    compression::CompressionLayer, cors::CorsLayer, set_header::SetResponseHeaderLayer, trace::TraceLayer,
};
use tower_sse::{ClientHandle, Event, EventStream, Heartbeat, Registry, SseLayer, SubscribeError};

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
use client::{Client, VERSIONS};

const TOPIC: &str = "news";
const NO_LAYER: &str = "no SseLayer is around this route: add one with Router::layer";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("the step takes too long")
}

fn layer(registry: &Registry, name: &str) -> SseLayer {
    let heartbeat = Heartbeat::every(Duration::from_millis(3)).comment(name);
    SseLayer::new(registry).heartbeat(heartbeat).opening_comment(format!("begin {name}"))
}

/// A handler that subscribes its client.
async fn stream(client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe(TOPIC)?;
    Ok(client.into_stream())
}

/// A handler that returns its own stream and also subscribes its client.
async fn own(client: ClientHandle) -> Result<impl IntoResponse, SubscribeError> {
    client.subscribe(TOPIC)?;
    let events = tokio_stream::iter([Ok::<_, Infallible>(OwnEvent::default().data("own"))]);
    Ok(Sse::new(events.chain(tokio_stream::pending())).keep_alive(sse::KeepAlive::default()))
}

async fn answer(Path(number): Path<u32>) -> Json<Value> {
    Json(json!({ "number": number }))
}

async fn nowhere(uri: Uri) -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({ "nowhere": uri.path() })))
}

fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/stream", get(stream)).route("/own", get(own)).route("/json/{number}", get(answer))
}

struct TestServer {
    address: SocketAddr,
    version: Version,
    registry: Registry,
}

impl TestServer {
    async fn get(&self, target: &str) -> http::Response<Incoming> {
        let mut client = Client::connect(self.address, self.version).await;
        within(client.send(client::get(target))).await.unwrap()
    }

    async fn whole(&self, target: &str) -> (StatusCode, HeaderMap, Bytes) {
        let (mut head, body) = self.get(target).await.into_parts();
        assert!(head.headers.remove("date").is_some());
        (head.status, head.headers, within(body.collect()).await.unwrap().to_bytes())
    }

    /// The response is a stream. Exactly one layer has prepared it, and each published event comes once.
    async fn streams(&self, target: &str, layer: &str) {
        let mut response = self.get(target).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", if target.ends_with("/own") { "no-cache" } else { "no-cache, no-transform" }),
            ("x-accel-buffering", "no"),
        ] {
            let values: Vec<_> = response.headers().get_all(name).iter().collect();
            assert_eq!(values, [value], "{target}: {name}");
        }
        assert_eq!(response.headers().contains_key("connection"), self.version == Version::HTTP_11);
        assert_eq!(self.registry.stats().clients, 1, "{target}");

        let position = format!("event: position\ndata: \nid: {}\n\n", self.registry.position());
        let heartbeat = format!(": {layer}\n\n");
        let mut text = String::new();
        read(&mut response, &mut text, |text| text.matches(&heartbeat).count() >= 3).await;
        let receipt = self.registry.publish(TOPIC, Event::data("published")).unwrap();
        assert_eq!(receipt.subscribers(), 1, "{target}");
        read(&mut response, &mut text, |text| text.contains("published")).await;
        let length = text.len();
        read(&mut response, &mut text, |text| text[length..].contains(&heartbeat)).await;
        let begin = format!(": begin {layer}\n\n");
        let event = format!("data: published\nid: {}\n\n", receipt.position().unwrap());
        let own = if target.ends_with("/own") { "data: own\n\n" } else { "" };
        assert_eq!(text.replace(&heartbeat, ""), [&begin, &position, own, &event].concat(), "{target}");

        drop(response);
        within(async {
            while self.registry.stats().clients > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// A handler that extracts its client is refused there.
    async fn has_no_layer(&self, target: &str) {
        let (status, _, text) = self.whole(target).await;
        assert_eq!((status, &text[..]), (StatusCode::INTERNAL_SERVER_ERROR, NO_LAYER.as_bytes()), "{target}");
    }
}

async fn read(response: &mut http::Response<Incoming>, text: &mut String, has_it: impl Fn(&str) -> bool) {
    while !(has_it(text) && text.ends_with("\n\n")) {
        let frame = within(response.frame()).await.expect("the stream goes on").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
}

/// Serves an application over both versions, next to the same application without a layer.
async fn on_both(app: impl Fn(&Registry) -> Router, test: impl AsyncFn(&TestServer)) {
    on_both_as(|registry| Shared::new(app(registry)), test).await;
}

async fn on_both_as<M, S>(make: impl Fn(&Registry) -> M, test: impl AsyncFn(&TestServer))
where
    M: for<'a> Service<axum::serve::IncomingStream<'a, TcpListener>, Response = S, Error = Infallible>,
    M: Send + 'static,
    for<'a> <M as Service<axum::serve::IncomingStream<'a, TcpListener>>>::Future: Send,
    S: Service<axum::extract::Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    for version in VERSIONS {
        eprintln!("over {version:?}");
        let registry = Registry::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, make(&registry)).into_future());
        test(&TestServer { address, version, registry }).await;
    }
}

/// A response that is no stream is the same with and without a layer.
async fn is_untouched(test_server: &TestServer, targets: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = routes().nest("/api", routes()).fallback(nowhere);
    tokio::spawn(axum::serve(listener, plain).into_future());
    let plain = TestServer { address, version: test_server.version, registry: Registry::new() };
    for target in targets {
        let expected = plain.whole(target).await;
        assert!([StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&expected.0));
        assert_eq!(test_server.whole(target).await, expected, "{target}");
    }
}

#[tokio::test]
async fn a_routers_layer_covers_its_routes_and_fallback_and_no_later_routes() {
    let app =
        |registry: &Registry| routes().fallback(stream).layer(layer(registry, "router")).route("/late", get(stream));
    on_both(app, async |test_server| {
        test_server.streams("/stream", "router").await;
        test_server.streams("/own", "router").await;
        test_server.streams("/anything", "router").await;
        test_server.has_no_layer("/late").await;
        is_untouched(test_server, &["/json/7", "/json/seven"]).await;
    })
    .await;
    let app = |registry: &Registry| routes().fallback(nowhere).layer(layer(registry, "router"));
    on_both(app, async |test_server| is_untouched(test_server, &["/json/7", "/json/seven", "/anything"]).await).await;
}

#[tokio::test]
async fn a_route_layer_covers_the_routes_and_not_the_fallback() {
    let app = |registry: &Registry| routes().fallback(stream).route_layer(layer(registry, "routes"));
    on_both(app, async |test_server| {
        test_server.streams("/stream", "routes").await;
        test_server.has_no_layer("/anything").await;
        is_untouched(test_server, &["/json/7"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_method_routers_layer_covers_only_that_route() {
    let app = |registry: &Registry| {
        let covered: MethodRouter = get(stream).layer(layer(registry, "route"));
        routes().route("/covered", covered).route("/own-covered/own", get(own).layer(layer(registry, "second")))
    };
    on_both(app, async |test_server| {
        test_server.streams("/covered", "route").await;
        test_server.streams("/own-covered/own", "second").await;
        test_server.has_no_layer("/stream").await;
        // A method without a handler is refused as it is without the layer.
        let mut client = Client::connect(test_server.address, test_server.version).await;
        let response =
            within(client.send(client::request("PUT", "/covered", bodies::AnyBody::default()))).await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET,HEAD".parse().unwrap())
        );
    })
    .await;
}

#[tokio::test]
async fn a_handlers_layer_covers_only_that_method() {
    let app = |registry: &Registry| {
        Router::new().route("/stream", get(stream.layer(layer(registry, "handler"))).post(stream))
    };
    on_both(app, async |test_server| {
        test_server.streams("/stream", "handler").await;
        let mut client = Client::connect(test_server.address, test_server.version).await;
        let response =
            within(client.send(client::request("POST", "/stream", bodies::AnyBody::default()))).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    })
    .await;
}

#[tokio::test]
async fn the_inner_of_nested_layers_prepares_the_stream() {
    let app = |registry: &Registry| {
        let api = routes().layer(layer(registry, "api"));
        let outside = Router::new()
            .route("/twice", get(stream).layer((layer(registry, "between"), layer(registry, "inner"))))
            .nest("/api", api);
        routes().merge(outside).fallback(nowhere).layer(layer(registry, "router"))
    };
    on_both(app, async |test_server| {
        test_server.streams("/api/stream", "api").await;
        test_server.streams("/api/own", "api").await;
        test_server.streams("/twice", "inner").await;
        test_server.streams("/stream", "router").await;
        test_server.streams("/own", "router").await;
        is_untouched(test_server, &["/json/7", "/api/json/7", "/api/json/x", "/api/nowhere", "/nowhere"]).await;
    })
    .await;
}

#[tokio::test]
async fn with_two_registries_the_inner_layer_has_the_client() {
    let app = |registry: &Registry| {
        let elsewhere = Registry::new();
        routes().layer(layer(registry, "inner")).layer(layer(&elsewhere, "outer")).route(
            "/elsewhere",
            get(async |State(elsewhere): State<Registry>| elsewhere.stats().clients.to_string()).with_state(elsewhere),
        )
    };
    on_both(app, async |test_server| {
        test_server.streams("/stream", "inner").await;
        let _open = test_server.get("/stream").await;
        assert_eq!(test_server.whole("/elsewhere").await.2, "0");
    })
    .await;
}

#[tokio::test]
async fn merged_routers_with_layers_of_their_own_share_a_registry() {
    let app = |registry: &Registry| {
        let one = Router::new().route("/one", get(stream)).layer(layer(registry, "one"));
        let two = Router::new().route("/two/own", get(own)).layer(layer(registry, "two"));
        let neither = Router::new().route("/neither", get(stream)).route("/publish", post(publish));
        one.merge(two).merge(neither).with_state(registry.clone())
    };
    on_both(app, async |test_server| {
        test_server.streams("/one", "one").await;
        test_server.streams("/two/own", "two").await;
        test_server.has_no_layer("/neither").await;
        let mut streams = [test_server.get("/one").await, test_server.get("/two/own").await];
        let mut client = Client::connect(test_server.address, test_server.version).await;
        within(client.send(client::request("POST", "/publish", bodies::AnyBody::default()))).await.unwrap();
        for response in &mut streams {
            read(response, &mut String::new(), |text| text.contains("data: by a handler\n")).await;
        }
    })
    .await;
}

async fn publish(State(registry): State<Registry>) {
    registry.publish(TOPIC, Event::data("by a handler")).unwrap();
}

#[tokio::test]
async fn a_service_with_a_layer_can_be_a_fallback_or_be_nested() {
    let app = |registry: &Registry| {
        let inside = layer(registry, "service").layer(routes().fallback(nowhere));
        // A service without axum.
        let plain = ServiceBuilder::new().layer(layer(registry, "plain")).service_fn(async |request: Request<Body>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            client.subscribe(TOPIC).unwrap();
            Ok::<_, Infallible>(client.into_stream().into_response::<Body>())
        });
        Router::new()
            .route("/outside", get(stream))
            .nest_service("/api", inside.clone())
            .route_service("/plain", plain)
            .fallback_service(inside)
    };
    on_both(app, async |test_server| {
        for target in ["/stream", "/own", "/api/stream", "/api/own"] {
            test_server.streams(target, "service").await;
        }
        test_server.streams("/plain", "plain").await;
        test_server.has_no_layer("/outside").await;
        is_untouched(test_server, &["/json/7", "/api/json/7", "/nowhere"]).await;
    })
    .await;
}

/// tower-http's layers do not change the stream.
#[tokio::test]
async fn a_stack_of_layers_goes_around_a_router() {
    let app = |registry: &Registry| {
        let layers = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CorsLayer::permissive())
            .layer(CompressionLayer::new())
            .layer(layer(registry, "stack"))
            .layer(SetResponseHeaderLayer::if_not_present(
                http::HeaderName::from_static("x-inside"),
                http::HeaderValue::from_static("1"),
            ));
        routes().fallback(nowhere).layer(layers)
    };
    on_both(app, async |test_server| {
        test_server.streams("/stream", "stack").await;
        test_server.streams("/own", "stack").await;
        let response = test_server.get("/stream").await;
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["x-inside"], "1");
        assert_eq!(test_server.whole("/json/7").await.2, r#"{"number":7}"#);
        assert_eq!(test_server.whole("/nowhere").await.0, StatusCode::NOT_FOUND);
    })
    .await;
}

/// `axum::serve` takes a service with axum's bodies, so the body of the layered router has to be mapped.
#[tokio::test]
async fn a_stack_of_layers_goes_around_a_router_as_a_service() {
    let make = |registry: &Registry| {
        let service = ServiceBuilder::new()
            .map_response(|response: http::Response<_>| response.map(Body::new))
            .layer(layer(registry, "outside"))
            .service(routes().nest("/api", routes().layer(layer(registry, "api"))).fallback(nowhere));
        Shared::new(service)
    };
    on_both_as(make, async |test_server| {
        test_server.streams("/stream", "outside").await;
        test_server.streams("/own", "outside").await;
        test_server.streams("/api/own", "api").await;
        is_untouched(test_server, &["/json/7", "/api/json/7", "/nowhere", "/api/nowhere"]).await;
    })
    .await;
}

/// The response of a service in the router is wrapped like the response of a handler.
#[tokio::test]
async fn a_layer_of_a_router_covers_services() {
    let app = |registry: &Registry| {
        let service = service_fn(async |request: Request<Body>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            client.subscribe(TOPIC).unwrap();
            Ok::<_, Infallible>(client.into_stream().into_response::<Body>())
        });
        Router::new().route_service("/service", service).fallback_service(service).layer(layer(registry, "router"))
    };
    on_both(app, async |test_server| {
        test_server.streams("/service", "router").await;
        test_server.streams("/anything", "router").await;
    })
    .await;
}
