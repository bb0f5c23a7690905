//! Every reader gets the same, the whole recording, or is told that it has only a part.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{
    Batching, ClientHandle, Drain, Event, Heartbeat, RecordLayer, Registry, RegistryConfig, Retention,
    SlowClientPolicy, SseLayer,
};

use crate::{
    bodies::{AnyBody, channel, event_stream},
    test_server::Frames,
    time_limit::within_20_s,
    world::{End, World, event, fail, key, post, resume},
};

/// How a handler answers its one request, with a stream of these frames.
fn answered_once() -> (Frames, impl Fn() -> Response<AnyBody> + Clone) {
    let (frames, body) = channel();
    let body = Arc::new(Mutex::new(Some(body)));
    (frames, move || event_stream(body.lock().unwrap().take().expect("one request")))
}

#[tokio::test]
async fn a_handler_inside_of_another_layer_loses_no_event_of_its_first_reader() {
    let registry = Registry::new();
    let record = RecordLayer::by_key(&registry, key);
    let handler = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(event_stream(http_body_util::Full::<Bytes>::from("data: 1\n\n")))
    });
    // A route with a heartbeat of its own, inside of layers for the whole program.
    let route = SseLayer::new(&registry).heartbeat(Heartbeat::off()).layer(handler);
    let app = SseLayer::new(&registry).layer(record.layer(route));
    let mut texts = Vec::new();
    for _ in 0..2 {
        let response = within_20_s(app.clone().oneshot(post("a"))).await.unwrap();
        let status = response.status();
        let bytes = tokio::time::timeout(Duration::from_secs(2), response.into_body().collect()).await;
        let bytes = bytes.map(|bytes| bytes.unwrap().to_bytes());
        texts.push(format!("{status} {bytes:?}"));
    }
    assert!(texts[0].contains("data: 1") || !texts[0].contains("200"), "{texts:?}");
}

#[tokio::test]
async fn the_first_reader_gets_no_events_that_later_readers_do_not_get_and_its_stream_ends() {
    let registry = Registry::new();
    let record = RecordLayer::by_key(&registry, key);
    let (frames, answer) = answered_once();
    let handler = service_fn(move |request: Request<()>| {
        // As the README has it: "If the handler also subscribes its client to topics".
        let client = request.extensions().get::<ClientHandle>().unwrap().clone();
        client.subscribe("notices").unwrap();
        let answer = answer();
        async move { Ok::<_, Infallible>(answer) }
    });
    let app = SseLayer::new(&registry).layer(record.layer(handler));
    let first = within_20_s(app.clone().oneshot(post("a"))).await.unwrap();
    let second = within_20_s(app.clone().oneshot(post("a"))).await.unwrap();
    registry.publish("notices", Event::data("notice")).unwrap();
    frames.send(Ok(Frame::data("data: 1\n\n".into()))).await.unwrap();
    drop(frames);
    let second = within_20_s(second.into_body().collect()).await.unwrap().to_bytes();
    let first = tokio::time::timeout(Duration::from_secs(2), first.into_body().collect()).await;
    let first = first.expect("the recording has ended, so the first reader's stream ends").unwrap().to_bytes();
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_recording_does_not_begin_with_events_that_were_published_before() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), RecordLayer::by_topic(&registry, key));
    registry.publish("a", Event::data("of another time")).unwrap();
    let (frames, reader) = world.begin("a").await;
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(reader.whole().await, ["1"]);
}

/// What two requests with a key get of a handler with three events, the second one after the first event.
async fn behind(layer: impl FnOnce(SseLayer) -> SseLayer) -> [String; 2] {
    let registry = Registry::new();
    let record = RecordLayer::by_idempotency_key(&registry, |_: &Parts| Some("ada".to_owned()));
    let handler = service_fn(|_: Request<()>| async {
        let body = http_body_util::Full::<Bytes>::from("id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n");
        Ok::<_, Infallible>(event_stream(body))
    });
    let app = layer(SseLayer::new(&registry)).layer(record.layer(handler));
    let text = async |id: Option<&str>| {
        let mut request = Request::post("/answers").header("idempotency-key", "secret").body(()).unwrap();
        if let Some(id) = id {
            request.headers_mut().insert("last-event-id", id.parse().unwrap());
        }
        let body = within_20_s(app.clone().oneshot(request)).await.unwrap().into_body();
        String::from_utf8(within_20_s(body.collect()).await.unwrap().to_bytes().to_vec()).unwrap()
    };
    [text(None).await, text(Some("1")).await]
}

#[tokio::test]
async fn the_event_type_of_a_recorded_event_is_not_the_reserved_topic() {
    let [first, _] = behind(|layer| layer.topic_as_event_type(true)).await;
    assert!(!first.contains("$record"), "{first}");
}

#[tokio::test]
async fn recorded_events_are_not_made_an_array() {
    let [first, _] = behind(|layer| layer.batching(Batching::every(Duration::from_millis(1)).as_array())).await;
    assert!(first.contains("data: 1\n"), "{first}");
}

#[tokio::test]
async fn a_bound_of_the_layer_on_missed_events_cuts_no_recording() {
    let [_, resumed] = behind(|layer| layer.resume_at_most(1)).await;
    assert!(resumed.contains("data: 2\n") && !resumed.contains("gap"), "{resumed}");
}

#[tokio::test]
async fn a_drain_in_the_middle_of_an_answer_is_no_clean_end() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    let registry = world.registry.clone();
    let drain = tokio::spawn(async move { registry.drain(Drain::within(Duration::from_millis(10))).await });
    let end = first.end().await;
    assert_eq!(end, End::Error, "a part was told as the whole: {:?}", first.text);
    drain.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_maximum_age_of_a_stream_does_not_end_half_of_an_answer_cleanly() {
    let registry = Registry::new();
    let record = RecordLayer::by_key(&registry, key);
    let (frames, answer) = answered_once();
    let handler = service_fn(move |_: Request<()>| {
        let answer = answer();
        async move { Ok::<_, Infallible>(answer) }
    });
    let app = SseLayer::new(&registry).max_age(Duration::from_secs(60)).layer(record.layer(handler));
    let first = within_20_s(app.clone().oneshot(post("a"))).await.unwrap();
    frames.send(Ok(Frame::data("data: 1\n\n".into()))).await.unwrap();
    let collected = tokio::time::timeout(Duration::from_secs(100), first.into_body().collect()).await.unwrap();
    assert!(collected.is_err(), "{:?}", collected.map(http_body_util::Collected::to_bytes));
}

async fn too_slow(policy: SlowClientPolicy) {
    let retention = Retention::default().bytes(4000).slow_client_policy(policy);
    let mut world = World::with(RegistryConfig::default().topic_retention(retention), |record| record);
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    for number in 2..200 {
        event(&frames, &number.to_string()).await;
    }
    drop(frames);
    let end = first.end().await;
    assert!(end == End::Error || first.text.contains("gap"), "{end:?}, {} events of 199", first.data().len());
}

#[tokio::test]
async fn a_reader_that_is_too_slow_does_not_see_a_clean_end_without_a_gap() {
    too_slow(SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_secs(1) }).await;
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_of_a_gap_whatever_the_policy_is() {
    too_slow(SlowClientPolicy::SkipSilently).await;
}

/// A request that polls.
fn poll(key: &str, query: &str) -> Request<()> {
    let mut request = post(key);
    *request.uri_mut() = format!("/answers?{query}").parse().unwrap();
    request
}

#[tokio::test]
async fn a_recording_is_read_by_polls_without_loss() {
    let mut world = World::new();
    let sent = world.send(poll("a", "wait=5"));
    let frames = world.call().await.stream();
    let mut first = sent.stream().await;
    event(&frames, "1").await;
    assert_eq!(first.end().await, End::Clean);
    assert_eq!(first.data().last().unwrap(), "1");
    let mut id = first.last_event_id();
    event(&frames, "2").await;
    event(&frames, "3").await;
    let mut got = Vec::new();
    while got.len() < 2 {
        let mut next = world.join(poll("a", &format!("wait=5&lastEventId={id}"))).await;
        assert_eq!(next.end().await, End::Clean);
        got.extend(next.data().into_iter().filter(|data| !data.is_empty()));
        id = next.last_event_id();
    }
    assert_eq!(got, ["2", "3"]);
    let mut empty = world.join(poll("a", &format!("wait=0&lastEventId={id}"))).await;
    assert_eq!(empty.end().await, End::Clean);
    assert!(!empty.last_event_id().is_empty());
    fail(frames).await;
    let mut last = world.join(poll("a", &format!("wait=5&lastEventId={id}"))).await;
    let end = last.end().await;
    assert!(last.text.contains("event: failed"), "{end:?} {}", last.text);
    let status = world.status(poll("a", &format!("wait=5&lastEventId={}", last.last_event_id()))).await;
    assert_eq!(status, StatusCode::GONE);
}

#[tokio::test]
async fn the_id_of_hello_resumes_a_recording_from_its_first_event() {
    let mut world = World::new();
    let sent = world.send(poll("a", "hello=1"));
    let frames = world.call().await.stream();
    let mut first = sent.stream().await;
    first.events(1).await;
    let id = first.last_event_id();
    event(&frames, "1").await;
    event(&frames, "2").await;
    drop(first);
    drop(frames);
    assert!(!id.is_empty());
    let resumed = world.join(resume("a", &id)).await;
    assert_eq!(resumed.whole().await, ["1", "2"]);
    let mut late = world.join(poll("a", "hello=1")).await;
    late.end().await;
    assert_eq!(late.data().iter().filter(|data| data.len() == 1).count(), 2);
}

#[tokio::test]
async fn an_id_that_is_a_position_of_the_registry_is_replaced_by_the_position_of_the_recorded_event() {
    let mut world = World::new();
    // A handler that passes on events of a topic with their ids.
    let publish = |number: u32| world.registry.publish("source", Event::data(number.to_string())).unwrap();
    let ids = [0, 1, 2].map(|number| publish(number).position().unwrap().to_string());
    let (frames, mut first) = world.begin("a").await;
    for (number, id) in ids.iter().enumerate() {
        crate::world::write(&frames, &format!("id: {id}\ndata: {number}\n\n")).await;
    }
    first.events(2).await;
    let after_two = first.last_event_id();
    assert!(!ids.contains(&after_two));
    first.events(3).await;
    let resumed = world.join(resume("a", &after_two)).await;
    drop(frames);
    assert_eq!(resumed.whole().await, if first.data().len() == 3 { ["2"] } else { unreachable!() });
}
