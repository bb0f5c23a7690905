//! What the log says counts at every node, also at one that was away: how topics end and begin again, and which events they take.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::{sleep, timeout};
use tower_sse::{
    Event, Events, Registry, RegistryConfig, Resume, Retention, Start, Subscription, TopicState,
    backplane::{Backplane, Block, Memory, Place, PlainEvent, Redis, Stored},
};

use super::{
    agreement::Restorable,
    faulty::{Engine, Faults},
    late_nodes::{Slack, place_of},
    nodes::{all_of, log_of, node, reader},
    redis_server,
};

pub(crate) fn from_oldest(registry: &Registry, topic: &str) -> Events {
    reader(registry, Subscription::to(topic).from(Start::Oldest))
}

/// Each node has read all that was appended before.
pub(crate) async fn all_have_read(nodes: &[&Registry]) {
    for node in nodes {
        node.publish("sync", Event::data("")).unwrap().await.unwrap();
    }
    for node in nodes {
        node.publish("sync", Event::data("")).unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn what_a_producer_published_before_it_was_replaced_in_its_process_reaches_the_readers_of_all_nodes() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let old = a.start_producer("t").unwrap();
    old.publish(Event::data("1")).unwrap().await.unwrap();
    let mut live = reader(&a, "t");
    let receipt = old.publish(Event::data("2")).unwrap();
    let new = a.replace_producer("t").unwrap();
    new.publish(Event::data("3")).unwrap().await.unwrap();
    all_have_read(&[&a, &b]).await;
    let (at_a, at_b) = (all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&b, "t")).await);
    let live = all_of(&mut live).await;
    assert_eq!(at_a, at_b, "the nodes disagree; a live reader at the first got {live:?}; {:?}", receipt.await);
}

/// It is not written as it is read.
#[derive(Clone, Serialize)]
struct Fussy(u8);

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u8::deserialize(from)? {
            9 => Err(serde::de::Error::custom("an old program does not know 9")),
            level => Ok(Self(level)),
        }
    }
}

/// As an old program does during a rolling deploy.
#[derive(Clone, Serialize, Deserialize)]
struct New(u8);

#[tokio::test]
async fn a_topic_ends_at_a_node_that_cannot_read_its_last_event() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone());
    let a = Registry::with_config(config().attribute::<New>("level"));
    let b = Registry::with_config(config().attribute::<Fussy>("level"));
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("1")).unwrap().await.unwrap();
    let mut events = from_oldest(&b, "t");
    producer.finish(Event::data("last").attribute(New(9))).unwrap().await.unwrap();
    all_have_read(&[&a, &b]).await;
    let got = all_of(&mut events).await;
    let late = Registry::with_config(config().attribute::<New>("level"));
    late.ready().await.unwrap();
    let states = [&a, &b, &late].map(|node| node.topic_state("t"));
    assert_eq!(states, [Some(TopicState::Ended); 3], "a reader at the second node got {got:?}");
}

#[tokio::test]
async fn a_topic_ends_at_a_node_that_retains_less_than_its_last_event_takes() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone());
    let a = Registry::with_config(config());
    let b = Registry::with_config(config().topic_retention(Retention::default().bytes(10_000)));
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("1")).unwrap().await.unwrap();
    let mut events = from_oldest(&b, "t");
    producer.finish(Event::data("x".repeat(20_000))).unwrap().await.unwrap();
    all_have_read(&[&a, &b]).await;
    let got = all_of(&mut events).await;
    let states = [&a, &b].map(|node| node.topic_state("t"));
    assert_eq!(states, [Some(TopicState::Ended); 2], "a reader at the second node got {got:?}");
}

#[tokio::test]
async fn a_topic_whose_end_one_node_did_not_take_does_not_hold_the_log() {
    hold_the_log(20_000).await;
}

/// The same, with a last event that both nodes retain.
#[tokio::test]
async fn a_topic_whose_end_all_nodes_took_does_not_hold_the_log() {
    hold_the_log(10).await;
}

async fn hold_the_log(last: usize) {
    let engine = Slack::default();
    let config = || RegistryConfig::default().backplane(engine.clone()).ended_topic_ttl(Duration::from_millis(1));
    let few = Retention::default().events(2);
    let by_name = move |name: &str| if name == "t" { few.bytes(10_000) } else { few };
    let mut outcomes = Vec::new();
    // Which node is the first one is random.
    for _ in 0..4 {
        engine.log.trim(Place { ms: u64::MAX, seq: 0 });
        let a = Registry::with_config(config().topic_retention(few));
        let b = Registry::with_config(config().topic_retention_by(by_name));
        a.ready().await.unwrap();
        b.ready().await.unwrap();
        let producer = a.start_producer("t").unwrap();
        producer.finish(Event::data("x".repeat(last))).unwrap().await.unwrap();
        tokio::time::pause();
        for _ in 0..15 {
            for _ in 0..50 {
                a.publish("busy", Event::data("x".repeat(10_000))).unwrap().await.unwrap();
            }
            sleep(Duration::from_secs(10)).await;
        }
        sleep(Duration::from_secs(60)).await;
        let bytes: usize = log_of(&engine.log).await.iter().map(|stored| stored.block.encoded_len()).sum();
        outcomes.push((bytes, [&a, &b].map(|node| node.topic_state("t"))));
        tokio::time::resume();
    }
    let is_right = |(bytes, states): &(usize, [Option<TopicState>; 2])| *bytes < 4 << 20 && states[0].is_none();
    assert!(outcomes.iter().all(is_right), "{outcomes:?}");
}

#[tokio::test]
async fn a_node_that_starts_later_has_the_events_that_a_topic_took_after_its_end_was_forgotten() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone()).ended_topic_ttl(Duration::from_millis(200));
    let a = Registry::with_config(config());
    a.ready().await.unwrap();
    a.start_producer("t").unwrap().end();
    a.flushed().await;
    while a.topic_state("t").is_some() {
        a.publish("other", Event::data("")).unwrap().await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let position = a.publish("t", Event::data("again")).unwrap().await.unwrap();
    a.publish("t", Event::data("and again")).unwrap().await.unwrap();
    let late = Registry::with_config(config());
    late.ready().await.unwrap();
    let first = all_of(&mut from_oldest(&a, "t")).await;
    let client = late.connect();
    client.resume_from(position.to_string()).unwrap();
    client.subscribe("t").unwrap();
    let resume = client.resume();
    let resumed = all_of(&mut client.into_events()).await;
    let second = all_of(&mut from_oldest(&late, "t")).await;
    assert_eq!(first, second, "a client that comes back is told {resume:?} and gets {resumed:?}");
}

/// The stream of the second node's client has other topics too, and its client does not read for a while.
#[tokio::test]
async fn a_topic_whose_end_somebody_has_not_read_yet_takes_the_same_events_at_every_node() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone()).ended_topic_ttl(Duration::from_millis(200));
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let client = b.connect();
    client.subscribe("t").unwrap();
    client.subscribe("other").unwrap();
    let slow = client.into_events();
    a.start_producer("t").unwrap().end();
    a.flushed().await;
    while a.topic_state("t").is_some() {
        a.publish("sync", Event::data("")).unwrap().await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    all_have_read(&[&a, &b]).await;
    a.publish("t", Event::data("again")).unwrap().await.unwrap();
    all_have_read(&[&a, &b]).await;
    let (at_a, at_b) = (all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&b, "t")).await);
    drop(slow);
    assert_eq!(at_a, at_b);
}

/// The second node was cut off for seven minutes, and the log has all that it missed.
#[tokio::test(start_paused = true)]
async fn what_a_producer_published_while_it_was_cut_off_begins_nothing_again_after_its_topic_failed_and_was_forgotten()
{
    let engine = Engine::new(1, Faults::none());
    let config = || RegistryConfig::default().backplane(engine.handle());
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    // Much is retained, so the log is not trimmed.
    for _ in 0..100 {
        b.publish("bulk", Event::data("x".repeat(3000))).unwrap().await.unwrap();
    }
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("1")).unwrap().await.unwrap();
    sleep(Duration::from_secs(3)).await;
    engine.cut_off(0);
    sleep(Duration::from_secs(5)).await;
    for number in 2..5 {
        producer.publish(Event::data(number.to_string())).unwrap();
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(b.topic_state("t"), Some(TopicState::Failed));
    sleep(Duration::from_secs(400)).await;
    assert_eq!(b.topic_state("t"), None);
    engine.end_faults();
    sleep(Duration::from_secs(20)).await;
    let stopped = timeout(Duration::from_secs(60), producer.stopped()).await;
    drop(producer);
    sleep(Duration::from_secs(600)).await;
    all_have_read(&[&a, &b]).await;
    let states = [&a, &b].map(|node| node.topic_state("t"));
    let got = [all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&b, "t")).await];
    assert_eq!(states, [None; 2], "the producer was told {stopped:?}; readers get {got:?}");
}

/// A node that is away while the log is trimmed, as it is after half a minute.
async fn after_it_was_away(has_ended_before: bool) {
    let engine = Engine::new(1, Faults::none());
    let config =
        || RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(20));
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let first = a.start_producer("t").unwrap();
    first.publish(Event::data("first")).unwrap().await.unwrap();
    if has_ended_before {
        first.end();
        a.flushed().await;
        sleep(Duration::from_secs(3)).await;
        engine.cut_off(1);
    } else {
        sleep(Duration::from_secs(3)).await;
        engine.cut_off(1);
        first.end();
        a.flushed().await;
    }
    sleep(Duration::from_secs(10)).await;
    let second = a.start_producer("t").unwrap();
    second.publish(Event::data("1")).unwrap().await.unwrap();
    for round in 0..20 {
        for number in 0..100 {
            a.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
    }
    let mut at_a = reader(&a, "t");
    engine.end_faults();
    sleep(Duration::from_secs(60)).await;
    all_have_read(&[&a, &b]).await;
    let mut at_b = reader(&b, "t");
    let mut told = Vec::new();
    for data in ["2", "3"] {
        told.push(match second.publish(Event::data(data)) {
            Ok(receipt) => receipt.await.map(|_| ()),
            Err(error) => Err(error),
        });
    }
    all_have_read(&[&a, &b]).await;
    let live = [all_of(&mut at_a).await, all_of(&mut at_b).await];
    let states = [&a, &b].map(|node| node.topic_state("t"));
    let all = [all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&b, "t")).await];
    assert_eq!(live, [["2", "3"]; 2], "{states:?}; the producer was told {told:?}; who comes now gets {all:?}");
    second.end();
    a.flushed().await;
    all_have_read(&[&a, &b]).await;
    assert_eq!([&a, &b].map(|node| node.topic_state("t")), [Some(TopicState::Ended); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_while_the_log_was_trimmed_takes_the_events_of_a_topic_that_began_again() {
    after_it_was_away(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_while_the_log_was_trimmed_takes_the_events_of_a_producer_that_came_after_another() {
    after_it_was_away(false).await;
}

/// The clock of the server was an hour ahead, and was put right.
#[tokio::test]
async fn nodes_go_on_when_a_wrong_clock_has_used_up_the_second_numbers_of_a_millisecond() {
    let server = redis_server::Server::start(&[]);
    let node = || Registry::with_config(RegistryConfig::default().backplane(server.engine().stream("events")));
    let a = node();
    a.ready().await.unwrap();
    a.publish("t", Event::data("1")).unwrap().await.unwrap();
    let ahead = (server.tell::<(u64, u64)>("TIME").0 + 3600) * 1000;
    // As after four million entries since then: an hour of 1200 blocks a second.
    server.tell::<String>(&format!("XADD events {ahead}-4194302 topic t data 2"));
    a.publish("t", Event::data("3")).unwrap();
    a.publish("t", Event::data("4")).unwrap();
    sleep(Duration::from_secs(3)).await;
    let more = a.publish("t", Event::data("5")).unwrap();
    let stored = timeout(Duration::from_secs(20), more).await;
    let late = node();
    let ready = timeout(Duration::from_secs(20), late.ready()).await;
    assert!(matches!(stored, Ok(Ok(_))), "{stored:?}; {}; a node that starts: {ready:?}", a.health());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_while_the_log_was_trimmed_knows_that_a_topic_has_ended_which_another_producer_had() {
    let engine = Engine::new(1, Faults::none());
    let config =
        || RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(20));
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let first = a.start_producer("t").unwrap();
    first.publish(Event::data("first")).unwrap().await.unwrap();
    sleep(Duration::from_secs(3)).await;
    engine.cut_off(1);
    first.end();
    a.flushed().await;
    sleep(Duration::from_secs(10)).await;
    let second = a.start_producer("t").unwrap();
    let _: tower_sse::Position = second.finish(Event::data("1")).unwrap().await.unwrap();
    for round in 0..20 {
        for number in 0..100 {
            a.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
    }
    engine.end_faults();
    sleep(Duration::from_secs(60)).await;
    all_have_read(&[&a, &b]).await;
    let got = [all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&b, "t")).await];
    let states = [&a, &b].map(|node| node.topic_state("t"));
    assert_eq!(states, [Some(TopicState::Ended); 2], "{got:?}");
}

/// Meanwhile another node has started.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_while_the_log_was_trimmed_tells_of_one_gap() {
    let engine = Engine::new(1, Faults::none());
    let config =
        || RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(20));
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let mut events = reader(&b, "t");
    sleep(Duration::from_secs(3)).await;
    engine.cut_off(1);
    sleep(Duration::from_secs(5)).await;
    let nodes = [0; 3].map(|_| Registry::with_config(config()));
    for c in &nodes {
        c.ready().await.unwrap();
    }
    for round in 0..20 {
        for number in 0..100 {
            a.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
    }
    let resumes_after = a.publish("t", Event::data("1")).unwrap().await.unwrap();
    for c in &nodes {
        c.publish("t", Event::data("2")).unwrap().await.unwrap();
    }
    engine.end_faults();
    sleep(Duration::from_secs(20)).await;
    all_have_read(&[&a, &b]).await;
    let client = b.connect();
    client.resume_from(resumes_after.to_string()).unwrap();
    client.subscribe("t").unwrap();
    let resume = client.resume();
    let resumed = all_of(&mut client.into_events()).await;
    let got = all_of(&mut events).await;
    assert_eq!(got, ["GAP", "1", "2", "2", "2"]);
    assert_eq!((resume, resumed.len()), (Resume::Continued, 3), "{resumed:?}");
}

/// A machine that slept for ten minutes.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_does_not_begin_a_topic_again_that_has_ended_long_ago() {
    let engine = Engine::new(1, Faults::none());
    let config =
        || RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(20));
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("1")).unwrap().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    engine.cut_off(1);
    sleep(Duration::from_secs(10)).await;
    producer.finish(Event::data("2")).unwrap().await.unwrap();
    for round in 0..60 {
        for number in 0..100 {
            a.publish("busy", Event::data(format!("{round}/{number}"))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(a.topic_state("t"), None);
    engine.end_faults();
    sleep(Duration::from_secs(60)).await;
    all_have_read(&[&a, &b]).await;
    sleep(Duration::from_secs(600)).await;
    all_have_read(&[&a, &b]).await;
    assert_eq!([&a, &b].map(|node| node.topic_state("t")), [None; 2]);
}

/// As when each request is recorded, at a thousand a second.
#[tokio::test]
async fn many_topics_that_end_and_are_forgotten_do_not_hold_the_log() {
    let engine = Slack::default();
    let config = RegistryConfig::default().backplane(engine.clone());
    let config = config.topic_retention(Retention::default().events(1)).ended_topic_ttl(Duration::from_millis(1));
    let a = Registry::with_config(config);
    a.ready().await.unwrap();
    tokio::time::pause();
    let mut sizes = Vec::new();
    for round in 0..60 {
        for number in 0..2000 {
            a.start_producer(format!("answers/{round}/{number}")).unwrap().end();
        }
        a.flushed().await;
        sleep(Duration::from_secs(2)).await;
        if round % 10 == 9 {
            let blocks = log_of(&engine.log).await;
            sizes.push(blocks.iter().map(|stored| stored.block.encoded_len()).sum::<usize>());
        }
    }
    assert!(sizes[5] < 5 << 20, "the log has {sizes:?} bytes, and grows");
}

/// A failover has lost the latest value of a state. The client that had it was away, until all nodes were deployed anew and the log was
/// trimmed.
#[tokio::test]
async fn a_client_whose_latest_value_was_lost_is_told_by_a_node_that_started_long_after_the_loss() {
    let engine = Restorable::default();
    let config = || RegistryConfig::default().backplane(engine.clone()).topic_retention(Retention::default().events(1));
    let a = Registry::with_config(config());
    a.ready().await.unwrap();
    a.publish("state/1", Event::data("v1")).unwrap().await.unwrap();
    let copy = engine.copy().await;
    let lost = a.publish("state/1", Event::data("v2")).unwrap().await.unwrap();
    engine.put_back(copy);
    while a.publish("other", Event::data("")).unwrap().await.unwrap() < lost {}
    tokio::time::pause();
    let mark = a.publish("other", Event::data("")).unwrap().await.unwrap();
    let mut first = 0;
    for _ in 0..20 {
        for _ in 0..30 {
            a.publish("busy", Event::data("x".repeat(100_000))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(10)).await;
        first = engine.copy().await[0].place.ms;
    }
    assert!(first > mark.ms(), "the loss is trimmed");
    let told = |node: &Registry| {
        let client = node.connect();
        client.resume_from(lost.to_string()).unwrap();
        client.subscribe("state/1").unwrap();
        (client.resume(), client.into_events())
    };
    let (at_a, _) = told(&a);
    let late = Registry::with_config(config());
    late.ready().await.unwrap();
    drop(a);
    let (resume, mut events) = told(&late);
    let got = all_of(&mut events).await;
    let fresh = all_of(&mut from_oldest(&late, "state/1")).await;
    assert!(matches!(at_a, Resume::Gap(_)));
    assert!(matches!(resume, Resume::Gap(_)), "{resume:?}, {got:?}; a new client gets {fresh:?}");
}

/// An event of another program with one field too many.
#[tokio::test]
async fn an_event_of_another_program_with_a_field_of_its_own_stops_no_node() {
    let server = redis_server::Server::start(&[]);
    let node = || Registry::with_config(RegistryConfig::default().backplane(server.engine().stream("events")));
    let a = node();
    a.ready().await.unwrap();
    server.tell::<String>("XADD events * topic chain/1 data mined block 817");
    let after = a.publish("t", Event::data("1")).unwrap();
    let stored = timeout(Duration::from_secs(20), after).await;
    let late = node();
    let ready = timeout(Duration::from_secs(20), late.ready()).await;
    assert!(matches!(stored, Ok(Ok(_))), "{stored:?}; {}; a node that starts: {ready:?}", a.health());
}

#[derive(Clone, Serialize, Deserialize)]
struct Degrees(f64);

/// A number that is none cannot be read back from JSON.
#[tokio::test]
async fn a_topic_ends_although_its_last_event_has_an_attribute_that_cannot_be_read_back() {
    let engine = Memory::new();
    let a = Registry::with_config(RegistryConfig::default().backplane(engine.clone()).attribute::<Degrees>("degrees"));
    a.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("1")).unwrap().await.unwrap();
    let mut events = from_oldest(&a, "t");
    let told = match producer.finish(Event::data("last").attribute(Degrees(f64::NAN))) {
        Ok(receipt) => receipt.await,
        Err(error) => Err(error),
    };
    sleep(Duration::from_secs(5)).await;
    all_have_read(&[&a]).await;
    let got = all_of(&mut events).await;
    let state = a.topic_state("t");
    assert!(matches!(state, Some(TopicState::Ended | TopicState::Failed)), "{state:?}, {told:?}, {got:?}");
}

/// All nodes refuse the event of another program, as the topic has ended.
#[tokio::test]
async fn an_event_that_every_node_refuses_is_no_gap_at_a_node_that_could_not_retain_it() {
    let engine = Memory::new();
    let config = || RegistryConfig::default().backplane(engine.clone());
    let a = Registry::with_config(config());
    let b = Registry::with_config(config().topic_retention(Retention::default().bytes(10_000)));
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    let one = producer.publish(Event::data("1")).unwrap().await.unwrap();
    let _: tower_sse::Position = producer.finish(Event::data("2")).unwrap().await.unwrap();
    let plain = PlainEvent { topic: "t".into(), event_type: None, data: "x".repeat(20_000) };
    engine.append(&Block::of_plain_event(&plain)).await.unwrap();
    all_have_read(&[&a, &b]).await;
    let mut got = Vec::new();
    for node in [&a, &b] {
        let client = node.connect();
        client.resume_from(one.to_string()).unwrap();
        client.subscribe("t").unwrap();
        got.push(all_of(&mut client.into_events()).await);
    }
    assert_eq!(got, [["2", "END"]; 2]);
}

/// A failover to a server whose clock is behind, or on which it was put back: the next blocks get the places of those that were lost.
#[tokio::test]
async fn an_event_that_the_engine_has_lost_is_not_kept_by_a_node_because_another_block_has_its_place() {
    let engine = Restorable::default();
    let config = |engine: &Restorable| RegistryConfig::default().backplane(engine.clone());
    let a = Registry::with_config(config(&engine));
    a.ready().await.unwrap();
    a.publish("t", Event::data("1")).unwrap().await.unwrap();
    let copy = engine.copy().await;
    sleep(Duration::from_millis(20)).await;
    let lost = a.publish("t", Event::data("lost")).unwrap().await.unwrap();
    // What another node appends to the copy.
    let server = Restorable::default();
    server.put_back(copy.clone());
    let b = Registry::with_config(config(&server));
    b.ready().await.unwrap();
    b.publish("t", Event::data("other")).unwrap().await.unwrap();
    let mut log = server.copy().await;
    let is_other = |stored: &Stored| stored.block.body.windows(5).any(|window| window == b"other");
    let other = log.iter().position(is_other).unwrap();
    log.truncate(other + 1);
    for (seq, stored) in (0..).zip(&mut log[copy.len()..]) {
        stored.place = Place { ms: lost.ms() - 1, seq };
    }
    log[other].place = place_of(lost);
    engine.put_back(log);
    while a.publish("sync", Event::data("")).unwrap().await.unwrap() < lost {}
    all_have_read(&[&a]).await;
    let late = Registry::with_config(config(&engine));
    late.ready().await.unwrap();
    all_have_read(&[&a, &late]).await;
    let (at_a, at_late) = (all_of(&mut from_oldest(&a, "t")).await, all_of(&mut from_oldest(&late, "t")).await);
    assert_eq!(at_a, at_late);
}

/// The same as above with a real server, which refuses the second node for a minute.
#[tokio::test]
async fn a_node_that_redis_refused_for_a_minute_does_not_end_an_answer_when_it_is_back() {
    let server = redis_server::Server::start(&[]);
    server.tell::<String>("ACL SETUSER b on >secret ~events +@all");
    let config = |engine: Redis| {
        let config = RegistryConfig::default().backplane(engine.stream("events"));
        Registry::with_config(config.topic_retention(Retention::default().events(20)))
    };
    let a = config(server.engine());
    let b = config(Redis::at(&server.url().replace("//", "//b:secret@")).unwrap());
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    a.start_producer("t").unwrap().end();
    all_have_read(&[&a, &b]).await;
    assert_eq!(b.topic_state("t"), Some(TopicState::Ended));
    sleep(Duration::from_secs(5)).await;
    server.tell::<redis::Value>("ACL SETUSER b off");
    server.tell::<redis::Value>("CLIENT KILL USER b");
    let second = a.start_producer("t").unwrap();
    let begun = second.publish(Event::data("1")).unwrap().await.unwrap();
    let mut live = reader(&a, "t");
    for _ in 0..10 {
        for _ in 0..40 {
            a.publish("busy", Event::data("x".repeat(100_000))).unwrap().await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
    }
    let first = server.tell::<redis::Value>("XRANGE events - + COUNT 1");
    let first = format!("{first:?}");
    server.tell::<redis::Value>("ACL SETUSER b on");
    timeout(Duration::from_secs(60), async {
        while !b.health().is_following() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is back");
    sleep(Duration::from_secs(8)).await;
    all_have_read(&[&a, &b]).await;
    let told = match second.publish(Event::data("2")) {
        Ok(receipt) => receipt.await.map(|_| ()),
        Err(error) => Err(error),
    };
    all_have_read(&[&a, &b]).await;
    let states = [&a, &b].map(|node| node.topic_state("t"));
    let got = all_of(&mut live).await;
    assert_eq!(got, ["2"], "{states:?}; the producer was told {told:?}; it began at {begun}; {}", &first[..60]);
}
