//! What was recorded is, event for event, what the handler sent: over any bytes in any chunking, by independent parsers.

use std::convert::Infallible;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::{prelude::*, sample::Index};
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{Event, Heartbeat, RecordLayer, Registry, SseLayer};

use crate::{
    bodies::event_stream,
    spec,
    time_limit::within_20_s,
    world::{key, post},
};

/// Bytes of a stream that a handler could send.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "data: x", "data", "data:", "data:  two", "event: t", "event",
            "event:", "id: 1", "id: 22", "id:", "id", "id: a b", "id: é", "id:  lead", "id: nul\0", "retry: 5", "retry: x", "retry",
            "retry: 99999999999999999999", ": comment", ":", "unknown: field", "data: é👍", "\u{feff}", "\u{2028}", " ", "[DONE]",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
        1 => Just(vec![b'y'; 200]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn chunks(stream: &[u8], cuts: &[Index]) -> Vec<Bytes> {
    let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    edges.extend([0, stream.len()]);
    edges.sort_unstable();
    edges.windows(2).map(|edge| Bytes::copy_from_slice(&stream[edge[0]..edge[1]])).collect()
}

/// Records a stream. Returns what the first reader gets, and what a reader after the end gets.
fn recorded(chunks: Vec<Bytes>) -> [Vec<u8>; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let registry = Registry::new();
        let handler = service_fn(move |_: Request<()>| {
            let frames = tokio_stream::iter(chunks.clone()).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
            std::future::ready(Ok::<_, Infallible>(event_stream(StreamBody::new(frames))))
        });
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        let app = layer.layer(RecordLayer::by_key(&registry, key).layer(handler));
        let mut read = Vec::new();
        for _ in 0..2 {
            let response = within_20_s(app.clone().oneshot(post("a"))).await.unwrap();
            // A recording without events is a 204 after its end.
            assert!(response.status().is_success());
            read.push(within_20_s(response.into_body().collect()).await.expect("a clean end").to_bytes().to_vec());
        }
        read.try_into().unwrap()
    })
}

/// Event type, data and the handler's own id of each event.
type Events = Vec<(String, String, Option<String>)>;

/// The events that a client dispatches when it reads the handler's bytes. An id that the crate does not take is none.
fn expected(stream: &[u8]) -> Events {
    let is_taken = |id: &String| Event::data("").id(id).is_ok();
    let messages = spec::parse(stream).messages.into_iter();
    messages.map(|it| (it.event_type, it.data, it.own_id.filter(is_taken))).collect()
}

/// Removes the ids of the registry, which are positions.
fn own(id: Option<String>) -> Option<String> {
    id.filter(|id| id.parse::<tower_sse::Position>().is_err())
}

fn by_standard(wire: &[u8]) -> Events {
    spec::parse(wire).messages.into_iter().map(|it| (it.event_type, it.data, own(it.own_id))).collect()
}

fn by_eventsource_stream(wire: &[u8]) -> Events {
    let events = eventsource_stream::EventStream::new(tokio_stream::iter([Ok::<_, Infallible>(wire)]));
    let events = tokio_test::block_on(events.collect::<Vec<_>>()).into_iter().map(Result::unwrap);
    events.map(|event| (event.event, event.data, own(Some(event.id)))).collect()
}

fn by_sse_stream(wire: &[u8]) -> Events {
    let wire = tokio_stream::iter([Ok::<_, Infallible>(Bytes::copy_from_slice(wire))]);
    let blocks = tokio_test::block_on(sse_stream::SseByteStream::new(wire).collect::<Vec<_>>());
    let blocks = blocks.into_iter().map(Result::unwrap);
    blocks
        .filter_map(|block| Some((block.event.unwrap_or_else(|| "message".into()), block.data?, own(block.id))))
        .collect()
}

/// The reconnection time that a client has at the end of its last whole block.
fn reconnection_time(stream: &[u8]) -> Option<u64> {
    let whole = (0..=stream.len()).rev().find(|end| {
        let before = &stream[..*end];
        [&b"\n\n"[..], b"\r\r", b"\n\r"].iter().any(|blank| before.ends_with(blank))
    });
    spec::parse(&stream[..whole.unwrap_or(0)]).retries.pop()
}

proptest! {
    #[test]
    fn what_was_recorded_is_event_for_event_what_the_handler_sent(
        stream in stream(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let [first, late] = recorded(chunks(&stream, &cuts));
        let events = expected(&stream);
        prop_assert_eq!(&by_standard(&first), &events, "by the standard");
        prop_assert_eq!(&by_eventsource_stream(&first), &events, "by eventsource-stream");
        prop_assert_eq!(&by_sse_stream(&first), &events, "by sse-stream");
        prop_assert_eq!(spec::parse(&first).retries.pop(), reconnection_time(&stream));
        let all_have_ids = spec::parse(&first).messages.iter().all(|message| message.own_id.is_some());
        prop_assert!(all_have_ids, "each event can be resumed from");
        // The opening comment is the heartbeat's, which is off.
        prop_assert_eq!(first, late);
    }
}
