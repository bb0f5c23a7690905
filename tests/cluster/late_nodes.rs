//! What a node that starts late knows of what happened before.

use std::time::Duration;

use tower_sse::{
    Event, Registry, RegistryConfig, Resume, Retention, Subscription, TopicState,
    backplane::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Memory, Place},
};

use super::{
    faulty::{Engine, Faults},
    nodes::{data_of, next},
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

/// The log may have little that no node needs.
#[derive(Debug)]
struct Slack(Memory);

impl Backplane for Slack {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.0.append(block)
    }
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.0.append_above(place, block)
    }
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.0.follow(after)
    }
    fn slack(&self) -> usize {
        2 << 20
    }
    fn trim(&self, before: Place) {
        self.0.trim(before);
    }
}

#[tokio::test]
async fn events_that_were_evicted_after_an_older_one_was_said_again_are_a_gap_at_every_node() {
    let engine = Memory::new();
    let start = async || {
        let config = RegistryConfig::default().backplane(Slack(engine.clone()));
        let registry = Registry::with_config(config.topic_retention(Retention::default().events(2)));
        registry.ready().await.unwrap();
        registry
    };
    let first = async || engine.follow(None).await.unwrap().tail.next().await.unwrap().blocks[0].place;
    let a = start().await;
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
    assert!(first().await > (Place { ms: e2.ms(), seq: u64::from(e2.seq()) / 1024 }), "the second event is trimmed");
    let late = start().await;
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
