//! `test_util` reads a stream as a client does.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::Instant;
use tower::ServiceExt;
use tower_sse::{
    Drain, Event, Heartbeat, Registry, SseLayer,
    test_util::{NotAnEventStream, Received, ReceivedEvent, TestStream},
};

use crate::{
    bodies::{AnyBody, channel, event_stream},
    layers::plain,
    open, spec,
};

fn stream(layer: &SseLayer, last_event_id: Option<&str>) -> TestStream<tower_sse::SseBody<open::Empty>> {
    let (_, body) = open::open(layer, last_event_id, |client| client.subscribe("news").unwrap());
    TestStream::new(response(body)).unwrap()
}

fn response<B>(body: B) -> Response<B> {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

fn publish(registry: &Registry, data: &str) -> String {
    registry.publish("news", Event::data(data)).unwrap().position().unwrap().to_string()
}

fn data(events: &[ReceivedEvent]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_has_its_type_data_and_id() {
    let registry = Registry::new();
    let mut stream = stream(&SseLayer::new(&registry).reconnect_delay(Duration::from_secs(2)), None);
    let id = publish(&registry, "two\nlines");
    registry.publish("news", Event::json(&[1, 2]).unwrap().event("list")).unwrap();
    let event = stream.next_event().await.unwrap().unwrap();
    assert_eq!((&*event.event_type, &*event.data, &*event.last_event_id), ("message", "two\nlines", &*id));
    assert_eq!(stream.last_event_id(), id);
    assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&stream.retry().unwrap()));
    let event = stream.next_event().await.unwrap().unwrap();
    assert_eq!((&*event.event_type, event.json().unwrap()), ("list", [1, 2]));
    assert_eq!(stream.last_event_id(), event.last_event_id);
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_from_its_last_id() {
    let registry = Registry::new();
    let layer = SseLayer::new(&registry);
    let mut first = stream(&layer, None);
    publish(&registry, "had");
    assert_eq!(data(&first.ready_events().unwrap()), ["had"]);
    assert_eq!(first.ready().unwrap(), []);
    let id = first.last_event_id().to_owned();
    drop(first);
    assert_eq!(registry.stats().clients, 0);
    publish(&registry, "missed");
    assert_eq!(data(&stream(&layer, Some(&id)).ready_events().unwrap()), ["missed"]);
}

#[tokio::test(start_paused = true)]
async fn the_position_event_is_skipped_and_its_id_is_kept() {
    let registry = Registry::new();
    let id = publish(&registry, "before");
    let layer = SseLayer::new(&registry);
    let Some(Received::Event(first)) = stream(&layer, None).next().await.unwrap() else { panic!("no event") };
    assert_eq!((&*first.event_type, &*first.data, &*first.last_event_id), ("position", "", &*id));
    let mut stream = stream(&layer, None);
    assert_eq!(data(&stream.ready_events().unwrap()), [""; 0]);
    assert_eq!(stream.last_event_id(), id);
    // An event of the program with the same type is an ordinary event.
    registry.publish("news", Event::data("at the gate").event("position")).unwrap();
    assert_eq!(stream.next_event().await.unwrap().unwrap().data, "at the gate");
}

#[tokio::test(start_paused = true)]
async fn an_hour_passes_without_waiting() {
    let registry = Registry::new();
    let layer = plain(&registry).heartbeat(Heartbeat::every(Duration::from_secs(60)).comment("still there"));
    let mut stream = stream(&layer, None);
    let begun = Instant::now();
    let received = stream.received_within(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(3600));
    // The first heartbeat comes early, so that streams that open together are not all due at the same time.
    assert!((59..=60).contains(&received.len()), "{}", received.len());
    assert!(received.iter().all(|it| *it == Received::Comment("still there".into())));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_is_the_end_of_events() {
    let registry = Registry::new();
    let stream = stream(&SseLayer::new(&registry), None);
    publish(&registry, "before");
    let drain = tokio::spawn({
        let registry = registry.clone();
        async move { registry.drain(Drain::within(Duration::from_secs(10)).farewell(Event::data("goodbye"))).await }
    });
    assert_eq!(data(&stream.collect_events().await.unwrap()), ["before", "goodbye"]);
    assert_eq!(drain.await.unwrap().ended, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_an_error_and_then_an_end() {
    let (frames, body) = channel();
    let mut stream = TestStream::new(event_stream(body)).unwrap();
    frames.send(Ok(Frame::data("data: a\n\n".into()))).await.unwrap();
    frames.send(Err("broken".into())).await.unwrap();
    assert_eq!(stream.next_event().await.unwrap().unwrap().data, "a");
    assert_eq!(stream.next_event().await.unwrap_err().to_string(), "broken");
    assert_eq!(stream.next_event().await.unwrap(), None);
}

#[test]
fn a_response_that_is_no_event_stream_is_refused_with_a_description() {
    let with = |status: u16, headers: &[(&'static str, &'static str)]| {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        TestStream::new(response.body(Full::<Bytes>::from("a body")).unwrap())
    };
    let problem = |it: Result<TestStream<_>, NotAnEventStream<_>>| it.unwrap_err().to_string();
    assert_eq!(problem(with(204, &[])), "not an event stream: 204 No Content without a content type");
    assert_eq!(
        problem(with(500, &[("content-type", "text/plain")])),
        "not an event stream: 500 Internal Server Error with the content type \"text/plain\""
    );
    assert_eq!(
        problem(with(200, &[("content-type", "text/event-stream"), ("content-encoding", "gzip")])),
        "not an event stream: 200 OK with the content type \"text/event-stream\", and compressed"
    );
    let whole = with(404, &[]).unwrap_err().into_response();
    assert_eq!(whole.status(), 404);
    assert!(with(200, &[("content-type", "Text/Event-Stream; charset=utf-8")]).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_response_of_a_service_can_be_read() {
    let registry = Registry::new();
    let handler = tower::service_fn(|request: Request<()>| async move {
        let client = request.extensions().get::<tower_sse::ClientHandle>().unwrap().clone();
        client.subscribe("news")?;
        Ok::<_, tower_sse::SubscribeError>(client.into_stream().into_response::<AnyBody>())
    });
    let service = tower::ServiceBuilder::new().layer(SseLayer::new(&registry)).service(handler);
    let mut stream = TestStream::new(service.oneshot(Request::new(())).await.unwrap()).unwrap();
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    publish(&registry, "through");
    assert_eq!(stream.next_event().await.unwrap().unwrap().data, "through");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_stream_in_any_chunks_is_parsed_by_the_standard(
        pieces in vec(select(vec![
            "data: a", "data", "data:", "data:  b", "event: e", "event", "id: 1", "id: x\0y", "id", "retry: 10",
            "retry: +1", "retry", "retry: 99999999999999999999", ": note", ":", "\n", "\r", "\r\n", "\n\n", "\u{feff}", "é",
            "other: x", " ",
        ]), 0..40),
        cuts in vec(1_usize..9, 1..20),
    ) {
        let wire = pieces.concat().into_bytes();
        let mut chunks = VecDeque::new();
        let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            chunks.push_back(Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(chunk))));
            rest = after;
        }
        let mut stream = TestStream::new(response(StreamBody::new(tokio_stream::iter(chunks)))).unwrap();
        let expected = spec::parse(&wire);
        let (mut events, mut retries, mut comments) = (Vec::new(), Vec::new(), 0);
        for received in stream.ready().unwrap() {
            match received {
                Received::Event(ReceivedEvent { event_type, data, last_event_id, .. }) => events.push((event_type, data, last_event_id)),
                Received::Retry(delay) => retries.push(delay),
                Received::Comment(_) => comments += 1,
                _ => unreachable!(),
            }
        }
        let messages = expected.messages.into_iter().map(|it| (it.event_type, it.data, it.last_event_id));
        prop_assert_eq!(events, messages.collect::<Vec<_>>());
        prop_assert_eq!(retries, expected.retries.into_iter().map(Duration::from_millis).collect::<Vec<_>>());
        prop_assert_eq!(stream.last_event_id(), expected.last_event_id);
        let text = String::from_utf8(wire).unwrap();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.split(['\n', '\r']).collect::<Vec<_>>();
        // The text after the last line end is not a line yet.
        prop_assert_eq!(comments, lines[..lines.len() - 1].iter().filter(|line| line.starts_with(':')).count());
    }
}
