//! Topics that one producer fills and ends: which producer may write, what readers get, and how their streams end.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use tokio_test::{assert_pending, assert_ready, task};
use tower_sse::{
    ClientHandle, CloseReason, Event, ProducerError, PublishError, Registry, RegistryConfig, Retention, SpawnFromError,
    SseBody, Start, SubscribeError, Subscription, TopicState,
};

use crate::{
    answer::answer,
    bodies,
    open::{Empty, open},
    polling,
    polling::{Polled, bounded, bounded_in_time, data, fields, next, poll, publish, quiet, received, rest, settle},
    watched::watched,
};

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

/// The response of `EventStream` to a client that resumes from this id.
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
fn a_reader_gets_all_events_and_then_a_clean_end() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        assert_eq!((producer.topic(), registry.topic_state("a")), ("a", Some(TopicState::Producing)));
        let (waiting, mut waiting_body) = reading(&registry, "a", Start::Now);
        producer.publish(Event::data("1")).unwrap();
        assert_eq!(received(&mut waiting_body), ["1"]);
        let mut waiting_body = task::spawn(waiting_body);
        assert_pending!(waiting_body.enter(|cx, body| http_body::Body::poll_frame(body, cx)));
        let (behind, mut behind_body) = reading(&registry, "a", Start::Oldest);
        producer.end();
        assert!(waiting_body.is_woken());
        assert!(assert_ready!(waiting_body.enter(|cx, body| http_body::Body::poll_frame(body, cx))).is_none());
        assert_eq!(whole(&mut behind_body), ["1"]);
        assert_eq!((reason(&waiting), reason(&behind)), (CloseReason::TopicsEnded, CloseReason::TopicsEnded));
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        assert_eq!((registry.stats().clients, registry.stats().subscriptions), (0, 0));
    });
}

#[test]
fn a_reader_that_comes_after_the_end_gets_the_rest_and_the_end() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        ["1", "2", "3"].iter().for_each(|data| assert!(producer.publish(Event::data(data)).is_ok()));
        producer.end();
        let (client, mut body) = reading(&registry, "a", Start::Oldest);
        assert_eq!((whole(&mut body).concat(), reason(&client)), ("123".into(), CloseReason::TopicsEnded));
        let events = registry.connect();
        events.subscribe_from("a", Start::Last(2)).unwrap();
        let mut events = events.into_events();
        assert_eq!(data(&mut events), ["2", "3"]);
        assert!(next(&mut events).is_none());
        assert_eq!(whole(&mut reading(&registry, "a", Start::Now).1), [""; 0]);
    });
}

#[test]
fn a_reader_with_batches_or_topics_as_types_gets_the_end_too() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        producer.publish(Event::data("1")).unwrap();
        let batching = tower_sse::Batching::every(Duration::from_secs(1));
        let layers = [batching, batching.as_array()].map(|batching| quiet(&registry).batching(batching));
        let [mut plain, mut array] = layers.map(|layer| {
            open(&layer.topic_as_event_type(true), None, |client| client.subscribe_from("a", Start::Oldest).unwrap()).1
        });
        assert_eq!(
            (received(&mut plain), received(&mut array)),
            (vec!["1".into()], vec![r#"[{"topic":"a","data":1}]"#.into()])
        );
        producer.end();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((poll(&mut plain), poll(&mut array)), (Polled::End, Polled::End));
    });
}

#[test]
fn a_client_that_read_everything_gets_204() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        let first = producer.publish(Event::data("1")).unwrap().position().unwrap().to_string();
        let last = producer.publish(Event::data("2")).unwrap().position().unwrap().to_string();
        assert_eq!(resumed(&registry, Some(&last), &["a"]).status(), StatusCode::OK, "more events may come");
        producer.end();
        let done = resumed(&registry, Some(&last), &["a"]);
        assert_eq!(done.status(), StatusCode::NO_CONTENT);
        assert_eq!(registry.stats().clients, 0, "the client leaves nothing behind");
        let rest = resumed(&registry, Some(&first), &["a"]);
        assert_eq!((rest.status(), whole(&mut rest.into_body())), (StatusCode::OK, vec!["2".to_owned()]));
        assert_eq!(resumed(&registry, Some(&last), &["a", "b"]).status(), StatusCode::OK, "the other topic goes on");
        assert_eq!(resumed(&registry, None, &[]).status(), StatusCode::OK, "the client may subscribe later");
        let lost = resumed(&registry, Some("1-0"), &["a"]);
        assert_eq!(lost.status(), StatusCode::OK, "the client must be told of a gap");
        assert_eq!(whole(&mut lost.into_body())[1..], ["1", "2"]);
    });
}

#[cfg(feature = "axum")]
#[test]
fn a_client_that_read_everything_gets_204_from_axum() {
    use axum::response::IntoResponse;
    let registry = Registry::new();
    registry.start_producer("a").unwrap().end();
    let (_, response) = answer(&quiet(&registry), Request::new(()), |client| {
        client.subscribe("a").unwrap();
        IntoResponse::into_response(client.clone().into_stream())
    });
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
}

#[test]
fn a_stream_ends_with_the_last_of_its_topics() {
    bounded(|| {
        let registry = Registry::new();
        let [a, b] = ["a", "b"].map(|topic| registry.start_producer(topic).unwrap());
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["a", "b"].iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
        });
        a.publish(Event::data("a")).unwrap();
        a.end();
        assert_eq!(received(&mut body), ["a"]);
        b.publish(Event::data("b")).unwrap();
        assert_eq!((received(&mut body), client.subscriptions()), (vec!["b".to_owned()], vec!["b".to_owned()]));
        b.end();
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::TopicsEnded));
    });
}

#[test]
fn an_event_to_the_client_alone_keeps_no_completed_stream_open() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            client.send(Event::data("welcome")).unwrap();
            client.subscribe("a").unwrap();
        });
        producer.publish(Event::data("1")).unwrap();
        producer.end();
        assert_eq!(whole(&mut body), ["welcome", "1"]);
        assert_eq!(reason(&client), CloseReason::TopicsEnded);
    });
}

#[test]
fn a_handlers_own_body_is_not_cut_at_the_end_of_topics() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        let (frames, own) = bodies::channel();
        let (client, response) = answer(&quiet(&registry), Request::new(()), |client| {
            client.subscribe("a").unwrap();
            bodies::event_stream(own)
        });
        let mut body = response.into_body();
        producer.publish(Event::data("1")).unwrap();
        producer.end();
        let send = |data: &'static str| frames.try_send(Ok(Frame::data(Bytes::from_static(data.as_bytes())))).unwrap();
        assert_eq!(polling::received(&mut body), ["1"]);
        send("data: own\n\n");
        assert_eq!(polling::received(&mut body), ["own"]);
        drop(frames);
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::TopicsEnded));
    });
}

#[test]
fn a_topic_has_one_producer_until_another_replaces_it() {
    bounded(|| {
        let registry = Registry::new();
        let first = registry.start_producer("a").unwrap();
        assert_eq!(registry.start_producer("a").unwrap_err(), ProducerError::Busy { topic: "a".into() });
        let mut stopped = task::spawn(first.stopped());
        assert_pending!(stopped.poll());
        let (client, mut body) = reading(&registry, "a", Start::Now);
        first.publish(Event::data("first")).unwrap();
        let second = registry.replace_producer("a").unwrap();
        assert!(stopped.is_woken());
        let replaced = PublishError::Replaced { topic: "a".into() };
        assert_eq!(assert_ready!(stopped.poll()), replaced);
        drop(stopped);
        assert_eq!(first.publish(Event::data("late")).unwrap_err(), replaced);
        second.publish(Event::data("second")).unwrap();
        drop(first);
        assert_eq!(
            registry.topic_state("a"),
            Some(TopicState::Producing),
            "a replaced producer does not end the topic"
        );
        assert_eq!(received(&mut body), ["first", "second"]);
        second.end();
        assert_eq!((poll(&mut body), reason(&client)), (Polled::End, CloseReason::TopicsEnded));
    });
}

#[test]
fn a_cancelled_producer_may_not_publish_and_its_topic_has_ended() {
    bounded(|| {
        let registry = Registry::new();
        assert!(!registry.cancel_producer("a"));
        publish(&registry, "a", "0");
        assert!(!registry.cancel_producer("a"), "the topic has no producer");
        let producer = registry.start_producer("a").unwrap();
        let (client, mut body) = reading(&registry, "a", Start::Oldest);
        let mut stopped = task::spawn(producer.stopped());
        assert_pending!(stopped.poll());
        assert!(registry.cancel_producer("a") && !registry.cancel_producer("a"));
        let cancelled = PublishError::Cancelled { topic: "a".into() };
        assert!(stopped.is_woken());
        assert_eq!(assert_ready!(stopped.poll()), cancelled);
        drop(stopped);
        assert_eq!(producer.publish(Event::data("late")).unwrap_err(), cancelled);
        assert_eq!(registry.topic_state("a"), Some(TopicState::Cancelled));
        assert_eq!(whole(&mut body), ["0", r#"{"topic":"a"}"#]);
        assert_eq!(reason(&client), CloseReason::TopicCancelled);
        let again = registry.start_producer("a").unwrap();
        drop(producer);
        again.publish(Event::data("1")).unwrap();
        assert_eq!(registry.topic_state("a"), Some(TopicState::Producing));
    });
}

#[test]
fn an_ended_topic_refuses_events_until_it_has_a_new_producer() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        producer.publish(Event::data("1")).unwrap();
        let (old, mut old_body) = reading(&registry, "a", Start::Oldest);
        producer.end();
        let refused = registry.publish("a", Event::data("refused")).unwrap_err();
        assert_eq!(refused, PublishError::Ended { topic: "a".into() });
        let again = registry.start_producer("a").unwrap();
        again.publish(Event::data("2")).unwrap();
        assert_eq!(received(&mut old_body), ["1", "2"], "a reader that had not reached the end goes on");
        let (_, mut new_body) = reading(&registry, "a", Start::Oldest);
        assert_eq!(received(&mut new_body), ["1", "2"]);
        again.end();
        assert_eq!((poll(&mut old_body), poll(&mut new_body)), (Polled::End, Polled::End));
        assert_eq!(reason(&old), CloseReason::TopicsEnded);
    });
}

#[test]
fn a_producer_of_a_stream_goes_on_without_readers_and_ends_the_topic() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let tokens = tokio_stream::iter(["1", "2", "3"].map(Event::data));
        registry.start_producer("a").unwrap().spawn_from(tokens).await.unwrap().unwrap();
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        assert_eq!(whole(&mut reading(&registry, "a", Start::Oldest).1).concat(), "123");
    });
}

#[test]
fn a_producers_stream_is_dropped_when_it_may_not_publish_any_more() {
    bounded_in_time(|| async {
        for takes_over in [true, false] {
            let registry = Registry::new();
            let (events, stream, dropped) = watched();
            let task = registry.start_producer("a").unwrap().spawn_from(stream);
            events.send(Event::data("1")).await.unwrap();
            settle().await;
            assert!(!dropped.load(Ordering::Relaxed));
            let topic = "a".to_owned();
            let (second, expected) = match takes_over {
                true => (registry.replace_producer("a").ok(), PublishError::Replaced { topic }),
                false => (None, PublishError::Cancelled { topic }),
            };
            assert!(takes_over || registry.cancel_producer("a"));
            settle().await;
            assert!(
                dropped.load(Ordering::Relaxed) && events.is_closed(),
                "the stream is dropped before its next event"
            );
            assert_eq!(task.await.unwrap(), Err(expected));
            assert_eq!(second.is_some(), registry.topic_state("a") == Some(TopicState::Producing));
        }
    });
}

#[test]
fn a_producer_that_panics_or_is_aborted_has_failed() {
    bounded_in_time(|| async {
        let registry = Registry::new();
        let (client, mut body) = reading(&registry, "a", Start::Now);
        assert!(registry.start_producer("a").unwrap().spawn_from(panics_after("1")).await.unwrap_err().is_panic());
        assert_eq!(whole(&mut body), ["1", r#"{"topic":"a"}"#]);
        assert_eq!(reason(&client), CloseReason::TopicFailed);
        let (_events, stream, dropped) = watched();
        let task = registry.start_producer("b").unwrap().spawn_from(stream);
        settle().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled() && dropped.load(Ordering::Relaxed));
        assert_eq!(registry.topic_state("b"), Some(TopicState::Failed));
        let producer = registry.start_producer("c").unwrap();
        let panicked = std::thread::spawn(move || {
            producer.publish(Event::data("1")).unwrap();
            panic!("a thread that was meant to fail");
        });
        assert!(panicked.join().is_err());
        assert_eq!(registry.topic_state("c"), Some(TopicState::Failed));
    });
}

fn panics_after(token: &'static str) -> impl tokio_stream::Stream<Item = Event> + Send {
    let mut given = false;
    tokio_stream::StreamExt::map(tokio_stream::iter([0, 1]), move |_| {
        assert!(!std::mem::replace(&mut given, true), "a stream that was meant to fail");
        Event::data(token)
    })
}

/// What a reader sees of an end.
#[derive(Debug, PartialEq)]
struct Seen {
    state: TopicState,
    /// The types of the events after the single token.
    last: Vec<String>,
    reason: CloseReason,
    /// The status for a reader that resumes after it has read everything.
    status: StatusCode,
}

fn seen(state: TopicState, last: &[&str], reason: CloseReason, status: StatusCode) -> Seen {
    Seen { state, last: last.iter().map(|&event_type| event_type.into()).collect(), reason, status }
}

/// Ends a topic after one token. Returns what a current reader, a later reader and a resuming reader see.
async fn see<T: Future<Output = ()>>(registry: &Registry, end: impl Fn(Registry, tower_sse::Producer) -> T) -> Seen {
    let (state, whole, truncated) = (registry.topic_state("a"), StatusCode::NO_CONTENT, StatusCode::GONE);
    assert_eq!(state, None, "a new registry");
    let producer = registry.start_producer("a").unwrap();
    let (live, mut live_body) = reading(registry, "a", Start::Now);
    let token = producer.publish(Event::data("token")).unwrap().position().unwrap().to_string();
    end(registry.clone(), producer).await;
    let state = registry.topic_state("a").unwrap();
    let (wire, has_ended) = rest(&mut live_body);
    assert!(has_ended && wire.contains("data: token\n"), "{wire}");
    let last: Vec<String> = fields(&wire, "event").into_iter().map(str::to_owned).collect();
    let (late, mut late_body) = reading(registry, "a", Start::Oldest);
    assert_eq!(rest(&mut late_body), (wire.clone(), true), "a later reader gets the same");
    let reason = reason(&live);
    assert_eq!(self::reason(&late), reason);
    // A reader that was cut after the token.
    let behind = resumed(registry, Some(&token), &["a"]);
    let status = if last.is_empty() { behind.status() } else { StatusCode::OK };
    assert_eq!(behind.status(), status);
    if status == StatusCode::OK {
        let (rest, has_ended) = polling::rest(&mut behind.into_body());
        assert!(has_ended && wire.ends_with(&rest) && !rest.is_empty(), "{rest}");
    }
    let back = resumed(registry, fields(&wire, "id").last().copied(), &["a"]);
    assert!(!back.headers().contains_key("content-type"), "no more events come");
    assert_eq!(back.headers()["cache-control"], "no-store");
    assert_eq!(back.extensions().get(), (back.status() == truncated).then_some(&reason));
    assert!([whole, truncated].contains(&back.status()), "an `EventSource` stops");
    Seen { state, last, reason, status: back.status() }
}

#[test]
fn each_end_has_its_own_state_reason_and_status() {
    bounded_in_time(|| async {
        const OUTCOMES: [(TopicState, CloseReason, StatusCode); 3] = [
            (TopicState::Ended, CloseReason::TopicsEnded, StatusCode::NO_CONTENT),
            (TopicState::Cancelled, CloseReason::TopicCancelled, StatusCode::GONE),
            (TopicState::Failed, CloseReason::TopicFailed, StatusCode::GONE),
        ];
        let [whole, cancelled, failed] =
            OUTCOMES.map(|(state, reason, status)| move |last: &[&str]| seen(state, last, reason, status));
        let own = || Event::data("").event("own");
        let registry = Registry::new;

        assert_eq!(see(&registry(), async |_, producer| producer.end()).await, whole(&[]));
        assert_eq!(see(&registry(), async |_, producer| _ = producer.finish(own()).unwrap()).await, whole(&["own"]));
        let piped = async |_: Registry, producer: tower_sse::Producer| {
            producer.spawn_from(tokio_stream::iter([own()])).await.unwrap().unwrap();
        };
        assert_eq!(see(&registry(), piped).await, whole(&["own"]));

        let is_cancelled = async |registry: Registry, _producer| assert!(registry.cancel_producer("a"));
        assert_eq!(see(&registry(), is_cancelled).await, cancelled(&["cancelled"]));
        let with_own =
            async |registry: Registry, _producer| assert!(registry.cancel_producer_with("a", own()).unwrap());
        assert_eq!(see(&registry(), with_own).await, cancelled(&["own"]));

        assert_eq!(see(&registry(), async |_, producer| producer.fail()).await, failed(&["failed"]));
        assert_eq!(see(&registry(), async |_, producer| drop(producer)).await, failed(&["failed"]));
        assert_eq!(see(&registry(), async |_, it| _ = it.fail_with(own()).unwrap()).await, failed(&["own"]));
        let panics = async |_: Registry, producer: tower_sse::Producer| {
            producer.spawn_from(panics_after("1")).await.unwrap_err();
        };
        assert_eq!(see(&registry(), panics).await, failed(&["failed"]));
        let fails = async |_: Registry, producer: tower_sse::Producer| {
            let result =
                producer.try_spawn_from(tokio_stream::iter([Ok(own()), Err("no more"), Ok(own())])).await.unwrap();
            assert_eq!(result, Err(SpawnFromError::Stream("no more")));
        };
        assert_eq!(see(&registry(), fails).await, failed(&["own", "failed"]));
        let fails_with_own = async |_: Registry, producer: tower_sse::Producer| {
            let items = tokio_stream::iter([Err::<Event, _>("why")]);
            let why = |error: &&str| Event::data("").try_event(error).ok();
            assert_eq!(producer.try_spawn_from_with(items, why).await.unwrap(), Err(SpawnFromError::Stream("why")));
        };
        assert_eq!(see(&registry(), fails_with_own).await, failed(&["why"]));
        let succeeds = async |_: Registry, producer: tower_sse::Producer| {
            producer.try_spawn_from(tokio_stream::iter([Ok::<_, String>(own())])).await.unwrap().unwrap();
        };
        assert_eq!(see(&registry(), succeeds).await, whole(&["own"]));

        // With a farewell of the program, or without one, set once for all topics.
        let end = |data: &str| Event::data(data).event("end").id("not sent").unwrap();
        let own = RegistryConfig::default().failed_event(end("failed")).cancelled_event(end("cancelled"));
        let none = RegistryConfig::default().failed_event(None).cancelled_event(None);
        for (config, last) in [(own, &["end"][..]), (none, &[])] {
            let registry = || Registry::with_config(config.clone());
            assert_eq!(see(&registry(), async |_, producer| drop(producer)).await, failed(last));
            assert_eq!(see(&registry(), is_cancelled).await, cancelled(last));
        }
    });
}

#[test]
fn a_last_event_comes_together_with_the_end() {
    bounded(|| {
        for end in 0..3 {
            let registry = Registry::new();
            let producer = registry.start_producer("a").unwrap();
            let (_, body) = reading(&registry, "a", Start::Now);
            let mut body = task::spawn(body);
            assert_pending!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx)));
            let last = Event::data("last");
            match end {
                0 => _ = producer.finish(last).unwrap(),
                1 => _ = producer.fail_with(last).unwrap(),
                _ => assert!(registry.cancel_producer_with("a", last).unwrap()),
            }
            assert!(body.is_woken());
            let frame = assert_ready!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx)));
            let frame = frame.unwrap().unwrap().into_data().unwrap();
            assert!(frame.starts_with(b"data: last\n"));
            assert!(assert_ready!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx))).is_none());
        }
    });
}

#[test]
fn a_late_reader_is_told_of_a_failure_with_any_start() {
    bounded(|| {
        let registry = Registry::new();
        let producer = registry.start_producer("failed").unwrap();
        producer.publish(Event::data("1")).unwrap();
        drop(producer);
        registry.start_producer("whole").unwrap().finish(Event::data("1")).unwrap();
        let told = |start, name: &str| whole(&mut reading(&registry, name, start).1);
        for start in [Start::Now, Start::Last(1)] {
            assert_eq!(told(start, "failed"), [r#"{"topic":"failed"}"#]);
        }
        assert_eq!(told(Start::Now, "whole"), [""; 0], "the topic that ended has no error");
        let first = resumed(&registry, None, &["failed"]);
        assert_eq!((first.status(), whole(&mut first.into_body()).len()), (StatusCode::OK, 1));
        assert_eq!(resumed(&registry, None, &["whole"]).status(), StatusCode::NO_CONTENT);
    });
}

#[test]
fn a_stream_with_a_failed_topic_goes_on_and_is_not_complete() {
    bounded(|| {
        for (first, second, expected) in [
            (TopicState::Failed, TopicState::Ended, CloseReason::TopicFailed),
            (TopicState::Cancelled, TopicState::Ended, CloseReason::TopicCancelled),
            (TopicState::Cancelled, TopicState::Failed, CloseReason::TopicFailed),
            (TopicState::Ended, TopicState::Ended, CloseReason::TopicsEnded),
        ] {
            let registry = Registry::new();
            let [a, b] = ["a", "b"].map(|topic| registry.start_producer(topic).unwrap());
            let (client, mut body) = open(&quiet(&registry), None, |client| {
                ["a", "b"].iter().for_each(|topic| client.subscribe(*topic).unwrap());
            });
            let end = |producer: tower_sse::Producer, state| match state {
                TopicState::Ended => producer.end(),
                TopicState::Failed => producer.fail(),
                _ => assert!(registry.cancel_producer(producer.topic())),
            };
            end(a, first);
            assert_eq!(received(&mut body).len(), usize::from(first != TopicState::Ended), "the stream goes on");
            let id = b.publish(Event::data("b")).unwrap().position().unwrap().to_string();
            assert_eq!((received(&mut body), client.subscriptions()), (vec!["b".to_owned()], vec!["b".to_owned()]));
            assert_eq!(resumed(&registry, Some(&id), &["a", "b"]).status(), StatusCode::OK, "more events may come");
            end(b, second);
            let (wire, has_ended) = rest(&mut body);
            assert_eq!((has_ended, reason(&client)), (true, expected));
            let id = fields(&wire, "id").last().map_or(id, |id| (*id).to_owned());
            let status = match expected {
                CloseReason::TopicsEnded => StatusCode::NO_CONTENT,
                _ => StatusCode::GONE,
            };
            assert_eq!(resumed(&registry, Some(&id), &["a", "b"]).status(), status);
            assert_eq!(registry.stats().closed_streams[&expected], 1);
        }
    });
}

#[test]
fn an_unfinished_topic_is_never_complete() {
    bounded(|| {
        let registry = Registry::new();
        for topic in ["failed", "cancelled", "whole"] {
            let _producer = registry.start_producer(topic).unwrap();
            match topic {
                "failed" => {}
                "cancelled" => assert!(registry.cancel_producer(topic)),
                _ => _producer.end(),
            }
        }
        let is_complete = |topic: &str| {
            let client = registry.connect();
            client.subscribe(Subscription::to(topic).from(Start::After(registry.position()))).unwrap();
            client.is_complete()
        };
        assert_eq!(["failed", "cancelled", "whole"].map(is_complete), [false, false, true]);
    });
}

#[test]
fn a_refused_last_event_is_an_error_and_fails_the_topic() {
    bounded(|| {
        let config = RegistryConfig::default().topic_retention(Retention::default().bytes(2000));
        let registry = Registry::with_config(config);
        let large = || Event::data("x".repeat(4000));
        let too_large = |error: PublishError| assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
        let [finished, failed, cancelled] =
            ["finished", "failed", "cancelled"].map(|it| registry.start_producer(it).unwrap());
        too_large(finished.finish(large()).unwrap_err());
        too_large(failed.fail_with(large()).unwrap_err());
        for topic in ["finished", "failed"] {
            assert_eq!(registry.topic_state(topic), Some(TopicState::Failed));
            assert_eq!(whole(&mut reading(&registry, topic, Start::Oldest).1).len(), 1, "the registry's own event");
        }
        too_large(registry.cancel_producer_with("cancelled", large()).unwrap_err());
        cancelled.publish(Event::data("it goes on")).unwrap();
        assert!(registry.cancel_producer_with("cancelled", Event::data("last")).unwrap());
        assert!(!registry.cancel_producer_with("cancelled", Event::data("again")).unwrap());
        assert!(!registry.cancel_producer_with("nobody's", Event::data("")).unwrap());
        assert_eq!(registry.topic_state("nobody's"), None);

        // If the registry's own event does not fit either, the end has no event.
        let config = RegistryConfig::default().topic_retention(Retention::default().bytes(1));
        let registry = Registry::with_config(config);
        let [_dropped, _cancelled] = ["dropped", "cancelled"].map(|topic| registry.start_producer(topic).unwrap());
        drop(_dropped);
        assert!(registry.cancel_producer("cancelled"));
        for (topic, state) in [("dropped", TopicState::Failed), ("cancelled", TopicState::Cancelled)] {
            assert_eq!(registry.topic_state(topic), Some(state));
            assert_eq!(resumed(&registry, None, &[topic]).status(), StatusCode::GONE);
        }
    });
}

#[test]
fn a_replaced_producer_sends_no_last_event() {
    bounded(|| {
        let registry = Registry::new();
        let [first, second, third] = [0; 3].map(|_| registry.replace_producer("a").unwrap());
        let replaced = || PublishError::Replaced { topic: "a".into() };
        assert_eq!(first.finish(Event::data("late")).unwrap_err(), replaced());
        assert_eq!(second.fail_with(Event::data("late")).unwrap_err(), replaced());
        assert_eq!(registry.topic_state("a"), Some(TopicState::Producing));
        third.finish(Event::data("last")).unwrap();
        assert_eq!(whole(&mut reading(&registry, "a", Start::Oldest).1), ["last"]);
    });
}

#[test]
fn a_pattern_is_told_of_a_topic_that_failed_and_goes_on() {
    bounded(|| {
        let registry = Registry::new();
        let (_, mut body) = reading(&registry, "a/*", Start::Now);
        drop(registry.start_producer("a/1").unwrap());
        publish(&registry, "a/2", "2");
        assert_eq!(received(&mut body), [r#"{"topic":"a/1"}"#, "2"]);
    });
}

#[test]
fn a_failed_topic_can_be_restarted_and_finished() {
    bounded(|| {
        let registry = Registry::new();
        drop(registry.start_producer("a").unwrap());
        let refused = registry.publish("a", Event::data("refused")).unwrap_err();
        assert_eq!(refused, PublishError::Ended { topic: "a".into() });
        let again = registry.start_producer("a").unwrap();
        assert_eq!(registry.topic_state("a"), Some(TopicState::Producing));
        assert_eq!(received(&mut reading(&registry, "a", Start::Now).1), [""; 0]);
        again.publish(Event::data("1")).unwrap();
        again.end();
        let (client, mut body) = reading(&registry, "a", Start::Oldest);
        assert_eq!(whole(&mut body), [r#"{"topic":"a"}"#, "1"]);
        assert_eq!(reason(&client), CloseReason::TopicsEnded);
    });
}

#[test]
fn a_subscription_to_a_missing_topic_is_refused_if_it_must_exist() {
    bounded_in_time(|| async {
        const MINUTE: Duration = Duration::from_secs(60);
        let config = RegistryConfig::default().ended_topic_ttl(MINUTE).topic_retention_by(|topic| {
            assert_ne!(topic, "never", "a refused subscription creates no topic");
            Retention::default().age(MINUTE)
        });
        let registry = Registry::with_config(config);
        let subscribe = |name: &str| registry.connect().subscribe(Subscription::matching(name).existing());
        let no_topic = |name: &str| Err(SubscribeError::NoTopic { topic: name.into() });
        assert_eq!(subscribe("never"), no_topic("never"));
        assert_eq!(subscribe("answers/*"), no_topic("answers/*"));
        assert_eq!((registry.stats().topics, registry.stats().refused_subscriptions), (0, 2));
        assert!(subscribe("answers/").is_err_and(|error| matches!(error, SubscribeError::Topic(_))));

        let waits = registry.connect();
        waits.subscribe("answers/1").unwrap();
        assert_eq!(subscribe("answers/1"), no_topic("answers/1"), "a waiting subscriber is not enough");
        let producer = registry.start_producer("answers/1").unwrap();
        assert_eq!((subscribe("answers/1"), subscribe("answers/*"), subscribe("**")), (Ok(()), Ok(()), Ok(())));
        producer.end();
        drop(waits);
        assert_eq!(subscribe("answers/1"), Ok(()), "the registry remembers its end");
        publish(&registry, "news", "1");
        assert_eq!(subscribe("news"), Ok(()));

        tokio::time::advance(2 * MINUTE).await;
        for name in ["answers/1", "answers/*", "news", "**"] {
            assert_eq!(subscribe(name), no_topic(name), "the topic is forgotten, or its events are too old");
        }
        let client = registry.connect();
        client.subscribe("news").unwrap();
        assert_eq!(client.subscribe(Subscription::to("news").existing()), Ok(()), "the client is subscribed already");
    });
}

#[cfg(feature = "axum")]
#[test]
fn a_missing_topic_is_a_404_and_a_failed_topic_a_410() {
    use axum::response::IntoResponse;
    let registry = Registry::new();
    let client = registry.connect();
    let refused = client.subscribe(Subscription::to("answers/1").existing()).unwrap_err();
    assert_eq!(refused.to_string(), "the topic \"answers/1\" does not exist, or was forgotten");
    assert_eq!(refused.into_response().status(), StatusCode::NOT_FOUND);
    drop(registry.start_producer("answers/1").unwrap());
    let (_, gone) = answer(&quiet(&registry), Request::new(()), |client| {
        client.subscribe_from("answers/1", Start::After(registry.position())).unwrap();
        IntoResponse::into_response(client.clone().into_stream())
    });
    assert_eq!(gone.status(), StatusCode::GONE);
    let sentence = task::spawn(http_body_util::BodyExt::collect(gone.into_body())).poll();
    assert_eq!(assert_ready!(sentence).unwrap().to_bytes(), "a topic of the stream failed");
}

#[test]
fn an_ended_topic_is_forgotten_after_its_time_to_live() {
    bounded_in_time(|| async {
        let config = RegistryConfig::default().ended_topic_ttl(Duration::from_secs(60));
        let registry = Registry::with_config(config);
        let producer = registry.start_producer("a").unwrap();
        let position = producer.publish(Event::data("1")).unwrap().position().unwrap().to_string();
        producer.end();
        let (late, mut late_body) = reading(&registry, "a", Start::Oldest);
        registry.start_producer("again").unwrap().end();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        let again = registry.start_producer("again").unwrap();
        again.publish(Event::data("2")).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        publish(&registry, "elsewhere", "");
        let (wire, has_ended) = rest(&mut late_body);
        assert!(wire.starts_with("event: gap\n") && !wire.contains("data: 1\n") && has_ended, "{wire}");
        assert_eq!(reason(&late), CloseReason::TopicsEnded);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(registry.topic_state("a"), None);
        assert_eq!(
            registry.topic_state("again"),
            Some(TopicState::Producing),
            "the old end does not end the new topic"
        );
        assert_eq!((registry.stats().topics, registry.stats().events), (2, 2));
        assert_eq!(resumed(&registry, Some(&position), &["a"]).status(), StatusCode::OK);
    });
}

#[test]
fn a_reader_that_falls_behind_a_producer_is_told_and_gets_the_end() {
    bounded(|| {
        let config = RegistryConfig::default().topic_retention(Retention::default().events(2));
        let registry = Registry::with_config(config);
        let producer = registry.start_producer("a").unwrap();
        let (client, mut body) = reading(&registry, "a", Start::Now);
        (0..5).for_each(|number| assert!(producer.publish(Event::data(number.to_string())).is_ok()));
        producer.end();
        let (wire, has_ended) = rest(&mut body);
        assert!(wire.starts_with("event: gap\n") && has_ended, "{wire}");
        assert_eq!(fields(&wire, "data")[1..], ["3", "4"]);
        assert_eq!((registry.stats().missed, reason(&client)), (3, CloseReason::TopicsEnded));
    });
}

#[test]
fn a_pattern_goes_on_when_one_of_its_topics_ends() {
    bounded(|| {
        let registry = Registry::new();
        let (client, mut body) = reading(&registry, "a/*", Start::Now);
        let producer = registry.start_producer("a/1").unwrap();
        assert_eq!(producer.publish(Event::data("1")).unwrap().subscribers(), 1);
        producer.end();
        publish(&registry, "a/2", "2");
        assert_eq!(
            (received(&mut body), client.subscriptions()),
            (vec!["1".into(), "2".into()], vec!["a/*".to_owned()])
        );
    });
}

#[tokio::test]
async fn a_stream_that_is_always_ready_yields_to_other_tasks() {
    let registry = Registry::new();
    let endless = tokio_stream::StreamExt::map(tokio_stream::iter(0..), |number: u64| Event::data(number.to_string()));
    let task = registry.start_producer("a").unwrap().spawn_from(endless);
    settle().await;
    assert!(registry.cancel_producer("a"));
    assert_eq!(task.await.unwrap(), Err(PublishError::Cancelled { topic: "a".into() }));
}

#[test]
fn a_reader_that_reloads_gets_an_answer_of_many_tokens_whole() {
    bounded(|| {
        const TOKENS: usize = 20_000;
        let registry = Registry::new();
        let producer = registry.start_producer("answers/42").unwrap();
        let token = |number: usize| {
            let delta = format!("{{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"token {number}\"}}}}]}}");
            Event::data(format!(
                "{{\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",{}",
                &delta[1..]
            ))
        };
        (0..TOKENS).for_each(|number| _ = producer.publish(token(number)).unwrap());
        producer.end();
        let (_, mut body) = reading(&registry, "answers/42", Start::Oldest);
        let tokens = whole(&mut body).into_iter().filter(|data| data.contains("token")).count();
        assert_eq!((tokens, registry.stats().gaps), (TOKENS, 0));
    });
}

#[test]
fn a_reader_from_the_beginning_is_told_if_the_beginning_was_evicted() {
    bounded(|| {
        let kept = Retention::default().events(2);
        let registry = Registry::with_config(RegistryConfig::default().topic_retention(kept));
        let from = |start| {
            let client = registry.connect();
            client.subscribe_from("a", start).unwrap();
            let mut events = client.into_events();
            let is_told = matches!(next(&mut events), Some(Err(gap)) if gap.topics() == ["a"]);
            (is_told, registry.topic_state("a"))
        };
        // A topic without a producer has no beginning that a client could ask for.
        ["1", "2", "3"].iter().for_each(|data| publish(&registry, "a", data));
        assert!(!from(Start::Oldest).0);
        let producer = registry.start_producer("a").unwrap();
        ["4", "5"].iter().for_each(|data| _ = producer.publish(Event::data(data)).unwrap());
        assert!(!from(Start::Oldest).0, "only events older than the answer were evicted");
        producer.publish(Event::data("6")).unwrap();
        assert_eq!(from(Start::Oldest), (true, Some(TopicState::Producing)));
        assert!(!from(Start::Last(2)).0 && !from(Start::Now).0);
        // A producer that replaces another continues the same answer.
        let other = registry.replace_producer("a").unwrap();
        assert!(from(Start::Oldest).0);
        other.end();
        assert_eq!(from(Start::Oldest), (true, Some(TopicState::Ended)));
        // A new answer has a new beginning.
        let anew = registry.start_producer("a").unwrap();
        anew.publish(Event::data("7")).unwrap();
        assert!(!from(Start::Oldest).0);
    });
}
