//! Message framing: where a message begins and ends, how long it may take, and which side is blamed for an error.

use std::{future::pending, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    Gateway,
    bodies::{AnyBody, any, channel, event_stream},
    client::{VERSIONS, get, request},
    listener::listen,
    next_data,
    proxying::{all, recording_upstream},
    raw, raw_upstream, read_until, upstream, within_20_s,
};

#[tokio::test]
async fn a_request_with_ambiguous_framing_is_refused() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for (request, status) in [
            ("GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test\r\nHost: a.test\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nhost: a.test\r\nhost: b.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET http://a.test/ HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test/path\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test,b.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: http://a.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: user@a.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test@b.test:80\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test:99999\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a.test:b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: \u{e4}.test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: .\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: ..\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a..test\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: localhost..\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: []\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: [localhost]\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: :80\r\n\r\n", 400),
            ("GET http://user@a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
            // A bad Host is refused in each form of the target (RFC 9112, 3.2). A good one is ignored next to an
            // absolute URI.
            ("GET http://a.test/ HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
            ("GET http://a.test/ HTTP/1.1\r\nhost: user@a.test\r\n\r\n", 400),
            ("GET http://a.test/ HTTP/1.1\r\nhost:\r\n\r\n", 400),
            ("GET http://a.test/ HTTP/1.0\r\nhost: a/b\r\n\r\n", 400),
            ("GET http://a.test/ HTTP/1.1\r\nhost: b.test\r\n\r\n", 200),
            ("GET http://a.test/ HTTP/1.0\r\n\r\n", 200),
            ("GET ftp://a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
            ("GET foo HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
            ("GET foo.test:80 HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", 400),
            ("GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nhost: a_b.test.\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nhost: localhost:\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nhost: [::1]:\r\n\r\n", 200),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: , chunked\r\n\r\n0\r\n\r\n", 200),
            ("OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n", 200),
            ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", 200),
        ] {
            let head = read_until(&mut raw(gateway.address, request).await, "\r\n\r\n").await;
            assert!(head.starts_with(&format!("HTTP/1.{} {status} ", u8::from(!request.contains("HTTP/1.0")))), "{request:?}: {head}");
            assert_eq!(requests.try_recv().is_ok(), status == 200, "{request:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_2_request_must_have_one_valid_host() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let mut client = gateway.client(Version::HTTP_2).await;
        for (authority, host, status) in [
            ("a.test", None, 200),
            ("a.test", Some("A.test"), 200),
            ("a.test", Some("b.test"), 400),
            ("user@a.test", None, 400),
            ("a.test,b.test", None, 400),
        ] {
            let mut request = Request::builder().uri(format!("http://{authority}/")).body(AnyBody::default()).unwrap();
            if let Some(host) = host {
                request.headers_mut().insert(HOST, HeaderValue::from_static(host));
            }
            // h2 itself resets a stream if it does not accept the host.
            let got = client.send(request).await.map_or(400, |response| response.status().as_u16());
            assert_eq!(got, status, "{authority} {host:?}");
            assert_eq!(requests.try_recv().is_ok(), status == 200, "{authority} {host:?}");
        }
        let star = Request::builder().method(Method::GET).uri("http://a.test/%2a").body(AnyBody::default()).unwrap();
        assert_eq!(client.send(star).await.unwrap().status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn several_content_lengths_of_a_request_must_be_equal() {
    within_20_s(async {
        // hyper's server would also merge two equal lengths.
        let (seen, mut heads) = mpsc::unbounded_channel();
        let upstream = listen(move |mut socket| {
            let seen = seen.clone();
            async move {
                seen.send(read_until(&mut socket, "\r\n\r\n").await).unwrap();
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
            }
        });
        let upstream = format!("http://{}", upstream.await);
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            for (lengths, is_one) in [(["4", "4"], true), (["4", "04"], true), (["4", "5"], false), (["4", "x"], false)]
            {
                let status = match version {
                    Version::HTTP_2 => {
                        let mut request = request("POST", "/", any(Full::from("body")));
                        let lengths = lengths.map(|length| (CONTENT_LENGTH, HeaderValue::from_static(length)));
                        lengths.into_iter().for_each(|(name, value)| _ = request.headers_mut().append(name, value));
                        // h2 itself resets a stream if it does not accept the length.
                        let response = gateway.client(version).await.send(request).await;
                        response.map_or(400, |response| response.status().as_u16())
                    }
                    _ => {
                        let lengths = lengths.map(|length| format!("content-length: {length}\r\n")).concat();
                        let request = format!("POST / HTTP/1.1\r\nhost: a.test\r\n{lengths}\r\nbody");
                        let head = read_until(&mut raw(gateway.address, &request).await, "\r\n\r\n").await;
                        head["HTTP/1.1 ".len()..][..3].parse().unwrap()
                    }
                };
                assert_eq!(status, if is_one { 200 } else { 400 }, "{version:?} {lengths:?}");
                let seen = heads.try_recv().ok().map(|head| head.matches("content-length: 4\r\n").count());
                assert_eq!(seen, is_one.then_some(1), "{version:?} {lengths:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_bad_chunk_is_logged_as_the_clients_error() {
    within_20_s(async {
        let upstream = upstream(echo).await;
        for chunk in ["xyz\r\n", "-1\r\n", "5\r\nlonger\r\n", "ffffffffffffffffff\r\n"] {
            let mut gateway = Gateway::start(&upstream, &[]).await;
            let bad =
                format!("POST /up HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n{chunk}");
            let mut answer = String::new();
            raw(gateway.address, &bad).await.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{chunk:?}: {answer}");
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.starts_with("gateway: POST /up: 400 Bad Request, by the client: "), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_request_body_is_a_408_and_logged_as_the_clients_error() {
    within_20_s(async {
        let upstream = upstream(echo).await;
        let mut gateway = Gateway::start(&upstream, &["--body-ms", "1000"]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let mut upload = request("POST", "/up", body);
            if version == Version::HTTP_11 {
                upload.headers_mut().insert("transfer-encoding", HeaderValue::from_static("chunked"));
            }
            let drips = tokio::spawn(async move {
                while frames.send(Ok(Frame::data("x".into()))).await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            let begun = Instant::now();
            let response = gateway.client(version).await.send(upload).await.unwrap();
            assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.starts_with("gateway: POST /up: 408 Request Timeout, by the client: "), "{line}");
            drips.abort();
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_steady_body_may_take_longer_than_a_slow_one() {
    within_20_s(async {
        let upstream = upstream(echo).await;
        let gateway = Gateway::start(&upstream, &["--body-ms", "500"]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let mut upload = request("POST", "/up", body);
            if version == Version::HTTP_11 {
                upload.headers_mut().insert("transfer-encoding", HeaderValue::from_static("chunked"));
            }
            tokio::spawn(async move {
                for _ in 0..20 {
                    frames.send(Ok(Frame::data(vec![b'x'; 500].into()))).await.unwrap();
                    sleep(Duration::from_millis(100)).await;
                }
            });
            let response = gateway.client(version).await.send(upload).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 10_000);
        }
    })
    .await;
}

#[tokio::test]
async fn slow_responses_are_ended_and_event_streams_are_not() {
    within_20_s(async {
        let upstream = upstream(|request| async move {
            let (frames, body) = channel();
            tokio::spawn(async move {
                while frames.send(Ok(Frame::data(":\n\n".into()))).await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            });
            match request.uri().path() {
                "/late" => pending().await,
                "/stream" => event_stream(body),
                _ => Response::new(body),
            }
        })
        .await;
        let mut gateway = Gateway::start(&upstream, &["--answer-ms", "1000"]).await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            assert_eq!(client.send(get("/late")).await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.starts_with("gateway: GET /late: 504 Gateway Timeout, by the upstream: "), "{line}");

            let mut stream = client.send(get("/stream")).await.unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                assert!(next_data(&mut stream).await.is_some());
            }
            drop(stream);

            let response = gateway.client(version).await.send(get("/slow")).await.unwrap();
            response.into_body().collect().await.expect_err("the response is cut off");
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.contains("GET /slow: the upstream broke in the middle"), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_whose_first_chunk_makes_no_sense_is_a_502() {
    within_20_s(async {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: , chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n";
        let gateway = Gateway::start(&raw_upstream(answer).await, &[]).await;
        for version in VERSIONS {
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{version:?}");
        }
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: , chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let gateway = Gateway::start(&raw_upstream(answer).await, &[]).await;
        for version in VERSIONS {
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{version:?}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "abc");
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_does_not_wait_long_for_its_body_and_that_of_an_event_stream_not_at_all() {
    within_20_s(async {
        let upstream = upstream(|request: Request<_>| async move {
            let (frames, body) = channel();
            std::mem::forget(frames);
            if request.uri().path() == "/stream" { event_stream(body) } else { Response::new(body) }
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            for path in ["/stream", "/body"] {
                let begun = Instant::now();
                let response = gateway.client(version).await.send(get(path)).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert!(begun.elapsed() < Duration::from_secs(2), "{version:?} {path}: {:?}", begun.elapsed());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstreams_lengths_must_be_equal_and_its_codings_known() {
    within_20_s(async {
        for (lengths, expected) in [
            ("content-length: 2\r\ncontent-length: 2\r\n", Some("2")),
            ("content-length: 2, 2\r\n", Some("2")),
            ("content-length: 2\r\ncontent-length: 3\r\n", None),
            ("content-length: 2, 3\r\n", None),
            ("content-length: +2\r\n", None),
            ("transfer-encoding: gzip, chunked\r\n", None),
            ("transfer-encoding: chunked, gzip\r\n", None),
            ("transfer-encoding: gzip\r\n", None),
            ("transfer-encoding: identity\r\ncontent-length: 2\r\n", None),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n{}", if method == "GET" { "xx" } else { "" });
                let gateway = Gateway::start(&raw_upstream(answer.leak()).await, &[]).await;
                for version in VERSIONS {
                    let response =
                        gateway.client(version).await.send(request(method, "/", AnyBody::default())).await.unwrap();
                    let expected_status = if expected.is_some() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
                    assert_eq!(response.status(), expected_status, "{method} {lengths:?}");
                    if let Some(expected) = expected {
                        assert_eq!(all(response.headers(), "content-length"), [expected]);
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_log_entry_is_one_line_of_bounded_length() {
    within_20_s(async {
        let mut gateway = Gateway::start(&raw_upstream("").await, &[]).await;
        let method = "M".repeat(2000);
        let path = format!("/\u{202e}\u{9b}2J{}", "x".repeat(5000));
        for (method, path) in [("GET", path.as_str()), (&method, "/")] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: a.test\r\n\r\n");
            let head = read_until(&mut raw(gateway.address, &request).await, "\r\n\r\n").await;
            if head.starts_with("HTTP/1.1 400 ") {
                // hyper refuses this target, and the gateway logs nothing.
                continue;
            }
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.len() < 1200, "{} bytes", line.len());
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        }
        // The first request was logged. Otherwise the test would check nothing.
        let mut socket = raw(gateway.address, "GET /\u{e4} HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        socket.flush().await.unwrap();
        let line = gateway.stderr.next_line().await.unwrap().unwrap();
        assert!(line.starts_with("gateway: GET /\\u{e4}: 502 "), "{line}");
    })
    .await;
}

async fn echo(request: Request<hyper::body::Incoming>) -> Response<AnyBody> {
    let Ok(body) = request.into_body().collect().await else { return Response::new(AnyBody::default()) };
    let body = body.to_bytes();
    let mut response = Response::new(any(Full::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}
