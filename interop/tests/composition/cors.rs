//! tower-http's `CorsLayer`. It goes outside of `SseLayer`, so that every response that a page may read has its
//! headers.

use std::time::Duration;

use http::{HeaderName, Method, header::AUTHORIZATION};
use hyper::body::Incoming;
use tower::ServiceBuilder;
use tower_http::cors::CorsLayer;
use tower_sse::{Limit, RefusedResponse};

use crate::{
    bodies::AnyBody,
    client::request,
    test_server::{Stream, TestServer, text},
};

const ORIGIN: &str = "https://app.test";

/// With credentials, everything that is allowed must be named.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin([ORIGIN.parse().unwrap()])
        .allow_methods([Method::GET])
        .allow_headers([AUTHORIZATION, HeaderName::from_static("last-event-id")])
        .allow_credentials(true)
}

async fn preflight(test_server: &TestServer, headers: &'static str) -> http::Response<Incoming> {
    let mut request = request("OPTIONS", "/news", AnyBody::default());
    let asked =
        [("origin", ORIGIN), ("access-control-request-method", "GET"), ("access-control-request-headers", headers)];
    for (name, value) in asked {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    test_server.without_token().send(request).await
}

#[tokio::test]
async fn streams_of_another_origin_with_credentials_carry_the_headers_in_both_orders() {
    in_both_orders!(cors(), async |test_server: TestServer| {
        let test_server = test_server.with("origin", ORIGIN);
        test_server.streams().await;
        let stream = test_server.open("/news").await;
        assert_eq!(stream.headers["access-control-allow-origin"], ORIGIN);
        assert_eq!(stream.headers["access-control-allow-credentials"], "true");
        assert!(stream.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains("origin")));
    });
}

#[tokio::test]
async fn a_preflight_for_last_event_id_is_answered_in_both_orders_without_a_client() {
    in_both_orders!(cors(), async |test_server: TestServer| {
        let answer = preflight(&test_server, "last-event-id,authorization").await;
        assert_eq!(answer.status(), 200);
        let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(allowed.split(',').any(|name| name.trim() == "last-event-id"), "{allowed}");
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
        assert!(!answer.headers().contains_key("content-type"));
        assert_eq!(test_server.registry.stats().clients, 0);
    });
}

#[tokio::test]
async fn last_event_id_is_not_allowed_unless_it_is_named() {
    in_both_orders!(CorsLayer::new().allow_origin([ORIGIN.parse().unwrap()]), async |test_server: TestServer| {
        let answer = preflight(&test_server, "last-event-id").await;
        assert!(!answer.headers().contains_key("access-control-allow-headers"));
    });
}

/// The response to a page of another origin when no slot is free: the default refusal, the refusal per user, and the
/// refusal as an event stream.
macro_rules! refusals {
    (|$sse:ident| $stack:expr, $check:expr) => {
        behind!(
            |sse| {
                let $sse = sse.limit(Limit::streams(0));
                $stack
            },
            async |test_server: TestServer| {
                let answer = test_server.with("origin", ORIGIN).get("/news").await;
                assert_eq!(answer.status(), 503);
                $check(&answer);
            }
        );
        behind!(
            |sse| {
                let $sse = sse.limit(Limit::streams(0).per(|_| Some("everybody")));
                $stack
            },
            async |test_server: TestServer| {
                let answer = test_server.with("origin", ORIGIN).get("/news").await;
                assert_eq!(answer.status(), 429);
                $check(&answer);
            }
        );
        behind!(
            |sse| {
                let refusal = RefusedResponse::reconnect().delay(Duration::from_secs(2));
                let $sse = sse.limit(Limit::streams(0)).refused_response(refusal);
                $stack
            },
            async |test_server: TestServer| {
                let answer = test_server.with("origin", ORIGIN).get("/news").await;
                $check(&answer);
                let had = Stream::of(answer).ends().await;
                assert!(had.starts_with("retry:"), "{had:?}");
            }
        );
    };
}

#[tokio::test]
async fn with_cors_outside_a_page_can_read_refusals() {
    refusals!(|sse| ServiceBuilder::new().layer(cors()).layer(sse), |answer: &http::Response<Incoming>| {
        assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    });
}

#[tokio::test]
async fn with_cors_inside_refusals_have_no_headers() {
    refusals!(|sse| ServiceBuilder::new().layer(sse).layer(cors()), |answer: &http::Response<Incoming>| {
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    });
}

#[tokio::test]
#[allow(deprecated, reason = "it is there, and used")]
async fn with_cors_around_auth_preflights_need_no_token_and_a_401_has_headers() {
    use tower_http::validate_request::ValidateRequestHeaderLayer;
    behind!(
        |sse| ServiceBuilder::new().layer(cors()).layer(ValidateRequestHeaderLayer::bearer("secret")).layer(sse),
        async |test_server: TestServer| {
            test_server.with("origin", ORIGIN).streams().await;
            assert_eq!(preflight(&test_server, "last-event-id").await.status(), 200);
            let answer = test_server.without_token().with("origin", ORIGIN).get("/news").await;
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
            assert_eq!(text(answer).await, "");
        }
    );
}
