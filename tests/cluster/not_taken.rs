//! What a node cannot take costs nothing else, and nodes that were away, late or slow make the same of the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tower_sse::{
    Event, Health, Producer, Receipt, Registry, RegistryConfig, Resume, Retention, Start, Subscription,
    backplane::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Memory, Place, Redis},
};

use super::{
    everywhere::{all_have_read, from_oldest},
    faulty::{Engine, Faults},
    nodes::{all_of, reader},
    proxy::Proxy,
    redis_server::Server,
};

const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Level(u8);

async fn ready(config: RegistryConfig) -> Registry {
    let registry = Registry::with_config(config);
    registry.ready().await.unwrap();
    registry
}

/// As while a new version of the program is deployed, whose events have an attribute that the old version does not know.
#[tokio::test]
async fn topics_whose_events_a_node_cannot_read_take_no_room_of_those_that_it_can() {
    const BUDGET: usize = 1 << 20;
    let engine = Memory::new();
    let new = ready(RegistryConfig::default().backplane(engine.clone()).attribute::<Level>("level")).await;
    let old = RegistryConfig::default().backplane(engine.clone()).total_retention(Retention::default().bytes(BUDGET));
    let old = ready(old).await;
    for number in 0..50 {
        new.publish("orders", Event::data(number.to_string())).unwrap().await.unwrap();
    }
    for number in 0..2000 {
        new.publish(format!("rooms/{number}"), Event::data("x").attribute(Level(1))).unwrap().await.unwrap();
    }
    all_have_read(&[&new, &old]).await;
    let stats = old.stats();
    let left = all_of(&mut from_oldest(&old, "orders")).await.len();
    assert!(stats.bytes <= BUDGET && left == 50, "{left} of 50 events are left: {stats:?}");
}

/// The guide: "A process that cannot keep an event that another one keeps tells its clients of a gap in that topic."
#[tokio::test]
async fn a_client_that_resumes_at_a_node_that_could_not_keep_an_event_is_told_of_a_gap() {
    let engine = Memory::new();
    let large = ready(RegistryConfig::default().backplane(engine.clone())).await;
    let small = RegistryConfig::default().backplane(engine.clone());
    let small = ready(small.topic_retention(Retention::default().bytes(2000))).await;
    let before = large.publish("other", Event::data("")).unwrap().await.unwrap();
    large.publish("t", Event::data("x".repeat(5000))).unwrap().await.unwrap();
    all_have_read(&[&large, &small]).await;
    let mut got = Vec::new();
    for node in [&large, &small] {
        let client = node.connect();
        client.resume_from(before.to_string()).unwrap();
        client.subscribe("t").unwrap();
        let is_gap = matches!(client.resume(), Resume::Gap(_));
        let lengths: Vec<_> = all_of(&mut client.into_events()).await.iter().map(String::len).collect();
        got.push((is_gap, lengths));
    }
    assert_eq!(got[0], (false, vec![5000]));
    assert!(got[1].0, "the node without the event says that the client continues: {:?}", got[1]);
}

/// The event is as large as the server takes, and a little larger when it is said again.
#[tokio::test]
async fn the_largest_event_that_a_server_takes_can_be_said_again() {
    const LIMIT: usize = 1 << 20;
    let server = Server::start(&["--proto-max-bulk-len", "1mb"]);
    let config = || {
        let config = RegistryConfig::default().backplane(server.engine().stream("events"));
        config.topic_retention(Retention::default().events(1))
    };
    let [a, b] = [ready(config()).await, ready(config()).await];
    // The largest one that is taken.
    let mut size = LIMIT;
    let takes = async |size| match a.publish("last", Event::data("x".repeat(size))) {
        Ok(receipt) => receipt.await.is_ok(),
        Err(_) => false,
    };
    while !takes(size).await {
        size -= 16;
    }
    let stored = async |node: &Registry| match node.publish("busy", Event::data("x".repeat(200_000))) {
        Ok(receipt) => timeout(Duration::from_secs(20), receipt).await.is_ok_and(|stored| stored.is_ok()),
        Err(_) => false,
    };
    for _ in 0..4 {
        for _ in 0..25 {
            assert!(stored(&a).await, "nothing is stored any more: {:?}, {:?}", a.health(), b.health());
        }
        sleep(Duration::from_secs(3)).await;
    }
    assert!(stored(&a).await && stored(&b).await, "{:?}, {:?}", a.health(), b.health());
    assert_eq!([a.health(), b.health()], [Health::Following, Health::Following]);
}

/// The first node, which has a producer of "t", cannot reach the engine for seven minutes, and the log is trimmed meanwhile.
struct Away {
    engine: Engine,
    nodes: [Registry; 2],
    _producer: Producer,
    on_its_way: Receipt,
}

impl Away {
    fn config(engine: &Engine) -> RegistryConfig {
        RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(20))
    }

    async fn for_long() -> Self {
        let engine = Engine::new(1, Faults::none());
        let [a, b] = [ready(Self::config(&engine)).await, ready(Self::config(&engine)).await];
        let producer = a.start_producer("t").unwrap();
        producer.publish(Event::data("1")).unwrap().await.unwrap();
        sleep(Duration::from_secs(3)).await;
        engine.cut_off(0);
        sleep(Duration::from_secs(3)).await;
        let on_its_way = producer.publish(Event::data("2")).unwrap();
        for round in 0..42 {
            for number in 0..20 {
                b.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
            }
            sleep(Duration::from_secs(10)).await;
        }
        Self { engine, nodes: [a, b], _producer: producer, on_its_way }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_producer_publishes_after_its_node_was_away_for_long_is_taken_by_all_nodes_or_by_none() {
    let Away { engine, nodes: [a, b], _producer, on_its_way } = Away::for_long().await;
    assert_eq!(b.topic_state("t"), None, "its topic has failed, and that is forgotten");
    let mut live = [&a, &b].map(|node| reader(node, "t"));
    engine.end_faults();
    let answer = timeout(LONG, on_its_way).await.expect("it is answered");
    sleep(Duration::from_secs(20)).await;
    all_have_read(&[&a, &b]).await;
    let mut got = Vec::new();
    for live in &mut live {
        got.push(all_of(live).await);
    }
    let has_it = got.iter().map(|got| got.contains(&"2".to_owned())).collect::<Vec<_>>();
    let states = [&a, &b].map(|node| node.topic_state("t"));
    assert!(has_it[0] == has_it[1], "the producer was told {answer:?}; readers got {got:?}; the topic is {states:?}");
}

/// As above, and a node has started meanwhile.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_read_a_producers_begin_or_end_does_not_take_it_for_a_new_one() {
    let Away { engine, nodes: [a, b], _producer, on_its_way: _on_its_way } = Away::for_long().await;
    let late = ready(Away::config(&engine)).await;
    engine.end_faults();
    sleep(LONG).await;
    all_have_read(&[&a, &b, &late]).await;
    let states = [&a, &b, &late].map(|node| node.topic_state("t"));
    let mut got = Vec::new();
    for node in [&b, &late] {
        let mut all = all_of(&mut from_oldest(node, "t")).await;
        all.retain(|data| data != "GAP");
        got.push(all);
    }
    assert!(got[0] == got[1] && states[1] == states[2], "{got:?}, {states:?}");
}

/// The node has come back before another one starts, as in a deploy.
#[tokio::test(start_paused = true)]
async fn a_node_that_starts_after_a_producers_node_came_back_refuses_what_the_others_refused() {
    let Away { engine, nodes: [a, b], _producer, on_its_way } = Away::for_long().await;
    engine.end_faults();
    assert!(timeout(LONG, on_its_way).await.expect("it is answered").is_err());
    drop(_producer);
    sleep(Duration::from_secs(20)).await;
    all_have_read(&[&a, &b]).await;
    let late = ready(Away::config(&engine)).await;
    all_have_read(&[&a, &b, &late]).await;
    let mut states = vec![[&a, &b, &late].map(|node| node.topic_state("t"))];
    let mut got = Vec::new();
    for node in [&a, &b, &late] {
        let mut all = all_of(&mut from_oldest(node, "t")).await;
        all.retain(|data| data != "GAP");
        got.push(all);
    }
    // Nor does any node say later that the topic has this producer.
    for round in 0..60 {
        for number in 0..20 {
            b.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(10)).await;
        states.push([&a, &b, &late].map(|node| node.topic_state("t")));
    }
    states.dedup();
    assert!(got[1] == got[2] && states == [[None; 3]], "{got:?}, {states:?}");
}

/// The answers for one node are late by less than any time-out. Meanwhile a program trims the stream, as with `XADD .. MAXLEN`.
async fn trimmed_unread(by: &str) -> Vec<String> {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let config = |engine: Redis| RegistryConfig::default().backplane(engine.stream("events"));
    let slow = ready(config(proxy.engine())).await;
    let [other, ends] = [ready(config(server.engine())).await, ready(config(server.engine())).await];
    let mut events = reader(&slow, "t");
    ends.publish("t", Event::data("0")).unwrap().await.unwrap();
    other.publish("t", Event::data("1")).unwrap().await.unwrap();
    for data in ["0", "1"] {
        assert_eq!(timeout(LONG, events.next()).await.unwrap().unwrap().unwrap().data().unwrap(), data);
    }
    proxy.hold_answers();
    // This one is read: it was asked for before.
    other.publish("t", Event::data("2")).unwrap().await.unwrap();
    match by {
        "a node" => _ = ends.publish("t", Event::data("3")).unwrap().await.unwrap(),
        _ => _ = server.tell::<String>("XADD events * topic t data 3"),
    }
    drop(ends);
    other.publish("t", Event::data("4")).unwrap().await.unwrap();
    let mut at_other = from_oldest(&other, "t");
    server.tell::<u64>("XTRIM events MAXLEN 1");
    proxy.pass();
    slow.publish("t", Event::data("5")).unwrap().await.unwrap();
    all_have_read(&[&other]).await;
    assert_eq!(all_of(&mut at_other).await, ["0", "1", "2", "3", "4", "5"]);
    all_of(&mut events).await
}

#[tokio::test]
async fn an_event_of_a_program_that_was_trimmed_unread_makes_a_gap_although_a_block_follows() {
    let got = trimmed_unread("a program").await;
    assert!(got.contains(&"GAP".to_owned()) || got == ["2", "3", "4", "5"], "{got:?}");
}

#[tokio::test]
async fn the_last_event_of_a_node_that_ended_makes_a_gap_if_it_was_trimmed_unread() {
    let got = trimmed_unread("a node").await;
    assert!(got.contains(&"GAP".to_owned()) || got == ["2", "3", "4", "5"], "{got:?}");
}

/// An engine that takes no large block, as a message broker whose messages have a bound.
#[derive(Debug, Clone, Default)]
struct Narrow {
    log: Memory,
    largest: Arc<AtomicUsize>,
}

impl Narrow {
    const MOST: usize = 64 << 10;
}

impl Backplane for Narrow {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.largest.fetch_max(block.encoded_len(), Ordering::Relaxed);
        if block.encoded_len() > Self::MOST {
            return Box::pin(async { Err(AppendError::TooLarge { limit: Self::MOST }) });
        }
        self.log.append_above(place, block)
    }
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.log.follow(after)
    }
    fn max_block(&self) -> usize {
        Self::MOST
    }
    fn trim(&self, before: Place) {
        self.log.trim(before);
    }
}

/// An engine behind a slow network.
#[derive(Debug, Clone, Default)]
struct Slow(Memory);

impl Backplane for Slow {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            let megabytes = u32::try_from(block.encoded_len() >> 20).unwrap();
            sleep(Duration::from_secs(1) * megabytes).await;
            self.0.append_above(place, block).await
        })
    }
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.0.follow(after)
    }
    fn longest_call(&self) -> Duration {
        LONG
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_may_take_as_long_as_the_engine_says() {
    let node = ready(RegistryConfig::default().backplane(Slow::default())).await;
    let stored = node.publish("t", Event::data("x".repeat(15 << 20))).unwrap();
    timeout(LONG, stored).await.expect("it takes fifteen seconds").unwrap();
}

#[tokio::test]
async fn an_engine_gets_no_block_that_is_larger_than_it_says() {
    let engine = Narrow::default();
    let node = ready(RegistryConfig::default().backplane(engine.clone())).await;
    let receipts: Vec<_> = (0..100).map(|_| node.publish("t", Event::data("x".repeat(1000))).unwrap()).collect();
    let mut stored = 0;
    for receipt in receipts {
        stored += usize::from(timeout(Duration::from_secs(10), receipt).await.is_ok_and(|stored| stored.is_ok()));
        if stored == 0 {
            break;
        }
    }
    let largest = engine.largest.load(Ordering::Relaxed);
    assert_eq!(stored, 100, "a block had {largest} bytes: {:?}", node.health());
}

/// Handlers are the same with a backplane and without one.
#[tokio::test]
async fn a_topic_that_begins_again_takes_an_event_of_anyone_at_once_with_a_backplane_too() {
    let with = ready(RegistryConfig::default().backplane(Memory::new())).await;
    let mut taken = Vec::new();
    for registry in [Registry::new(), with] {
        registry.start_producer("t").unwrap().end();
        registry.flushed().await;
        let producer = registry.start_producer("t").unwrap();
        taken.push(registry.publish("t", Event::data("x")).map(|_| ()));
        drop(producer);
    }
    assert_eq!(taken, [Ok(()), Ok(())]);
}

/// A new client of a topic of which only the latest value counts.
#[tokio::test]
async fn a_value_is_not_given_for_the_latest_by_a_node_that_could_not_take_the_one_behind_it() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone()).topic_retention(Retention::default().events(1));
    let [new, old] = [ready(config().attribute::<Level>("level")).await, ready(config()).await];
    new.publish("state", Event::data("v1")).unwrap().await.unwrap();
    new.publish("state", Event::data("v2").attribute(Level(1))).unwrap().await.unwrap();
    all_have_read(&[&new, &old]).await;
    for start in [Start::Last(1), Start::Oldest] {
        let got = all_of(&mut reader(&old, Subscription::to("state").from(start))).await;
        assert!(got.first().is_none_or(|first| first == "GAP"), "{start:?}: {got:?}");
    }
}
