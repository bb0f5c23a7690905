//! Producers and the ends of topics, over several nodes.

use std::time::Duration;

use tower_sse::{
    Event, EventStream, PublishError, Registry, RegistryConfig, Start, Subscription, TopicState,
    backplane::{Backplane, Memory, Place},
};

use super::{
    faulty::{Engine, Faults},
    nodes::{data_of, next, node, reader},
};

#[tokio::test]
async fn the_end_of_a_topic_and_its_last_event_reach_the_readers_of_all_nodes() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let mut reader = reader(&b, "answers/1");
    let producer = a.start_producer("answers/1").unwrap();
    assert_eq!(a.topic_state("answers/1"), Some(TopicState::Producing));
    producer.publish(Event::data("Once")).unwrap();
    producer.finish(Event::data("the end")).unwrap().await.unwrap();
    assert_eq!([data_of(&mut reader).await, data_of(&mut reader).await], ["Once", "the end"]);
    assert_eq!(b.topic_state("answers/1"), Some(TopicState::Ended));
    let client = b.connect();
    client.subscribe("answers/1").unwrap();
    let _: EventStream = client.into_stream();
}

#[tokio::test]
async fn a_node_that_starts_later_knows_that_a_topic_was_cancelled_whose_begin_is_not_in_the_log_any_more() {
    let engine = Memory::new();
    let last_word = Event::data("by you");
    let config = |event: Option<Event>| RegistryConfig::default().backplane(engine.clone()).cancelled_event(event);
    for (topic, event) in [("with an event", Some(last_word)), ("without", None)] {
        let a = Registry::with_config(config(event.clone()));
        a.ready().await.unwrap();
        let _producer = a.start_producer(topic).unwrap();
        a.flushed().await;
        let begun = a.publish("other", Event::data("")).unwrap().await.unwrap();
        assert!(a.cancel_producer(topic));
        a.flushed().await;
        engine.trim(Place { ms: begun.ms(), seq: u64::from(begun.seq()) / 1024 });
        let late = node(&engine).await;
        assert_eq!(late.topic_state(topic), Some(TopicState::Cancelled), "{topic}");
        if event.is_some() {
            let mut events = reader(&late, Subscription::to(topic).from(Start::Oldest));
            assert!(next(&mut events).await.is_err(), "it may not be all");
            assert_eq!(data_of(&mut events).await, "by you");
        }
    }
}

#[tokio::test]
async fn a_node_that_starts_later_knows_that_a_topic_has_failed() {
    let engine = Memory::new();
    let a = node(&engine).await;
    let producer = a.start_producer("answers/1").unwrap();
    producer.publish(Event::data("Once")).unwrap();
    drop(producer);
    a.flushed().await;
    let late = node(&engine).await;
    assert_eq!(late.topic_state("answers/1"), Some(TopicState::Failed));
    let mut events = reader(&late, Subscription::to("answers/1").from(Start::Oldest));
    assert_eq!(data_of(&mut events).await, "Once");
    let last = next(&mut events).await.unwrap();
    assert_eq!(last.event_type(), Some("failed"));
    assert!(tokio_stream::StreamExt::next(&mut events).await.is_none());
}

#[tokio::test]
async fn a_producer_of_another_node_replaces_this_one_and_no_node_takes_what_it_publishes_later() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let old = a.start_producer("t").unwrap();
    old.publish(Event::data("old")).unwrap().await.unwrap();
    let new = b.start_producer("t").unwrap();
    // Published before the old producer can know, and after the new one in the log.
    new.publish(Event::data("new")).unwrap().await.unwrap();
    let late = old.publish(Event::data("too late"));
    let refused = match late {
        Ok(receipt) => receipt.await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused, PublishError::Replaced { topic: "t".into() });
    assert_eq!(old.stopped().await, refused);
    for registry in [&a, &b] {
        let mut events = reader(registry, Subscription::to("t").from(Start::Oldest));
        assert_eq!([data_of(&mut events).await, data_of(&mut events).await], ["old", "new"]);
    }
    new.end();
    b.flushed().await;
    a.flushed().await;
    until_ended(&a).await;
}

async fn until_ended(registry: &Registry) {
    while registry.topic_state("t") != Some(TopicState::Ended) {
        registry.publish("other", Event::data("x")).unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_producer_is_cancelled_from_another_node() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    let producer = a.start_producer("t").unwrap();
    producer.publish(Event::data("x")).unwrap().await.unwrap();
    b.publish("other", Event::data("x")).unwrap().await.unwrap();
    assert!(b.cancel_producer("t"));
    assert_eq!(producer.stopped().await, PublishError::Cancelled { topic: "t".into() });
    assert_eq!(a.topic_state("t"), Some(TopicState::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_does_not_stop_a_producer_that_has_begun_after_it() {
    let engine = Engine::new(1, Faults::none());
    let cancelled = || Some(Event::data("by you"));
    for last_word in [None, cancelled()] {
        let config = || RegistryConfig::default().backplane(engine.handle()).cancelled_event(last_word.clone());
        let [a, b] = [Registry::with_config(config()), Registry::with_config(config())];
        a.ready().await.unwrap();
        b.ready().await.unwrap();
        let first = a.start_producer("t").unwrap();
        first.publish(Event::data("x")).unwrap().await.unwrap();
        b.publish("other", Event::data("x")).unwrap().await.unwrap();
        let away = engine.nodes() - 1;
        engine.cut_off(away);
        assert!(b.cancel_producer("t"));
        let second = a.replace_producer("t").unwrap();
        second.publish(Event::data("y")).unwrap().await.unwrap();
        engine.end_faults();
        b.flushed().await;
        a.flushed().await;
        a.publish("other", Event::data("x")).unwrap().await.unwrap();
        for node in [&a, &b] {
            assert_eq!(node.topic_state("t"), Some(TopicState::Producing));
        }
        second.publish(Event::data("z")).unwrap().await.unwrap();
        second.end();
        a.flushed().await;
    }
}

#[tokio::test]
async fn a_topic_that_has_ended_takes_no_event_of_any_node() {
    let engine = Memory::new();
    let [a, b] = [node(&engine).await, node(&engine).await];
    a.start_producer("t").unwrap().end();
    let sent = b.publish("t", Event::data("x"));
    a.flushed().await;
    // It was sent before the end was known, or it was refused at once. In the log it is first or last, and all nodes agree.
    if let Ok(receipt) = sent {
        let _ = receipt.await;
    }
    b.publish("other", Event::data("x")).unwrap().await.unwrap();
    assert_eq!(b.publish("t", Event::data("x")), Err(PublishError::Ended { topic: "t".into() }));
}

#[tokio::test]
async fn one_process_has_one_producer_of_a_topic() {
    let engine = Memory::new();
    let a = node(&engine).await;
    let producer = a.start_producer("t").unwrap();
    assert!(a.start_producer("t").is_err());
    producer.end();
    a.start_producer("t").unwrap().end();
}

#[tokio::test(start_paused = true)]
async fn a_topic_whose_producer_died_with_its_node_fails_within_a_minute() {
    let engine = Engine::new(1, Faults::none());
    let config = || tower_sse::RegistryConfig::default().backplane(engine.handle());
    let [dead, alive] = [Registry::with_config(config()), Registry::with_config(config())];
    dead.ready().await.unwrap();
    alive.ready().await.unwrap();
    let mut events = reader(&alive, "t");
    let producer = dead.start_producer("t").unwrap();
    producer.publish(Event::data("Once")).unwrap().await.unwrap();
    engine.cut_off(0);
    assert_eq!(data_of(&mut events).await, "Once");
    assert_eq!(alive.topic_state("t"), Some(TopicState::Producing));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(alive.topic_state("t"), Some(TopicState::Failed));
    assert_eq!(next(&mut events).await.unwrap().event_type(), Some("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_when_the_end_of_a_topic_is_trimmed_knows_that_it_has_ended() {
    let engine = Engine::new(1, Faults::none());
    let config = || {
        let retention = tower_sse::Retention::default().events(10);
        tower_sse::RegistryConfig::default().backplane(engine.handle()).topic_retention(retention)
    };
    let registry = Registry::with_config(config());
    registry.ready().await.unwrap();
    registry.start_producer("ended").unwrap().end();
    let failing = registry.start_producer("failed").unwrap();
    let going_on = registry.start_producer("going on").unwrap();
    drop(failing);
    for turn in 0..5 {
        for number in 0..40 {
            registry.publish("other", Event::data(format!("{turn}-{number}"))).unwrap().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!(engine.trims());
    let late = Registry::with_config(config());
    late.ready().await.unwrap();
    let states = ["ended", "failed", "going on"].map(|topic| late.topic_state(topic));
    assert_eq!(states, [TopicState::Ended, TopicState::Failed, TopicState::Producing].map(Some));
    // Whoever subscribes to a topic that has failed gets its last event.
    for node in [&registry, &late] {
        assert_eq!(next(&mut reader(node, "failed")).await.unwrap().event_type(), Some("failed"));
    }
    going_on.finish(Event::data("the end")).unwrap().await.unwrap();
    late.publish("other", Event::data("x")).unwrap().await.unwrap();
    assert_eq!(late.topic_state("going on"), Some(TopicState::Ended));
    // Events that are older than the end are evicted before it, so the time of the end decides.
    tokio::time::sleep(Duration::from_secs(400)).await;
    late.publish("other", Event::data("x")).unwrap().await.unwrap();
    assert_eq!(late.topic_state("ended"), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_when_the_begin_is_trimmed_has_the_same_events_and_the_same_end() {
    for finishes in [true, false] {
        let engine = Engine::new(1, Faults::none());
        let config = || {
            let retention = tower_sse::Retention::default().events(50);
            tower_sse::RegistryConfig::default().backplane(engine.handle()).topic_retention(retention)
        };
        let registry = Registry::with_config(config());
        registry.ready().await.unwrap();
        let producer = registry.start_producer("t").unwrap();
        for number in 0..200 {
            producer.publish(Event::data(number.to_string())).unwrap().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let state = match finishes {
            true => {
                producer.finish(Event::data("the end")).unwrap().await.unwrap();
                TopicState::Ended
            }
            false => {
                producer.publish(Event::data("more")).unwrap().await.unwrap();
                std::mem::forget(producer);
                TopicState::Producing
            }
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(engine.trims());
        let late = Registry::with_config(config());
        late.ready().await.unwrap();
        assert_eq!(late.topic_state("t"), Some(state));
        for node in [&registry, &late] {
            let mut events = reader(node, Subscription::to("t").from(Start::Oldest));
            assert!(next(&mut events).await.is_err(), "the first events are gone");
            for number in 151..200 {
                assert_eq!(data_of(&mut events).await, number.to_string());
            }
        }
    }
}

/// Nobody is taken for dead while the engine was away.
#[tokio::test(start_paused = true)]
async fn an_engine_that_was_away_for_minutes_fails_no_producer() {
    let engine = Engine::new(1, Faults::none());
    let nodes =
        [(); 5].map(|()| Registry::with_config(tower_sse::RegistryConfig::default().backplane(engine.handle())));
    let mut producers = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        node.ready().await.unwrap();
        producers.push(node.start_producer(format!("t/{number}")).unwrap());
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    for node in 0..5 {
        engine.cut_off(node);
    }
    tokio::time::sleep(Duration::from_secs(200)).await;
    engine.end_faults();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for producer in producers {
        producer.publish(Event::data("it goes on")).unwrap().await.unwrap();
    }
}

async fn begins_again(registry: Registry) -> Option<String> {
    registry.start_producer("t").unwrap().end();
    registry.flushed().await;
    let other = registry.publish("other", Event::data("")).unwrap();
    other.await.unwrap();
    // As a handler that starts the answer anew and returns its stream.
    let producer = registry.start_producer("t").unwrap();
    let mut events = reader(&registry, Subscription::to("t").from(Start::Oldest));
    assert_eq!(registry.topic_state("t"), Some(TopicState::Producing));
    producer.publish(Event::data("new")).unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), tokio_stream::StreamExt::next(&mut events))
        .await
        .expect("it comes soon");
    next.map(|event| event.unwrap().data().unwrap().into_owned())
}

#[tokio::test]
async fn a_handler_that_begins_an_ended_topic_again_and_streams_it_gets_the_new_events() {
    assert_eq!(begins_again(Registry::new()).await.as_deref(), Some("new"));
    let engine = Memory::new();
    assert_eq!(begins_again(node(&engine).await).await.as_deref(), Some("new"), "with a backplane");
}
