//! What a node that starts late knows of what happened before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    routing::get,
};
use tower::ServiceExt;
use tower_sse::{
    ClientHandle, Event, Registry, RegistryConfig, Resume, Retention, SseLayer, Start, Subscription, TopicState,
    backplane::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Memory, Place},
};

use super::{
    faulty::{Engine, Faults},
    nodes::{data_of, next, reader},
};

#[tokio::test(start_paused = true)]
async fn what_a_node_says_late_of_a_topic_does_not_undo_its_end_for_nodes_that_start_later() {
    let engine = Engine::new(1, Faults::none());
    let config =
        || RegistryConfig::default().backplane(engine.handle()).topic_retention(Retention::default().events(10));
    let a = Registry::with_config(config());
    a.ready().await.unwrap();
    let b = Registry::with_config(config());
    b.ready().await.unwrap();
    let producer = a.start_producer("t").unwrap();
    tokio::time::sleep(Duration::from_millis(4300)).await;
    for number in 0..40 {
        b.publish("other", Event::data(number.to_string())).unwrap().await.unwrap();
    }
    engine.cut_off(0);
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The cut-off node still has to say that it produces the topic.
    assert!(b.cancel_producer("t"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    engine.end_faults();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let late = Registry::with_config(config());
    late.ready().await.unwrap();
    for registry in [&a, &b, &late] {
        assert_eq!(registry.topic_state("t"), Some(TopicState::Cancelled));
    }
    drop(producer);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resumes_after_an_own_id_waits_for_a_node_that_is_behind() {
    let engine = Engine::new(1, Faults::none());
    let config = || RegistryConfig::default().backplane(engine.handle());
    let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    let handler = async |client: ClientHandle| {
        client.subscribe("t").unwrap();
        format!("{:?}", client.resume())
    };
    let app = Router::new().route("/", get(handler)).layer(SseLayer::new(&b));
    let resume = |id: &str| {
        let request = Request::get("/").header("last-event-id", id).body(Body::empty()).unwrap();
        app.clone().oneshot(request)
    };
    engine.cut_off(1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    a.publish("t", Event::data("1").id("own/1").unwrap()).unwrap().await.unwrap();
    let back = tokio::spawn(resume("own/1"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!back.is_finished());
    engine.end_faults();
    let answer = back.await.unwrap().unwrap().into_body();
    assert_eq!(to_bytes(answer, 100).await.unwrap(), "Continued");
    // A node that has read all waits for nothing.
    let begin = tokio::time::Instant::now();
    let answer = resume("own/2").await.unwrap().into_body();
    assert!(to_bytes(answer, 1000).await.unwrap().starts_with(b"Gap"));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

/// An engine whose log may have little that no node needs, and that counts the bytes which were appended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slack {
    pub(crate) log: Memory,
    appended: Arc<AtomicUsize>,
}

impl Backplane for Slack {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.appended.fetch_add(block.body.len(), Ordering::Relaxed);
        self.log.append(block)
    }
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.appended.fetch_add(block.body.len(), Ordering::Relaxed);
        self.log.append_above(place, block)
    }
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.log.follow(after)
    }
    fn slack(&self) -> usize {
        2 << 20
    }
    fn trim(&self, before: Place) {
        self.log.trim(before);
    }
}

impl Slack {
    async fn node(&self, events: usize) -> Registry {
        let config = RegistryConfig::default().backplane(self.clone());
        let registry = Registry::with_config(config.topic_retention(Retention::default().events(events)));
        registry.ready().await.unwrap();
        registry
    }

    async fn first(&self) -> Place {
        self.log.follow(None).await.unwrap().tail.next().await.unwrap().blocks[0].place
    }
}

pub(crate) fn place_of(position: tower_sse::Position) -> Place {
    Place { ms: position.ms(), seq: u64::from(position.seq()) / 1024 }
}

#[tokio::test]
async fn events_that_were_evicted_after_an_older_one_was_said_again_are_a_gap_at_every_node() {
    let engine = Slack::default();
    let a = engine.node(2).await;
    let busy = async |many: usize| {
        for _ in 0..many {
            a.publish("busy", Event::data("x".repeat(10_000))).unwrap().await.unwrap();
        }
    };
    let e1 = a.publish("t", Event::data("e1")).unwrap().await.unwrap();
    tokio::time::pause();
    busy(150).await;
    let e2 = a.publish("t", Event::data("e2")).unwrap().await.unwrap();
    a.publish("hold", Event::data("h")).unwrap().await.unwrap();
    busy(75).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    for data in ["e3", "e4"] {
        a.publish("t", Event::data(data)).unwrap().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(engine.first().await > place_of(e2), "the second event is trimmed");
    let late = engine.node(2).await;
    let mut told = Vec::new();
    for node in [&a, &late] {
        let client = node.connect();
        client.resume_from(e1.to_string()).unwrap();
        client.subscribe(Subscription::to("t")).unwrap();
        let resume = client.resume();
        let mut events = client.into_events();
        let is_told = next(&mut events).await.is_err();
        told.push((matches!(resume, Resume::Gap(_)), is_told, data_of(&mut events).await));
    }
    assert_eq!(told, [(true, true, "e3".to_owned()), (true, true, "e3".to_owned())]);
}

#[tokio::test]
async fn a_late_reader_of_an_answer_whose_begin_was_trimmed_gets_it_whole_without_a_gap_at_every_node() {
    let engine = Slack::default();
    let a = engine.node(3).await;
    let producer = a.start_producer("answer").unwrap();
    let once = producer.publish(Event::data("Once")).unwrap().await.unwrap();
    producer.publish(Event::data("upon")).unwrap().await.unwrap();
    let cut_short = a.start_producer("cut short").unwrap();
    for number in 0..5 {
        cut_short.publish(Event::data(number.to_string())).unwrap().await.unwrap();
    }
    let _: tower_sse::Position = cut_short.finish(Event::data("5")).unwrap().await.unwrap();
    tokio::time::pause();
    for _ in 0..250 {
        a.publish("busy", Event::data("x".repeat(10_000))).unwrap().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(engine.first().await > place_of(once), "the begin is trimmed");
    let late = engine.node(3).await;
    for node in [&a, &late] {
        let mut whole = reader(node, Subscription::to("answer").from(Start::Oldest));
        assert_eq!([data_of(&mut whole).await, data_of(&mut whole).await], ["Once", "upon"]);
        let mut rest = reader(node, Subscription::to("cut short").from(Start::Oldest));
        assert!(next(&mut rest).await.is_err(), "the first events are not retained");
        assert_eq!(data_of(&mut rest).await, "3");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_does_not_say_over_and_over_how_its_topics_ended() {
    let engine = Slack::default();
    let config = RegistryConfig::default().backplane(engine.clone()).cancelled_event(None);
    let a = Registry::with_config(config);
    a.ready().await.unwrap();
    for number in 0..100 {
        let topic = format!("answers/{number}");
        let producer = a.start_producer(&topic).unwrap();
        a.flushed().await;
        assert!(a.cancel_producer(&topic), "it ends without an event");
        drop(producer);
    }
    a.flushed().await;
    let before = engine.appended.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(240)).await;
    let said = engine.appended.load(Ordering::Relaxed) - before;
    assert!(said < 20_000, "{said} bytes in 120 beats");
    assert_eq!(engine.node(3).await.topic_state("answers/7"), Some(TopicState::Cancelled));
}
