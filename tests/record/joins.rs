//! The second request with a key joins the recording, and the handler does not run again.

use std::time::Duration;

use http::{Method, StatusCode};
use tower_sse::{RecordLayer, Registry, RegistryConfig, Retention, Start, Subscription, TopicState};

use crate::world::{Reader, World, event, key, post, resume, write};

#[tokio::test]
async fn all_readers_get_all_events_and_the_handler_runs_once() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    assert_eq!(first.events(1).await, ["1"]);
    let second = world.join(post("a")).await;
    event(&frames, "2").await;
    drop(frames);
    assert_eq!(
        (first.whole().await, second.whole().await),
        (vec!["1".into(), "2".into()], vec!["1".into(), "2".into()])
    );
    world.assert_not_called();
}

#[tokio::test]
async fn readers_of_one_recording_get_the_same_bytes() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    let mut second = world.join(post("a")).await;
    write(&frames, ": comment\nevent: t\ndata: 1\nretry: 7\n\nid: own\ndata: 2\n\n").await;
    drop(frames);
    first.end().await;
    second.end().await;
    let mut late = world.join(post("a")).await;
    late.end().await;
    assert_eq!((&first.text, &first.text), (&second.text, &late.text));
    assert!(
        first.text.starts_with("event: t\ndata: 1\nretry: 7\nid: ") && first.text.ends_with("data: 2\nid: own\n\n")
    );
}

#[tokio::test]
async fn the_handler_goes_on_when_its_client_leaves_and_a_client_resumes_after_its_last_event() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    let id = first.last_event_id();
    drop(first);
    event(&frames, "2").await;
    let mut resumed = world.join(resume("a", &id)).await;
    assert_eq!(resumed.events(1).await, ["2"]);
    event(&frames, "3").await;
    drop(frames);
    assert_eq!(resumed.whole().await, ["2", "3"]);
    world.assert_not_called();
}

#[tokio::test]
async fn a_client_resumes_after_an_id_of_the_handler_s_own() {
    let mut world = World::new();
    let (frames, first) = world.begin("a").await;
    write(&frames, "id: x1\ndata: 1\n\nid: x2\ndata: 2\n\nid: x3\ndata: 3\n\n").await;
    drop(frames);
    assert_eq!(first.whole().await, ["1", "2", "3"]);
    assert_eq!(world.join(resume("a", "x1")).await.whole().await, ["2", "3"]);
}

#[tokio::test]
async fn after_the_end_a_reader_gets_the_rest_and_then_204() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "1").await;
    first.events(1).await;
    let early = first.last_event_id();
    event(&frames, "2").await;
    drop(frames);
    first.end().await;
    assert_eq!(world.join(resume("a", &early)).await.whole().await, ["2"]);
    assert_eq!(world.status(resume("a", &first.last_event_id())).await, StatusCode::NO_CONTENT);
    world.assert_not_called();
}

#[tokio::test]
async fn a_request_that_comes_before_the_head_waits_for_it() {
    let mut world = World::new();
    let first = world.send(post("a"));
    let call = world.call().await;
    let second = world.send(post("a"));
    tokio::task::yield_now().await;
    assert!(!first.is_answered() && !second.is_answered());
    let frames = call.stream();
    let (first, second) = (first.stream().await, second.stream().await);
    event(&frames, "1").await;
    drop(frames);
    assert_eq!((first.whole().await, second.whole().await), (vec!["1".into()], vec!["1".into()]));
    world.assert_not_called();
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_does_not_stop_the_handler() {
    let mut world = World::new();
    let first = world.send(post("a"));
    let call = world.call().await;
    first.leave().await;
    let frames = call.stream();
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(world.join(post("a")).await.whole().await, ["1"]);
    world.assert_not_called();
}

#[tokio::test]
async fn an_event_can_be_read_by_others_before_its_first_reader_has_it() {
    let mut world = World::new();
    let (frames, first) = world.begin("a").await;
    event(&frames, "1").await;
    let mut second = world.join(post("a")).await;
    assert_eq!(second.events(1).await, ["1"], "it is in the log, although the first reader has read nothing");
    drop((frames, first));
}

#[tokio::test]
async fn an_event_that_looks_like_the_last_one_ends_nothing() {
    let mut world = World::new();
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "[DONE]").await;
    first.events(1).await;
    let topic = world.record.topic_of(&post("a").into_parts().0).unwrap().unwrap();
    assert_eq!(world.registry.topic_state(&topic), Some(TopicState::Producing));
    event(&frames, "more").await;
    drop(frames);
    assert_eq!(first.whole().await, ["[DONE]", "more"]);
}

const KEPT: Duration = Duration::from_secs(60);

fn keeping() -> RegistryConfig {
    RegistryConfig::default().ended_topic_ttl(KEPT)
}

#[tokio::test(start_paused = true)]
async fn after_the_recording_is_forgotten_the_handler_runs_again() {
    let mut world = World::with(keeping(), |record| record);
    let (frames, first) = world.begin("a").await;
    event(&frames, "old").await;
    drop(frames);
    first.whole().await;
    tokio::time::advance(KEPT / 2).await;
    assert_eq!(world.join(post("a")).await.whole().await, ["old"]);
    tokio::time::advance(KEPT).await;
    let (frames, again) = world.begin("a").await;
    event(&frames, "new").await;
    drop(frames);
    assert_eq!(again.whole().await, ["new"]);
}

/// The types and the data of all events.
fn all(reader: &Reader) -> Vec<(String, String)> {
    reader.parsed().messages.into_iter().map(|message| (message.event_type, message.data)).collect()
}

/// A client that has read an old recording, and resumes when the handler runs again, is told of a gap: it must not add the new answer to what
/// it has of the old one.
async fn is_told_of_a_gap(mut world: World, old: &str) {
    let sent = world.send(resume("a", old));
    let frames = world.call().await.stream();
    let mut first = sent.stream().await;
    let mut second = world.join(resume("a", old)).await;
    let fresh = world.join(post("a")).await;
    event(&frames, "new").await;
    for reader in [&mut first, &mut second] {
        let events = reader.events(2).await;
        assert_eq!((all(reader)[0].0.as_str(), events[1].as_str()), ("gap", "new"));
        assert!(events[0].contains(r#""topics":[]"#) && events[0].contains(old), "{events:?}");
    }
    let mut resumed = world.join(resume("a", &first.last_event_id())).await;
    event(&frames, "more").await;
    drop(frames);
    resumed.end().await;
    assert_eq!(all(&resumed), [("message".to_owned(), "more".to_owned())]);
    assert_eq!(fresh.whole().await, ["new", "more"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_read_a_forgotten_recording_is_told_of_a_gap_when_the_handler_runs_again() {
    let mut world = World::with(keeping(), |record| record);
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "old").await;
    drop(frames);
    first.end().await;
    tokio::time::advance(2 * KEPT).await;
    is_told_of_a_gap(world, &first.last_event_id()).await;
}

#[tokio::test]
async fn who_has_read_an_evicted_recording_is_told_of_a_gap_when_the_handler_runs_again() {
    let bounds = Retention::default();
    let config = RegistryConfig::default().total_retention(bounds.bytes(20_000)).topic_retention(bounds);
    let mut world = World::with(config, |record| record);
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "old").await;
    drop(frames);
    first.end().await;
    for _ in 0..40 {
        world.registry.publish("other", tower_sse::Event::data("x".repeat(1000))).unwrap();
    }
    is_told_of_a_gap(world, &first.last_event_id()).await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_of_a_topic_that_the_program_names_too() {
    let registry = Registry::with_config(keeping());
    let mut world = World::of(registry.clone(), RecordLayer::by_topic(&registry, key));
    let (frames, mut first) = world.begin("a").await;
    event(&frames, "old").await;
    drop(frames);
    first.end().await;
    tokio::time::advance(2 * KEPT).await;
    let sent = world.send(resume("a", &first.last_event_id()));
    let frames = world.call().await.stream();
    let mut again = sent.stream().await;
    event(&frames, "new").await;
    drop(frames);
    again.end().await;
    assert_eq!(all(&again)[0].0, "gap");
    assert_eq!(all(&again)[1].1, "new");
}

/// A layer of which requests name the topic by their path, and a GET only joins.
fn by_path(registry: &Registry) -> RecordLayer {
    RecordLayer::by_topic(registry, |request| Some(request.uri.path().strip_prefix('/')?.to_owned()))
        .join_only(|request| request.method == Method::GET)
        .content_location(|request| Some(request.uri.path().to_owned()))
}

fn request(method: Method, path: &str) -> http::Request<()> {
    http::Request::builder().method(method).uri(path).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_get_that_only_joins_gets_404_before_and_after_and_the_stream_in_between() {
    let registry = Registry::with_config(keeping());
    let mut world = World::of(registry.clone(), by_path(&registry));
    assert_eq!(world.status(request(Method::GET, "/answers/1")).await, StatusCode::NOT_FOUND);
    let sent = world.send(request(Method::POST, "/answers/1"));
    let frames = world.call().await.stream();
    let first = sent.stream().await;
    let get = world.join(request(Method::GET, "/answers/1")).await;
    assert_eq!(first.headers["content-location"], "/answers/1");
    assert_eq!(get.headers["content-location"], "/answers/1");
    event(&frames, "1").await;
    drop(frames);
    assert_eq!((first.whole().await, get.whole().await), (vec!["1".into()], vec!["1".into()]));
    tokio::time::advance(2 * KEPT).await;
    assert_eq!(world.status(request(Method::GET, "/answers/1")).await, StatusCode::NOT_FOUND);
    world.assert_not_called();
}

#[tokio::test]
async fn a_topic_that_the_program_names_can_be_read_without_the_layer() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), by_path(&registry));
    let sent = world.send(request(Method::POST, "/answers/1"));
    let frames = world.call().await.stream();
    let first = sent.stream().await;
    event(&frames, "1").await;
    drop(frames);
    first.whole().await;
    let client = registry.connect();
    client.subscribe(Subscription::to("answers/1").from(Start::Oldest).existing()).unwrap();
    let mut events = client.into_events();
    let delivery = tokio_stream::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert_eq!(delivery.data().as_deref(), Some("1"));
    assert!(tokio_stream::StreamExt::next(&mut events).await.is_none());
}

#[tokio::test]
async fn a_topic_that_a_producer_of_the_program_fills_is_joined() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), by_path(&registry));
    let producer = registry.start_producer("answers/1").unwrap();
    producer.publish(tower_sse::Event::data("of the program")).unwrap();
    let joined = world.join(request(Method::POST, "/answers/1")).await;
    producer.end();
    assert_eq!(joined.whole().await, ["of the program"]);
    world.assert_not_called();
}
