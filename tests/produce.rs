//! Topics that one producer fills and ends: who may write, what readers get, how their streams end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use tokio_test::{assert_pending, assert_ready, task};
use tower_sse::{
    ClientHandle, CloseReason, Event, ProduceError, PublishError, Registry, RegistryConfig, Retention, SseBody, Start,
    Subscription, TopicState,
};

#[path = "support/answer.rs"]
mod answer;
#[path = "support/bodies.rs"]
mod bodies;
#[path = "support/open.rs"]
mod open;
#[path = "support/polling.rs"]
mod polling;
#[path = "support/watched.rs"]
mod watched;
use answer::answer;
use open::{Empty, open};
use polling::{Polled, bounded, bounded_in_time, data, fields, next, poll, publish, quiet, rest, settle, told};
use watched::watched;

fn reading(registry: &Registry, name: &str, start: Start) -> (ClientHandle, SseBody<Empty>) {
    open(&quiet(registry), None, |client| client.subscribe(Subscription::matching(name).from(start)).unwrap())
}

/// The data of a stream up to its end.
fn whole(body: &mut SseBody<Empty>) -> Vec<String> {
    let (wire, has_ended) = rest(body);
    assert!(has_ended, "the stream goes on after {wire:?}");
    fields(&wire, "data").into_iter().map(str::to_owned).collect()
}

fn reason(client: &ClientHandle) -> CloseReason {
    assert_ready!(task::spawn(client.closed()).poll())
}

/// What `EventStream` answers one that comes back with this id.
fn resumed(registry: &Registry, id: Option<&str>, topics: &[&str]) -> Response<SseBody<Empty>> {
    let mut request = Request::builder();
    if let Some(id) = id {
        request = request.header("last-event-id", id);
    }
    answer(&quiet(registry), request.body(()).unwrap(), |client| {
        topics.iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
        client.clone().into_stream().into_response::<Empty>()
    })
    .1
}

#[test]
fn a_reader_has_all_and_then_a_clean_end() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        assert_eq!((producer.topic(), registry.topic_state("a")), ("a", Some(TopicState::Produced)));
        let (waiting, mut waiting_body) = reading(&registry, "a", Start::Now);
        producer.publish(Event::data("1")).unwrap();
        assert_eq!(told(&mut waiting_body), ["1"]);
        let mut waiting_body = task::spawn(waiting_body);
        assert_pending!(waiting_body.enter(|cx, body| http_body::Body::poll_frame(body, cx)));
        let (behind, mut behind_body) = reading(&registry, "a", Start::Oldest);
        producer.end();
        assert!(waiting_body.is_woken());
        assert!(assert_ready!(waiting_body.enter(|cx, body| http_body::Body::poll_frame(body, cx))).is_none());
        assert_eq!(whole(&mut behind_body), ["1"]);
        assert_eq!((reason(&waiting), reason(&behind)), (CloseReason::Completed, CloseReason::Completed));
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        assert_eq!((registry.stats().clients, registry.stats().subscriptions), (0, 0));
    });
}

#[test]
fn a_reader_that_comes_after_the_end_has_the_rest_and_the_end() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        ["1", "2", "3"].iter().for_each(|data| assert!(producer.publish(Event::data(data)).is_ok()));
        drop(producer);
        let (client, mut body) = reading(&registry, "a", Start::Oldest);
        assert_eq!((whole(&mut body).concat(), reason(&client)), ("123".into(), CloseReason::Completed));
        let events = registry.connect();
        events.subscribe_from("a", Start::Last(2)).unwrap();
        let mut events = events.into_events();
        assert_eq!(data(&mut events), ["2", "3"]);
        assert!(next(&mut events).is_none());
        assert_eq!(whole(&mut reading(&registry, "a", Start::Now).1), [""; 0]);
    });
}

#[test]
fn a_batched_or_labelled_reader_comes_to_the_end_too() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        producer.publish(Event::data("1")).unwrap();
        let batching = tower_sse::Batching::every(Duration::from_secs(1));
        let layers = [batching, batching.as_array()].map(|batching| quiet(&registry).batching(batching));
        let [mut plain, mut array] = layers
            .map(|layer| open(&layer.label(true), None, |client| client.subscribe_from("a", Start::Oldest).unwrap()).1);
        assert_eq!(
            (told(&mut plain), told(&mut array)),
            (vec!["1".into()], vec![r#"[{"topic":"a","data":1}]"#.into()])
        );
        producer.end();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((poll(&mut plain), poll(&mut array)), (Polled::End, Polled::End));
    });
}

#[test]
fn who_has_had_all_is_answered_with_204() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        let first = producer.publish(Event::data("1")).unwrap().position().to_string();
        let last = producer.publish(Event::data("2")).unwrap().position().to_string();
        assert_eq!(resumed(&registry, Some(&last), &["a"]).status(), StatusCode::OK, "more may come");
        producer.end();
        let done = resumed(&registry, Some(&last), &["a"]);
        assert_eq!(done.status(), StatusCode::NO_CONTENT);
        assert_eq!(registry.stats().clients, 0, "nothing is left of it");
        let rest = resumed(&registry, Some(&first), &["a"]);
        assert_eq!((rest.status(), whole(&mut rest.into_body())), (StatusCode::OK, vec!["2".to_owned()]));
        assert_eq!(resumed(&registry, Some(&last), &["a", "b"]).status(), StatusCode::OK, "another topic goes on");
        assert_eq!(resumed(&registry, None, &[]).status(), StatusCode::OK, "it may be subscribed later");
        let lost = resumed(&registry, Some("1-0"), &["a"]);
        assert_eq!(lost.status(), StatusCode::OK, "it is to be told of a gap");
        assert_eq!(whole(&mut lost.into_body())[1..], ["1", "2"]);
    });
}

#[cfg(feature = "axum")]
#[test]
fn who_has_had_all_is_answered_with_204_by_axum() {
    use axum::response::IntoResponse;
    let registry = Registry::new();
    registry.produce("a").unwrap().end();
    let client = registry.connect();
    client.subscribe("a").unwrap();
    assert_eq!(IntoResponse::into_response(client.into_stream()).status(), StatusCode::NO_CONTENT);
}

#[test]
fn a_stream_ends_when_the_last_of_its_topics_does() {
    bounded(|| {
        let registry = Registry::new();
        let [a, b] = ["a", "b"].map(|topic| registry.produce(topic).unwrap());
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["a", "b"].iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
        });
        a.publish(Event::data("a")).unwrap();
        a.end();
        assert_eq!(told(&mut body), ["a"]);
        b.publish(Event::data("b")).unwrap();
        assert_eq!((told(&mut body), client.subscriptions()), (vec!["b".to_owned()], vec!["b".to_owned()]));
        b.end();
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::Completed));
    });
}

#[test]
fn what_was_sent_to_the_client_alone_does_not_hold_a_completed_stream_open() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            client.send(Event::data("welcome")).unwrap();
            client.subscribe("a").unwrap();
        });
        producer.publish(Event::data("1")).unwrap();
        producer.end();
        assert_eq!(whole(&mut body), ["welcome", "1"]);
        assert_eq!(reason(&client), CloseReason::Completed);
    });
}

#[test]
fn a_handlers_own_body_that_goes_on_is_not_cut() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        let (frames, own) = bodies::channel();
        let (client, response) = answer(&quiet(&registry), Request::new(()), |client| {
            client.subscribe("a").unwrap();
            bodies::event_stream(own)
        });
        let mut body = response.into_body();
        producer.publish(Event::data("1")).unwrap();
        producer.end();
        let send = |data: &'static str| frames.try_send(Ok(Frame::data(Bytes::from_static(data.as_bytes())))).unwrap();
        assert_eq!(polling::told(&mut body), ["1"]);
        send("data: own\n\n");
        assert_eq!(polling::told(&mut body), ["own"]);
        drop(frames);
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::Completed));
    });
}

#[test]
fn a_topic_has_one_producer_unless_another_takes_over() {
    bounded(|| {
        let registry = Registry::new();
        let first = registry.produce("a").unwrap();
        assert_eq!(registry.produce("a").unwrap_err(), ProduceError::Busy { topic: "a".into() });
        let mut stopped = task::spawn(first.stopped());
        assert_pending!(stopped.poll());
        let (client, mut body) = reading(&registry, "a", Start::Now);
        first.publish(Event::data("first")).unwrap();
        let second = registry.take_over("a").unwrap();
        assert!(stopped.is_woken());
        let replaced = PublishError::Replaced { topic: "a".into() };
        assert_eq!(assert_ready!(stopped.poll()), replaced);
        drop(stopped);
        assert_eq!(first.publish(Event::data("late")).unwrap_err(), replaced);
        second.publish(Event::data("second")).unwrap();
        drop(first);
        assert_eq!(registry.topic_state("a"), Some(TopicState::Produced), "what was replaced ends nothing");
        assert_eq!(told(&mut body), ["first", "second"]);
        second.end();
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::Completed));
    });
}

#[test]
fn a_cancelled_producer_may_not_write_on_and_its_topic_has_ended() {
    bounded(|| {
        let registry = Registry::new();
        assert!(!registry.cancel("a"));
        publish(&registry, "a", "0");
        assert!(!registry.cancel("a"), "nobody produces it");
        let producer = registry.produce("a").unwrap();
        let (client, mut body) = reading(&registry, "a", Start::Oldest);
        let mut stopped = task::spawn(producer.stopped());
        assert_pending!(stopped.poll());
        assert!(registry.cancel("a") && !registry.cancel("a"));
        let cancelled = PublishError::Cancelled { topic: "a".into() };
        assert!(stopped.is_woken());
        assert_eq!(assert_ready!(stopped.poll()), cancelled);
        drop(stopped);
        assert_eq!(producer.publish(Event::data("late")).unwrap_err(), cancelled);
        assert_eq!((whole(&mut body), reason(&client)), (vec!["0".to_owned()], CloseReason::Completed));
        let again = registry.produce("a").unwrap();
        drop(producer);
        again.publish(Event::data("1")).unwrap();
        assert_eq!(registry.topic_state("a"), Some(TopicState::Produced));
    });
}

#[test]
fn an_ended_topic_takes_nothing_until_somebody_produces_it_again() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.produce("a").unwrap();
        producer.publish(Event::data("1")).unwrap();
        let (old, mut old_body) = reading(&registry, "a", Start::Oldest);
        producer.end();
        let refused = registry.publish("a", Event::data("refused")).unwrap_err();
        assert_eq!(refused, PublishError::Ended { topic: "a".into() });
        let again = registry.produce("a").unwrap();
        again.publish(Event::data("2")).unwrap();
        assert_eq!(told(&mut old_body), ["1", "2"], "who had not come to the end goes on");
        let (_, mut new_body) = reading(&registry, "a", Start::Oldest);
        assert_eq!(told(&mut new_body), ["1", "2"]);
        again.end();
        assert_eq!((poll(&mut old_body), poll(&mut new_body)), (Polled::End, Polled::End));
        assert_eq!(reason(&old), CloseReason::Completed);
    });
}

#[test]
fn a_piped_stream_goes_on_without_readers_and_ends_the_topic() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let tokens = tokio_stream::iter(["1", "2", "3"].map(Event::data));
        registry.produce("a").unwrap().pipe(tokens).await.unwrap().unwrap();
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        assert_eq!(whole(&mut reading(&registry, "a", Start::Oldest).1).concat(), "123");
    });
}

#[test]
fn a_piped_stream_is_dropped_as_soon_as_its_producer_may_not_write_on() {
    bounded_in_time(|| async {
        for takes_over in [true, false] {
            let registry = Registry::new();
            let (events, stream, dropped) = watched();
            let task = registry.produce("a").unwrap().pipe(stream);
            events.send(Event::data("1")).await.unwrap();
            settle().await;
            assert!(!dropped.load(Ordering::Relaxed));
            let topic = "a".to_owned();
            let (second, expected) = match takes_over {
                true => (registry.take_over("a").ok(), PublishError::Replaced { topic }),
                false => (None, PublishError::Cancelled { topic }),
            };
            assert!(takes_over || registry.cancel("a"));
            settle().await;
            assert!(dropped.load(Ordering::Relaxed) && events.is_closed(), "it does not wait for the next event");
            assert_eq!(task.await.unwrap(), Err(expected));
            assert_eq!(second.is_some(), registry.topic_state("a") == Some(TopicState::Produced));
        }
    });
}

#[test]
fn a_producer_that_panics_or_is_aborted_ends_its_topic() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let (client, mut body) = reading(&registry, "a", Start::Now);
        let mut given = false;
        let panics = tokio_stream::StreamExt::map(tokio_stream::iter([0, 1]), move |_| {
            assert!(!std::mem::replace(&mut given, true), "a stream that was meant to fail");
            Event::data("1")
        });
        assert!(registry.produce("a").unwrap().pipe(panics).await.unwrap_err().is_panic());
        assert_eq!((whole(&mut body), reason(&client)), (vec!["1".to_owned()], CloseReason::Completed));
        let (_events, stream, dropped) = watched();
        let task = registry.produce("b").unwrap().pipe(stream);
        settle().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled() && dropped.load(Ordering::Relaxed));
        assert_eq!(registry.topic_state("b"), Some(TopicState::Ended));
    });
}

#[test]
fn what_was_produced_is_forgotten_some_time_after_its_end() {
    bounded_in_time(|| async {
        let config = RegistryConfig::default().forget_ended_after(Duration::from_secs(60));
        let registry = Registry::with_config(config);
        let producer = registry.produce("a").unwrap();
        let position = producer.publish(Event::data("1")).unwrap().position().to_string();
        producer.end();
        let (late, mut late_body) = reading(&registry, "a", Start::Oldest);
        registry.produce("again").unwrap().end();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        let again = registry.produce("again").unwrap();
        again.publish(Event::data("2")).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        publish(&registry, "elsewhere", "");
        let (wire, has_ended) = rest(&mut late_body);
        assert!(wire.starts_with("event: gap\n") && !wire.contains("data: 1\n") && has_ended, "{wire}");
        assert_eq!(reason(&late), CloseReason::Completed);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(registry.topic_state("a"), None);
        assert_eq!(registry.topic_state("again"), Some(TopicState::Produced), "the old end is not its end");
        assert_eq!((registry.stats().topics, registry.stats().events), (2, 2));
        assert_eq!(resumed(&registry, Some(&position), &["a"]).status(), StatusCode::OK);
    });
}

#[test]
fn a_reader_that_lags_behind_a_producer_is_told_and_comes_to_the_end() {
    bounded(|| {
        let config = RegistryConfig::default().topic_retention(Retention::default().events(2));
        let registry = Registry::with_config(config);
        let producer = registry.produce("a").unwrap();
        let (client, mut body) = reading(&registry, "a", Start::Now);
        (0..5).for_each(|number| assert!(producer.publish(Event::data(number.to_string())).is_ok()));
        producer.end();
        let (wire, has_ended) = rest(&mut body);
        assert!(wire.starts_with("event: gap\n") && has_ended, "{wire}");
        assert_eq!(fields(&wire, "data")[1..], ["3", "4"]);
        assert_eq!((registry.stats().missed, reason(&client)), (3, CloseReason::Completed));
    });
}

#[test]
fn a_pattern_goes_on_when_a_topic_of_it_ends() {
    bounded(|| {
        let registry = Registry::new();
        let (client, mut body) = reading(&registry, "a/*", Start::Now);
        let producer = registry.produce("a/1").unwrap();
        assert_eq!(producer.publish(Event::data("1")).unwrap().clients(), 1);
        producer.end();
        publish(&registry, "a/2", "2");
        assert_eq!((told(&mut body), client.subscriptions()), (vec!["1".into(), "2".into()], vec!["a/*".to_owned()]));
    });
}

#[tokio::test]
async fn a_stream_that_is_always_ready_lets_others_run() {
    let registry = Registry::new();
    let endless = tokio_stream::StreamExt::map(tokio_stream::iter(0..), |number: u64| Event::data(number.to_string()));
    let task = registry.produce("a").unwrap().pipe(endless);
    settle().await;
    assert!(registry.cancel("a"));
    assert_eq!(task.await.unwrap(), Err(PublishError::Cancelled { topic: "a".into() }));
}
