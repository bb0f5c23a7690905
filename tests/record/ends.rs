//! How recordings end that are not complete: failed, panicked, cancelled, unread.

use std::time::Duration;

use http::StatusCode;
use tower_sse::{Event, RecordLayer, RecordingFailure, Registry, RegistryConfig, Retention, TopicState};

use crate::{
    bodies::{any, event_stream},
    test_server::Frames,
    world::{End, Reader, World, event, fail, post, resume, write},
};

/// The type and the data of the last event.
fn last(reader: &Reader) -> (String, String) {
    let message = reader.parsed().messages.pop().expect("an event");
    (message.event_type, message.data)
}

fn topic(world: &World) -> String {
    world.record.topic_of(&post("a").into_parts().0).unwrap().unwrap()
}

#[tokio::test]
async fn an_error_of_the_body_is_a_last_event_and_then_an_error_for_each_reader() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    fail(frames).await;
    assert_eq!(first.end().await, End::Error);
    assert_eq!(last(&first), ("failed".into(), r#"{"reason":"body_failed"}"#.into()));
    let mut late = world.join(post("a")).await;
    assert_eq!(late.end().await, End::Error);
    assert_eq!(late.text, first.text);
    assert_eq!(world.status(resume("a", &late.last_event_id())).await, StatusCode::GONE);
    assert_eq!(world.registry.topic_state(topic(&world)), Some(TopicState::Failed));
    world.assert_not_called();
}

#[tokio::test]
async fn a_panic_of_the_body_is_a_failure_too() {
    let mut world = World::new();
    let sent = world.send(post("a"));
    let frames = [Some("data: 1\n\n"), None].into_iter().map(|text| {
        let text = text.expect("the body panics, as the test wants");
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from_static(text.as_bytes())))
    });
    world.call().await.answer(event_stream(any(http_body_util::StreamBody::new(tokio_stream::iter(frames)))));
    let mut first = sent.stream().await;
    assert_eq!(first.end().await, End::Error);
    assert_eq!((first.data()[0].as_str(), last(&first).1.as_str()), ("1", r#"{"reason":"panicked"}"#));
    assert_eq!(world.record.running(), 0);
}

#[tokio::test]
async fn the_program_chooses_the_last_event_by_the_failure() {
    let failed_event = |failure: &RecordingFailure| match failure {
        RecordingFailure::Body(error) => Some(Event::data(error.to_string()).event("oh")),
        _ => None,
    };
    let mut world = World::with(RegistryConfig::default(), |record| record.failed_event(failed_event));
    let (frames, mut first) = world.begin("a").await;
    fail(frames).await;
    assert_eq!(first.end().await, End::Error);
    assert_eq!(last(&first), ("oh".into(), "the model is on fire".into()));
}

#[tokio::test]
async fn without_an_event_of_its_own_a_failure_has_the_registry_s_event_which_does_not_name_the_key() {
    let mut world = World::with(RegistryConfig::default(), |record| record.failed_event(|_| None));
    let (frames, mut first) = world.begin("a").await;
    fail(frames).await;
    assert_eq!(first.end().await, End::Error);
    assert_eq!(last(&first), ("failed".into(), "{}".into()));
}

#[tokio::test]
async fn a_failure_without_any_last_event_is_an_error_all_the_same() {
    let config = RegistryConfig::default().failed_event(None);
    let mut world = World::with(config, |record| record.failed_event(|_| None));
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    fail(frames).await;
    assert_eq!((first.end().await, first.data()), (End::Error, vec!["1".into()]));
}

#[tokio::test]
async fn an_event_that_is_unfinished_at_the_end_of_the_body_is_left_out() {
    let mut world = World::new();
    let (frames, first) = world.begin("a").await;
    write(&frames, "data: 1\n\ndata: unfinished\n").await;
    drop(frames);
    assert_eq!(first.whole().await, ["1"]);
}

/// Sends one event that is larger than the retention takes, in pieces, until the body is dropped.
async fn too_large(frames: Frames) {
    let piece = || http_body::Frame::data(bytes::Bytes::from(vec![b'x'; 1000]));
    write(&frames, "data: ").await;
    while frames.send(Ok(piece())).await.is_ok() {}
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_retention_takes_is_a_failure_that_says_so() {
    let config = RegistryConfig::default().topic_retention(Retention::default().bytes(10_000));
    for is_finished in [false, true] {
        let mut world = World::with(config.clone(), |record| record);
        let (frames, mut first) = world.begin("a").await;
        event(&frames, "1").await;
        match is_finished {
            // Its bytes are less than the limit, and its memory is more.
            true => event(&frames, &"x".repeat(9_990)).await,
            false => too_large(frames).await,
        }
        assert_eq!(first.end().await, End::Error);
        assert_eq!(last(&first), ("failed".into(), r#"{"reason":"event_too_large"}"#.into()));
        world.bodies.until(0).await;
    }
}

#[tokio::test]
async fn a_cancelled_recording_drops_the_body_and_ends_with_the_registry_s_event_and_an_error() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    assert!(world.registry.cancel_producer(topic(&world)));
    world.bodies.until(0).await;
    assert_eq!(first.end().await, End::Error);
    assert_eq!(last(&first), ("cancelled".into(), "{}".into()));
    assert_eq!(world.status(resume("a", &first.last_event_id())).await, StatusCode::GONE);
    assert!(frames.is_closed());
}

const UNREAD: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_recording_that_nobody_reads_goes_on_by_default() {
    let mut world = World::new();
    let (frames, first) = world.begin("a").await;
    drop(first);
    tokio::time::sleep(1000 * UNREAD).await;
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(world.join(post("a")).await.whole().await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_nobody_reads_for_its_time_is_cancelled() {
    let mut world = World::with(RegistryConfig::default(), |record| record.cancel_unread_after(UNREAD));
    let (frames, first) = world.begin("a").await;
    tokio::time::sleep(2 * UNREAD).await;
    assert_eq!(world.bodies.count(), 1, "it is read, although nothing comes");
    drop(first);
    tokio::time::sleep(UNREAD - Duration::from_secs(1)).await;
    let second = world.join(post("a")).await;
    drop(second);
    tokio::time::sleep(UNREAD - Duration::from_secs(1)).await;
    assert_eq!(world.bodies.count(), 1, "somebody has read it meanwhile");
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.bodies.until(0).await;
    assert!(frames.is_closed());
    assert_eq!(world.registry.topic_state(topic(&world)), Some(TopicState::Cancelled));
    assert_eq!(world.record.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_subscribed_to_the_topic_reads_the_recording() {
    let registry = Registry::new();
    let record = RecordLayer::by_topic(&registry, crate::world::key).cancel_unread_after(UNREAD);
    let mut world = World::of(registry.clone(), record);
    let (frames, first) = world.begin("a").await;
    let client = registry.connect();
    client.subscribe("a").unwrap();
    let events = client.into_events();
    drop(first);
    tokio::time::sleep(10 * UNREAD).await;
    assert_eq!(world.bodies.count(), 1);
    drop(events);
    tokio::time::sleep(3 * UNREAD).await;
    world.bodies.until(0).await;
    drop(frames);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_nobody_waits_for_is_dropped_and_its_key_is_free() {
    let mut world = World::with(RegistryConfig::default(), |record| record.cancel_unread_after(UNREAD));
    let sent = world.send(post("a"));
    let _call = world.call().await;
    tokio::time::sleep(2 * UNREAD).await;
    assert_eq!(world.handlers.count(), 1, "its client waits");
    sent.leave().await;
    tokio::time::sleep(UNREAD + Duration::from_secs(1)).await;
    world.handlers.until(0).await;
    assert_eq!(world.record.running(), 0);
    world.begin("a").await;
}

#[tokio::test]
async fn a_recording_whose_runtime_ends_has_failed() {
    let registry = Registry::new();
    let other = registry.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::of(other.clone(), RecordLayer::by_topic(&other, crate::world::key));
            let (frames, mut first) = world.begin("a").await;
            event(&frames, "1").await;
            first.events(1).await;
        });
    })
    .join()
    .unwrap();
    assert_eq!(registry.topic_state("a"), Some(TopicState::Failed));
}
