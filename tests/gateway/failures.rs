//! What fails or ends early, and how each side is told.

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    process::Output,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};

use crate::{
    GATEWAY, Gateway, begun,
    bodies::{AnyBody, any, channel, event_stream},
    client::{VERSIONS, get, request},
    example, next_data, raw, raw_upstream, read_until,
    recordings::{ADA, Upstream, ask, events, rest, say},
    spec, upstream, upstream_once, within_20_s,
};

#[tokio::test]
async fn connect_gets_a_405_that_says_why() {
    within_20_s(async {
        let gateway = Gateway::start("http://127.0.0.1:9", &[]).await;
        let connect = "CONNECT example.test:443 HTTP/1.1\r\nhost: example.test:443\r\n\r\n";
        let answer = read_until(&mut raw(gateway.address, connect).await, "no tunnels.\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("\r\nallow: GET, "), "{answer}");

        let request = Request::connect("example.test:443").body(AnyBody::default()).unwrap();
        let response = gateway.client(Version::HTTP_2).await.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstream_request() {
    within_20_s(async {
        let (gone, mut left) = mpsc::unbounded_channel();
        let (come, mut arrived) = mpsc::unbounded_channel();
        let upstream = upstream(move |request| {
            let (gone, path) = (Gone(gone.clone()), request.uri().path().to_owned());
            come.send(()).unwrap();
            async move {
                match path.as_str() {
                    "/no-head" => pending().await,
                    "/stream" => event_stream(any(Held { first: Some("data: x\n\n".into()), _gone: gone })),
                    _ => Response::new(any(Held { first: Some("x".into()), _gone: gone })),
                }
            }
        })
        .await;
        let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "0"]).await;
        for version in VERSIONS {
            for path in ["/stream", "/plain"] {
                let mut client = gateway.client(version).await;
                let mut response = client.send(get(path)).await.unwrap();
                assert!(next_data(&mut response).await.is_some());
                arrived.recv().await.unwrap();
                assert!(left.is_empty());
                drop((client, response));
                left.recv().await.unwrap();
            }
            let mut client = gateway.client(version).await;
            let request = tokio::spawn(async move { client.send(get("/no-head")).await });
            arrived.recv().await.unwrap();
            assert!(left.is_empty());
            request.abort();
            left.recv().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_that_says_why() {
    within_20_s(async {
        // The socket is bound so that no other process gets the port, but it does not listen.
        let nobody = TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refuses = format!("http://{}", nobody.local_addr().unwrap());
        let hangs_up = raw_upstream("").await;
        let talks_nonsense = raw_upstream("nonsense\r\n\r\n").await;
        let switches =
            raw_upstream("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
        for (upstream, sentence) in [
            (refuses, "The upstream cannot be reached.\n"),
            (hangs_up, "The connection to the upstream broke before it answered.\n"),
            (talks_nonsense, "The connection to the upstream broke before it answered.\n"),
            (switches, "The upstream switched protocols without being asked.\n"),
        ] {
            let mut gateway = Gateway::start(&upstream, &[]).await;
            for version in VERSIONS {
                let response = gateway.client(version).await.send(get("/path?key=secret")).await.unwrap();
                assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
                assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), sentence);
                let details = gateway.stderr.next_line().await.unwrap().unwrap();
                assert!(details.starts_with("gateway: GET /path: "), "{details}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_upstream_response_is_an_error_and_not_an_end() {
    within_20_s(async {
        for version in VERSIONS {
            let (frames, body) = channel();
            let upstream = upstream_once(event_stream(body)).await;
            let mut gateway = Gateway::start(&upstream, &["--heartbeat-ms", "0"]).await;
            let mut response = gateway.client(version).await.send(get("/")).await.unwrap();
            frames.send(Ok(Frame::data("data: x\n\n".into()))).await.unwrap();
            assert_eq!(next_data(&mut response).await.unwrap(), "data: x\n\n");
            frames.send(Err("broken".into())).await.unwrap();
            assert!(response.frame().await.unwrap().is_err());
            let details = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(details.starts_with("gateway: GET /: the upstream broke in the middle"), "{details}");
        }
    })
    .await;
}

#[tokio::test]
async fn wrong_flags_get_an_error_message_and_exit_code_2() {
    within_20_s(async {
        for (flags, problem) in [
            (&[][..], "--upstream is missing"),
            (&["--upstream"], "--upstream needs a value"),
            (&["--upstream", "https://api.example.com"], "as this example speaks no TLS: give the http:// address of"),
            (&["--upstream", "localhost:9000"], "is not like http://HOST[:PORT][/PATH]"),
            (&["--upstream", "http://"], "is not like http://"),
            (&["--upstream", "http://x.test:99999"], "is not like http://"),
            (&["--upstream", "http://user@x.test"], "is not like http://"),
            (&["--upstream", "http://x.test/?q"], "is not like http://"),
            (&["--upstream", "http://x.test", "--heartbeat-ms", "-1"], "--heartbeat-ms takes whole milliseconds"),
            (&["--upstream", "http://x.test", "--host", "a b"], "--host takes NAME or NAME:PORT, not \"a b\""),
            (&["--upstream", "http://x.test", "--host", "http://x.test"], "--host takes NAME or NAME:PORT"),
            (&["--upstream", "http://x.test", "--trusted-proxy", "localhost"], "--trusted-proxy takes an IP address"),
            (&["--upstream", "http://x.test", "--upstream-host"], "--upstream-host needs --host"),
            (&["--upstream", "http://x.test", "--upstream-name", "x/y"], "--upstream-name takes NAME or NAME:PORT"),
            (&["--upstream", "http://x.test", "--requests-per-address", "0"], "a whole number from 1 on, not \"0\""),
            (&["--upstream", "http://x.test", "--requests-per-connection", "all"], "a whole number from 1 on"),
            (&["--upstream", "http://x.test", "--remove", "*"], "--remove takes NAME or PREFIX*, not \"*\""),
            (&["--port", "80"], "unknown argument \"--port\""),
        ] {
            let output = run(flags).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(problem) && stderr.contains("\nusage: gateway "), "{stderr}");
            assert!(output.stdout.is_empty());
        }
        let output = run(&["--help"]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(b"usage: gateway "));

        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let output = run(&["--upstream", "http://x.test", "--listen", &address]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("cannot listen on {address}: ")));
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_ends_the_gateway_while_streams_are_open() {
    within_20_s(async {
        for flags in [&["--finish-ms", "500"][..], &["--finish-ms", "0"]] {
            let (frames, body) = channel();
            let upstream = upstream_once(event_stream(body)).await;
            let mut gateway = Gateway::start(&upstream, flags).await;
            let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
            let mut response = begun(response).await;
            example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGINT);
            assert_eq!(
                next_data(&mut response).await,
                None,
                "the stream of a GET ends cleanly, as its client comes back"
            );
            assert!(gateway.server.process.wait().await.unwrap().success());
            drop(frames);
        }
    })
    .await;
}

/// What is there of an answer to a POST when the time of the gateway is over, and whether it ends cleanly.
#[cfg(unix)]
async fn cut(version: Version, flags: &[&str]) -> (Vec<spec::Message>, bool) {
    let mut upstream = Upstream::start().await;
    let mut gateway = Gateway::start(&upstream.url, flags).await;
    let mut first = ask(&gateway, version, &[ADA]).await;
    let frames = upstream.next().await;
    say(&frames, "data: a\n\n").await;
    let mut received = events(&mut first, 1).await;
    example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGTERM);
    let (bytes, is_clean) = rest(first).await;
    assert!(gateway.server.process.wait().await.unwrap().success());
    received.extend(spec::parse(&bytes).messages);
    (received, is_clean)
}

#[cfg(unix)]
#[tokio::test]
async fn half_of_an_answer_does_not_end_cleanly_when_the_gateway_ends() {
    within_20_s(async {
        for version in VERSIONS {
            for finish in ["500", "0"] {
                let (received, is_clean) = cut(version, &["--finish-ms", finish]).await;
                assert!(!is_clean && received.len() == 1, "{version:?} {finish}: {received:?}");
            }
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn half_of_a_recorded_answer_does_not_end_cleanly_when_the_gateway_ends() {
    within_20_s(async {
        for version in VERSIONS {
            let (received, is_clean) = cut(version, &["--finish-ms", "500", "--record"]).await;
            assert!(!is_clean, "{version:?}: {received:?}");
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_stream_without_an_answer_yet_does_not_end_cleanly_when_the_gateway_ends() {
    within_20_s(async {
        for version in VERSIONS {
            let upstream = upstream(|_| pending()).await;
            let mut gateway = Gateway::start(&upstream, &["--finish-ms", "500", "--open-after-ms", "1"]).await;
            let mut asks = request("POST", "/", AnyBody::default());
            asks.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
            let response = gateway.client(version).await.send(asks).await.unwrap();
            example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGTERM);
            assert!(!rest(response).await.1, "{version:?}");
            assert!(gateway.server.process.wait().await.unwrap().success());
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_interrupt_ends_the_gateway_at_once() {
    within_20_s(async {
        let (frames, body) = channel();
        let upstream = upstream_once(event_stream(body)).await;
        let mut gateway = Gateway::start(&upstream, &[]).await;
        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGINT);
        // The gateway has handled the first interrupt when it accepts no more connections.
        while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {}
        example::signal(&gateway.server.process, nix::sys::signal::Signal::SIGINT);
        assert_eq!(gateway.server.process.wait().await.unwrap().code(), Some(130));
        drop((frames, response));
    })
    .await;
}

async fn run(flags: &[&str]) -> Output {
    GATEWAY.command().args(flags).output().await.unwrap()
}

/// A body with one frame. It then waits until it is dropped.
struct Held {
    first: Option<Bytes>,
    _gone: Gone,
}

struct Gone(mpsc::UnboundedSender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.first.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}
