//! How events are put into frames: batches, arrays, topics as event types, and streams that begin with a snapshot.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio_test::{assert_pending, assert_ready, task};
use tower_sse::{
    Batching, ClientHandle, CloseReason, Event, Heartbeat, Position, Registry, RegistryConfig, Resume, Retention,
    SseBody, SseLayer, Start, Subscription,
};

use crate::{
    answer::answer,
    bodies,
    open::{Empty, open},
    polling,
    polling::{Polled, fields, frame, poll, position, publish, quiet, received, text},
    spec,
};

const WINDOW: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);

fn batched(registry: &Registry) -> SseLayer {
    quiet(registry).batching(Batching::every(WINDOW))
}

fn reading(layer: &SseLayer, names: &[&str]) -> (ClientHandle, SseBody<Empty>) {
    open(layer, None, |client| names.iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap()))
}

async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_event_is_sent_at_once_and_then_one_frame_per_interval() {
    let registry = Registry::new();
    let (_, body) = reading(&batched(&registry), &["a", "b"]);
    let mut body = task::spawn(body);
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    publish(&registry, "a", "0");
    assert!(body.is_woken());
    assert_eq!(fields(&text(&mut body), "data"), ["0"]);
    for round in 0..3 {
        assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
        for (topic, data) in [("a", "1"), ("b", "2"), ("a", "3")] {
            publish(&registry, topic, data);
            advance(33 * MS).await;
            assert_eq!(poll(&mut body), Polled::Pending, "round {round}");
        }
        assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
        advance(2 * MS).await;
        assert!(body.is_woken(), "the clock wakes the body");
        let Polled::Frame(wire) = poll(&mut body) else { panic!("no frame after the interval") };
        assert_eq!(fields(&wire, "data"), ["1", "2", "3"], "all of it in one frame, in order");
    }
    // After an interval without events, the next event is sent at once.
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    advance(2 * WINDOW).await;
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    publish(&registry, "b", "4");
    assert!(body.is_woken());
    assert_eq!(received(&mut body), ["4"]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_means_no_batching() {
    let registry = Registry::new();
    let (_, mut body) = reading(&quiet(&registry).batching(Batching::every(Duration::ZERO)), &["a"]);
    advance(MS / 2).await;
    for number in ["1", "2", "3"] {
        publish(&registry, "a", number);
        assert_eq!(received(&mut body), [number]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_handlers_settings_override_the_layers() {
    let registry = Registry::new();
    let (_, mut body) = open(&batched(&registry), None, |client| {
        client.batch(Batching::every(10 * WINDOW));
        client.topic_as_event_type(true);
        client.subscribe("a").unwrap();
    });
    publish(&registry, "a", "1");
    assert_eq!(fields(&text(&mut body), "event"), ["a"]);
    publish(&registry, "a", "2");
    advance(9 * WINDOW).await;
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(WINDOW + MS).await;
    assert_eq!(received(&mut body), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn event_types_and_batching_of_an_open_stream_can_be_changed() {
    let registry = Registry::new();
    let (client, body) = reading(&quiet(&registry), &["a"]);
    let mut body = task::spawn(body);
    let types = |body: &mut SseBody<Empty>, data: &str| {
        publish(&registry, "a", data);
        let wire = text(body);
        assert_eq!(fields(&wire, "data"), [data]);
        fields(&wire, "event").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(types(&mut body, "1"), [] as [&str; 0]);
    client.topic_as_event_type(true);
    assert_eq!(types(&mut body, "2"), ["a"]);
    client.topic_as_event_type(false);
    assert_eq!(types(&mut body, "3"), [] as [&str; 0]);

    client.batch(Batching::every(10 * WINDOW));
    assert_eq!(types(&mut body, "4"), [] as [&str; 0]);
    publish(&registry, "a", "5");
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(9 * WINDOW).await;
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(WINDOW + MS).await;
    assert_eq!(received(&mut body), ["5"]);

    publish(&registry, "a", "6");
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    client.batch(Batching::every(Duration::ZERO));
    assert!(body.is_woken(), "the pending events need not wait any longer");
    assert_eq!(received(&mut body), ["6"]);
    publish(&registry, "a", "7");
    assert_eq!(received(&mut body), ["7"]);
    client.batch(Batching::every(WINDOW).as_array());
    publish(&registry, "a", "8");
    assert_eq!(fields(&text(&mut body), "event"), ["batch"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_batching_can_stall_from_then_on() {
    let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(Duration::from_secs(30)));
    let (client, mut body) = reading(&quiet(&registry).batching(Batching::every(Duration::from_secs(3600))), &["a"]);
    publish(&registry, "a", "1");
    assert_eq!(received(&mut body), ["1"]);
    client.batch(Batching::every(Duration::ZERO));
    publish(&registry, "a", "2");
    assert_eq!(received(&mut body), ["2"]);
    for _ in 0..20 {
        publish(&registry, "a", "unread");
        advance(Duration::from_secs(5)).await;
    }
    assert_eq!(client.closed().await, CloseReason::Stalled);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_and_the_handlers_own_bytes_are_not_batched() {
    let registry = Registry::new();
    let layer = batched(&registry).heartbeat(Heartbeat::every(20 * MS)).batching(Batching::every(1000 * MS));
    let (frames, own) = bodies::channel();
    let (_, response) = answer(&layer, Request::new(()), |client| {
        client.subscribe("a").unwrap();
        bodies::event_stream(own)
    });
    let mut body = response.into_body();
    publish(&registry, "a", "1");
    assert_eq!(received(&mut body), ["1"]);
    publish(&registry, "a", "2");
    for _ in 0..10 {
        advance(21 * MS).await;
        assert_eq!(text(&mut body), ":\n\n");
        frames.try_send(Ok(Frame::data(Bytes::from_static(b"data: own\n\n")))).unwrap();
        assert_eq!(received(&mut body), ["own"]);
    }
    advance(800 * MS).await;
    assert_eq!(received(&mut body), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_the_end_of_the_interval() {
    let registry = Registry::new();
    let (client, mut body) = reading(&batched(&registry), &["a"]);
    publish(&registry, "a", "1");
    assert_eq!(received(&mut body), ["1"]);
    publish(&registry, "a", "2");
    let mut body = task::spawn(body);
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    client.close();
    assert!(body.is_woken());
    let (wire, has_ended) = polling::rest(&mut body);
    assert_eq!((fields(&wire, "data"), has_ended), (vec!["2"], true));
}

#[tokio::test(start_paused = true)]
async fn events_that_exceed_a_frame_follow_at_once() {
    let registry = Registry::new();
    let (_, mut body) = reading(&batched(&registry), &["a"]);
    publish(&registry, "a", "first");
    assert_eq!(received(&mut body), ["first"]);
    let large = "x".repeat(30_000);
    (0..7).for_each(|_| publish(&registry, "a", &large));
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(WINDOW + MS).await;
    let frames: Vec<usize> = std::iter::from_fn(|| frame(&mut body)).map(|frame| frame.len() / 30_000).collect();
    assert_eq!(frames, [2, 2, 2, 1]);
    publish(&registry, "a", "next");
    assert_eq!(poll(&mut body), Polled::Pending, "the next interval has begun");
}

/// The events of a stream as a client decodes them.
fn parsed(body: &mut SseBody<Empty>) -> spec::Parsed {
    spec::parse(text(body).as_bytes())
}

#[tokio::test(start_paused = true)]
async fn an_array_has_all_events_of_a_frame_as_valid_json() {
    let registry = Registry::new();
    let layer = quiet(&registry).batching(Batching::every(WINDOW).as_array());
    let (_, mut body) = reading(&layer, &["p/*"]);
    let pretty = "{\r\n  \"a\": [1,\n\"\\u2028\"]\n}";
    let events = [
        ("p/number", Event::data("187.42").event("tick")),
        ("p/text", Event::data("no JSON")),
        ("p/\"quoted\"\\", Event::data("a\"b\\c\nd\u{1}\te\u{2028}")),
        ("p/lines", Event::data(pretty)),
        ("p/empty", Event::data("")),
        ("p/two", Event::data("1 2")),
        ("p/string", Event::data("\"s\"").event("a\"b")),
        ("p/null", Event::data(" null ")),
    ];
    for (topic, event) in &events {
        registry.publish(topic, event).unwrap();
    }
    let batch = parsed(&mut body);
    assert_eq!(batch.messages.len(), 1);
    let message = &batch.messages[0];
    assert_eq!((message.event_type.as_str(), &message.last_event_id), ("batch", &registry.position().to_string()));
    let array: Value = serde_json::from_str(&message.data).unwrap();
    let expected = json!([
        { "topic": "p/number", "event": "tick", "data": 187.42 },
        { "topic": "p/text", "data": "no JSON" },
        { "topic": "p/\"quoted\"\\", "data": "a\"b\\c\nd\u{1}\te\u{2028}" },
        { "topic": "p/lines", "data": { "a": [1, "\u{2028}"] } },
        { "topic": "p/empty", "data": "" },
        { "topic": "p/two", "data": "1 2" },
        { "topic": "p/string", "event": "a\"b", "data": "s" },
        { "topic": "p/null", "data": null },
    ]);
    assert_eq!(array, expected);
}

#[tokio::test(start_paused = true)]
async fn the_id_of_an_array_resumes_after_its_last_event() {
    let registry = Registry::new();
    let layer = quiet(&registry).batching(Batching::every(WINDOW).as_array());
    let (_, mut body) = reading(&layer, &["a", "b"]);
    ["a", "b", "a"].iter().for_each(|topic| publish(&registry, topic, "1"));
    let id = parsed(&mut body).last_event_id;
    ["b", "a"].iter().for_each(|topic| publish(&registry, topic, "2"));
    let (client, mut body) = open(&layer, Some(&id), |client| {
        ["a", "b"].iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
    });
    assert_eq!(client.resume(), Resume::Continued);
    let rest = parsed(&mut body);
    assert_eq!(rest.messages[0].data, r#"[{"topic":"b","data":2},{"topic":"a","data":2}]"#);
    let (_, mut body) = open(&layer, Some(&rest.last_event_id), |client| client.subscribe("a").unwrap());
    assert_eq!(text(&mut body), "");
}

#[tokio::test(start_paused = true)]
async fn fields_that_an_array_cannot_contain_are_sent_next_to_it() {
    let registry = Registry::new();
    let layer = quiet(&registry).batching(Batching::every(WINDOW).as_array());
    let (_, mut body) = reading(&layer, &["a"]);
    registry.publish("a", Event::empty().retry(Duration::from_secs(1))).unwrap();
    registry.publish("a", Event::data("1")).unwrap();
    let first = parsed(&mut body);
    assert_eq!(
        (first.retries.as_slice(), first.messages[0].data.as_str()),
        (&[1000][..], r#"[{"topic":"a","data":1}]"#)
    );
    advance(2 * WINDOW).await;
    registry.publish("a", Event::empty().comment("alone")).unwrap();
    assert_eq!(text(&mut body), ": alone\n\n");
    advance(2 * WINDOW).await;
    registry.publish("a", Event::data("2").retry(Duration::from_secs(2))).unwrap();
    assert_eq!(parsed(&mut body).retries, [2000], "with data or without data");
}

#[test]
fn an_event_without_a_type_gets_its_topic_as_its_type() {
    let registry = Registry::new();
    let layer = quiet(&registry).topic_as_event_type(true);
    let [(_, mut one), (_, mut same), (_, mut both)] =
        [&["a"][..], &["a"], &["a", "b/*"]].map(|names| reading(&layer, names));
    let (_, mut plain) = reading(&quiet(&registry), &["a"]);
    publish(&registry, "a", "1\n2");
    registry.publish("a", Event::data("3").event("typed")).unwrap();
    registry.publish("a", Event::empty().comment("no event")).unwrap();
    publish(&registry, "b/c", "4");
    let (one, same) = (frame(&mut one).unwrap(), frame(&mut same).unwrap());
    assert_eq!(one.as_ptr(), same.as_ptr(), "both streams share the bytes");
    let types = |wire: &str| fields(wire, "event").into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(types(std::str::from_utf8(&one).unwrap()), ["a", "typed"]);
    assert_eq!(types(&text(&mut both)), ["a", "typed", "b/c"]);
    assert_eq!(types(&text(&mut plain)), ["typed"], "the bytes of other streams are unchanged");
    let message = &spec::parse(&one).messages[0];
    assert_eq!((message.data.as_str(), message.own_id.is_some()), ("1\n2", true));
}

#[test]
fn an_event_with_its_topic_as_type_keeps_its_id() {
    let registry = Registry::new();
    (0..3).for_each(|number| publish(&registry, "late", &number.to_string()));
    let layer = quiet(&registry).topic_as_event_type(true);
    let (client, mut body) = reading(&layer, &["live"]);
    publish(&registry, "live", "seen");
    assert_eq!(received(&mut body), ["seen"]);
    client.subscribe_from("late", Start::Oldest).unwrap();
    let wire = text(&mut body);
    assert_eq!(fields(&wire, "event"), ["late"; 3]);
    let (client, mut body) = open(&layer, Some(fields(&wire, "id")[1]), |client| {
        ["live", "late"].iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
    });
    let wire = text(&mut body);
    assert_eq!(
        (client.resume(), fields(&wire, "data"), fields(&wire, "event")),
        (Resume::Continued, vec!["2"], vec!["late"])
    );
}

#[test]
fn an_event_sent_to_one_client_does_not_have_its_id_as_type() {
    let registry = Registry::new();
    let (client, mut body) = reading(&quiet(&registry).topic_as_event_type(true), &["a"]);
    client.send(Event::data("welcome")).unwrap();
    assert!(!text(&mut body).contains(&client.id().to_string()), "the client's own topic stays hidden");
}

/// Opens a stream that begins with a snapshot.
fn with_snapshot(
    registry: &Registry,
    last_event_id: Option<&str>,
    names: &[&str],
    snapshot: &str,
    at: Position,
) -> (ClientHandle, SseBody<Empty>) {
    let mut request = Request::builder();
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let (client, response) = answer(&quiet(registry), request.body(()).unwrap(), |client| {
        names.iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
        client.clone().into_stream().snapshot(Event::data(snapshot), at).into_response::<Empty>()
    });
    (client, response.into_body())
}

#[test]
fn a_stream_begins_with_its_snapshot_and_goes_on_after_it() {
    let registry = Registry::new();
    let seen = position(&registry, "a", "0");
    let at = position(&registry, "a", "1");
    publish(&registry, "b/x", "2");
    for last_event_id in [None, Some(seen.to_string()), Some(registry.position().to_string()), Some("1-0".to_owned())] {
        let (client, mut body) = with_snapshot(&registry, last_event_id.as_deref(), &["a", "b/*"], "01", at);
        let wire = text(&mut body);
        assert!(wire.starts_with(&format!("data: 01\nid: {at}\n\n")), "{wire}");
        assert_eq!(fields(&wire, "data"), ["01", "2"], "with the last event id {last_event_id:?}");
        assert_eq!(client.resume(), Resume::Continued);
    }
    let (_, mut body) = with_snapshot(&registry, None, &["a", "b/*"], "01", at);
    let wire = text(&mut body);
    let (client, mut body) = open(&quiet(&registry), Some(fields(&wire, "id")[0]), |client| {
        ["a", "b/*"].iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
    });
    assert_eq!((client.resume(), received(&mut body)), (Resume::Continued, vec!["2".to_owned()]));
}

#[test]
fn a_snapshot_that_is_too_old_is_followed_by_a_gap() {
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(Retention::default().events(1)));
    let at = position(&registry, "a", "0");
    (1..4).for_each(|number| publish(&registry, "a", &number.to_string()));
    let (_, mut body) = with_snapshot(&registry, None, &["a"], "state", at);
    let wire = text(&mut body);
    let blocks: Vec<&str> = wire.split_terminator("\n\n").collect();
    assert_eq!(blocks.len(), 3, "{wire}");
    assert!(blocks[0].starts_with("data: state\n"));
    assert!(blocks[1].starts_with(&format!("event: gap\ndata: {{\"topics\":[\"a\"],\"after\":\"{at}\"}}")), "{wire}");
    assert!(blocks[2].starts_with("data: 3\n"));
}

#[test]
fn an_event_sent_to_the_client_before_its_snapshot_comes_too() {
    let registry = Registry::new();
    let (_, response) = answer(&quiet(&registry), Request::new(()), |client| {
        client.send(Event::data("welcome")).unwrap();
        client.subscribe("a").unwrap();
        let stream = client.clone().into_stream();
        stream.snapshot(Event::data("state"), registry.position()).into_response::<Empty>()
    });
    assert_eq!(received(&mut response.into_body()), ["state", "welcome"]);
}

#[test]
fn each_event_after_a_snapshot_comes_exactly_once() {
    const GOALS: u64 = 5_000;
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(Retention::default()));
    let score = Arc::new(Mutex::new(0u64));
    let goal = || {
        let mut score = score.lock().unwrap();
        *score += 1;
        publish(&registry, &format!("score/{}", *score % 3), &score.to_string());
    };
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..2).map(|_| scope.spawn(|| (0..GOALS / 2).for_each(|_| goal()))).collect();
        let mut bodies = Vec::new();
        while bodies.len() < 50 || publishers.iter().any(|thread| !thread.is_finished()) {
            let (client, response) = answer(&quiet(&registry), Request::new(()), |client| {
                client.subscribe(Subscription::matching("score/*")).unwrap();
                let score = score.lock().unwrap();
                let stream = client.clone().into_stream();
                stream.snapshot(Event::data(score.to_string()), registry.position()).into_response::<Empty>()
            });
            bodies.push((client, response.into_body()));
            if bodies.len() > 200 {
                break;
            }
        }
        publishers.into_iter().for_each(|thread| thread.join().unwrap());
        for (_, mut body) in bodies {
            let numbers: Vec<u64> = received(&mut body).iter().map(|data| data.parse().unwrap()).collect();
            let first = numbers[0];
            assert!(numbers.iter().copied().eq(first..=GOALS), "from {first}: {} events", numbers.len());
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_body_that_moves_to_another_task_between_batches_is_woken_there() {
    let registry = Registry::new();
    let layer = quiet(&registry).batching(Batching::every(Duration::from_secs(1)));
    let (_, body) = open(&layer, None, |client| client.subscribe("a").unwrap());
    let mut first = task::spawn(body);
    registry.publish("a", Event::data("1")).unwrap();
    assert!(assert_ready!(first.enter(|cx, body| body.poll_frame(cx))).is_some());
    assert_pending!(first.enter(|cx, body| body.poll_frame(cx)));
    let mut second = task::spawn(first.into_inner());
    assert_pending!(second.enter(|cx, body| body.poll_frame(cx)));
    advance(Duration::from_secs(2)).await;
    assert!(second.is_woken());
    assert_pending!(second.enter(|cx, body| body.poll_frame(cx)));
    registry.publish("a", Event::data("2")).unwrap();
    assert!(second.is_woken());
}
