//! Layers that set response headers, and cookies.

use axum::{Router, response::IntoResponse, routing::get};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, SERVER},
};
use tower::ServiceBuilder;
use tower_http::{propagate_header::PropagateHeaderLayer, set_header::SetResponseHeaderLayer};
use tower_sse::{ClientHandle, Registry, SubscribeError};

use crate::{
    client::VERSIONS,
    test_server::{self, TestServer},
};

const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=600");

async fn caching(test_server: &TestServer) -> [String; 2] {
    let stream = test_server.open("/news").await;
    let plain = test_server.get("/plain").await;
    let value = |headers: &http::HeaderMap| headers[CACHE_CONTROL].to_str().unwrap().to_owned();
    let values = [value(&stream.headers), value(plain.headers())];
    drop(stream);
    test_server.until_open(0).await;
    values
}

#[tokio::test]
async fn headers_that_the_layer_does_not_set_compose_in_both_orders() {
    in_both_orders!(SetResponseHeaderLayer::overriding(SERVER, HeaderValue::from_static("a server")));
    in_both_orders!(SetResponseHeaderLayer::appending(SERVER, HeaderValue::from_static("a server")));
    in_both_orders!(PropagateHeaderLayer::new(http::header::USER_AGENT));
}

#[tokio::test]
async fn if_not_present_outside_sets_a_default_on_all_but_streams() {
    behind!(
        |sse| ServiceBuilder::new().layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, CACHED)).layer(sse),
        async |test_server: TestServer| {
            assert_eq!(caching(&test_server).await, ["no-cache, no-transform", "public, max-age=600"]);
            test_server.streams().await;
        }
    );
}

#[tokio::test]
async fn if_not_present_inside_counts_as_the_handlers_header() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, CACHED)),
        async |test_server: TestServer| assert_eq!(
            caching(&test_server).await,
            ["public, max-age=600", "public, max-age=600"]
        )
    );
}

#[tokio::test]
async fn overriding_replaces_the_header_in_both_orders() {
    behind!(
        |sse| ServiceBuilder::new().layer(SetResponseHeaderLayer::overriding(CACHE_CONTROL, CACHED)).layer(sse),
        async |test_server: TestServer| assert_eq!(
            caching(&test_server).await,
            ["public, max-age=600", "public, max-age=600"]
        )
    );
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(SetResponseHeaderLayer::overriding(CACHE_CONTROL, CACHED)),
        async |test_server: TestServer| assert_eq!(
            caching(&test_server).await,
            ["public, max-age=600", "public, max-age=600"]
        )
    );
}

/// Gives each visitor a name in a cookie, in the head of the stream.
async fn named(jar: CookieJar, client: ClientHandle) -> Result<impl IntoResponse, SubscribeError> {
    client.subscribe("news")?;
    let name = jar.get("visitor").map_or("new".to_owned(), |cookie| format!("{} again", cookie.value()));
    Ok((jar.add(Cookie::new("visitor", name)), client.into_stream()))
}

#[tokio::test]
async fn cookies_are_sent_with_a_streams_head_and_are_in_metadata() {
    for version in VERSIONS {
        let registry = Registry::new();
        let visitor = |request: &http::request::Parts| {
            Some(CookieJar::from_headers(&request.headers).get("visitor")?.value().to_owned())
        };
        let sse = test_server::layer(&registry).metadata(visitor);
        let address = test_server::serve_router(Router::new().route("/named", get(named)).layer(sse)).await;
        let test_server = TestServer::new(address, registry, version);
        test_server::within(async {
            let stream = test_server.open("/named").await;
            assert_eq!(stream.headers["set-cookie"], "visitor=new");
            assert_eq!(stream.headers["content-type"], "text/event-stream");
            drop(stream);
            test_server.until_open(0).await;
            let mut stream = test_server.with("cookie", "visitor=ada").open("/named").await;
            assert_eq!(stream.headers["set-cookie"], "visitor=ada%20again");
            assert_eq!(test_server.registry.clients()[0].metadata().get(), Some(&"ada".to_owned()));
            test_server.publish("one");
            stream.until("data: one\n").await;
        })
        .await;
    }
}
