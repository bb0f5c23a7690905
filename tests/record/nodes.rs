//! Recordings of a registry behind a backplane.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tower_sse::{
    Event, RecordLayer, Registry, RegistryConfig, TopicState,
    backplane::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Memory, Place},
};

use crate::{
    time_limit::within_20_s,
    world::{End, World, event, fail, key, post, resume, write},
};

async fn world(engine: impl Backplane) -> World {
    let registry = Registry::with_config(RegistryConfig::default().backplane(engine));
    within_20_s(registry.ready()).await.unwrap();
    World::of(registry.clone(), RecordLayer::by_topic(&registry, key))
}

async fn until(registry: &Registry, state: TopicState) {
    within_20_s(async {
        while registry.topic_state("a") != Some(state) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_at_another_node_joins_resumes_and_does_not_run_the_handler() {
    let engine = Memory::new();
    let (mut one, mut other) = (world(engine.clone()).await, world(engine).await);
    let (frames, mut first) = one.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    until(&other.registry, TopicState::Producing).await;
    let second = other.join(post("a")).await;
    let third = other.join(resume("a", &first.last_event_id())).await;
    event(&frames, "2").await;
    drop(frames);
    assert_eq!((second.whole().await, third.whole().await), (vec!["1".into(), "2".into()], vec!["2".into()]));
    assert_eq!(first.whole().await, ["1", "2"]);
    one.assert_not_called();
    other.assert_not_called();
}

#[tokio::test]
async fn a_failed_recording_has_failed_at_all_nodes() {
    let engine = Memory::new();
    let (mut one, mut other) = (world(engine.clone()).await, world(engine).await);
    let (frames, mut first) = one.begin("a").await;
    fail(frames).await;
    assert_eq!(first.end().await, End::Error);
    until(&other.registry, TopicState::Failed).await;
    let mut second = other.join(post("a")).await;
    assert_eq!(second.end().await, End::Error);
    assert_eq!(first.text, second.text);
    other.assert_not_called();
}

#[tokio::test]
async fn a_recording_is_cancelled_from_another_node() {
    let engine = Memory::new();
    let (mut one, other) = (world(engine.clone()).await, world(engine).await);
    let (frames, mut first) = one.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    until(&other.registry, TopicState::Producing).await;
    let waited = within_20_s(async {
        // The other node knows the producer as soon as it has read the log that far.
        while !other.registry.cancel_producer("a") {
            tokio::task::yield_now().await;
        }
    });
    waited.await;
    assert_eq!(first.end().await, End::Error);
    one.bodies.until(0).await;
    assert!(frames.is_closed());
}

#[tokio::test]
async fn a_recording_of_reserved_name_crosses_too() {
    let engine = Memory::new();
    let world_by_key = async |engine: Memory| {
        let registry = Registry::with_config(RegistryConfig::default().backplane(engine));
        within_20_s(registry.ready()).await.unwrap();
        World::of(registry.clone(), RecordLayer::by_key(&registry, key))
    };
    let (mut one, mut other) = (world_by_key(engine.clone()).await, world_by_key(engine).await);
    let (frames, first) = one.begin("a").await;
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(first.whole().await, ["1"]);
    let topic = one.record.topic_of(&post("a").into_parts().0).unwrap().unwrap();
    within_20_s(async {
        while other.registry.topic_state(&topic) != Some(TopicState::Ended) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(other.join(post("a")).await.whole().await, ["1"]);
    other.assert_not_called();
}

/// An engine that takes nothing while its gate is closed.
#[derive(Debug, Clone)]
struct Gated {
    memory: Memory,
    is_open: Arc<watch::Sender<bool>>,
}

impl Gated {
    async fn opened(&self) {
        let mut is_open = self.is_open.subscribe();
        is_open.wait_for(|is_open| *is_open).await.unwrap();
    }
}

impl Backplane for Gated {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.memory.follow(after)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            self.opened().await;
            self.memory.append_above(place, block).await
        })
    }
}

#[tokio::test]
async fn while_the_engine_is_away_the_body_is_read_no_further_and_no_event_is_lost() {
    const EVENTS: usize = 25_000;
    let engine = Gated { memory: Memory::new(), is_open: Arc::new(watch::Sender::new(false)) };
    let mut world = world(engine.clone()).await;
    let (frames, mut first) = world.begin("a").await;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        for number in 0..EVENTS {
            write(&frames, &format!("data: {number}\n\n")).await;
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    // The outbox is full when the program can publish nothing.
    within_20_s(async {
        while world.registry.publish("other", tower_sse::Event::data("x")).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(sent.load(std::sync::atomic::Ordering::SeqCst) < 11_000, "the body is not read");
    engine.is_open.send_replace(true);
    assert_eq!(first.end().await, End::Clean);
    writer.await.unwrap();
    let expected: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
    assert!(first.data() == expected, "{} events of {EVENTS}", first.data().len());
}

/// An engine that takes a while.
#[derive(Debug)]
struct Far(Memory);

impl Backplane for Far {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.0.follow(after)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.0.append_above(place, block).await
        })
    }
}

/// A registry behind such an engine, on which something is published all the time.
async fn busy(config: RegistryConfig) -> Registry {
    let registry = Registry::with_config(config.backplane(Far(Memory::new())));
    registry.ready().await.unwrap();
    let noise = registry.clone();
    tokio::spawn(async move {
        while noise.publish("noise", Event::data("x")).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    registry
}

async fn recorded_once(world: &mut World) {
    let (frames, reader) = world.begin("a").await;
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(reader.whole().await, ["1"]);
}

#[tokio::test]
async fn a_recording_that_has_ended_is_not_counted_as_running_while_others_publish() {
    let registry = busy(RegistryConfig::default()).await;
    let mut world = World::of(registry.clone(), RecordLayer::by_key(&registry, key));
    recorded_once(&mut world).await;
    within_20_s(async {
        while world.record.running() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_recording_that_was_forgotten_is_made_again_while_others_publish() {
    let registry = busy(RegistryConfig::default().ended_topic_ttl(Duration::from_millis(100))).await;
    let mut world = World::of(registry.clone(), RecordLayer::by_topic(&registry, key));
    recorded_once(&mut world).await;
    within_20_s(async {
        while registry.topic_state("a").is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    recorded_once(&mut world).await;
}
