//! Streams that the upstream breaks, with `--retry-upstream`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
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
            for answer in [status(404), status(500), html, packed] {
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

/// The data of all events of a stream whose upstream gives these answers, and whether it ends cleanly.
async fn retried(
    version: Version,
    answers: impl IntoIterator<Item = Response<AnyBody>>,
    flags: &[&str],
) -> (Vec<String>, bool) {
    let (upstream, requests) = scripted(answers).await;
    let gateway = Gateway::start(&upstream, &[&["--retry-upstream"], flags].concat()).await;
    let mut asks = get("/");
    asks.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
    let (received, is_clean) = all_of(gateway.client(version).await.send(asks).await.unwrap()).await;
    drop(requests);
    (spec::parse(received.as_bytes()).messages.into_iter().map(|it| it.data).collect(), is_clean)
}

#[tokio::test]
async fn an_upstream_that_stays_away_is_asked_until_the_time_is_over() {
    within_20_s(async {
        for version in VERSIONS {
            for (begun, fewest, most) in [
                // 20 ms, 40 ms, 80 ms and so on, each up to half longer.
                (BEGUN, 3, 6),
                // The upstream wants to be left alone for longer than the gateway waits.
                ("retry: 500\n\nid: 1\ndata: a\n\nid: 2\nda", 0, 0),
            ] {
                // It accepts requests, and breaks before it sends an event.
                let answers = std::iter::once(broken(begun)).chain((0..8).map(|_| broken(": nothing\n\n")));
                let (upstream, mut requests) = scripted(answers).await;
                let gateway = Gateway::start(&upstream, &["--retry-upstream", "--retry-for-ms", "400"]).await;
                let response = gateway.client(version).await.send(get("/")).await.unwrap();
                let (received, is_clean) = all_of(response).await;
                assert!(received.starts_with(&format!(":\n\n{}", begun.trim_end_matches("id: 2\nda"))), "{received}");
                assert!(!is_clean, "{version:?}");
                requests.recv().await.unwrap();
                let mut attempts = 0;
                while requests.try_recv().is_ok() {
                    attempts += 1;
                }
                assert!((fewest..=most).contains(&attempts), "{attempts} attempts after {begun}");
            }
        }
    })
    .await;
}

/// An upstream that is not there at the moment.
fn not_now(status: u16, retry_after: &str) -> Response<AnyBody> {
    let answer = Response::builder().status(status).header("retry-after", retry_after);
    answer.body(any(Full::from("restarting"))).unwrap()
}

#[tokio::test]
async fn an_upstream_that_restarts_behind_a_proxy_is_asked_again_when_it_says() {
    within_20_s(async {
        for version in VERSIONS {
            let answers = [
                broken(BEGUN),
                not_now(502, ""),
                not_now(503, "0"),
                not_now(504, "nonsense"),
                not_now(429, "1"),
                whole("id: 2\ndata: b\n\n"),
            ];
            let begun = Instant::now();
            assert_eq!(retried(version, answers, &[]).await, (vec!["a".to_owned(), "b".to_owned()], true));
            assert!(begun.elapsed() >= Duration::from_secs(1), "{version:?} {:?}", begun.elapsed());

            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
            let answers = [broken(BEGUN), not_now(503, &date), whole("id: 2\ndata: b\n\n")];
            let begun = Instant::now();
            assert_eq!(retried(version, answers, &[]).await, (vec!["a".to_owned(), "b".to_owned()], true));
            assert!(begun.elapsed() >= Duration::from_millis(500), "{version:?} {:?}", begun.elapsed());
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_wants_to_be_left_alone_for_longer_than_the_time_is_told_as_the_break() {
    within_20_s(async {
        for version in VERSIONS {
            for retry_after in ["61", &u64::MAX.to_string()] {
                let answers = [broken(BEGUN), not_now(503, retry_after)];
                assert_eq!(retried(version, answers, &[]).await, (vec!["a".to_owned()], false), "{version:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn no_event_comes_twice_from_an_upstream_that_begins_again() {
    within_20_s(async {
        for version in VERSIONS {
            for (begun, again, expected) in [
                (BEGUN, "id: 1\ndata: a\n\nid: 2\ndata: b\n\n", &["a", "b"][..]),
                ("retry: 10\n\nid: 1\ndata: a\n\n", "id: 1\rdata: a\r\rid: 2\rdata: b\r\r", &["a", "b"]),
                // The events before the last one, and those that belong to it.
                (
                    "retry: 10\n\ndata: hi\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: c\n\n",
                    "data: hi\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: c\n\ndata: d\n\nid: 3\ndata: e\n\n",
                    &["hi", "a", "b", "c", "d", "e"],
                ),
                // A greeting on each connection.
                (BEGUN, "data: hi\n\nid: 2\ndata: b\n\n", &["a", "hi", "b"]),
                // It has nothing new.
                (BEGUN, "id: 1\ndata: a\n\n: bye", &["a"]),
                // It repeats an id itself.
                (BEGUN, "id: 2\ndata: b\n\nid: 2\ndata: b\n\nid: 1\ndata: a\n\n", &["a", "b", "b", "a"]),
            ] {
                let received = retried(version, [broken(begun), whole(again)], &[]).await;
                let expected = expected.iter().map(|data| (*data).to_owned()).collect();
                assert_eq!(received, (expected, true), "{version:?} {again:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn ids_that_do_not_say_where_a_stream_goes_on_end_it_as_the_break_does() {
    within_20_s(async {
        for version in VERSIONS {
            for (begun, again) in [
                // The last id never comes.
                ("retry: 10\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\n", "id: 1\ndata: a\n\ndata: of the first\n\n"),
                // The ids are another stream's.
                ("retry: 10\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\n", "id: 1\ndata: x\n\nid: 2\ndata: y\n\n"),
                // No id comes at all.
                (BEGUN, "data: b\n\n"),
                // An event after the last id came already, and nobody knows which one.
                ("retry: 10\n\nid: 1\ndata: a\n\ndata: b\n\n", "data: b\n\nid: 2\ndata: c\n\n"),
                // Ids that are no positions.
                (
                    "retry: 10\n\nid: x\ndata: a\n\nid: y\ndata: b\n\nid: x\ndata: c\n\n",
                    "id: y\ndata: b\n\nid: x\ndata: d\n\n",
                ),
            ] {
                let (received, is_clean) = retried(version, [broken(begun), whole(again)], &[]).await;
                let all: Vec<_> = spec::parse(begun.as_bytes()).messages.into_iter().map(|it| it.data).collect();
                assert_eq!((received, is_clean), (all, false), "{version:?} {again:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_repeats_without_an_end_is_told_as_the_break_after_the_time_and_a_silent_one_is_not() {
    within_20_s(async {
        for version in VERSIONS {
            for (again, then) in [("id: 0\ndata: zero\n\n", None), (": nothing\n\n", Some("b"))] {
                let (frames, body) = channel();
                let begun = broken("retry: 10\n\nid: 0\ndata: zero\n\nid: 1\ndata: a\n\n");
                let (upstream, mut requests) = scripted([begun, event_stream(body)]).await;
                let flags = ["--retry-upstream", "--retry-for-ms", "200", "--heartbeat-ms", "40"];
                let gateway = Gateway::start(&upstream, &flags).await;
                let mut response = gateway.client(version).await.send(get("/")).await.unwrap();
                frames.send(Ok(Frame::data(again.into()))).await.unwrap();
                let mut received = Vec::new();
                // As many heartbeats as take twice the time.
                let is_over = loop {
                    match response.frame().await.unwrap() {
                        Ok(frame) => received.extend(frame.into_data().unwrap()),
                        Err(_) => break true,
                    }
                    if String::from_utf8_lossy(&received).matches(":\n\n").count() > 10 {
                        break false;
                    }
                };
                assert_eq!(is_over, then.is_none(), "{version:?}");
                requests.recv().await.unwrap();
                requests.recv().await.unwrap();
                if !is_over {
                    frames.send(Ok(Frame::data("id: 2\ndata: b\n\n".into()))).await.unwrap();
                    drop(frames);
                    received.extend(all_of(response).await.0.into_bytes());
                }
                let data: Vec<_> = spec::parse(&received).messages.into_iter().map(|it| it.data).collect();
                assert_eq!(data, ["zero", "a"].into_iter().chain(then).collect::<Vec<_>>(), "{version:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_retried_stream_that_opens_early_goes_on_too() {
    within_20_s(async {
        for version in VERSIONS {
            let answers = [broken("retry: 10\n\nid: 1\ndata: a\n\nid: 2\r\ndata"), whole("id: 2\rdata: b\r\r")];
            let received = retried(version, answers, &["--open-after-ms", "1"]).await;
            assert_eq!(received, (vec!["a".to_owned(), "b".to_owned()], true), "{version:?}");
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
        // A server drops what it has not written when it gets the error.
        let is_the_beginning = format!(":\n\n{large}").starts_with(&received);
        assert!(is_the_beginning && received.len() > 2 << 20 && !is_clean, "{} bytes", received.len());
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
