//! The guide's code for frameworks, with the released libraries in a real browser.

use std::{
    net::SocketAddr,
    path::Path as FilePath,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Path, RawQuery},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, task::AbortHandle};
use tower_sse::{
    ClientHandle, Event, EventStream, HelloEvent, Registry, SseLayer, SubscribeError, Subscription, TopicsService,
};

use super::{Page, within};

/// The folder with the bundles of all pages.
fn bundles() -> &'static FilePath {
    static BUNDLES: OnceLock<std::path::PathBuf> = OnceLock::new();
    BUNDLES.get_or_init(|| {
        let folder = interop::npm("frameworks");
        let built = Command::new(interop::node()).arg("build.mjs").current_dir(&folder).output().expect("Node runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder.join("bundles")
    })
}

/// A page with an element for a framework, and those that the plain code uses.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><p id="light"></p><ul id="list"></ul><div id="app"></div>
<script>row = ({ text }) => Object.assign(document.createElement("li"), { textContent: text });</script>
<script type="module" src="/bundles/NAME"></script>"#;

struct Server {
    url: String,
    registry: Registry,
    /// How many streams the page has opened so far.
    opens: Arc<AtomicUsize>,
    serves: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let registry = Registry::new();
        let opens = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opens);
        let events = async move |RawQuery(query): RawQuery, client: ClientHandle| {
            count.fetch_add(1, Ordering::Relaxed);
            stream(query.as_deref().unwrap_or_default(), &client)
        };
        let layer =
            SseLayer::new(&registry).topic_as_event_type(true).hello_event(HelloEvent::default().control("/topics"));
        let allow = |_: &ClientHandle, topic: &str| Ok::<_, String>(Subscription::to(topic));
        let router = Router::new()
            .route("/", get(|RawQuery(name): RawQuery| async { Html(PAGE.replace("NAME", &name.unwrap_or_default())) }))
            .route("/bundles/{name}", get(bundle))
            .route_service("/tower-sse.js", tower_sse::script())
            .route_service("/topics", TopicsService::new(&registry, allow))
            .route("/events", get(events).layer(layer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let serves = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url: format!("http://{address}"), registry, opens, serves }
    }

    fn publish(&self, topic: &str, text: &str) {
        self.registry.publish(topic, Event::data(json!({ "text": text }).to_string())).unwrap();
    }

    /// Waits until the only stream has these topics.
    async fn has(&self, topics: &[&str]) {
        within(async {
            loop {
                let clients = self.registry.clients();
                assert!(clients.len() < 2, "two streams");
                let mut names = clients.first().map(ClientHandle::subscriptions).unwrap_or_default();
                names.sort_unstable();
                if clients.len() == 1 && names == topics {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until no stream is open.
    async fn is_left(&self) {
        within(async {
            while !self.registry.clients().is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    fn opens(&self) -> usize {
        self.opens.load(Ordering::Relaxed)
    }
}

fn stream(query: &str, client: &ClientHandle) -> Result<EventStream, SubscribeError> {
    for (name, topic) in form_urlencoded::parse(query.as_bytes()) {
        if name == "topic" {
            client.subscribe(topic)?;
        }
    }
    Ok(client.clone().into_stream())
}

async fn bundle(Path(name): Path<String>) -> impl IntoResponse {
    match std::fs::read(bundles().join(name)) {
        Ok(text) => ([(CONTENT_TYPE, "text/javascript")], text).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Page {
    /// Waits until the component at this place has exactly these messages.
    async fn has(&mut self, at: usize, texts: &[&str]) {
        let found = format!("[...document.querySelectorAll('section')[{at}]?.querySelectorAll('li') ?? []]");
        let texts = json!(texts).to_string();
        let is_right = format!("JSON.stringify({found}.map((it) => it.textContent)) === {}", json!(texts));
        self.until(&is_right).await;
    }

    async fn mounts(&mut self, topics: &[&str]) {
        self.ask(&format!("show({})", json!(topics))).await;
    }

    async fn unmounts(&mut self) {
        self.ask("unmount()").await;
    }
}

#[tokio::test]
async fn components_share_one_stream_get_each_event_once_and_leave_no_stream_behind() {
    let frameworks = [
        ("react.page.js", true),
        ("vue.page.js", true),
        ("svelte.page.js", true),
        ("solid.page.js", false),
        ("rxjs.page.js", false),
    ];
    for (name, can_change_topics) in frameworks {
        println!("{name}");
        let server = Server::start().await;
        let mut page = Page::open(&format!("{}/?{name}", server.url)).await;
        assert_eq!(server.opens(), 0, "nobody listens yet");
        page.mounts(&["a", "b"]).await;
        page.shows("section:nth-of-type(2) p", "open").await;
        server.has(&["a", "b"]).await;
        for (topic, text) in [("a", "a 1"), ("b", "b 1"), ("a", "a 2"), ("a", "a 3")] {
            server.publish(topic, text);
        }
        page.has(0, &["a 1", "a 2", "a 3"]).await;
        page.has(1, &["b 1"]).await;

        if can_change_topics {
            // Another topic of the same component, on the same stream.
            page.mounts(&["c"]).await;
            server.has(&["c"]).await;
            server.publish("a", "for nobody");
            server.publish("c", "c 1");
            page.has(0, &["a 1", "a 2", "a 3", "c 1"]).await;
        }
        assert_eq!(server.opens(), 1);
        page.unmounts().await;
        server.is_left().await;

        page.mounts(&["a"]).await;
        page.shows("section p", "open").await;
        server.has(&["a"]).await;
        server.publish("a", "a 4");
        server.publish("a", "a 5");
        page.has(0, &["a 4", "a 5"]).await;
        assert_eq!(server.opens(), 2);
        page.close().await;
        server.is_left().await;
    }
}

#[tokio::test]
async fn a_query_has_a_stream_of_its_own_while_somebody_looks() {
    let server = Server::start().await;
    let mut page = Page::open(&format!("{}/?tanstack.page.js", server.url)).await;
    page.mounts(&["a"]).await;
    server.has(&["a"]).await;
    server.publish("a", "a 1");
    server.publish("a", "a 2");
    page.has(0, &["a 1", "a 2"]).await;
    assert_eq!(server.opens(), 1);
    page.unmounts().await;
    server.is_left().await;
    page.close().await;
}

#[tokio::test]
async fn a_page_without_a_framework_needs_five_lines() {
    let server = Server::start().await;
    let mut page = Page::open(&format!("{}/?plain.js", server.url)).await;
    page.until("document.querySelector('#light').className === 'live'").await;
    server.has(&["news"]).await;
    server.publish("news", "Tea is ready");
    server.publish("news", "Come in");
    page.until("document.querySelectorAll('#list li').length === 2").await;
    assert_eq!(page.texts("#list li").await, ["Tea is ready", "Come in"]);
    assert_eq!(server.opens(), 1);
    page.close().await;
    server.is_left().await;
}

#[test]
fn the_guide_has_the_code_that_ran() {
    let guide = include_str!("../../../src/guide/browser_client.md");
    let files = std::fs::read_dir(interop::drivers("frameworks")).unwrap();
    let files: Vec<_> = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok()).collect();
    let snippets: Vec<_> = guide.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect();
    let scripts = snippets.iter().filter(|(language, _)| matches!(*language, "js" | "svelte"));
    let mut count = 0;
    for (_, code) in scripts {
        count += 1;
        assert!(files.iter().any(|file| file.contains(code)), "no page runs these lines:\n{code}");
    }
    assert_eq!(count, 8);
    // The versions, too.
    let packages: serde_json::Value = serde_json::from_str(include_str!("../../frameworks/package.json")).unwrap();
    for (name, version) in packages["dependencies"].as_object().unwrap() {
        if !matches!(name.as_str(), "esbuild" | "react-dom") {
            assert!(guide.contains(version.as_str().unwrap()), "{name} {version}");
        }
    }
}
