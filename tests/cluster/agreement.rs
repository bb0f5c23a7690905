//! All nodes agree on a log, whenever they started; nothing holds it for ever; and a fault in one place costs nothing elsewhere.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::{sleep, timeout};
use tower_sse::{
    Event, Health, PublishError, Registry, RegistryConfig, Resume, Retention, SlowClientPolicy, Start, Subscription,
    TopicState,
    backplane::{
        AppendError, Backplane, Block, BlockKey, BoxFuture, FollowError, Following, Mark, Memory, Place, PlainEvent,
        Read, Stored, Tail,
    },
};

use super::{
    faulty::{Engine, Faults},
    late_nodes::{Slack, place_of},
    nodes::{all_of, log_of, next, node, reader},
    redis_server,
};

const SOON: Duration = Duration::from_secs(10);

fn plain(topic: &str, data: &str) -> Block {
    Block::of_plain_event(&PlainEvent { topic: topic.into(), event_type: None, data: data.into() })
}

async fn small_node(engine: &Slack, config: impl Fn(RegistryConfig) -> RegistryConfig) -> Registry {
    let registry = Registry::with_config(config(RegistryConfig::default().backplane(engine.clone())));
    registry.ready().await.unwrap();
    registry
}

async fn busy(registry: &Registry, events: usize) {
    for _ in 0..events {
        registry.publish("busy", Event::data("x".repeat(10_000))).unwrap().await.unwrap();
    }
}

fn contains(block: &[u8], text: &str) -> bool {
    block.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn bytes_after_ended_topics(nodes: usize) -> usize {
    let engine = Slack::default();
    let config = |config: RegistryConfig| {
        config.topic_retention(Retention::default().events(2)).ended_topic_ttl(Duration::from_millis(1))
    };
    let mut all = Vec::new();
    for _ in 0..nodes {
        all.push(small_node(&engine, config).await);
    }
    all[0].start_producer("answer").unwrap().end();
    all[0].flushed().await;
    tokio::time::pause();
    for _ in 0..15 {
        busy(&all[0], 100).await;
        sleep(Duration::from_secs(10)).await;
    }
    sleep(Duration::from_secs(60)).await;
    for registry in &all {
        assert_eq!(registry.topic_state("answer"), None, "it is forgotten everywhere");
    }
    log_of(&engine.log).await.iter().map(|stored| stored.block.encoded_len()).sum()
}

#[tokio::test]
async fn a_topic_that_was_forgotten_does_not_hold_the_log_of_one_node() {
    let bytes = bytes_after_ended_topics(1).await;
    assert!(bytes < 4 << 20, "{bytes} bytes");
}

#[tokio::test]
async fn a_topic_that_was_forgotten_does_not_hold_the_log_of_two_nodes() {
    let bytes = bytes_after_ended_topics(2).await;
    assert!(bytes < 4 << 20, "{bytes} bytes");
}

/// As after a rolling deploy: the node that says old events again is often one that started later than another.
#[tokio::test]
async fn an_old_last_value_does_not_hold_the_log_whichever_node_says_it_again() {
    let engine = Slack::default();
    let config = |config: RegistryConfig| config.topic_retention(Retention::default().events(1));
    let a = small_node(&engine, config).await;
    busy(&a, 50).await;
    tokio::time::pause();
    sleep(Duration::from_secs(9)).await;
    assert!(log_of(&engine.log).await.len() < 20, "what nobody needs is trimmed");
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(small_node(&engine, config).await);
    }
    sleep(Duration::from_secs(9)).await;
    let last = a.publish("last/1", Event::data("v")).unwrap().await.unwrap();
    for _ in 0..15 {
        busy(&a, 100).await;
        sleep(Duration::from_secs(20)).await;
    }
    sleep(Duration::from_secs(120)).await;
    let blocks = log_of(&engine.log).await;
    let bytes: usize = blocks.iter().map(|stored| stored.block.encoded_len()).sum();
    assert!(
        bytes < 5 << 20,
        "{bytes} bytes, and the log begins at the old value: {}",
        blocks[0].place == place_of(last)
    );
}

#[tokio::test]
async fn a_late_node_has_no_event_that_every_other_node_refused_because_the_topic_had_ended() {
    let engine = Slack::default();
    let config = |config: RegistryConfig| config.topic_retention(Retention::default().events(2));
    let a = small_node(&engine, config).await;
    a.start_producer("t").unwrap().end();
    a.flushed().await;
    busy(&a, 60).await;
    let hold = a.publish("hold", Event::data("h")).unwrap().await.unwrap();
    engine.log.append(&plain("t", "a late word")).await.unwrap();
    busy(&a, 60).await;
    tokio::time::pause();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(log_of(&engine.log).await[0].place, place_of(hold), "the end is trimmed");
    let late = small_node(&engine, config).await;
    let mut got = Vec::new();
    for node in [&a, &late] {
        assert_eq!(node.topic_state("t"), Some(TopicState::Ended));
        let mut all = all_of(&mut reader(node, Subscription::to("t").from(Start::Oldest))).await;
        // A late node cannot know that nothing came before the end.
        all.retain(|data| data != "GAP");
        got.push(all);
    }
    assert_eq!(got[0], got[1], "all nodes have the same events");
}

#[tokio::test]
async fn a_late_node_takes_the_producer_that_all_others_take() {
    let engine = Slack::default();
    let config = |config: RegistryConfig| config.topic_retention(Retention::default().events(2));
    let a = small_node(&engine, config).await;
    let b = small_node(&engine, config).await;
    let old = a.start_producer("t").unwrap();
    a.flushed().await;
    // The old producer publishes before its node can know that it was replaced.
    let new = b.replace_producer("t").unwrap();
    let zombie = old.publish(Event::data("of the replaced one")).unwrap();
    assert!(matches!(zombie.await, Err(PublishError::Replaced { .. })));
    busy(&a, 60).await;
    let hold = a.publish("hold", Event::data("h")).unwrap().await.unwrap();
    // A late word of the replaced one, behind all that will be trimmed.
    let mut blocks = log_of(&engine.log).await;
    blocks.retain(|stored| contains(&stored.block.body, "of the replaced one"));
    let key = BlockKey { session: 77, number: 0 };
    engine.log.append(&Block { key, ..blocks[0].block.clone() }).await.unwrap();
    busy(&a, 60).await;
    tokio::time::pause();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(log_of(&engine.log).await[0].place, place_of(hold), "both begins are trimmed");
    let late = small_node(&engine, config).await;
    new.publish(Event::data("of the new one")).unwrap().await.unwrap();
    late.publish("other", Event::data("x")).unwrap().await.unwrap();
    let mut got = Vec::new();
    for node in [&a, &b, &late] {
        let all = all_of(&mut reader(node, Subscription::to("t").from(Start::Last(10)))).await;
        got.push(all);
    }
    assert_eq!((&got[0], &got[0]), (&got[1], &got[2]), "all nodes have the same events");
}

#[tokio::test]
async fn a_client_is_told_of_events_that_were_trimmed_within_the_millisecond_of_the_oldest_block() {
    let engine = Memory::new();
    for (seq, data) in [(0, "1"), (1, "2"), (2, "3")] {
        let place = Place { ms: 1_700_000_000_000, seq };
        engine.restore(Stored { place, at_ms: place.ms, block: plain("t", data) });
    }
    let a = node(&engine).await;
    let mut events = reader(&a, Subscription::to("t").from(Start::Oldest));
    let first = next(&mut events).await.unwrap().position();
    a.flushed().await;
    engine.trim(Place { ms: 1_700_000_000_000, seq: 2 });
    let late = node(&engine).await;
    let client = late.connect();
    client.resume_from(first.to_string()).unwrap();
    client.subscribe("t").unwrap();
    let resume = client.resume();
    let got = all_of(&mut client.into_events()).await;
    assert!(matches!(resume, Resume::Gap(_)) && got == ["GAP", "3"], "{resume:?}, {got:?}");
}

#[tokio::test]
async fn a_producer_that_is_replaced_before_its_begin_came_back_is_told() {
    let engine = Memory::new();
    let a = node(&engine).await;
    let first = a.start_producer("t").unwrap();
    let second = a.replace_producer("t").unwrap();
    a.flushed().await;
    let told = timeout(SOON, first.stopped()).await;
    assert_eq!(told, Ok(PublishError::Replaced { topic: "t".into() }));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_topic_the_others_have_failed_is_told_and_its_node_agrees_with_them() {
    let engine = Engine::new(1, Faults::none());
    let config = || RegistryConfig::default().backplane(engine.handle());
    let [paused, alive] = [Registry::with_config(config()), Registry::with_config(config())];
    paused.ready().await.unwrap();
    alive.ready().await.unwrap();
    let producer = paused.start_producer("t").unwrap();
    producer.publish(Event::data("Once")).unwrap().await.unwrap();
    engine.cut_off(0);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(alive.topic_state("t"), Some(TopicState::Failed));
    engine.end_faults();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(paused.health(), Health::Following);
    assert_eq!(producer.publish(Event::data("upon")).unwrap_err(), PublishError::Ended { topic: "t".into() });
    let told = timeout(Duration::from_secs(60), producer.stopped()).await;
    let states = [paused.topic_state("t"), alive.topic_state("t")];
    let again = paused.start_producer("t").map(|_| ());
    assert_eq!(
        (told.is_ok(), states[0], again.is_ok()),
        (true, states[1], true),
        "stopped() is ready, the nodes agree, and the topic can begin again"
    );
}

#[tokio::test]
async fn the_outbox_is_bounded_whatever_is_called_while_the_engine_is_away() {
    let mut server = redis_server::Server::start(&[]);
    let node = Registry::with_config(RegistryConfig::default().backplane(server.engine().stream("events")));
    node.ready().await.unwrap();
    let producer = node.start_producer("t").unwrap();
    node.flushed().await;
    server.kill();
    while node.publish("t", Event::data("x")).is_ok() {}
    let full = node.stats().waiting;
    for _ in 0..100_000 {
        node.cancel_producer("t");
    }
    let waiting = node.stats().waiting;
    assert!(waiting < full + 1000, "{full} were waiting, and now {waiting}");
    drop(producer);
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Degrees(f64);

#[tokio::test]
async fn a_receipt_is_no_position_of_an_event_that_no_node_has() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone()).attribute::<Degrees>("degrees");
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    // JSON has no such number: it is written as `null`, and cannot be read.
    let published = a.publish("t", Event::data("x").attribute(Degrees(f64::NAN)));
    let outcome = match published {
        Ok(receipt) => receipt.await,
        Err(error) => Err(error),
    };
    b.publish("other", Event::data("")).unwrap().await.unwrap();
    for node in [&a, &b] {
        let got = all_of(&mut reader(node, Subscription::to("t").from(Start::Oldest))).await;
        assert!(outcome.is_err() || got.contains(&"x".to_owned()), "{outcome:?}, and a node has {got:?}");
    }
}

#[derive(Debug, Clone, Serialize)]
struct Fussy(u8);

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let level = u8::deserialize(deserializer)?;
        assert!(level < 3, "a level is less than 3");
        Ok(Self(level))
    }
}

#[tokio::test]
async fn a_panic_of_an_attribute_that_is_read_costs_no_other_event() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone()).attribute::<Fussy>("level");
    let a = Registry::with_config(config());
    a.ready().await.unwrap();
    let mut events = reader(&a, "t");
    let before = a.publish("t", Event::data("before")).unwrap();
    let fussy = a.publish("u", Event::data("fussy").attribute(Fussy(9))).unwrap();
    assert!(matches!(timeout(SOON, fussy).await, Ok(Err(PublishError::Attribute { .. }))));
    a.publish("t", Event::data("after")).unwrap().await.unwrap();
    let got = all_of(&mut events).await;
    let answered = timeout(SOON, before).await.is_ok();
    assert_eq!((got, answered), (vec!["before".to_owned(), "after".to_owned()], true));
}

#[tokio::test]
async fn a_panic_of_the_retention_for_a_clients_own_topic_costs_no_other_event() {
    let engine = Memory::new();
    let a = node(&engine).await;
    let by_name = |name: &str| match name.split('/').next() {
        Some("orders") => Retention::default().events(10),
        other => panic!("no topic begins with {other:?}"),
    };
    let b = Registry::with_config(RegistryConfig::default().backplane(engine.clone()).topic_retention_by(by_name));
    b.ready().await.unwrap();
    let mut events = reader(&b, "orders/1");
    let client = b.connect();
    let id = client.id();
    let _own = client.into_events();
    a.publish("orders/1", Event::data("1")).unwrap();
    a.send_to(&id, Event::data("for you")).unwrap().await.unwrap();
    b.publish("orders/1", Event::data("2")).unwrap().await.unwrap();
    assert_eq!(all_of(&mut events).await, ["1", "2"]);
}

/// Who is connected has missed nothing.
#[tokio::test]
async fn the_ends_of_topics_are_known_to_late_nodes_after_the_stream_was_deleted_while_it_was_read() {
    let server = redis_server::Server::start(&[]);
    let node = || Registry::with_config(RegistryConfig::default().backplane(server.engine().stream("events")));
    let a = node();
    a.ready().await.unwrap();
    let mut events = reader(&a, "t");
    let first = a.publish("t", Event::data("1")).unwrap().await.unwrap();
    a.start_producer("over").unwrap().end();
    a.flushed().await;
    // The new stream begins in another millisecond, as it does unless somebody is very quick.
    let ended = a.position();
    while server.tell::<(u64, u64)>("TIME").0 * 1000 <= ended.ms() {
        sleep(Duration::from_millis(10)).await;
    }
    server.tell::<redis::Value>("DEL events");
    a.publish("t", Event::data("2")).unwrap().await.unwrap();
    let late = node();
    late.ready().await.unwrap();
    let known = async {
        while late.topic_state("over") != Some(TopicState::Ended) {
            late.publish("other", Event::data("")).unwrap().await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(60), known).await.expect("it is said again");
    assert_eq!(all_of(&mut events).await, ["1", "2"]);
    let client = late.connect();
    client.resume_from(first.to_string()).unwrap();
    client.subscribe("t").unwrap();
    assert!(matches!(client.resume(), Resume::Gap(_)));
}

/// A log of which an older copy can be put back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restorable {
    log: Arc<std::sync::Mutex<(Memory, u64)>>,
}

impl Restorable {
    fn now(&self) -> (Memory, u64) {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn copy(&self) -> Vec<Stored> {
        log_of(&self.now().0).await
    }

    pub(crate) fn put_back(&self, blocks: Vec<Stored>) {
        let memory = Memory::new();
        blocks.into_iter().for_each(|stored| memory.restore(stored));
        let mut log = self.log.lock().unwrap();
        *log = (memory, log.1 + 1);
    }
}

impl Backplane for Restorable {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move { self.now().0.append_above(place, block).await })
    }
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(async move {
            let (memory, life) = self.now();
            let Following { continues, tail } = memory.follow(after).await?;
            Ok(Following { continues, tail: Box::new(RestorableTail { tail, engine: self.clone(), life }) })
        })
    }
    fn trim(&self, before: Place) {
        self.now().0.trim(before);
    }
}

#[derive(Debug)]
struct RestorableTail {
    tail: Box<dyn Tail>,
    engine: Restorable,
    life: u64,
}

impl Tail for RestorableTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            let read = self.tail.next().await?;
            match self.engine.now().1 == self.life {
                true => Ok(read),
                false => Err(FollowError::Away("the connection was closed".into())),
            }
        })
    }
}

#[tokio::test]
async fn a_client_whose_latest_value_was_lost_is_told_whatever_the_policy_for_slow_clients_is() {
    let engine = Restorable::default();
    let policy = Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently);
    let config = || RegistryConfig::default().backplane(engine.clone()).topic_retention(policy);
    let a = Registry::with_config(config());
    a.ready().await.unwrap();
    a.publish("state/1", Event::data("v1")).unwrap().await.unwrap();
    let copy = engine.copy().await;
    let lost = a.publish("state/1", Event::data("v2")).unwrap().await.unwrap();
    engine.put_back(copy);
    // What is published after the loss was found comes above it.
    while a.publish("other", Event::data("")).unwrap().await.unwrap() < lost {}
    let client = a.connect();
    client.resume_from(lost.to_string()).unwrap();
    client.subscribe("state/1").unwrap();
    let resume = client.resume();
    let got = all_of(&mut client.into_events()).await;
    let fresh = all_of(&mut reader(&a, Subscription::to("state/1").from(Start::Oldest))).await;
    assert!(matches!(resume, Resume::Gap(_)), "{resume:?}, {got:?}; a new client gets {fresh:?}");
}
