//! Layers that change or refuse a request.

use bytes::Bytes;
use http::{HeaderValue, request::Parts};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceBuilder};
use tower_http::{
    add_extension::AddExtensionLayer, csrf::CsrfLayer, limit::RequestBodyLimitLayer,
    map_request_body::MapRequestBodyLayer, map_response_body::MapResponseBodyLayer, normalize_path::NormalizePathLayer,
};
use tower_sse::{Limit, Registry, SseLayer};

use crate::{
    bodies::any,
    client::{VERSIONS, request},
    handlers,
    test_server::{self, BoxError, TestServer},
};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tenant(&'static str);

/// A layer that records a request's values.
fn watching(sse: SseLayer) -> SseLayer {
    sse.metadata(|request: &Parts| request.extensions.get::<Tenant>().cloned())
        .metadata(|request: &Parts| Some(request.uri.path().to_owned()))
}

async fn known<T: Clone + Send + Sync + 'static>(test_server: &TestServer) -> Option<T> {
    let _stream = test_server.open("/news").await;
    test_server.registry.clients()[0].metadata().get::<T>().cloned()
}

#[tokio::test]
async fn an_extension_is_in_metadata_if_an_outer_layer_adds_it() {
    in_both_orders!(AddExtensionLayer::new(Tenant("a")));
    let added = || AddExtensionLayer::new(Tenant("a"));
    behind!(|sse| ServiceBuilder::new().layer(added()).layer(watching(sse)), async |test_server: TestServer| {
        assert_eq!(known(&test_server).await, Some(Tenant("a")));
    });
    behind!(|sse| ServiceBuilder::new().layer(watching(sse)).layer(added()), async |test_server: TestServer| {
        assert_eq!(known::<Tenant>(&test_server).await, None);
    });
}

#[tokio::test]
async fn an_outer_body_limit_refuses_before_a_slot_is_taken() {
    in_both_orders!(RequestBodyLimitLayer::new(1000), async |test_server: TestServer| {
        let small = test_server.send(request("POST", "/news", any(Full::new(Bytes::from_static(b"small"))))).await;
        assert_eq!(small.headers()["content-type"], "text/event-stream");
        let large = request("POST", "/news", any(Full::new(Bytes::from(vec![b'x'; 1001]))));
        assert_eq!(test_server.send(large).await.status(), 413);
        assert_eq!(test_server.registry.stats().clients, 1, "the client of the small request");
    });
    let large = || request("POST", "/news", any(Full::new(Bytes::from(vec![b'x'; 1001]))));
    behind!(
        |sse| ServiceBuilder::new().layer(RequestBodyLimitLayer::new(1000)).layer(sse.limit(Limit::streams(0))),
        async |test_server: TestServer| assert_eq!(test_server.send(large()).await.status(), 413)
    );
    behind!(
        |sse| ServiceBuilder::new().layer(sse.limit(Limit::streams(0))).layer(RequestBodyLimitLayer::new(1000)),
        async |test_server: TestServer| assert_eq!(test_server.send(large()).await.status(), 503)
    );
}

#[tokio::test]
async fn mapped_bodies_compose_in_both_orders() {
    in_both_orders!(MapRequestBodyLayer::new(axum::body::Body::new));
    in_both_orders!(MapResponseBodyLayer::new(axum::body::Body::new));
    in_both_orders!(MapResponseBodyLayer::new(|body| {
        UnsyncBoxBody::<Bytes, BoxError>::new(BodyExt::map_err(axum::body::Body::new(body), Into::into))
    }));
}

/// It goes around the router, as a router's own layers run after the route was chosen.
#[tokio::test]
async fn metadata_sees_the_normalized_path_if_it_is_normalized_outside() {
    for version in VERSIONS {
        for (is_outside, expected) in [(true, "/news"), (false, "/news/")] {
            let registry = Registry::new();
            let (sse, normalize) = (watching(test_server::layer(&registry)), NormalizePathLayer::trim_trailing_slash());
            let address = match is_outside {
                true => test_server::serve((normalize, sse).layer(handlers::router())).await,
                false => test_server::serve((sse, normalize).layer(handlers::router())).await,
            };
            let test_server = TestServer::new(address, registry, version);
            test_server::within(async {
                test_server.streams().await;
                let _stream = test_server.open("/news/").await;
                assert_eq!(test_server.registry.clients()[0].metadata().get(), Some(&expected.to_owned()));
            })
            .await;
        }
    }
}

#[tokio::test]
async fn csrf_protection_does_not_refuse_cross_site_streams_in_both_orders() {
    in_both_orders!(CsrfLayer::new(), async |test_server: TestServer| {
        let elsewhere = test_server.with("sec-fetch-site", "cross-site").with("origin", "https://elsewhere.test");
        elsewhere.streams().await;
        let mut post = request("POST", "/news", any(Full::<Bytes>::default()));
        post.headers_mut().insert("x-from", HeaderValue::from_static("a page"));
        assert_eq!(elsewhere.send(post).await.status(), 403);
        assert_eq!(test_server.registry.stats().clients, 0);
    });
}
