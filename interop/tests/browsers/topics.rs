//! What a page gets of its topics from a server as in the guide: topics that are refused, and that are added late.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::RawQuery, response::Html, routing::get};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};
use tower_sse::{
    ClientHandle, Event, EventStream, HelloEvent, Registry, SseLayer, Start, SubscribeError, Subscription,
    TopicsService,
};

use crate::browser::{Browser, Kind, Tab};

/// A page that keeps what its stream gives.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">
import { open, share } from "/tower-sse.js";
const { user, ...options } = JSON.parse(new URLSearchParams(location.search).get("options"));
const page = (globalThis.page = { seen: [], gaps: 0, refused: [], states: [] });
const stream = (page.stream = open("/events", {
  ...options,
  ...(user && { share: share(user) }),
  onGap: () => void page.gaps++,
  onTopicRefused: (topic) => void page.refused.push(topic),
}));
stream.on("*", ({ topic, data }) => page.seen.push(`${topic} ${data}`));
stream.subscribe((state) => page.states.push(state));
Object.defineProperty(page, "report", { get: () => ({ ...stream.state, seen: page.seen.slice(-30), gaps: page.gaps, id: stream.lastEventId }) });
</script>"#;

/// A server as in the guide. The beginning of a topic's name says where the topic starts.
struct Server {
    registry: Registry,
    address: SocketAddr,
    serves: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

fn allow(_: &ClientHandle, topic: &str) -> Result<Subscription, &'static str> {
    match topic.split('/').next() {
        Some("secret") => Err("it is secret"),
        Some("last") => Ok(Subscription::to(topic).from(Start::Last(1))),
        Some("made") => Ok(Subscription::to(topic).existing()),
        _ => Ok(Subscription::to(topic)),
    }
}

async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, SubscribeError> {
    for (name, topic) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if let (true, Ok(subscription)) = (name == "topic", allow(&client, &topic)) {
            client.subscribe(subscription)?;
        }
    }
    Ok(client.into_stream())
}

impl Server {
    async fn start() -> Self {
        let registry = Registry::new();
        let layer =
            SseLayer::new(&registry).topic_as_event_type(true).hello_event(HelloEvent::default().control("/topics"));
        let router = Router::new()
            .route("/", get(|| async { Html(PAGE) }))
            .route("/events", get(events).layer(layer))
            .route_service("/topics", TopicsService::new(&registry, allow))
            .route_service("/tower-sse.js", tower_sse::script());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serves = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { registry, address, serves }
    }

    fn publish(&self, topic: &str, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            self.registry.publish(topic, Event::data(number.to_string())).unwrap();
        }
    }

    async fn open(&self, browser: &Arc<Browser>, options: Value) -> Tab {
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("options", &options.to_string()).finish();
        let tab = browser.open(&format!("http://{}/?{query}", self.address)).await;
        tab.until("page.stream.state.caughtUp").await;
        tab
    }
}

/// With a server of its own and one browser: none of this depends on the browser.
async fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Arc<Server>, Arc<Browser>) -> F) {
    let (server, browser) = tokio::join!(Server::start(), Browser::start(Kind::Chromium));
    test(Arc::new(server), Arc::clone(&browser)).await;
    browser.stop().await;
}

/// The events of a topic that the page has had.
async fn had(tab: &Tab, topic: &str) -> Value {
    tab.ask(&format!("page.seen.filter((it) => it.startsWith('{topic} ')).map((it) => Number(it.split(' ')[1]))")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_told_of_a_topic_of_its_options_that_it_may_not_have() {
    with_server(|server, browser| async move {
        let tab = server.open(&browser, json!({ "topics": ["news", "secret/1"] })).await;
        // A topic that is added later is told.
        tab.ask("void page.stream.topic('secret/2')").await;
        tab.until("page.refused.includes('secret/2')").await;
        tab.close().await;
        let tab = server.open(&browser, json!({ "topics": ["news", "secret/1"] })).await;
        server.publish("news", 1..=1);
        tab.until("page.seen.length === 1").await;
        assert_eq!(tab.ask("page.refused").await, json!(["secret/1"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_right_after_a_topic_was_added_gives_no_event_again() {
    with_server(|server, browser| async move {
        server.publish("last/order", 1..=1);
        let tab = server.open(&browser, json!({ "topics": ["news"], "resume": "news" })).await;
        server.publish("news", 1..=5);
        tab.until("page.seen.at(-1) === 'news 5'").await;
        tab.ask("void page.stream.topic('last/order')").await;
        tab.until("page.seen.at(-1) === 'last/order 1'").await;
        tab.does("reload", json!({})).await;
        tab.until("page.stream.state.caughtUp").await;
        server.publish("news", 6..=6);
        tab.until("page.seen.includes('news 6')").await;
        assert_eq!(had(&tab, "news").await, json!([6]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_refused_until_it_was_made_loses_nothing_while_the_page_is_away() {
    with_server(|server, browser| async move {
        let tab = server.open(&browser, json!({ "topics": ["news"] })).await;
        tab.ask("void page.stream.topic('made/order')").await;
        tab.until("page.refused.includes('made/order')").await;
        server.publish("made/order", 1..=1);
        tab.ask("void page.stream.topic('other')").await;
        let stream = server.registry.clients().remove(0);
        crate::within(async {
            while stream.subscriptions().len() != 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        server.publish("made/order", 2..=3);
        tab.until("page.seen.at(-1) === 'made/order 3'").await;
        // As if the person went back and forward.
        tab.ask("dispatchEvent(new Event('pagehide')), 0").await;
        crate::within(async {
            while !server.registry.clients().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        server.publish("made/order", 4..=6);
        tab.ask("dispatchEvent(new Event('pageshow')), 0").await;
        crate::within(async {
            while server.registry.clients().first().map_or(0, |stream| stream.subscriptions().len()) != 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        server.publish("made/order", 7..=7);
        tab.until("page.seen.at(-1) === 'made/order 7' && page.stream.state.caughtUp").await;
        assert_eq!(had(&tab, "made/order").await, json!([2, 3, 4, 5, 6, 7]));
    })
    .await;
}
