//! Event streams through the gateway, and its heartbeats.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use http::{Request, Response, StatusCode, Version, header::CONTENT_LENGTH};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::sleep,
};
use tokio_stream::StreamExt;

use self::Step::{Bytes as B, Silence, Stall};
use crate::{
    Gateway, begun,
    bodies::{AnyBody, AnyError, any, channel, event_stream},
    client::{Client, VERSIONS, get, request},
    example, next_data,
    recordings::rest,
    spec, upstream, upstream_once, within_20_s,
};

#[tokio::test]
async fn heartbeats_every_3_ms_change_no_event() {
    within_20_s(async {
        let steps = [MARK_AND_CR, LF_AND_CRLF, LARGE].concat();
        let silences = steps.iter().filter(|step| matches!(step, Silence)).count();
        for version in VERSIONS {
            let (direct, proxied) = both_ways(version, &steps, usize::MAX).await;
            let expected = spec::parse(&direct);
            assert_eq!(spec::parse(&proxied), expected, "{version:?}");
            assert_eq!((expected.messages.len(), heartbeats_in(&direct)), (18, 0));
            let heartbeats = heartbeats_in(&proxied);
            assert!(heartbeats > silences, "{heartbeats} heartbeats in {silences} silences, and the opening");
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_gateway_finishes_its_responses_when_it_is_told_to_end() {
    within_20_s(async {
        for version in VERSIONS {
            let (frames, body) = channel();
            let upstream = upstream_once(event_stream(body)).await;
            let mut gateway = Gateway::start(&upstream, &[]).await;
            let mut stream = begun(gateway.client(version).await.send(get("/")).await.unwrap()).await;
            frames.send(Ok(Frame::data("data: begun\n\n".into()))).await.unwrap();
            assert_eq!(next_data(&mut stream).await.unwrap(), "data: begun\n\n");
            example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGTERM);
            // From then on it accepts no new connections.
            while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {}
            frames.send(Ok(Frame::data("data: finished\n\n".into()))).await.unwrap();
            drop(frames);
            assert_eq!(next_data(&mut stream).await.unwrap(), "data: finished\n\n");
            assert_eq!(next_data(&mut stream).await, None);
            assert!(gateway.server.process.wait().await.unwrap().success());
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_library_sees_the_same_events_too() {
    within_20_s(async {
        let (direct, proxied) = both_ways(Version::HTTP_11, LF_AND_CRLF, usize::MAX).await;
        let expected = parse_with_eventsource_stream(&direct).await;
        assert_eq!(parse_with_eventsource_stream(&proxied).await, expected);
        assert_eq!(expected.len(), 12);
        assert!(heartbeats_in(&proxied) > 1, "more than the opening");
    })
    .await;
}

#[tokio::test]
async fn a_stream_has_the_same_events_in_chunks_of_any_size() {
    within_20_s(async {
        for size in [1, 2, 3, 7] {
            for (version, steps) in [(Version::HTTP_11, MARK_AND_CR), (Version::HTTP_2, LF_AND_CRLF)] {
                let (direct, proxied) = both_ways(version, steps, size).await;
                assert_eq!(spec::parse(&proxied), spec::parse(&direct), "in chunks of {size}");
                assert!(heartbeats_in(&proxied) > 1, "more than the opening");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_upstream_gets_heartbeats_before_its_first_byte() {
    within_20_s(async {
        for version in VERSIONS {
            let (frames, body) = channel();
            let upstream = upstream_once(event_stream(body)).await;
            let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "3"]).await;
            let mut response = gateway.client(version).await.send(get("/")).await.unwrap();
            let mut received = next_data(&mut response).await.unwrap().to_vec();
            assert_eq!(received, b":\n\n", "the opening");
            while received.len() < 4 * b":\n\n".len() {
                received.extend(next_data(&mut response).await.unwrap());
            }
            frames.send(Ok(Frame::data("data: at last\n\n".into()))).await.unwrap();
            drop(frames);
            received.extend(response.into_body().collect().await.unwrap().to_bytes());
            assert_eq!(String::from_utf8(received).unwrap().replace(":\n\n", ""), "data: at last\n\n");
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_stream_gets_its_headers_and_no_content_length() {
    within_20_s(async {
        for version in VERSIONS {
            let upstream = upstream_once(event_stream(any(Full::from("data: x\n\n")))).await;
            let gateway = Gateway::start(&upstream, &[]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(response.version(), version);
            assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
            assert_eq!(response.headers()["x-accel-buffering"], "no");
            assert_eq!(response.headers().contains_key("connection"), version == Version::HTTP_11);
            assert!(!response.headers().contains_key(CONTENT_LENGTH));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), ":\n\ndata: x\n\n");
        }
    })
    .await;
}

#[tokio::test]
async fn events_are_streamed_over_http_2_with_prior_knowledge() {
    within_20_s(async {
        let (frames, body) = channel();
        let upstream = upstream_once(event_stream(body)).await;
        let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "0"]).await;
        let mut client = gateway.client(Version::HTTP_2).await;
        let mut response = client.send(get("/")).await.unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            frames.send(Ok(Frame::data(event.into()))).await.unwrap();
            assert_eq!(next_data(&mut response).await.unwrap(), event);
        }
        drop(frames);
        assert!(next_data(&mut response).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_request_for_events_alone_is_answered_before_the_upstream_answers() {
    within_20_s(async {
        for version in VERSIONS {
            let [(early_answer, early_answers), (late_answer, late_answers)] = [(); 2].map(|()| {
                let (answer, answers) = mpsc::channel::<Response<AnyBody>>(1);
                (answer, Arc::new(Mutex::new(answers)))
            });
            let upstream = upstream(move |request: Request<Incoming>| {
                let is_early = request.uri().path() == "/early";
                let answers = if is_early { Arc::clone(&early_answers) } else { Arc::clone(&late_answers) };
                async move { answers.lock().await.recv().await.unwrap() }
            })
            .await;
            let flags = ["--open-after-ms", "20", "--heartbeat-ms", "3", "--single-line-heartbeats"];
            let gateway = Gateway::start(&upstream, &flags).await;
            let asks = |path, accept: &'static str| {
                let mut asks = request("POST", path, any(Full::from("why?")));
                asks.headers_mut().insert("accept", accept.parse().unwrap());
                asks
            };
            let mut client = gateway.client(version).await;
            let mut late = pin!(client.send(asks("/late", "application/json, text/event-stream")));
            let mut other = gateway.client(version).await;
            let early = async {
                let mut early = other.send(asks("/early", "text/event-stream")).await.unwrap();
                assert_eq!(early.headers()["content-type"], "text/event-stream");
                let mut received = Vec::new();
                while received.len() < 8 {
                    received.extend(next_data(&mut early).await.unwrap());
                }
                early_answer.send(event_stream(any(Full::from("data: at last\n\n")))).await.unwrap();
                received.extend(rest(early).await.0);
                received
            };
            // The request that accepts JSON too was sent first, and waits for the status of the upstream all the time.
            let received = tokio::select! {
                biased;
                _ = &mut late => panic!("nobody has answered"),
                received = early => String::from_utf8(received).unwrap(),
            };
            assert_eq!(received.replace(":\n", ""), "data: at last\n\n", "heartbeats of a single line");
            assert!(received.starts_with(":\n:\n:\n"), "{received:?}");
            late_answer.send(Response::builder().status(429).body(AnyBody::default()).unwrap()).await.unwrap();
            assert_eq!(late.await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS, "{version:?}");
        }
    })
    .await;
}

#[derive(Clone, Copy)]
enum Step {
    /// Bytes, and a moment in which a heartbeat could come at a wrong place.
    Bytes(&'static [u8]),
    /// Silence at a boundary, until the client has received a heartbeat.
    Silence,
    /// Silence within an event, for the time of several heartbeats.
    Stall,
}

// A byte-order mark and CR line ends. eventsource-stream does not accept them.
const MARK_AND_CR: &[Step] = &[
    Silence,
    B(b"\xEF"),
    Stall,
    B(b"\xBB\xBF"),
    Silence,
    B(b"id: 1\rdata: cr\r"),
    Stall,
    B(b"data: only\r"),
    B(b"\r"),
    B(b"data: another\r\r"),
    Silence,
    B(b": a comment\r"),
    B(b"data: after it\r"),
    B(b"\r\r\r"),
    Silence,
    B(b"event: mixed\rdata: a\r\ndata: b\n"),
    Stall,
    B(b"data: c\n\n"),
    Silence,
    B(b"data: \xEF\xBB\xBF is no mark here\r\n\r\n"),
];

const LF_AND_CRLF: &[Step] = &[
    Silence,
    B(b": welcome\n\n"),
    Silence,
    B(b"data: lf\n\n"),
    Silence,
    B(b"event: tick\r\nid: 2\r\ndata: crlf\r"),
    Stall,
    B(b"\n\r"),
    Stall,
    B(b"\n"),
    Silence,
    B(b"data: three\ndata: lines\n"),
    Stall,
    B(b"data:\n"),
    B(b"\n"),
    B(b"data: gr\xC3"),
    Stall,
    B(b"\xBC\xC3\x9F\xF0\x9F"),
    Stall,
    B(b"\x8C\x8D"),
    B(b"\n\n"),
    Silence,
    B(b": single-line\n"),
    Silence,
    B(b"data: after a comment\n\n"),
    B(b"retry: 250\n\n"),
    Silence,
    B(b"data: in\n: a comment in\ndata: side\n\ndata: two"),
    Stall,
    B(b" at once\n\n"),
    B(b"event: named\ndata: {\"a\": [1, 2]}\n\n"),
    Silence,
    B(b"id\ndata: id taken back\nunknown: field\n\n"),
    B(b"id: 3\ndata:no space\n\n\n\n\r\n"),
    Silence,
    B(b"event: lost without data\n\ndata\n\n"),
    Silence,
    B(b"data: x"),
    B(b"y"),
    B(b"z\r\n"),
    B(b"\r\n"),
    Silence,
];

// An event that never ends. No client sees any of it.
const LARGE: &[Step] = &[B(LARGE_EVENT), Silence, B(b"data: never ended\n"), Stall];

const LARGE_EVENT: &[u8] = &{
    let mut event = [b'x'; 40_000];
    (event[0], event[1], event[2], event[3], event[4]) = (b'd', b'a', b't', b'a', b':');
    (event[39_998], event[39_999]) = (b'\n', b'\n');
    event
};

/// Returns the bytes of a stream, once straight from the upstream and once through the gateway.
async fn both_ways(version: Version, steps: &[Step], chunk: usize) -> (Vec<u8>, Vec<u8>) {
    let (seen, heartbeats) = watch::channel(0);
    let steps = steps.to_vec();
    let upstream = upstream(move |request| {
        let heartbeats = (request.uri().path() == "/with-heartbeats").then(|| heartbeats.clone());
        let (frames, body) = channel();
        tokio::spawn(play(steps.clone(), chunk, heartbeats, frames));
        async { event_stream(body) }
    })
    .await;

    let mut straight = Client::connect(upstream.trim_start_matches("http://").parse().unwrap(), Version::HTTP_11).await;
    let direct = straight.send(get("/")).await.unwrap().into_body().collect().await.unwrap().to_bytes();

    let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "3"]).await;
    let mut response = gateway.client(version).await.send(get("/with-heartbeats")).await.unwrap();
    let mut proxied = Vec::new();
    while let Some(data) = next_data(&mut response).await {
        proxied.extend(data);
        seen.send_replace(heartbeats_in(&proxied));
    }
    assert_only_heartbeats_were_added(&direct, &proxied);
    (direct.to_vec(), proxied)
}

/// By the standard, a heartbeat between the CR and the LF of a line end would do no harm. It breaks some clients.
fn assert_only_heartbeats_were_added(direct: &[u8], proxied: &[u8]) {
    let [direct, proxied] = [direct, proxied].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let splits = |after_cr: &str| after_cr.starts_with(':') && after_cr.trim_start_matches(":\n\n").starts_with('\n');
    assert!(!proxied.split('\r').skip(1).any(splits), "{proxied:?}");
    let without_heartbeats = |text: &str| text.replace(":\n\n", "");
    assert_eq!(without_heartbeats(&proxied), without_heartbeats(direct.trim_start_matches('\u{FEFF}')));
}

/// Plays the steps. Without heartbeats to wait for, it does not wait.
async fn play(
    steps: Vec<Step>,
    chunk: usize,
    heartbeats: Option<watch::Receiver<usize>>,
    frames: mpsc::Sender<Result<Frame<Bytes>, AnyError>>,
) {
    for step in steps {
        match (step, heartbeats.clone()) {
            (B(bytes), heartbeats) => {
                for bytes in bytes.chunks(chunk) {
                    frames.send(Ok(Frame::data(bytes.into()))).await.unwrap();
                    if heartbeats.is_some() {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            (Silence, Some(mut heartbeats)) => {
                let before = *heartbeats.borrow_and_update();
                heartbeats.wait_for(|seen| *seen > before).await.unwrap();
            }
            (Stall, Some(_)) => sleep(Duration::from_millis(15)).await,
            (Silence | Stall, None) => {}
        }
    }
}

/// Counts comments without text. The upstream sends none.
fn heartbeats_in(stream: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let whole = stream.iter().rposition(ends).unwrap_or(0);
    stream[..whole].split(ends).filter(|line| matches!(*line, b":" | b": ")).count()
}

async fn parse_with_eventsource_stream(bytes: &[u8]) -> Vec<eventsource_stream::Event> {
    tokio_stream::iter(bytes.chunks(5).map(Ok::<_, Infallible>)).eventsource().map(Result::unwrap).collect().await
}
