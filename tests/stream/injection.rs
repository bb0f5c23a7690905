//! Whatever the layer inserts into a stream, and wherever the stream stalls, a client sees the handler's own events
//! unchanged.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, poll_fn, ready},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, buf::Chain};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};
use tokio::{
    sync::oneshot,
    task::coop,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{ClientHandle, Event, Heartbeat, Registry, RegistryConfig, Retention, SseLayer};

use crate::{layers, spec};

const INTERVAL: Duration = Duration::from_millis(10);
/// Long enough for two heartbeats, and for one after an event of the registry.
const SILENCE: Duration = Duration::from_millis(25);
const TOPIC: &str = "topic";

/// A handler's body of frames in two parts: a silence, a frame, a silence, a frame, ..., a silence, the end.
struct Paced {
    frames: std::vec::IntoIter<(Bytes, Bytes)>,
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    /// The number of frames that were given out.
    given: Arc<AtomicUsize>,
}

impl Paced {
    fn new(frames: Vec<(Bytes, Bytes)>, silence: Duration) -> Self {
        let timer = Box::pin(sleep(silence));
        Self { frames: frames.into_iter(), silence, timer, given: Arc::default() }
    }
}

impl Body for Paced {
    type Data = Chain<Bytes, Bytes>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        ready!(self.timer.as_mut().poll(cx));
        let next = Instant::now() + self.silence;
        self.timer.as_mut().reset(next);
        self.given.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(self.frames.next().map(|(first, second)| Ok(Frame::data(first.chain(second)))))
    }
}

/// The layer's output.
#[derive(Default)]
struct Out {
    frames: Vec<(Duration, Bytes)>,
    /// The number of frames that are not the handler's, without the opening. The count may be too low: if the layer
    /// drops a whole frame, a byte-order mark, the frame that it inserts next counts as the dropped one.
    injected: usize,
    withheld: u64,
    /// The data and the ids of the registry's events, if any are published.
    published: Vec<(String, String)>,
}

impl Out {
    fn wire(&self) -> Vec<u8> {
        self.frames.iter().flat_map(|(_, frame)| frame.clone()).collect()
    }

    fn text(&self) -> String {
        String::from_utf8(self.wire()).unwrap()
    }
}

/// Sends a body through the layer. With `publishes`, it subscribes the client and publishes one or two events in each
/// silence of the body. The client is closed in the silence after the body's end.
async fn through_the_layer(body: Paced, heartbeat: impl Into<Option<Heartbeat>>, publishes: bool) -> Out {
    let heartbeat: Option<Heartbeat> = heartbeat.into();
    let start = Instant::now();
    let given = Arc::clone(&body.given);
    let opens = publishes || heartbeat.is_some();
    let silences = body.frames.len() + 1;
    let silence = body.silence;
    // A stream of a thousand frames that are all one event must not exceed the retention.
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(Retention::default()));
    let (client, handle) = oneshot::channel();
    let (mut body, mut client) = (Some(body), Some(client));
    let heartbeat = heartbeat.unwrap_or_else(Heartbeat::off);
    let service = SseLayer::new(&registry).heartbeat(heartbeat).layer(service_fn(|request: Request<()>| {
        let handle = request.extensions().get::<ClientHandle>().unwrap().clone();
        if publishes {
            handle.subscribe(TOPIC).unwrap();
        }
        client.take().unwrap().send(handle).unwrap();
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(body.take().unwrap());
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    }));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();

    let publisher = registry.clone();
    let published = tokio::spawn(async move {
        let mut published = Vec::new();
        sleep(silence / 4).await;
        for round in 0..if publishes { silences } else { 0 } {
            for event in 0..=round % 2 {
                let data = format!("{round}\ndata: {event}");
                let receipt = publisher.publish(TOPIC, Event::data(&data).event("registry")).unwrap();
                published.push((data, receipt.position().unwrap().to_string()));
            }
            sleep(silence).await;
        }
        if publishes {
            handle.await.unwrap().close();
        }
        published
    });

    let mut out = Out::default();
    let mut given_before = 0;
    let all = silence * 2 * (silences as u32 + 1);
    while let Some(frame) = timeout(all, body.frame()).await.expect("a frame or the end") {
        assert!(start.elapsed() < all, "the stream has no end");
        out.frames.push((start.elapsed(), frame.unwrap().into_data().unwrap()));
        let given_now = given.load(Ordering::Relaxed);
        if opens && out.frames.len() == 1 {
            let (at, opening) = &out.frames[0];
            assert_eq!(
                (*at, given_now),
                (Duration::ZERO, 0),
                "the opening comes at once, before the handler's body is polled"
            );
            let begins = if publishes { &b"event: position\ndata: \nid: "[..] } else { b":" };
            assert!(opening.starts_with(begins), "{opening:?}");
            continue;
        }
        out.injected += usize::from(given_now == given_before);
        given_before = given_now;
    }
    out.withheld = registry.stats().withheld_heartbeats;
    out.published = published.await.unwrap();
    out
}

fn frames(frames: &[&'static [u8]]) -> Vec<(Bytes, Bytes)> {
    frames.iter().map(|frame| (Bytes::from_static(frame), Bytes::new())).collect()
}

/// Streams of any bytes, valid or not, in any frames.
mod any_stream {
    use super::*;

    const MARK: &[u8] = b"\xEF\xBB\xBF";

    fn trouble() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => select(vec![&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"]),
            4 => select(vec![&b"data"[..], b"data: x", b":", b" ", b"id: 7", b"id: 8\0", b"event: x", b"retry: 5"]),
            1 => select(vec![MARK, &MARK[..1], &MARK[1..], b"\xC3", b"\xA9", "👍".as_bytes(), b"\0", b"\xFF"]),
            1 => Just(&[b'y'; 70][..]),
        ];
        // Comments at the end of a frame hide the beginning of the block from a parser that looks only at the end.
        let comments = select(vec![":\n", ":\r", ":\r\n"]).prop_map(|line| line.repeat(40).into_bytes());
        let piece = prop_oneof![20 => piece.prop_map(<[u8]>::to_vec), 1 => comments];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// Valid events, comments and line ends, perhaps with an unfinished event at the end.
    fn orderly() -> impl Strategy<Value = Vec<u8>> {
        let line = select(vec![
            "data: x",
            "data",
            "data: é👍",
            "event: x",
            "id: 7",
            "id: 8",
            "id",
            "retry: 5",
            ": comment",
            ":",
            "unknown: x",
        ]);
        let long = Just("y".repeat(100)).prop_map(|long| format!("data: {long}"));
        let line = prop_oneof![8 => line.prop_map(str::to_owned), 1 => long, 2 => Just(String::new())];
        let end = select(vec!["\n", "\r", "\r\n"]);
        let marks = prop_oneof![16 => Just(0), 2 => Just(1), 2 => Just(2), 1 => Just(3)];
        (prop::collection::vec(line, 0..24), end, any::<bool>(), marks).prop_map(|(lines, end, finished, marks)| {
            let mark = "\u{feff}".repeat(marks);
            let finish = if finished { end } else { "" };
            let lines: String = lines.into_iter().map(|line| line + end).collect();
            format!("{mark}{lines}{finish}").into()
        })
    }

    type Frames = Vec<(Bytes, Bytes)>;

    fn streams() -> impl Strategy<Value = Frames> {
        let stream = prop_oneof![trouble(), orderly()];
        let cuts = prop::collection::vec(any::<Index>(), 0..40);
        (stream, cuts, prop::bool::weighted(0.1)).prop_map(|(stream, cuts, byte_by_byte)| {
            let stream = Bytes::from(stream);
            if byte_by_byte {
                return (0..stream.len()).map(|at| (stream.slice(at..=at), Bytes::new())).collect();
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let parts: Vec<Bytes> = cuts.windows(2).map(|cut| stream.slice(cut[0]..cut[1])).collect();
            parts.chunks(2).map(|parts| (parts[0].clone(), parts.get(1).cloned().unwrap_or_default())).collect()
        })
    }

    fn run(frames: &Frames, heartbeat: Heartbeat, publishes: bool) -> Out {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { through_the_layer(Paced::new(frames.clone(), SILENCE), heartbeat, publishes).await })
    }

    fn is_injected(event_type: &str) -> bool {
        matches!(event_type, "hb" | "registry" | "position")
    }

    /// The handler's part of a stream, parsed by the standard.
    fn own(stream: &[u8]) -> spec::Parsed {
        let mut parsed = spec::parse(stream);
        parsed.messages.retain(|message| !is_injected(&message.event_type));
        parsed
    }

    /// The same, but only with the events' own ids: the registry's events have other ids.
    fn own_with_own_ids(stream: &[u8]) -> spec::Parsed {
        let mut parsed = own(stream);
        parsed.last_event_id.clear();
        parsed.messages.iter_mut().for_each(|message| message.last_event_id.clear());
        parsed
    }

    /// The handler's part of a stream, parsed by eventsource-stream: event type, data, last event id, retry.
    ///
    /// The input avoids its bugs, as far as they can be seen in its source:
    /// - It holds back everything after an invalid byte (`Utf8Stream` waits for the rest of the sequence). So the
    ///   standard's replacement characters are inserted before.
    /// - It panics on a leading byte-order mark (`&string[1..]` is in the middle of the character). So the mark is not
    ///   the first character.
    /// - It does not take a CR at the end of its buffer for a line end (nom's streaming `tag` waits for the LF). So one
    ///   more byte, the beginning of a comment, follows.
    fn own_by_eventsource_stream(stream: &[u8]) -> Vec<(String, String, String, Option<Duration>)> {
        let text = String::from_utf8_lossy(stream);
        let text = format!(":\n{}:", text.strip_prefix('\u{feff}').unwrap_or(&text));
        let chunks = text.into_bytes().chunks(7).map(|chunk| Ok::<_, Infallible>(chunk.to_vec())).collect::<Vec<_>>();
        let events = eventsource_stream::EventStream::new(tokio_stream::iter(chunks));
        tokio_test::block_on(events.collect::<Vec<_>>())
            .into_iter()
            .map(Result::unwrap)
            .filter(|event| !is_injected(&event.event))
            .map(|event| (event.event, event.data, event.id, event.retry))
            .collect()
    }

    /// Whether every parser agrees that a stream that began like this is between two events.
    fn is_between_events(so_far: &[u8]) -> bool {
        let so_far = so_far.strip_prefix(MARK).unwrap_or(so_far);
        so_far.is_empty() || [&b"\n\n"[..], b"\n\r\n", b"\r\r"].iter().any(|end| so_far.ends_with(end))
    }

    /// Counts of what was inserted into the streams of one test.
    #[derive(Debug, Default)]
    struct Count {
        heartbeats: Cell<usize>,
        events: Cell<usize>,
    }

    fn check(frames: &Frames, heartbeat: &Heartbeat, count: &Count) -> Result<(), TestCaseError> {
        let raw: Vec<u8> = frames.iter().flat_map(|(first, second)| [first, second]).flatten().copied().collect();

        let out = run(frames, heartbeat.clone(), false);
        let wire = out.wire();
        prop_assert_eq!(own(&wire), own(&raw), "{}", wire.escape_ascii());
        let (got, expected) = (own_by_eventsource_stream(&wire), own_by_eventsource_stream(&raw));
        prop_assert_eq!(got, expected, "{}", wire.escape_ascii());
        let mut silences_between_events = 0;
        for at in 0..=frames.len() {
            let so_far = frames[..at].iter().flat_map(|(first, second)| [first, second]).flatten().copied();
            silences_between_events += usize::from(is_between_events(&so_far.collect::<Vec<_>>()));
        }
        prop_assert!(out.injected >= silences_between_events, "{} heartbeats", out.injected);
        prop_assert!(
            out.injected + out.withheld as usize > frames.len(),
            "each silence has a heartbeat or a withheld one"
        );
        count.heartbeats.set(count.heartbeats.get() + out.injected);

        let out = run(frames, heartbeat.clone(), true);
        let wire = out.wire();
        prop_assert_eq!(own_with_own_ids(&wire), own_with_own_ids(&raw), "{}", wire.escape_ascii());
        let without_ids = |events: Vec<(String, String, String, Option<Duration>)>| {
            events.into_iter().map(|(event_type, data, _, retry)| (event_type, data, retry)).collect::<Vec<_>>()
        };
        let (got, expected) = (own_by_eventsource_stream(&wire), own_by_eventsource_stream(&raw));
        prop_assert_eq!(without_ids(got), without_ids(expected), "{}", wire.escape_ascii());
        let arrived: Vec<(String, String)> = spec::parse(&wire)
            .messages
            .into_iter()
            .filter(|message| message.event_type == "registry")
            .map(|message| (message.data, message.own_id.unwrap()))
            .collect();
        // A stream that ends within an event cannot send the events that waited for the event's end.
        prop_assert!(out.published.starts_with(&arrived), "{:?}", arrived);
        prop_assert!(!is_between_events(&raw) || arrived == out.published, "{:?}", arrived);
        count.heartbeats.set(count.heartbeats.get() + out.injected - arrived.len().min(out.injected));
        count.events.set(count.events.get() + arrived.len());
        Ok(())
    }

    #[track_caller]
    fn assert_invisible(heartbeat: &Heartbeat) {
        const CASES: u32 = 256;
        let count = Count::default();
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) });
        if let Err(error) = runner.run(&streams(), |frames| check(&frames, heartbeat, &count)) {
            panic!("{error}");
        }
        assert!(count.heartbeats.get() > 4 * CASES as usize, "too few heartbeats: {count:?}");
        assert!(count.events.get() > 2 * CASES as usize, "too few events: {count:?}");
    }

    #[test]
    fn blank_line_comments_are_invisible() {
        assert_invisible(&Heartbeat::every(INTERVAL));
    }

    #[test]
    fn single_line_comments_are_invisible() {
        assert_invisible(&Heartbeat::every(INTERVAL).single_line());
    }

    #[test]
    fn comments_with_text_are_invisible() {
        assert_invisible(&Heartbeat::every(INTERVAL).comment("data: beat\r\nid: 9\n"));
    }

    #[test]
    fn single_line_comments_with_text_are_invisible() {
        assert_invisible(&Heartbeat::every(INTERVAL).comment("beat").single_line());
    }

    #[test]
    fn heartbeat_events_change_no_event_of_the_handler() {
        assert_invisible(&Heartbeat::every(INTERVAL).event(|| Event::data("beat").event("hb").id("9").unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn no_heartbeat_comes_between_the_cr_and_the_lf_of_a_line_end() {
    let body = Paced::new(frames(&[b"data: a\r", b"\ndata: b\r\n\r", b"\n"]), SILENCE);
    let out = through_the_layer(body, Heartbeat::every(INTERVAL), false).await.text();
    let own = out.trim_start_matches(":\n\n").trim_end_matches(":\n\n");
    assert_eq!(own, "data: a\r\ndata: b\r\n\r\n");
    assert!(out.starts_with(":\n\n") && out.ends_with(":\n\n"), "{out:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_with_single_line_comments_does_not_hold_events_back() {
    let body = Paced::new(frames(&[b"data: a\n\n:\n", b":\n", b": still\r\n", b":\n", b"data: b\n\n"]), SILENCE);
    let out = through_the_layer(body, None::<Heartbeat>, true).await.text();
    let published: Vec<_> = out.split("event: registry\n").collect();
    assert_eq!(published.len() - 1, 9);
    assert!(published[1].ends_with("data: a\n\n:\n"), "one event came before the handler's first frame: {out:?}");
    assert!(published[7].ends_with("data: b\n\n"), "six events came while there were only comments: {out:?}");
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_dropped_in_any_number_of_frames() {
    let body = Paced::new(frames(&[b"\xEF", b"\xBB", b"\xBFdata: a\n\n"]), SILENCE);
    let out = through_the_layer(body, Heartbeat::every(INTERVAL), false).await.text();
    assert_eq!(out.replace(":\n\n", ""), "data: a\n\n");
    assert!(out.starts_with(":\n\n"), "the stream was not silent before: {out:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_byte_order_mark_hides_the_first_line_as_without_the_layer() {
    let stream = b"\xEF\xBB\xBF\xEF\xBB\xBFdata:1\n\ndata:2\n\n";
    let byte_by_byte: Vec<&[u8]> = stream.chunks(1).collect();
    for cut in [&[&stream[..]][..], &[&stream[..4], &stream[4..]], &byte_by_byte] {
        let cut = cut.iter().map(|frame| (Bytes::from_static(frame), Bytes::new())).collect::<Vec<_>>();
        for heartbeat in [None, Some(Heartbeat::every(INTERVAL))] {
            let out = through_the_layer(Paced::new(cut.clone(), SILENCE), heartbeat, false).await.wire();
            assert_eq!(spec::parse(&out), spec::parse(stream), "{}", out.escape_ascii());
            assert!(!out.starts_with(b"\xEF\xBB\xBF"), "several clients fail on it");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_byte_order_mark_is_kept() {
    for stream in [&[&b"\xEF"[..], b"\xBB", b"\xBEdata: a\n\n"][..], &[b"\xEF\xBB"], &[b"\xEF", b"\n\n"]] {
        let out = through_the_layer(Paced::new(frames(stream), SILENCE), None::<Heartbeat>, false).await.wire();
        assert_eq!(out, stream.concat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_within_an_event_gets_no_heartbeat() {
    let body = Paced::new(frames(&[b"data: a\n", b"data: b\n", b"\n"]), 10 * INTERVAL);
    let out = through_the_layer(body, Heartbeat::every(INTERVAL), false).await;
    let text = out.text();
    assert_eq!(text.trim_start_matches(":\n\n").trim_end_matches(":\n\n"), "data: a\ndata: b\n\n");
    assert!(
        (18..=20).contains(&out.withheld),
        "one withheld heartbeat for each interval of two silences, not {}",
        out.withheld
    );
    assert!(out.injected >= 18, "one heartbeat for each interval of the other silences, not {}", out.injected);
}

#[tokio::test(start_paused = true)]
async fn many_comments_within_an_event_are_no_boundary() {
    let comments = [":\n".repeat(40), ":\r\n".repeat(30), format!(": {}\n", "y".repeat(61)), ":\r".repeat(40)];
    for comments in comments {
        let stalled = Bytes::from(format!("data: a\n{comments}"));
        let rest = Bytes::from_static(b"data: b\n\n");
        let frames = vec![(stalled.clone(), Bytes::new()), (rest.clone(), Bytes::new())];
        let out = through_the_layer(Paced::new(frames, SILENCE), Heartbeat::every(INTERVAL).single_line(), false).await;
        let own: Vec<Bytes> =
            out.frames.into_iter().map(|(_, frame)| frame).skip_while(|frame| frame == ":\n").collect();
        assert_eq!(own[..2], [stalled, rest]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_may_come_before_the_handlers_first_byte() {
    let body = Paced::new(frames(&[b"data: slow\n\n"]), 3 * INTERVAL);
    let out = through_the_layer(body, Heartbeat::every(INTERVAL), false).await;
    let [(_, opening), (at, first), ..] = &out.frames[..] else { panic!("{:?}", out.frames) };
    assert_eq!((opening, first), (&Bytes::from(":\n\n"), &Bytes::from(":\n\n")));
    assert!((INTERVAL / 2..=INTERVAL).contains(at), "{at:?}");
    assert_eq!(out.frames.iter().filter(|(_, frame)| frame.starts_with(b"data")).count(), 1);
}

/// Timers are not polled in a task that has used up its budget. The task is polled again at once, and the timer must be
/// set then.
#[tokio::test(start_paused = true)]
async fn a_task_that_had_used_up_its_budget_gets_its_heartbeat() {
    let registry = Registry::new();
    let service = service_fn(|request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().unwrap().clone();
        let response: Response<Empty<Bytes>> = client.into_stream().into_response();
        ready(Ok::<_, Infallible>(response))
    });
    let layer = layers::plain(&registry).heartbeat(Heartbeat::every(INTERVAL));
    let mut body = layer.layer(service).oneshot(Request::new(())).await.unwrap().into_body();
    let mut has_used_it_up = false;
    let frame = poll_fn(move |cx| {
        while !has_used_it_up && coop::has_budget_remaining() {
            assert!(pin!(coop::consume_budget()).poll(cx).is_ready());
        }
        has_used_it_up = true;
        Pin::new(&mut body).poll_frame(cx)
    });
    let frame = tokio::spawn(timeout(3 * INTERVAL, frame)).await.unwrap().expect("a heartbeat");
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), ":\n\n");
}

#[tokio::test(start_paused = true)]
async fn any_byte_of_the_handler_restarts_the_heartbeat_interval() {
    let interval = Duration::from_millis(100);
    let own = [&b"d"[..], b"ata: a", b"\n", b"\n", b":", b"\n", b"event: x\n", b"\n"].repeat(20);
    let body = Paced::new(frames(&own), interval / 2 - Duration::from_millis(1));
    let out = through_the_layer(body, Heartbeat::every(interval), false).await;
    assert_eq!(out.injected, 0);
    assert_eq!(out.withheld, 0);
    assert_eq!(out.frames.len(), 161, "all own frames and the opening");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_registry_restarts_the_heartbeat_interval() {
    let interval = Duration::from_millis(100);
    let registry = Registry::new();
    let service =
        SseLayer::new(&registry).heartbeat(Heartbeat::every(interval)).layer(service_fn(|request: Request<()>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            client.subscribe(TOPIC).unwrap();
            std::future::ready(Ok::<_, Infallible>(client.into_stream().into_response::<Empty<Bytes>>()))
        }));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    tokio::spawn(async move {
        for _ in 0..20 {
            sleep(interval / 2 - Duration::from_millis(1)).await;
            registry.publish(TOPIC, Event::data("x")).unwrap();
        }
    });
    assert!(body.frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"event: position\n"));
    for _ in 0..20 {
        assert!(body.frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"data: x\n"));
    }
    let last = Instant::now();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ":\n\n");
    assert!(last.elapsed() >= interval / 2, "{:?}", last.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_interval_starts_at_the_last_byte() {
    let (interval, millisecond) = (Duration::from_millis(100), Duration::from_millis(1));
    // The stream sends once, 30 ms after its opening, long before a heartbeat is due.
    let body = Paced::new(frames(&[b"data: a\n\n"]), 30 * millisecond);
    let given = Arc::clone(&body.given);
    let registry = Registry::new();
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(interval));
    let mut body = Some(body);
    let service = layer.layer(service_fn(|request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().unwrap().clone();
        let (parts, ()) = client.into_stream().into_response::<()>().into_parts();
        std::future::ready(Ok::<_, Infallible>(Response::from_parts(parts, body.take().unwrap())))
    }));
    let start = Instant::now();
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "the opening");
    let mut at = Vec::new();
    for _ in 0..4 {
        body.frame().await.unwrap().unwrap();
        at.push(start.elapsed());
    }
    assert_eq!(given.load(Ordering::Relaxed), 2, "the frame and the end");
    let silences: Vec<Duration> = at.windows(2).map(|at| at[1] - at[0]).collect();
    let rounding = 2 * millisecond;
    let whole = interval..=interval + rounding;
    assert!(whole.contains(&silences[0]) && whole.contains(&silences[2]), "{at:?}");
    assert!((interval / 2..interval).contains(&silences[1]), "the second heartbeat comes early: {at:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_heartbeats_of_streams_that_open_together_are_spread() {
    const STREAMS: usize = 1000;
    let interval = Duration::from_millis(100);
    let registry = Registry::new();
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(interval));
    let start = Instant::now();
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let service = layer.layer(service_fn(|request: Request<()>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            std::future::ready(Ok::<_, Infallible>(client.into_stream().into_response::<Empty<Bytes>>()))
        }));
        streams.spawn(async move {
            let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
            body.frame().await.unwrap().unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO, "the opening");
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ":\n\n");
            start.elapsed().as_millis()
        });
    }
    let mut by_tick = BTreeMap::<u128, usize>::new();
    streams.join_all().await.into_iter().for_each(|tick| *by_tick.entry(tick).or_default() += 1);
    assert!(by_tick.keys().all(|tick| (50..=101).contains(tick)), "{by_tick:?}");
    assert!(by_tick.len() >= 50, "half of the interval's ticks: {by_tick:?}");
    // The average is 20. A count of 60 by chance is less likely than one in 10^9.
    assert!(by_tick.values().all(|streams| *streams < 60), "{by_tick:?}");
}
