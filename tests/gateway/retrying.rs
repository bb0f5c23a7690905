//! Streams that the upstream breaks, with `--retry-upstream`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use http::{HeaderValue, Response, StatusCode, Version, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::{sync::mpsc, task::yield_now};
use tokio_stream::StreamExt;

use crate::{
    Gateway,
    bodies::{AnyBody, any, channel, event_stream},
    client::{VERSIONS, get, request},
    next_data, raw_upstream, spec, upstream, within_20_s,
};

/// The first answer of most upstreams here: an event, and a part of the next.
const BEGUN: &str = "retry: 10\n\nid: 1\ndata: a\n\nid: 2\nda";

/// An event stream of these bytes that breaks after them.
fn broken(bytes: &'static str) -> Response<AnyBody> {
    let frames = [Ok(Frame::data(bytes.into())), Err("cut".into())];
    let frames = tokio_stream::iter(frames).then(|frame| async {
        // A server writes what it has when there is no frame at the moment.
        if frame.is_err() {
            yield_now().await;
        }
        frame
    });
    event_stream(StreamBody::new(frames).boxed_unsync())
}

fn whole(bytes: &'static str) -> Response<AnyBody> {
    event_stream(any(Full::from(bytes)))
}

/// An upstream with these answers, one for each request. It reports the requests.
async fn scripted(answers: impl IntoIterator<Item = Response<AnyBody>>) -> (String, mpsc::UnboundedReceiver<Parts>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let answers = Arc::new(Mutex::new(VecDeque::from_iter(answers)));
    let upstream = upstream(move |request| {
        seen.send(request.into_parts().0).unwrap();
        let answer = answers.lock().unwrap().pop_front().expect("no further request");
        async { answer }
    });
    (upstream.await, requests)
}

/// All bytes until the end, and whether it is clean.
async fn all_of(mut response: Response<Incoming>) -> (String, bool) {
    let mut received = Vec::new();
    let is_clean = loop {
        match response.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => received.extend(frame.into_data().unwrap()),
        }
    };
    (String::from_utf8(received).unwrap(), is_clean)
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_after_its_last_event_and_no_event_is_cut_or_repeated() {
    within_20_s(async {
        for version in VERSIONS {
            let answers = [broken(BEGUN), broken("\u{feff}id: 2\ndata: b\n\nid"), whole("id: 3\ndata: c\n\n: bye")];
            let (upstream, mut requests) = scripted(answers).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
            let mut request = get("/events?topic=a");
            request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer a"));
            request.headers_mut().insert("last-event-id", HeaderValue::from_static("0"));
            let response = gateway.client(version).await.send(request).await.unwrap();
            let expected = ":\n\nretry: 10\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n: bye";
            assert_eq!(all_of(response).await, (expected.to_owned(), true), "{version:?}");
            let first = requests.recv().await.unwrap();
            assert_eq!(first.headers["last-event-id"], "0");
            for id in ["1", "2"] {
                let mut again = requests.recv().await.unwrap();
                assert_eq!(again.headers.insert("last-event-id", HeaderValue::from_static("0")).unwrap(), id);
                assert_eq!(
                    (&again.uri, &again.headers),
                    (&first.uri, &first.headers),
                    "all other headers are the same"
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn heartbeats_go_on_while_a_stream_is_broken_within_an_event() {
    within_20_s(async {
        for version in VERSIONS {
            let answers = [broken("retry: 300\n\nid: 1\ndata: a\n\nid: 2\nda"), whole("id: 2\ndata: b\n\n")];
            let (upstream, mut requests) = scripted(answers).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream", "--heartbeat-ms", "3"]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            let (received, is_clean) = all_of(response).await;
            requests.recv().await.unwrap();
            requests.recv().await.unwrap();
            let (_, since) = received.split_once("data: a\n\n").unwrap();
            assert!(since.starts_with(&":\n\n".repeat(3)) && is_clean, "{version:?}: {received:?}");
            let data: Vec<_> = spec::parse(received.as_bytes()).messages.into_iter().map(|it| it.data).collect();
            assert_eq!(data, ["a", "b"]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_answers_204_has_ended_the_stream() {
    within_20_s(async {
        for version in VERSIONS {
            let over = Response::builder().status(StatusCode::NO_CONTENT).body(AnyBody::default()).unwrap();
            let (upstream, _requests) = scripted([broken(BEGUN), over]).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            let expected = ":\n\nretry: 10\n\nid: 1\ndata: a\n\n".to_owned();
            assert_eq!(all_of(response).await, (expected, true), "{version:?}");
        }
    })
    .await;
}

/// A client gets all whole events, and then the break.
fn told() -> (String, bool) {
    (":\n\nretry: 10\n\nid: 1\ndata: a\n\n".to_owned(), false)
}

#[tokio::test]
async fn an_upstream_that_does_not_know_the_stream_any_more_is_told_as_the_break() {
    within_20_s(async {
        for version in VERSIONS {
            let status = |status: u16| {
                let answer = Response::builder().status(status).header("content-type", "text/event-stream");
                answer.body(any(Full::from("id: 2\ndata: b\n\n"))).unwrap()
            };
            let html = Response::builder().header("content-type", "text/html").body(any(Full::from("<p>"))).unwrap();
            let mut packed = whole("id: 2\ndata: b\n\n");
            packed.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
            for answer in [status(404), status(503), html, packed] {
                let (upstream, mut requests) = scripted([broken(BEGUN), answer]).await;
                let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
                let response = gateway.client(version).await.send(get("/")).await.unwrap();
                assert_eq!(all_of(response).await, told(), "{version:?}");
                requests.recv().await.unwrap();
                requests.recv().await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_ids_a_request_with_a_body_and_a_gateway_without_the_flag_are_told_of_the_break() {
    within_20_s(async {
        for version in VERSIONS {
            let told_at_once = async |flags: &[&str], method, begun: &'static str| {
                let (upstream, _requests) = scripted([broken(begun)]).await;
                let gateway = Gateway::start(&upstream, flags).await;
                let body = if method == "POST" { any(Full::from("{}")) } else { AnyBody::default() };
                let response = gateway.client(version).await.send(request(method, "/", body)).await.unwrap();
                let (received, is_clean) = all_of(response).await;
                let whole = begun.rsplit_once("\n\n").unwrap().0;
                assert!(received.starts_with(&format!(":\n\n{whole}\n\n")), "{version:?} {method}: {received}");
                assert!(!is_clean);
            };
            told_at_once(&[], "GET", BEGUN).await;
            let flags = &["--retry-upstream"];
            told_at_once(flags, "POST", BEGUN).await;
            told_at_once(flags, "GET", "retry: 10\n\ndata: a\n\nda").await;
            told_at_once(flags, "GET", "retry: 10\n\nid: 1\ndata: a\n\nid\ndata: its id is taken back\n\nda").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clean_end_is_the_end_but_not_within_an_event() {
    within_20_s(async {
        for version in VERSIONS {
            let (upstream, _requests) = scripted([whole("id: 1\ndata: a\n\n")]).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(all_of(response).await, (":\n\nid: 1\ndata: a\n\n".to_owned(), true), "{version:?}");

            let (upstream, mut requests) = scripted([whole(BEGUN), whole("id: 2\ndata: b\n\n")]).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            let expected = ":\n\nretry: 10\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\n".to_owned();
            assert_eq!(all_of(response).await, (expected, true), "{version:?}");
            requests.recv().await.unwrap();
            assert_eq!(requests.recv().await.unwrap().headers["last-event-id"], "1");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_stays_away_is_given_up_after_the_time_and_after_the_attempts() {
    within_20_s(async {
        for version in VERSIONS {
            for (begun, flags, fewest, most) in [
                // 20 ms, 40 ms, 80 ms and so on, each up to half longer.
                (BEGUN, &["--retry-upstream", "--retry-for-ms", "400"][..], 3, 6),
                // The upstream wants to be left alone for longer than the gateway waits.
                ("retry: 500\n\nid: 1\ndata: a\n\nid: 2\nda", &["--retry-upstream", "--retry-for-ms", "400"], 0, 0),
                (BEGUN, &["--retry-upstream"], 8, 8),
            ] {
                // It accepts requests, and breaks before it answers, or before it sends an event.
                let answers = std::iter::once(broken(begun)).chain((0..8).map(|_| broken(": nothing\n\n")));
                let (upstream, mut requests) = scripted(answers).await;
                let gateway = Gateway::start(&upstream, flags).await;
                let response = gateway.client(version).await.send(get("/")).await.unwrap();
                let (received, is_clean) = all_of(response).await;
                assert!(received.starts_with(&format!(":\n\n{}", begun.trim_end_matches("id: 2\nda"))), "{received}");
                assert!(!is_clean, "{version:?}");
                requests.recv().await.unwrap();
                let mut attempts = 0;
                while requests.try_recv().is_ok() {
                    attempts += 1;
                }
                assert!((fewest..=most).contains(&attempts), "{attempts} attempts with {flags:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_of_several_megabytes_passes_and_is_not_begun_twice() {
    within_20_s(async {
        let large = format!("id: 1\ndata: a\n\nid: 2\ndata: {}", "x".repeat(3 << 20));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9000000\r\n\r\n";
        let upstream = raw_upstream(format!("{head}{large}").leak()).await;
        let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        let (received, is_clean) = all_of(response).await;
        assert!(received == format!(":\n\n{large}") && !is_clean, "{} bytes", received.len());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_a_broken_stream_ends_its_attempts() {
    within_20_s(async {
        for version in VERSIONS {
            let (frames, body) = channel();
            let answers = [broken("retry: 10\n\nid: 1\ndata: a\n\n"), event_stream(body)];
            let (upstream, mut requests) = scripted(answers).await;
            let gateway = Gateway::start(&upstream, &["--retry-upstream"]).await;
            let mut response = gateway.client(version).await.send(get("/")).await.unwrap();
            while requests.len() < 2 {
                next_data(&mut response).await.unwrap();
                frames.send(Ok(Frame::data("id: 2\ndata: b\n\n".into()))).await.unwrap();
            }
            requests.recv().await.unwrap();
            drop(response);
            frames.closed().await;
        }
    })
    .await;
}
