//! What one node publishes, the clients of all nodes get, and any node resumes any client.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tower::ServiceExt;
use tower_sse::{
    ClientHandle, Delivery, Drain, Event, Events, Gap, Health, PublishError, Registry, RegistryConfig, Resume,
    Retention, SseLayer, Start, Subscription,
    backplane::{
        AppendError, Backplane, Block, BlockKey, BoxFuture, FollowError, Following, Mark, Memory, Place, Stored,
    },
};

pub(crate) fn config(engine: &Memory) -> RegistryConfig {
    RegistryConfig::default().backplane(engine.clone())
}

pub(crate) async fn node(engine: &Memory) -> Registry {
    let registry = Registry::with_config(config(engine));
    registry.ready().await.unwrap();
    registry
}

/// The next event or gap, which is here soon.
pub(crate) async fn next(events: &mut Events) -> Result<Delivery, Gap> {
    let next = timeout(Duration::from_secs(10), events.next()).await;
    next.expect("an event comes soon").expect("the stream goes on")
}

pub(crate) async fn data_of(events: &mut Events) -> String {
    next(events).await.expect("an event").data().expect("data").into_owned()
}

pub(crate) fn reader(registry: &Registry, subscription: impl Into<Subscription>) -> Events {
    let client = registry.connect();
    client.subscribe(subscription).unwrap();
    client.into_events()
}

/// All that a reader gets, until nothing comes for a while, or the stream ends.
pub(crate) async fn all_of(events: &mut Events) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        match timeout(Duration::from_millis(500), events.next()).await {
            Ok(Some(Ok(event))) => {
                all.push(event.data().map_or_else(|| "NO DATA".to_owned(), |data| data.into_owned()));
            }
            Ok(Some(Err(_))) => all.push("GAP".to_owned()),
            Ok(None) => {
                all.push("END".to_owned());
                return all;
            }
            Err(_) => return all,
        }
    }
}

fn resumed(registry: &Registry, topic: &str, id: &str) -> (Resume, Events) {
    let client = registry.connect();
    client.resume_from(id).unwrap();
    client.subscribe(Subscription::to(topic)).unwrap();
    (client.resume(), client.into_events())
}

#[tokio::test]
async fn all_nodes_get_an_event_with_the_same_position_and_bytes() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let mut readers = [&a, &b].map(|node| reader(node, Subscription::matching("news/*")));
    let position = b.publish("news/1", Event::data("x").event("y")).unwrap().await.unwrap();
    assert!(b.position() >= position);
    for reader in &mut readers {
        let delivery = next(reader).await.unwrap();
        assert_eq!((delivery.position(), delivery.topic()), (position, "news/1"));
        assert_eq!(delivery.encoded(), &format!("event: y\ndata: x\nid: {position}\n\n"));
    }
}

#[tokio::test]
async fn events_of_two_nodes_come_in_the_same_order_everywhere() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let mut readers = [reader(&a, "t"), reader(&b, "t")];
    let mut receipts = Vec::new();
    for number in 0..500 {
        for node in [&a, &b] {
            receipts.push(node.publish("t", Event::data(format!("{number}"))).unwrap());
        }
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let mut orders = Vec::new();
    for reader in &mut readers {
        let mut order = Vec::new();
        for _ in 0..1000 {
            let delivery = next(reader).await.unwrap();
            order.push((delivery.position(), delivery.data().unwrap().into_owned()));
        }
        assert!(order.is_sorted_by(|one, other| one.0 < other.0));
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
}

#[tokio::test]
async fn a_client_resumes_at_any_node_and_at_one_that_starts_later() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let mut ids = Vec::new();
    for number in 0..10 {
        let node = if number % 2 == 0 { &a } else { &b };
        ids.push(node.publish("t", Event::data(number.to_string())).unwrap().await.unwrap().to_string());
    }
    drop(a);
    let late = node(&engine).await;
    for registry in [&b, &late] {
        let (resume, mut events) = resumed(registry, "t", &ids[4]);
        assert_eq!(resume, Resume::Continued);
        for number in 5..10 {
            assert_eq!(data_of(&mut events).await, number.to_string());
        }
    }
}

#[tokio::test]
async fn a_client_that_starts_at_now_gets_nothing_of_what_is_loaded() {
    let engine = Memory::new();
    let first = node(&engine).await;
    first.publish("t", Event::data("old")).unwrap().await.unwrap();
    let late = Registry::with_config(config(&engine));
    let mut now = reader(&late, "t");
    let mut matching = reader(&late, Subscription::matching("*"));
    let mut all = reader(&late, Subscription::to("t").from(Start::Oldest));
    late.ready().await.unwrap();
    late.publish("t", Event::data("new")).unwrap().await.unwrap();
    assert_eq!(data_of(&mut now).await, "new");
    assert_eq!(data_of(&mut matching).await, "new");
    assert_eq!([data_of(&mut all).await, data_of(&mut all).await], ["old", "new"]);
}

#[tokio::test]
async fn an_id_of_another_log_is_a_gap() {
    let [one, other] = [Memory::new(), Memory::new()];
    let id = node(&one).await.publish("t", Event::data("x")).unwrap().await.unwrap().to_string();
    let registry = node(&other).await;
    registry.publish("t", Event::data("y")).unwrap().await.unwrap();
    let (resume, _) = resumed(&registry, "t", &id);
    assert!(matches!(resume, Resume::Gap(_)), "{resume:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Level(u8);

#[tokio::test]
async fn an_attribute_crosses_if_it_is_registered_and_is_an_error_if_not() {
    let engine = Memory::new();
    let with_level = || Registry::with_config(config(&engine).attribute::<Level>("level"));
    let [a, b] = [with_level(), with_level()];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let mut severe = reader(&b, Subscription::to("t").filter(|event, _| event.attribute() == Some(&Level(9))));
    a.publish("t", Event::data("harmless").attribute(Level(1))).unwrap();
    a.publish("t", Event::data("severe").attribute(Level(9))).unwrap();
    assert_eq!(data_of(&mut severe).await, "severe");
    let unknown = a.publish("t", Event::data("x").attribute("a type that is not registered"));
    assert!(matches!(unknown, Err(PublishError::Attribute { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_node_that_does_not_know_an_attribute_gives_the_event_to_nobody_and_tells_of_a_gap() {
    let engine = Memory::new();
    let knows = Registry::with_config(config(&engine).attribute::<Level>("level"));
    knows.ready().await.unwrap();
    let ignorant = node(&engine).await;
    let mut events = reader(&ignorant, "t");
    knows.publish("t", Event::data("secret").attribute(Level(1))).unwrap();
    knows.publish("t", Event::data("plain")).unwrap();
    assert!(next(&mut events).await.is_err());
    assert_eq!(data_of(&mut events).await, "plain");
}

#[tokio::test]
async fn an_own_id_and_an_excluded_client_cross() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let sender = b.connect();
    sender.subscribe("t").unwrap();
    let id = sender.id();
    let mut sender = sender.into_events();
    a.publish("t", Event::data("1").id("own-1").unwrap().exclude_client(id)).unwrap().await.unwrap();
    a.publish("t", Event::data("2")).unwrap().await.unwrap();
    assert_eq!(data_of(&mut sender).await, "2");
    let (resume, mut events) = resumed(&b, "t", "own-1");
    assert_eq!((resume, &*data_of(&mut events).await), (Resume::Continued, "2"));
}

#[tokio::test]
async fn an_event_is_sent_to_a_client_of_another_node() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let client = b.connect();
    let id = client.id();
    let mut events = client.into_events();
    a.send_to(&id, Event::data("for you")).unwrap().await.unwrap();
    assert_eq!(data_of(&mut events).await, "for you");
    // Nobody has this client any more, and that is no error.
    drop(events);
    a.send_to(&id, Event::data("too late")).unwrap().await.unwrap();
    assert_eq!(a.stats().topics, 0);
}

#[tokio::test]
async fn without_a_backplane_all_of_it_is_there_at_once() {
    let registry = Registry::new();
    registry.ready().await.unwrap();
    assert_eq!(registry.health(), Health::Following);
    let receipt = registry.publish("t", Event::data("x")).unwrap();
    assert_eq!(receipt.position(), Some(receipt.clone().await.unwrap()));
    registry.flushed().await;
}

#[test]
fn the_log_is_followed_again_in_the_next_runtime() {
    let engine = Memory::new();
    let registry = Registry::with_config(config(&engine));
    for number in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            registry.ready().await.unwrap();
            let mut events = reader(&registry, "t");
            registry.publish("t", Event::data(number.to_string())).unwrap().await.unwrap();
            assert_eq!(data_of(&mut events).await, number.to_string());
        });
    }
}

#[tokio::test]
async fn what_is_published_without_a_runtime_waits_for_one() {
    let engine = Memory::new();
    let config = config(&engine);
    let (registry, receipt) = std::thread::spawn(|| {
        let registry = Registry::with_config(config);
        let receipt = registry.publish("t", Event::data("x")).unwrap();
        (registry, receipt)
    })
    .join()
    .unwrap();
    assert_eq!(receipt.position(), None);
    registry.ready().await.unwrap();
    receipt.await.unwrap();
}

#[tokio::test]
async fn a_registry_that_ends_says_of_what_is_on_its_way_that_nobody_knows() {
    let engine = Memory::new();
    let registry = Registry::with_config(config(&engine));
    let receipt = registry.publish("t", Event::data("x")).unwrap();
    drop(registry);
    assert_eq!(receipt.await, Err(PublishError::Unknown));
}

#[tokio::test]
async fn what_no_node_retains_is_trimmed() {
    let engine = Memory::new();
    let small = || {
        let retention = Retention::default().events(10);
        Registry::with_config(config(&engine).total_retention(retention))
    };
    let registry = small();
    registry.ready().await.unwrap();
    for number in 0..200 {
        registry.publish("t", Event::data(number.to_string())).unwrap().await.unwrap();
    }
    tokio::time::pause();
    let blocks = async || engine.follow(None).await.unwrap().tail.next().await.unwrap().blocks.len();
    assert!(blocks().await >= 200);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(blocks().await < 20, "{}", blocks().await);
    let late = small();
    late.ready().await.unwrap();
    let mut events = reader(&late, Subscription::to("t").from(Start::Oldest));
    assert_eq!(data_of(&mut events).await, "190");
}

#[test]
fn a_runtime_that_ends_before_the_log_was_read_leaves_it_to_the_next_one() {
    let engine = Memory::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime().block_on(async { Registry::with_config(config(&engine)) });
    runtime().block_on(async {
        timeout(Duration::from_secs(10), registry.ready()).await.unwrap().unwrap();
        registry.publish("t", Event::data("x")).unwrap().await.unwrap();
    });
}

#[tokio::test]
async fn a_node_that_retains_less_tells_the_readers_of_the_topic_and_its_patterns_and_no_other() {
    let engine = Memory::new();
    let large = node(&engine).await;
    let small = config(&engine).topic_retention(Retention::default().bytes(2000));
    let small = Registry::with_config(small);
    small.ready().await.unwrap();
    let mut of_topic = reader(&small, "a/1");
    let mut of_pattern = reader(&small, Subscription::matching("a/*"));
    let mut of_another = reader(&small, "b");
    large.publish("a/1", Event::data("x".repeat(10_000))).unwrap();
    large.publish("a/1", Event::data("small")).unwrap();
    large.publish("b", Event::data("other")).unwrap().await.unwrap();
    for told in [&mut of_topic, &mut of_pattern] {
        assert!(next(told).await.is_err());
        assert_eq!(data_of(told).await, "small");
    }
    assert_eq!(data_of(&mut of_another).await, "other");
}

#[tokio::test]
async fn an_engine_is_trimmed_while_its_nodes_are_busy() {
    let engine = Memory::new();
    let config = config(&engine).total_retention(Retention::default().events(100));
    let registry = Registry::with_config(config);
    registry.ready().await.unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        registry.publish("t", Event::data("x")).unwrap().await.unwrap();
    }
    let published = registry.stats().published;
    let blocks = engine.follow(None).await.unwrap().tail.next().await.unwrap().blocks;
    let oldest = blocks.first().unwrap().place;
    let newest = registry.position();
    assert!(
        newest.ms() - oldest.ms < 5000,
        "{published} were published, and the log goes back {} ms",
        newest.ms() - oldest.ms
    );
}

pub(crate) async fn log_of(engine: &Memory) -> Vec<Stored> {
    let mut tail = engine.follow(None).await.unwrap().tail;
    let mut blocks = Vec::new();
    loop {
        let read = tail.next().await.unwrap();
        blocks.extend(read.blocks);
        if read.is_newest {
            return blocks;
        }
    }
}

async fn size_of(engine: &Memory) -> usize {
    log_of(engine).await.iter().map(|stored| stored.block.encoded_len()).sum()
}

#[tokio::test]
async fn an_old_last_value_does_not_hold_the_log_and_every_later_node_has_it() {
    let engine = Memory::new();
    let start = async || {
        let config = config(&engine).attribute::<Level>("level").topic_retention(Retention::default().events(1));
        let registry = Registry::with_config(config);
        registry.ready().await.unwrap();
        registry
    };
    let [a, b] = [start().await, start().await];
    let old = Event::data("old").event("price").id("mine").unwrap().comment("c").retry(Duration::from_secs(7));
    let position = a.publish("last/1", old.attribute(Level(3))).unwrap().await.unwrap();
    let mut events = reader(&a, Subscription::to("last/1").from(Start::Oldest));
    let encoded = next(&mut events).await.unwrap().encoded().clone();
    tokio::time::pause();
    // What was said again has to be said again later.
    for _ in 0..3 {
        for number in 0..3000 {
            let registry = if number % 2 == 0 { &a } else { &b };
            registry.publish("busy", Event::data("x".repeat(10_000))).unwrap().await.unwrap();
        }
        let before = log_of(&engine).await[0].place;
        for _ in 0..100 {
            if size_of(&engine).await < 10 << 20 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let (bytes, first) = (size_of(&engine).await, log_of(&engine).await[0].place);
        assert!(bytes < 10 << 20 && first > before, "{bytes} bytes from {first:?} on");
        let late = start().await;
        let all = Subscription::matching("last/*").filter(|event, _| event.attribute() == Some(&Level(3)));
        for subscription in [Subscription::to("last/1"), all] {
            let delivery = next(&mut reader(&late, subscription.from(Start::Oldest))).await.unwrap();
            assert_eq!((delivery.position(), delivery.encoded()), (position, &encoded));
        }
        assert!(late.position() > position);
        let (resume, mut rest) = resumed(&late, "last/1", "mine");
        assert_eq!(resume, Resume::Continued);
        assert!(timeout(Duration::from_millis(1), rest.next()).await.is_err(), "it has nothing more");
    }
}

#[tokio::test]
async fn a_node_that_writes_with_the_session_of_another_is_an_error_and_no_event_is_taken_for_another() {
    let engine = Memory::new();
    let registry = node(&engine).await;
    registry.publish("t", Event::data("x")).unwrap().await.unwrap();
    let Stored { block, .. } = log_of(&engine).await.pop().unwrap();
    let key = BlockKey { number: block.key.number + 1, ..block.key };
    engine.append(&Block { key, ..block }).await.unwrap();
    let refused = async {
        while !matches!(registry.health(), Health::Refused { .. }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), refused).await.expect("the node sees it");
    let Health::Refused { reason } = registry.health() else { panic!() };
    assert!(reason.contains("another process"), "{reason}");
}

/// An engine that answers nothing.
#[derive(Debug)]
struct Silent;

impl Backplane for Silent {
    fn append<'a>(&'a self, _: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(std::future::pending())
    }

    fn append_above<'a>(&'a self, _: Place, _: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(std::future::pending())
    }

    fn follow<'a>(&'a self, _: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_the_requests_that_wait_for_the_log() {
    let registry = Registry::with_config(RegistryConfig::default().backplane(Silent));
    let stream = async |client: ClientHandle| client.into_stream();
    let app = axum::Router::new().route("/", axum::routing::get(stream)).layer(SseLayer::new(&registry));
    let request = http::Request::get("/").header("accept", "text/event-stream").body(axum::body::Body::empty());
    let waiting = tokio::spawn(app.oneshot(request.unwrap()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished());
    let begun = tokio::time::Instant::now();
    registry.drain(Drain::within(Duration::from_secs(1))).await;
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(begun.elapsed() <= Duration::from_secs(1));
}
