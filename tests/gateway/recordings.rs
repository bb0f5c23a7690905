//! Answers that are recorded, with `--record`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::{
    Gateway,
    bodies::{AnyBody, AnyError, any, channel, event_stream},
    client::{VERSIONS, request},
    next_data,
    other_address::{OTHER, client_from},
    spec, upstream, within_20_s,
};

pub(crate) type Frames = mpsc::Sender<Result<Frame<Bytes>, AnyError>>;

/// An upstream that answers each request with an event stream that the test fills.
pub(crate) struct Upstream {
    pub(crate) url: String,
    streams: mpsc::UnboundedReceiver<(http::request::Parts, Frames)>,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let (come, streams) = mpsc::unbounded_channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&asked);
        let url = upstream(move |request: Request<Incoming>| {
            counts.fetch_add(1, Ordering::SeqCst);
            let come = come.clone();
            async move {
                let (head, body) = request.into_parts();
                body.collect().await.unwrap();
                let (frames, body) = channel();
                come.send((head, frames)).unwrap();
                event_stream(body)
            }
        });
        Self { url: url.await, streams, asked }
    }

    pub(crate) async fn next(&mut self) -> Frames {
        self.streams.recv().await.unwrap().1
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub(crate) async fn say(frames: &Frames, event: &'static str) {
    frames.send(Ok(Frame::data(event.into()))).await.unwrap();
}

/// A question with a key, and with these further headers.
fn question(headers: &[(&'static str, &str)]) -> Request<AnyBody> {
    let mut question = request("POST", "/answers", any(Full::from("why?")));
    question.headers_mut().insert("idempotency-key", "1".parse().unwrap());
    for (name, value) in headers {
        question.headers_mut().append(*name, value.parse().unwrap());
    }
    question
}

pub(crate) const ADA: (&str, &str) = ("authorization", "Bearer ada");

pub(crate) async fn ask(gateway: &Gateway, version: Version, headers: &[(&'static str, &str)]) -> Response<Incoming> {
    gateway.client(version).await.send(question(headers)).await.unwrap()
}

/// Reads until this many events are there.
pub(crate) async fn events(response: &mut Response<Incoming>, number: usize) -> Vec<spec::Message> {
    let mut received = Vec::new();
    loop {
        let messages = spec::parse(&received).messages;
        if messages.len() >= number {
            return messages;
        }
        received.extend(next_data(response).await.expect("further events"));
    }
}

/// All bytes until the end, and whether it is clean.
pub(crate) async fn rest(mut response: Response<Incoming>) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    loop {
        match response.frame().await {
            None => return (received, true),
            Some(Err(_)) => return (received, false),
            Some(Ok(frame)) => received.extend(frame.into_data().unwrap_or_default()),
        }
    }
}

fn data(bytes: &[u8]) -> Vec<String> {
    spec::parse(bytes).messages.into_iter().map(|message| message.data).collect()
}

#[tokio::test]
async fn the_same_request_again_gets_the_rest_and_the_upstream_is_asked_once() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record"]).await;
            let mut first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            say(&frames, "data: a\n\ndata: b\n\ndata: in the mid").await;
            let seen = events(&mut first, 2).await;
            drop(first);
            say(&frames, "dle\n\n").await;
            let id = seen[1].own_id.clone().expect("an id of the gateway's");
            let again = ask(&gateway, version, &[ADA, ("last-event-id", &id)]).await;
            let joined = ask(&gateway, version, &[ADA]).await;
            say(&frames, "event: stop\ndata: [DONE]\n\n").await;
            drop(frames);
            let (again, is_clean) = rest(again).await;
            assert_eq!((data(&again), is_clean), (vec!["in the middle".to_owned(), "[DONE]".to_owned()], true));
            assert_eq!(data(&rest(joined).await.0), ["a", "b", "in the middle", "[DONE]"]);
            let id = spec::parse(&again).last_event_id;
            let done = ask(&gateway, version, &[ADA, ("last-event-id", &id)]).await;
            assert_eq!((done.status(), upstream.asked()), (StatusCode::NO_CONTENT, 1), "{version:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn other_credentials_or_another_host_get_no_recording_of_the_same_key() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record", "--requests-per-address", "100"]).await;
            let mut all = Vec::new();
            for headers in [
                &[ADA][..],
                &[("authorization", "Bearer bob")],
                &[("x-api-key", "Bearer ada")],
                &[ADA, ("x-api-key", "k")],
                &[ADA, ("cookie", "session=1")],
                &[ADA, ("cookie", "session=2")],
                &[ADA, ADA],
                // Nobody's.
                &[],
                &[],
                &[("cookie", "session=1")],
                &[("cookie", "session=1")],
                &[("authorization", "")],
                &[("authorization", "")],
            ] {
                let answer = ask(&gateway, version, headers).await;
                assert_eq!(answer.status(), StatusCode::OK);
                all.push((answer, upstream.next().await));
                assert_eq!(upstream.asked(), all.len(), "{version:?} {headers:?}");
            }
            let mut of_another_host = question(&[ADA]);
            *of_another_host.uri_mut() = "http://other.test/answers".parse().unwrap();
            let answer = gateway.client(version).await.send(of_another_host).await.unwrap();
            all.push((answer, upstream.next().await));
            assert_eq!(upstream.asked(), all.len());
        }
    })
    .await;
}

#[tokio::test]
async fn another_request_with_the_key_is_a_422_and_one_with_an_invalid_key_a_400() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record"]).await;
            let _first = ask(&gateway, version, &[ADA]).await;
            let _frames = upstream.next().await;
            let mut other_query = question(&[ADA]);
            *other_query.uri_mut() = "http://server.test/answers?n=2".parse().unwrap();
            let mut other_body = question(&[ADA]);
            *other_body.body_mut() = any(Full::from("why not?"));
            let mut other_method = question(&[ADA]);
            *other_method.method_mut() = http::Method::PUT;
            let other_type = question(&[ADA, ("content-type", "text/plain")]);
            let other_digest = question(&[ADA, ("content-digest", "sha-256=:x:")]);
            for other in [other_query, other_body, other_method, other_type, other_digest] {
                let answer = gateway.client(version).await.send(other).await.unwrap();
                assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{version:?}");
            }
            let invalid = ask(&gateway, version, &[ADA, ("idempotency-key", "2")]).await;
            assert_eq!((invalid.status(), upstream.asked()), (StatusCode::BAD_REQUEST, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxy_says_whose_a_recording_is_and_no_client_can() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let proxy = OTHER.to_string();
            let flags = ["--record", "--record-owner", "x-our-user", "--trusted-proxy", &proxy];
            let gateway = Gateway::start(&upstream.url, &flags).await;
            let of_proxy = async |headers: &[(&'static str, &str)]| {
                let mut client = client_from(OTHER, gateway.address, version).await;
                client.send(question(headers)).await.unwrap()
            };
            let _first = of_proxy(&[("x-our-user", "ada"), ("cookie", "n=1")]).await;
            let (head, _frames) = upstream.streams.recv().await.unwrap();
            assert_eq!(head.headers["x-our-user"], "ada");
            let _joined = of_proxy(&[("x-our-user", "ada"), ("cookie", "n=2")]).await;
            assert_eq!(upstream.asked(), 1, "{version:?}");
            let _other = of_proxy(&[("x-our-user", "bob")]).await;
            let _frames_of_other = upstream.next().await;

            // A client that is no proxy gets nothing with the name of another one, and the upstream is not told of it.
            let _forged = ask(&gateway, version, &[("x-our-user", "ada")]).await;
            let (head, _frames_of_forged) = upstream.streams.recv().await.unwrap();
            assert!(!head.headers.contains_key("x-our-user"));
            let _forged = ask(&gateway, version, &[("x-our-user", "ada"), ADA]).await;
            let _frames_of_forged_too = upstream.next().await;
            assert_eq!(upstream.asked(), 4);
        }
    })
    .await;
}

#[tokio::test]
async fn two_readers_get_the_same_bytes_and_are_both_told_when_the_upstream_breaks() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record", "--heartbeat-ms", "0"]).await;
            let mut first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            let mut second = ask(&gateway, version, &[ADA]).await;
            say(&frames, "data: a\n\nda").await;
            let mut begun = Vec::new();
            for reader in [&mut first, &mut second] {
                let mut received = Vec::new();
                while spec::parse(&received).messages.is_empty() {
                    received.extend(next_data(reader).await.unwrap());
                }
                begun.push(received);
            }
            frames.send(Err("cut".into())).await.unwrap();
            let (first, second) = tokio::join!(rest(first), rest(second));
            let [first, second] = [(&begun[0], first), (&begun[1], second)]
                .map(|(begun, (rest, is_clean))| ([&begun[..], &rest].concat(), is_clean));
            assert_eq!(first, second);
            let (bytes, is_clean) = first;
            let messages = spec::parse(&bytes).messages;
            assert!(!is_clean && messages.len() == 2 && messages[0].data == "a", "{version:?} {messages:?}");
            assert_eq!(messages[1].event_type, "error");
            let told: serde_json::Value = serde_json::from_str(&messages[1].data).unwrap();
            assert_eq!((&told["type"], &told["error"]["type"]), (&"error".into(), &"api_error".into()));
            assert_eq!(rest(ask(&gateway, version, &[ADA]).await).await, (bytes, false), "a third one later");
            assert_eq!(upstream.asked(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn the_query_of_a_recorded_request_is_for_the_upstream_alone() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record"]).await;
            let mut asks = question(&[ADA]);
            *asks.uri_mut() = "http://server.test/answers?hello=1&wait=0".parse().unwrap();
            let answer = gateway.client(version).await.send(asks).await.unwrap();
            let (head, frames) = upstream.streams.recv().await.unwrap();
            assert_eq!(head.uri, "/answers?hello=1&wait=0");
            say(&frames, "data: a\n\ndata: b\n\n").await;
            drop(frames);
            assert_eq!(data(&rest(answer).await.0), ["a", "b"], "{version:?}");
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn readers_of_a_recording_get_it_whole_when_the_gateway_is_told_to_end() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let mut gateway = Gateway::start(&upstream.url, &["--record"]).await;
            let first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            let second = ask(&gateway, version, &[ADA]).await;
            say(&frames, "data: a\n\n").await;
            crate::example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGTERM);
            while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {}
            say(&frames, "data: b\n\n").await;
            drop(frames);
            for reader in [first, second] {
                let (bytes, is_clean) = rest(reader).await;
                assert_eq!((data(&bytes), is_clean), (vec!["a".to_owned(), "b".to_owned()], true), "{version:?}");
            }
            assert!(gateway.server.process.wait().await.unwrap().success());
        }
    })
    .await;
}
