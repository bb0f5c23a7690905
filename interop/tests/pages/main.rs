//! The examples' pages in a real browser. Whatever is published, the pages continue, and report what they cannot show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, process::Stdio, time::Duration};

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    response::Html,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    task::AbortHandle,
    time::timeout,
};
use tower_sse::{ClientHandle, Event, EventStream, Registry, SseLayer, Start, SubscribeError};

#[allow(dead_code, reason = "the dashboard is killed, not stopped")]
#[path = "../../../tests/support/example.rs"]
mod example;
use example::{Example, Server};

mod board;
mod cluster;
mod examples;
mod frameworks;
mod restart;

static DASHBOARD: Example = Example::named("dashboard");

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(120), future).await.expect("the step takes too long")
}

#[derive(Debug, Clone, Copy)]
enum Browser {
    Chromium,
    Firefox,
}

/// A page in a headless browser. The driver ends when its standard input ends, so no browser outlives the test.
struct Page {
    driver: Child,
    stdin: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Page {
    async fn open(url: &str) -> Self {
        Self::open_in(Browser::Chromium, url).await
    }

    async fn open_in(browser: Browser, url: &str) -> Self {
        let mut command = Command::new(interop::node());
        command.arg(interop::npm("node").join("examples-pages.mjs")).arg(url);
        let (variable, program) = match browser {
            Browser::Chromium => ("CHROMIUM", "chromium"),
            Browser::Firefox => ("FIREFOX", "firefox-esr"),
        };
        // The browser's profile is in this folder, and is removed with it.
        command.env(variable, interop::program(program)).env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut driver = command.spawn().expect("the process starts");
        let (stdin, stdout) = (driver.stdin.take().expect("a pipe"), driver.stdout.take().expect("a pipe"));
        let mut page = Self { driver, stdin, says: BufReader::new(stdout).lines() };
        assert_eq!(page.hears().await["open"], true);
        page
    }

    async fn hears(&mut self) -> Value {
        let line = within(self.says.next_line()).await.unwrap().expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap();
        assert!(said["uncaught"].is_null(), "the page throws: {said}");
        said
    }

    async fn does(&mut self, what: Value) -> Value {
        self.stdin.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.hears().await
    }

    /// The texts of all elements that a selector finds.
    async fn texts(&mut self, selector: &str) -> Vec<String> {
        serde_json::from_value(self.does(json!({ "read": selector })).await["texts"].take()).unwrap()
    }

    /// Waits until the page shows this text.
    async fn shows(&mut self, selector: &str, text: &str) {
        self.does(json!({ "see": [selector, text] })).await;
    }

    async fn clicks(&mut self, selector: &str) {
        self.does(json!({ "click": selector })).await;
    }

    async fn fills(&mut self, selector: &str, text: &str) {
        self.does(json!({ "fill": [selector, text] })).await;
    }

    /// The value of an expression in the page.
    async fn ask(&mut self, expression: &str) -> Value {
        self.does(json!({ "ask": expression })).await["value"].take()
    }

    /// Waits until an expression is true in the page.
    async fn until(&mut self, expression: &str) {
        self.does(json!({ "until": expression })).await;
    }

    async fn close(mut self) {
        drop(self.stdin);
        assert!(within(self.driver.wait()).await.unwrap().success());
    }
}

/// Data that no page expects.
fn hostile() -> Vec<String> {
    let mut all = [
        // Objects in place of texts. Some cannot be converted to a text.
        r#"{"level":"info","target":"x","message":{"toString":1}}"#,
        r#"{"level":{"toString":null},"target":{"toString":"x","valueOf":0},"message":[[]]}"#,
        r#"{"done":1,"total":2,"job":{"toString":1},"step":{"valueOf":2}}"#,
        r#"{"tick":1,"symbol":{"toString":0},"price":1}"#,
        r#"{"here":[{"toString":1}],"joined":{}}"#,
        r#"{"from":{"toString":1},"text":{"toString":1}}"#,
        r#"{"from":["ada"],"text":{}}"#,
        r#"{"answer":{"toString":1},"text":{"toString":1}}"#,
        r#"{"answer":1,"text":[]}"#,
        r#"{"answer":"1/../2","text":"x"}"#,
        // Wrong types, and missing fields.
        r#"{"done":{},"total":[]}"#,
        r#"{"done":1e999,"total":-1e999,"job":1,"step":null}"#,
        r#"{"done":1,"total":0}"#,
        r#"{"tick":{"a":1},"symbol":"AAPL","price":"1"}"#,
        r#"{"tick":9007199254740993,"symbol":"__proto__","price":1e308,"change":"x"}"#,
        r#"{"tick":-1,"symbol":"AAPL","price":-1e308,"change":{}}"#,
        r#"{"here":{"length":1e9}}"#,
        r#"{"here":"nobody"}"#,
        r#"{"topics":{},"after":{"toString":1},"__proto__":null,"constructor":1}"#,
        "{}",
        "[]",
        "[null,{}]",
        "null",
        "true",
        "5",
        r#""text""#,
        // Invalid JSON.
        "",
        "{",
        "plain text",
        "two\nlines\n\nevent: welcome\ndata: {}",
        "<script>throw 1</script>",
    ]
    .map(str::to_owned)
    .to_vec();
    // Huge and deep values.
    let large = 900_000;
    all.push("x".repeat(large));
    all.push(format!(r#"{{"message":"{}"}}"#, "x".repeat(large)));
    all.push(format!("[{}0]", "0,".repeat(large / 2)));
    all.push("[".repeat(large / 2) + &"]".repeat(large / 2));
    all
}

#[tokio::test]
async fn the_dashboard_reports_events_that_it_cannot_show_and_goes_on() {
    let server = Server::start(DASHBOARD.command().env("PORT", "0")).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let publish = async |path: &str, data: String| {
        let answer = within(http.post(format!("{}/publish/{path}", server.url)).body(data).send()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    };
    let topics = ["demo/log", "demo/job", "demo/prices", "state/viewers", "news/__proto__", "__proto__"];
    let query = topics.map(|topic| format!("topic={topic}")).join("&");
    let mut page = Page::open(&format!("{}/?{query}", server.url)).await;
    page.shows("#notice", "Connected to").await;

    let types = ["message", "batch", "welcome", "gap", "heartbeat", "error", "open", "__proto__", "constructor"];
    for (number, data) in hostile().into_iter().enumerate() {
        for topic in topics {
            publish(&format!("{topic}?event={}", types[number % types.len()]), data.clone()).await;
        }
        let good = json!({ "level": "info", "target": "test", "message": format!("good line {number}.") });
        publish("demo/log?event=log", good.to_string()).await;
        page.shows("#logList", &format!("good line {number}.")).await;
    }
    page.shows("#complaint", "Not shown: ").await;
    // Each panel of the page reports errors, too.
    publish("demo/log?event=shout", r#"{"level":"info","target":"test","message":{"toString":1}}"#.to_owned()).await;
    page.shows("#complaint", r#"the last of type shout: TypeError: "message" is of type object, and no text"#).await;
    let good = json!({ "tick": 1, "symbol": "GOOD", "price": 1.5, "change": 0 });
    publish("demo/prices?event=price", good.to_string()).await;
    page.shows("#priceRows", "GOOD").await;
    let good = json!({ "job": "a good job", "step": "its step", "done": 1, "total": 2 });
    // The demo's own job may replace it before it is shown.
    tokio::select! {
        () = page.shows("#jobName", "a good job") => {}
        () = async { loop { publish("demo/job?event=progress", good.to_string()).await } } => {}
    }
    publish("state/viewers?event=viewers", json!({ "here": ["somebody good"] }).to_string()).await;
    page.shows("#viewers", "somebody good").await;
    publish("news/__proto__", "good news".to_owned()).await;
    page.shows("#streamList", "good news").await;
    page.close().await;
}

/// A server that sends the examples' pages what the examples never send.
struct Hostile {
    url: String,
    registry: Registry,
    serves: AbortHandle,
}

impl Hostile {
    async fn start(page: &'static str) -> Self {
        let registry = Registry::new();
        let user = || async { Json(json!({ "user": "ada" })) };
        let router = Router::new()
            .route("/", get(move || async move { Html(page) }))
            .route_service("/tower-sse.js", tower_sse::script())
            .route("/api/me", get(|| async { StatusCode::UNAUTHORIZED }))
            .route("/login", post(user))
            .route("/api/notifications", get(|client: ClientHandle| stream("all".to_owned(), client)))
            .route("/chats/{chat}/events", get(|client: ClientHandle| stream("all".to_owned(), client)))
            .route("/chats/{chat}/answers/{n}/events", get(answer))
            .layer(SseLayer::new(&registry))
            .with_state(());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let serves = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url: format!("http://{address}"), registry, serves }
    }

    fn publish(&self, event_type: &'static str, data: &str) {
        self.registry.publish("all", event(event_type, data)).unwrap();
    }
}

fn event(event_type: &'static str, data: &str) -> Event {
    Event::data(data).event(event_type)
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

async fn stream(topic: String, client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe_from(topic, Start::Oldest)?;
    Ok(client.into_stream())
}

async fn answer(Path((_, n)): Path<(String, u64)>, client: ClientHandle) -> Result<EventStream, SubscribeError> {
    stream(format!("answers/{n}"), client).await
}

#[tokio::test]
async fn the_notifications_report_events_that_they_cannot_show_and_go_on() {
    let server = Hostile::start(include_str!("../../../examples/notifications/src/index.html")).await;
    let mut page = Page::open(&server.url).await;
    page.does(json!({ "fill": ["[name=name]", "ada"] })).await;
    page.does(json!({ "click": "#login button" })).await;
    page.shows("#state", "Logged in as ada.").await;
    for (number, data) in hostile().into_iter().enumerate() {
        for event_type in ["notification", "announcement", "ping", "error", "open", "message"] {
            server.publish(event_type, &data);
        }
        let good = json!({ "from": "bob", "text": format!("good news {number}.") });
        server.publish("notification", &good.to_string());
        page.shows("#list", &format!("bob: good news {number}.")).await;
    }
    server.publish("announcement", r#"{"from":{"toString":1},"text":"x"}"#);
    page.shows(
        "#complaint",
        "An event of type announcement could not be shown: TypeError: it has no sender or no text",
    )
    .await;
    page.close().await;
}

#[tokio::test]
async fn the_llm_chat_reports_events_that_it_cannot_show_and_goes_on() {
    let server = Hostile::start(include_str!("../../../examples/llm/index.html")).await;
    let mut page = Page::open(&format!("{}/#chat", server.url)).await;
    for (number, data) in hostile().into_iter().enumerate() {
        let answer = 1000 + number;
        for event_type in ["question", "message", "error", "open", "end"] {
            server.publish(event_type, &data);
        }
        let good = json!({ "answer": answer, "text": format!("good question {number}.") });
        server.publish("question", &good.to_string());
        // The answer ends, and a page that reloads is told so.
        let producer = server.registry.start_producer(format!("answers/{answer}")).unwrap();
        for (event_type, data) in [("end", &data), ("error", &data), ("message", &format!("good token {number}."))] {
            producer.publish(event(event_type, data)).unwrap();
        }
        producer.finish(event("end", "done")).unwrap();
        page.shows("#talk", &format!("good question {number}.")).await;
        page.shows("#talk", &format!("good token {number}.")).await;
        page.shows("#answer", &answer.to_string()).await;
        page.shows(".answer[data-state=done]", &format!("good token {number}.")).await;
    }
    server.publish("question", r#"{"answer":1,"text":{"toString":1}}"#);
    page.shows("#complaint", "An event of type question could not be shown: TypeError: a question has").await;
    page.close().await;
}
