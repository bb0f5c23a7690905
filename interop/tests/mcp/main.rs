//! rmcp's streamable HTTP server, without the layer and behind it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::Request,
    middleware::map_request,
    routing::{get_service, post_service},
};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tower_sse::{ClientHandle, Drain, Heartbeat, Limit, Observation, Registry, RegistryConfig, SseLayer};

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[allow(dead_code, reason = "no test here needs all of it")]
#[path = "../../../tests/support/client.rs"]
mod client;
#[path = "../../../tests/support/example.rs"]
#[allow(dead_code, reason = "no test here sends a signal")]
mod example;
#[allow(dead_code, reason = "its main function is for readers of the guide")]
mod guide {
    include!("guide.rs");

    pub(crate) fn router(registry: &Registry) -> Router {
        app(registry)
    }
}
#[path = "../../../tests/support/listener.rs"]
mod listener;
mod names;
#[path = "../proxies/nginx.rs"]
#[allow(dead_code, reason = "no test here reads its log")]
mod nginx;
mod server;
#[path = "../../../tests/support/spec.rs"]
mod spec;
mod suite;
#[path = "../../../tests/support/time_limit.rs"]
mod time_limit;
#[path = "../../../tests/support/upstream.rs"]
mod upstream;
use bodies::{AnyBody, any};
use client::Client;
use example::{Example, Server};
use time_limit::within_20_s;

static GATEWAY: Example = Example::named("gateway");

/// As often as possible, so that heartbeats come at every place where they could do harm.
const OFTEN: Duration = Duration::from_millis(3);

/// With sessions, which is the default.
fn config() -> StreamableHttpServerConfig {
    StreamableHttpServerConfig::default().with_allowed_origins(["http://127.0.0.1:*"])
}

/// Without sessions, and with a JSON response if the response is a single message.
fn config_of_json() -> StreamableHttpServerConfig {
    config().with_legacy_session_mode(false).with_json_response(true)
}

fn router(config: StreamableHttpServerConfig) -> Router {
    Router::new().nest_service("/mcp", server::service(config))
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

async fn gateway(upstream: SocketAddr) -> Server {
    let upstream = format!("http://{upstream}");
    let flags = ["--listen", "127.0.0.1:0", "--heartbeat-ms", "5", "--upstream", &upstream];
    Server::start(GATEWAY.command().args(flags)).await
}

/// A registry, and the number of heartbeats in its streams.
fn counting_heartbeats() -> (Registry, Arc<AtomicUsize>) {
    let heartbeats = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heartbeats);
    let config = RegistryConfig::default().observer(move |observation: &Observation<'_>| {
        if matches!(observation, Observation::Heartbeat { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (Registry::with_config(config), heartbeats)
}

#[tokio::test]
async fn the_suite_has_the_same_results_with_the_layer_and_the_gateway() {
    let plain = serve(router(config())).await;
    let expected = suite::run(&format!("http://{plain}/mcp"), suite::ALL).await;
    assert_eq!(suite::complaints(&expected), NOTHING);
    assert_eq!(expected.len(), 32, "{:?}", expected.keys());

    // With the defaults, and with as many heartbeats of both the layer and rmcp as possible.
    let defaults = SseLayer::new(&Registry::new());
    let behind_defaults = serve(router(config()).layer(defaults)).await;
    let (registry, heartbeats) = counting_heartbeats();
    let limit = Limit::streams(8);
    let often = SseLayer::new(&registry).heartbeat(Heartbeat::every(OFTEN)).limit(limit.clone());
    let both = serve(router(config().with_sse_keep_alive(Some(OFTEN * 3))).layer(often)).await;
    let gateway = gateway(plain).await;
    let layered = [format!("http://{behind_defaults}"), format!("http://{both}"), gateway.url.clone()];
    for url in layered {
        let found = suite::run(&format!("{url}/mcp"), suite::ALL).await;
        assert!(found.keys().eq(expected.keys()));
        for (scenario, checks) in &found {
            assert_eq!(checks, &expected[scenario], "{scenario} at {url}");
        }
    }

    // The suite ran behind the layer, which left nothing behind.
    let stats = registry.stats();
    let (closed, heartbeats) = (stats.closed_streams.values().sum::<u64>(), heartbeats.load(Ordering::Relaxed));
    eprintln!("{closed} streams, {heartbeats} heartbeats");
    assert!(closed > 50 && heartbeats > 100, "{closed} streams, {heartbeats} heartbeats");
    assert_eq!((stats.clients, stats.refused_streams, limit.open_streams()), (0, 0, 0));
}

const NOTHING: [[&str; 3]; 0] = [];

/// The scenarios in which a server asks its client are left out, as they need a session.
const WITHOUT_SESSIONS: &[&str] = &[
    "server-initialize",
    "ping",
    "completion-complete",
    "tools-list",
    "tools-call-mixed-content",
    "tools-call-with-logging",
    "tools-call-with-progress",
    "tools-call-error",
    "server-sse-polling",
    "server-sse-multiple-streams",
    "resources-read-binary",
    "prompts-get-with-image",
    "dns-rebinding-protection",
];

/// Both scenarios complain that there is no session.
const COMPLAINTS_WITHOUT_SESSIONS: [[&str; 3]; 2] = [
    ["sse-polling", "server-sse-polling-session", "WARNING"],
    ["sse-multiple-streams", "server-sse-multiple-streams-session", "WARNING"],
];

#[tokio::test]
async fn the_suite_has_the_same_results_without_sessions_and_in_json() {
    let limit = Limit::streams(8);
    let layer = SseLayer::new(&Registry::new()).heartbeat(Heartbeat::every(OFTEN)).limit(limit.clone());
    let plain = serve(router(config_of_json())).await;
    let layered = serve(router(config_of_json()).layer(layer)).await;
    let mut complaints = Vec::new();
    for scenario in WITHOUT_SESSIONS {
        let [expected, found] = [plain, layered].map(|address| async move {
            suite::run(&format!("http://{address}/mcp"), &["--scenario", scenario]).await
        });
        let (expected, found) = (expected.await, found.await);
        assert_eq!(found, expected, "{scenario}");
        complaints.extend(suite::complaints(&found).into_iter().map(|complaint| complaint.map(str::to_owned)));
    }
    assert_eq!(complaints, COMPLAINTS_WITHOUT_SESSIONS);
    assert_eq!(limit.open_streams(), 0);
}

#[tokio::test]
async fn rmcp_checks_the_host_behind_the_gateway_too() {
    let scenario = ["--scenario", "dns-rebinding-protection"];
    let by_host = serve(router(StreamableHttpServerConfig::default())).await;
    let gateway = gateway(by_host).await;
    for url in [format!("http://{by_host}"), gateway.url.clone()] {
        let found = suite::run(&format!("{url}/mcp"), &scenario).await;
        assert_eq!(suite::complaints(&found), NOTHING, "{url}");
    }
}

#[tokio::test]
async fn heartbeats_and_rmcps_keep_alive_do_not_disturb_each_other() {
    let mut expected = None;
    for (keep_alive, is_beating) in [(None, false), (Some(OFTEN), false), (None, true), (Some(OFTEN), true)] {
        let heartbeat = if is_beating { Heartbeat::every(OFTEN) } else { Heartbeat::off() };
        let layer = SseLayer::new(&Registry::new()).heartbeat(heartbeat);
        let mut session =
            Session::open(serve(router(config().with_sse_keep_alive(keep_alive)).layer(layer)).await).await;
        let answer = session.call("test_tool_with_progress").await;
        let text = text(answer).await;
        let heartbeats = text.matches(":\n\n").count();
        assert_eq!(heartbeats > 10, keep_alive.is_some() || is_beating, "{heartbeats}");
        let without_them = text.replace(":\n\n", "");
        let parsed = spec::parse(text.as_bytes());
        assert_eq!(parsed, spec::parse(without_them.as_bytes()));
        // The event that primes the client, three progress events, and the result.
        assert_eq!((parsed.messages.len(), &parsed.retries[..]), (5, &[3000][..]));
        assert_eq!(without_them, *expected.get_or_insert_with(|| without_them.clone()));
    }
}

#[tokio::test]
async fn a_call_that_is_answered_in_json_takes_a_slot_and_releases_it() {
    let (streams, rate) = (Limit::streams(1), Limit::rate(1, Duration::from_secs(3600), 1));
    let layer = SseLayer::new(&Registry::new()).limit(streams.clone()).limit(rate);
    let address = serve(router(config_of_json()).layer(layer)).await;
    let mut session = Session::without_id(address).await;
    // None of these calls is a stream, so none uses up the one start per hour.
    for _ in 0..20 {
        let answer = session.call("test_simple_text").await;
        assert_eq!((answer.status(), content_type(&answer)), (StatusCode::OK, "application/json"));
        assert!(text(answer).await.contains("This is a simple text response"));
        assert_eq!(streams.open_streams(), 0);
    }

    // The call holds its slot until its response, as the layer does not know before what the response is.
    let mut other = Session::without_id(address).await;
    let meanwhile = async {
        while streams.open_streams() == 0 {
            tokio::task::yield_now().await;
        }
        other.call("test_simple_text").await
    };
    let (slow, refused) = tokio::join!(session.call_silently("test_tool_with_progress"), within_20_s(meanwhile));
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((slow.status(), content_type(&slow)), (StatusCode::OK, "application/json"));
    assert_eq!(streams.open_streams(), 0);
}

#[tokio::test]
async fn the_stream_of_a_session_and_its_calls_share_a_limit() {
    let limit = Limit::streams(1);
    let layer = SseLayer::new(&Registry::new()).limit(limit.clone());
    let address = serve(router(config()).layer(layer)).await;
    let mut session = Session::open(address).await;
    let stream = session.stream().await;
    assert_eq!((stream.status(), limit.open_streams()), (StatusCode::OK, 1));

    let mut calls = session.other().await;
    let refused = calls.call("test_simple_text").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    drop(text(refused).await);

    limit.set_limit(2);
    let answer = calls.call("test_simple_text").await;
    assert_eq!((answer.status(), content_type(&answer)), (StatusCode::OK, "text/event-stream"));
    assert!(text(answer).await.contains("This is a simple text response"));
    assert_eq!(limit.open_streams(), 1);
}

#[tokio::test]
async fn a_server_that_stops_finishes_calls_that_may_finish_and_ends_the_rest() {
    for may_finish in [true, false] {
        let registry = Registry::new();
        let finish = map_request(move |request: Request| {
            if let Some(client) = request.extensions().get::<ClientHandle>() {
                client.finish_on_drain(may_finish && request.method() == Method::POST);
            }
            std::future::ready(request)
        });
        let address = serve(router(config()).layer(finish).layer(SseLayer::new(&registry))).await;
        let mut session = Session::open(address).await;
        let stream = session.stream().await;
        let mut calls = session.other().await;
        let mut answer = calls.call("test_tool_with_progress").await;
        let begun = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        let drain = Drain::within(Duration::from_millis(20)).finish_within(Duration::from_secs(10));
        let (drained, stream, rest) = tokio::join!(registry.drain(drain), text(stream), text(answer));
        assert_eq!((drained.ended, drained.still_open), (2, 0), "{drained:?}");
        assert!(!stream.contains("result"), "{stream}");
        let answer = String::from_utf8(begun.to_vec()).unwrap() + &rest;
        assert_eq!(answer.contains("It is done."), may_finish, "{answer}");
    }
}

#[tokio::test]
async fn a_call_whose_stream_aged_out_is_resumed() {
    let call = AgedOutCall::begin(SseLayer::new(&Registry::new())).await;
    let mut resumed = call.session.other().await.resume(&call.last_event_id).await;
    assert_eq!(resumed.status(), StatusCode::OK);
    call.may_end.notify_one();
    let mut rest = String::new();
    while !rest.contains("It is time.") {
        let frame = within_20_s(resumed.frame()).await.unwrap_or_else(|| panic!("the result is missing after {rest}"));
        rest += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
    }
}

/// rmcp's in-memory sessions forget a response once it has its result.
#[tokio::test]
async fn rmcp_does_not_keep_a_result_for_who_resumes_after_it() {
    let call = AgedOutCall::begin(SseLayer::new(&Registry::new()).max_age(Duration::from_millis(100))).await;
    call.may_end.notify_one();
    drop(text(call.session.other().await.call_silently("test_simple_text").await).await);
    let resumed = call.session.other().await.resume(&call.last_event_id).await;
    assert_eq!(resumed.status(), StatusCode::OK);
    assert_eq!(text(resumed).await, ":\n\n", "only the comment at the beginning of a stream");
}

/// A call that waits for the test, and whose first stream has reached its maximum age.
struct AgedOutCall {
    session: Session,
    may_end: Arc<Notify>,
    last_event_id: String,
}

impl AgedOutCall {
    /// Arguments: the layer around `GET` requests, which resume the call.
    async fn begin(around_get: SseLayer) -> Self {
        let may_end = Arc::new(Notify::new());
        let service = server::service(config());
        let around_post = SseLayer::new(&Registry::new()).max_age(Duration::from_millis(300));
        let router = Router::new()
            .route("/mcp", post_service(service.clone()).layer(around_post))
            .route("/mcp", get_service(service).layer(around_get))
            .layer(Extension(Arc::clone(&may_end)));
        let mut session = Session::open(serve(router).await).await;
        let begun = text(session.call_silently("wait").await).await;
        assert!(!begun.contains("result"), "{begun}");
        Self { session, may_end, last_event_id: spec::parse(begun.as_bytes()).last_event_id }
    }
}

#[tokio::test]
async fn the_server_in_the_guide_answers_and_stops() {
    assert!(
        include_str!("../../../src/guide/mcp.md").contains(include_str!("guide.rs")),
        "the guide contains this server, word for word"
    );
    let registry = Registry::new();
    let mut session = Session::open(serve(guide::router(&registry)).await).await;
    assert!(text(session.call("hello").await).await.contains("Hello!"));
    let mut of_a_page = http::Request::post("http://127.0.0.1/mcp").body(AnyBody::default()).unwrap();
    of_a_page.headers_mut().insert("origin", HeaderValue::from_static("https://page.test"));
    let refused = within_20_s(connect(session.address).await.send(of_a_page)).await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let stream = session.stream().await;
    let (drained, _) = tokio::join!(registry.drain(Drain::within(OFTEN)), text(stream));
    assert_eq!((drained.ended, drained.still_open), (1, 0));
}

/// A client of these tests, as the suite does not show the bytes.
struct Session {
    address: SocketAddr,
    client: Client,
    id: Option<HeaderValue>,
}

async fn connect(address: SocketAddr) -> Client {
    Client::connect(address, Version::HTTP_11).await
}

impl Session {
    async fn without_id(address: SocketAddr) -> Self {
        Self { address, client: connect(address).await, id: None }
    }

    async fn open(address: SocketAddr) -> Self {
        let mut session = Self::without_id(address).await;
        let client = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        let answer = session.post(json!({ "id": 0, "method": "initialize", "params": params })).await;
        session.id = Some(answer.headers()["mcp-session-id"].clone());
        drop(text(answer).await);
        let answer = session.post(json!({ "method": "notifications/initialized" })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        drop(text(answer).await);
        session
    }

    /// The same session on a connection of its own.
    async fn other(&self) -> Self {
        Self { id: self.id.clone(), ..Self::without_id(self.address).await }
    }

    /// Calls a tool and asks for progress notifications.
    async fn call(&mut self, tool: &str) -> Response<Incoming> {
        self.call_with(tool, json!({ "progressToken": "p" })).await
    }

    async fn call_silently(&mut self, tool: &str) -> Response<Incoming> {
        self.call_with(tool, json!({})).await
    }

    async fn call_with(&mut self, tool: &str, meta: Value) -> Response<Incoming> {
        let params = json!({ "name": tool, "arguments": {}, "_meta": meta });
        self.post(json!({ "id": 1, "method": "tools/call", "params": params })).await
    }

    async fn post(&mut self, mut message: Value) -> Response<Incoming> {
        message["jsonrpc"] = json!("2.0");
        self.send(Method::POST, "application/json, text/event-stream", any(Full::from(message.to_string()))).await
    }

    /// The stream of the server's own messages.
    async fn stream(&mut self) -> Response<Incoming> {
        self.send(Method::GET, "text/event-stream", AnyBody::default()).await
    }

    /// Resumes a response.
    async fn resume(&mut self, id: &str) -> Response<Incoming> {
        let mut request = self.request(Method::GET, "text/event-stream").body(AnyBody::default()).unwrap();
        request.headers_mut().insert("last-event-id", HeaderValue::from_str(id).unwrap());
        within_20_s(self.client.send(request)).await.unwrap()
    }

    async fn send(&mut self, method: Method, accept: &str, body: AnyBody) -> Response<Incoming> {
        let request = self.request(method, accept).body(body).unwrap();
        within_20_s(self.client.send(request)).await.unwrap()
    }

    fn request(&self, method: Method, accept: &str) -> http::request::Builder {
        let mut request = http::Request::builder()
            .method(method)
            .uri("http://127.0.0.1/mcp")
            .header("accept", accept)
            .header("content-type", "application/json");
        if let Some(id) = &self.id {
            request = request.header("mcp-session-id", id).header("mcp-protocol-version", "2025-11-25");
        }
        request
    }
}

fn content_type(response: &Response<Incoming>) -> &str {
    response.headers()["content-type"].to_str().unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = within_20_s(response.into_body().collect()).await.expect("a clean end").to_bytes();
    String::from_utf8(body.into()).unwrap()
}
