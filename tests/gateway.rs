//! The gateway example as a real process, between real clients and real upstreams on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    convert::Infallible,
    error::Error,
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Output, Stdio},
    sync::OnceLock,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER},
    request,
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpSocket, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use self::Step::{Bytes as B, Silence, Stall};

type AnyError = Box<dyn Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, AnyError>;

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test]
async fn a_stream_has_the_same_events_with_heartbeats_every_3_ms_as_without() {
    within_20_s(async {
        let steps = [MARK_AND_CR, LF_AND_CRLF, LARGE].concat();
        let silences = steps.iter().filter(|step| matches!(step, Silence)).count();
        for version in VERSIONS {
            let (direct, proxied) = both_ways(version, &steps, usize::MAX).await;
            let (expected, got) = (parse(&direct), parse(&proxied));
            assert_eq!(got.events, expected.events, "{version:?}");
            assert_eq!(got.retry, expected.retry);
            assert_eq!((expected.events.len(), expected.heartbeats), (18, 0));
            assert!(got.heartbeats >= silences, "{} heartbeats in {silences} silences", got.heartbeats);
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_of_the_field_sees_the_same_events_too() {
    within_20_s(async {
        let (direct, proxied) = both_ways(Version::HTTP_11, LF_AND_CRLF, usize::MAX).await;
        let expected = parse_with_eventsource_stream(&direct).await;
        assert_eq!(parse_with_eventsource_stream(&proxied).await, expected);
        assert_eq!(expected.len(), 12);
        assert!(parse(&proxied).heartbeats > 0);
    })
    .await;
}

#[tokio::test]
async fn a_stream_has_the_same_events_in_chunks_of_any_size() {
    within_20_s(async {
        for size in [1, 2, 3, 7] {
            for (version, steps) in [(Version::HTTP_11, MARK_AND_CR), (Version::HTTP_2, LF_AND_CRLF)] {
                let (direct, proxied) = both_ways(version, steps, size).await;
                assert_eq!(parse(&proxied).events, parse(&direct).events, "in chunks of {size}");
                assert!(parse(&proxied).heartbeats > 0);
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
            let mut received = Vec::new();
            while received.len() < 3 * b":\n\n".len() {
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
async fn an_event_stream_gets_its_headers_and_no_length() {
    within_20_s(async {
        for version in VERSIONS {
            let upstream = upstream_once(event_stream(Full::from("data: x\n\n"))).await;
            let gateway = Gateway::start(&upstream, &[]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(response.version(), version);
            assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
            assert_eq!(response.headers()["x-accel-buffering"], "no");
            assert_eq!(response.headers().contains_key("connection"), version == Version::HTTP_11);
            assert!(!response.headers().contains_key(CONTENT_LENGTH));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "data: x\n\n");
        }
    })
    .await;
}

#[tokio::test]
async fn json_is_byte_for_byte_the_same_with_its_content_length() {
    within_20_s(async {
        let json: String = (0..20_000).map(|n| format!("{{\"n\": {n}}}\n\n")).collect();
        for version in VERSIONS {
            let mut response = Response::new(any(Full::from(json.clone())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let upstream = upstream_once(response).await;
            let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "1"]).await;
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(response.headers()[CONTENT_LENGTH], json.len().to_string().as_str());
            assert!(!response.headers().contains_key("cache-control"));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), json);
        }
    })
    .await;
}

#[tokio::test]
async fn http2_with_prior_knowledge_streams() {
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
async fn a_request_body_streams_through_before_it_has_ended() {
    within_20_s(async {
        let upstream = upstream(|request| async { Response::new(any(request.into_body())) }).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let request = Request::post("http://gateway.test/echo").body(body).unwrap();
            let mut response = gateway.client(version).await.send(request).await.unwrap();
            for text in ["first", "second"] {
                frames.send(Ok(Frame::data(text.into()))).await.unwrap();
                assert_eq!(next_data(&mut response).await.unwrap(), text);
            }
            drop(frames);
            assert!(next_data(&mut response).await.is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn all_methods_and_bodies_pass() {
    within_20_s(async {
        let upstream = upstream(echo).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
                let sized = any(Full::from("a body"));
                let response = client.send(request(method, sized)).await.unwrap();
                assert_eq!(response.headers()["x-method"], method);
                assert_eq!(response.headers()["x-framing"], "length 6", "{version:?} {method}");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a body");

                let (frames, unsized_body) = channel();
                frames.send(Ok(Frame::data("in two ".into()))).await.unwrap();
                frames.send(Ok(Frame::data("chunks".into()))).await.unwrap();
                drop(frames);
                let mut chunked = request(method, unsized_body);
                if version == Version::HTTP_11 {
                    chunked.headers_mut().insert("transfer-encoding", HeaderValue::from_static("chunked"));
                }
                let response = client.send(chunked).await.unwrap();
                assert_eq!(response.headers()["x-framing"], "chunked", "{version:?} {method}");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "in two chunks");
            }
            for method in ["GET", "DELETE"] {
                let response = client.send(request(method, any(Empty::new()))).await.unwrap();
                assert_eq!(response.headers()["x-method"], method);
                assert_eq!(response.headers()["x-framing"], "no body", "{version:?} {method}");
                assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn answers_without_a_body_are_right() {
    within_20_s(async {
        let upstream = upstream(|request| async move {
            let mut response = Response::new(any(Empty::new()));
            let headers = response.headers_mut();
            headers.insert("x-target", HeaderValue::from_str(&request.uri().to_string()).unwrap());
            match request.uri().path() {
                "/head" => _ = headers.insert(CONTENT_LENGTH, HeaderValue::from_static("1234")),
                "/head-of-a-stream" => _ = headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
                "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
                "/304" => {
                    headers.insert("etag", HeaderValue::from_static("\"v1\""));
                    *response.status_mut() = StatusCode::NOT_MODIFIED;
                }
                _ => {}
            }
            response
        })
        .await;
        let gateway = Gateway::start(&upstream, &["--heartbeat-ms", "1"]).await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            let mut answer = async |method: Method, target: &str| {
                let uri = if target == "*" { "*".to_owned() } else { format!("http://gateway.test{target}") };
                let request = Request::builder().method(method).uri(uri).body(any(Empty::new())).unwrap();
                let (head, body) = client.send(request).await.unwrap().into_parts();
                assert!(body.collect().await.unwrap().to_bytes().is_empty(), "{version:?} {target}");
                head
            };
            assert_eq!(answer(Method::HEAD, "/head").await.headers[CONTENT_LENGTH], "1234");
            let head = answer(Method::HEAD, "/head-of-a-stream").await;
            assert_eq!(head.headers[CONTENT_TYPE], "text/event-stream");
            assert_eq!(answer(Method::GET, "/204").await.status, StatusCode::NO_CONTENT);
            let head = answer(Method::GET, "/304").await;
            assert_eq!((head.status, &head.headers["etag"]), (StatusCode::NOT_MODIFIED, &"\"v1\"".parse().unwrap()));
            if version == Version::HTTP_11 {
                // Over HTTP/2, hyper's client cannot ask for it.
                assert_eq!(answer(Method::OPTIONS, "*").await.headers["x-target"], "*");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn connect_is_a_405_with_a_sentence() {
    within_20_s(async {
        let gateway = Gateway::start("http://127.0.0.1:9", &[]).await;
        let connect = "CONNECT example.test:443 HTTP/1.1\r\nhost: example.test:443\r\n\r\n";
        let answer = read_until(&mut raw(gateway.address, connect).await, "no tunnels.\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("\r\nallow: GET, "), "{answer}");

        let request = Request::connect("example.test:443").body(any(Empty::new())).unwrap();
        let response = gateway.client(Version::HTTP_2).await.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    })
    .await;
}

#[tokio::test]
async fn trailers_pass() {
    within_20_s(async {
        for (version, content_type) in VERSIONS.into_iter().flat_map(|v| [(v, "text/event-stream"), (v, "text/plain")])
        {
            let response = Response::builder().header(CONTENT_TYPE, content_type).header(TRAILER, "x-sum");
            let upstream = upstream_once(response.body(with_trailers("data: x\n\n")).unwrap()).await;
            let gateway = Gateway::start(&upstream, &[]).await;
            let mut request = get("/");
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            let response = gateway.client(version).await.send(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-sum"], "42", "{version:?} {content_type}");
            assert_eq!(body.to_bytes(), "data: x\n\n");
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_of_a_request_pass() {
    within_20_s(async {
        let upstream = upstream(|request| async {
            let body = request.into_body().collect().await.unwrap();
            Response::builder().header("x-got", &body.trailers().unwrap()["x-sum"]).body(any(Empty::new())).unwrap()
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let request = Request::post("http://gateway.test/").header(TRAILER, "x-sum");
            let request = request.body(with_trailers("some")).unwrap();
            let response = gateway.client(version).await.send(request).await.unwrap();
            assert_eq!(response.headers()["x-got"], "42");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_with_trailers_ends_for_a_client_that_takes_none() {
    within_20_s(async {
        let response = event_stream(with_trailers("data: x\n\n"));
        let upstream = upstream_once(response).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert!(body.trailers().is_none());
        assert_eq!(body.to_bytes(), "data: x\n\n");
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
                    "/stream" => event_stream(Held { first: Some("data: x\n\n".into()), _gone: gone }),
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
async fn an_upstream_that_is_away_is_a_502_with_a_sentence() {
    within_20_s(async {
        // Bound so that nobody else gets the port, but not listening.
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
async fn an_upstream_that_breaks_in_the_middle_is_an_error_and_no_end() {
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
async fn hop_by_hop_headers_stay_behind() {
    within_20_s(async {
        const HOP_BY_HOP: [(&str, &str); 6] = [
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("x-named", "named in `connection`"),
            ("x-named-too", "as well"),
        ];
        let (seen, mut requests) = mpsc::unbounded_channel();
        let upstream = upstream(move |request| {
            seen.send(request.headers().clone()).unwrap();
            let mut response = Response::new(any(Full::from("{}")));
            response.headers_mut().extend(HOP_BY_HOP.map(header));
            response
                .headers_mut()
                .extend([("connection", "X-Named"), ("upgrade", "h2c"), ("x-stays", "1")].map(header));
            response.headers_mut().append("connection", HeaderValue::from_static(", x-named-too"));
            async { response }
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut request = get("/");
            request.headers_mut().extend([("x-stays", "1"), ("trailer", "x-sum")].map(header));
            match version {
                Version::HTTP_11 => {
                    request.headers_mut().extend(HOP_BY_HOP.map(header));
                    let others =
                        [("connection", "x-named, Upgrade"), ("upgrade", "websocket"), ("te", "gzip, trailers")];
                    request.headers_mut().extend(others.map(header));
                    request.headers_mut().append("connection", HeaderValue::from_static("X-Named-Too"));
                }
                _ => request.headers_mut().extend([("te", "trailers")].map(header)),
            }
            let response = gateway.client(version).await.send(request).await.unwrap();
            let headers = requests.recv().await.unwrap();
            assert!(!headers.contains_key("upgrade"));
            assert_eq!(all(&headers, "connection"), ["te"], "which `te` has to be named in");
            assert_eq!(all(&headers, "te"), ["trailers"]);
            assert!(!response.headers().contains_key("upgrade"));
            assert!(!response.headers().contains_key("connection"));
            for headers in [&headers, response.headers()] {
                assert!(HOP_BY_HOP.iter().all(|(name, _)| !headers.contains_key(*name)), "{headers:?}");
                assert_eq!(headers["x-stays"], "1");
            }
            assert_eq!(headers["trailer"], "x-sum");
        }
    })
    .await;
}

#[tokio::test]
async fn the_upstream_is_told_where_a_request_came_from() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            gateway.client(version).await.send(get("/")).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
            assert_eq!(headers["x-forwarded-host"], "gateway.test");
            assert_eq!(headers["x-forwarded-proto"], "http");
            assert_eq!(all(&headers, "host"), [upstream.trim_start_matches("http://")]);

            let mut request = get("/");
            let claims = [("x-forwarded-host", "elsewhere.test"), ("x-forwarded-proto", "gopher")];
            request.headers_mut().extend(claims.map(header));
            for address in ["192.0.2.1, 192.0.2.2", "192.0.2.3"] {
                request.headers_mut().append("x-forwarded-for", HeaderValue::from_static(address));
            }
            for cookie in ["a=1", "b=2"] {
                request.headers_mut().append("cookie", HeaderValue::from_static(cookie));
            }
            gateway.client(version).await.send(request).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"]);
            assert_eq!(all(&headers, "x-forwarded-host"), ["gateway.test"]);
            assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
            assert_eq!(all(&headers, "cookie"), ["a=1; b=2"]);
        }
        let to_a_forward_proxy = "GET http://other.test/path HTTP/1.1\r\nhost: x.test\r\n\r\n";
        let _connection = raw(gateway.address, to_a_forward_proxy).await;
        let request = requests.recv().await.unwrap();
        assert_eq!(request.uri, "/path");
        assert_eq!(request.headers["x-forwarded-host"], "other.test");
    })
    .await;
}

#[tokio::test]
async fn the_path_of_the_upstream_is_prepended() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        for (base, asked, expected) in [
            ("", "/a?b=c", "/a?b=c"),
            ("/", "/", "/"),
            ("/base", "/a?b=%20&c", "/base/a?b=%20&c"),
            ("/base/", "//a", "/base//a"),
            ("/base/of/it", "/", "/base/of/it/"),
        ] {
            let gateway = Gateway::start(&format!("{upstream}{base}"), &[]).await;
            gateway.client(Version::HTTP_2).await.send(get(asked)).await.unwrap();
            assert_eq!(requests.recv().await.unwrap().uri, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    within_20_s(async {
        let upstream = upstream(echo).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let head = "POST / HTTP/1.1\r\nhost: x.test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
        let mut connection = raw(gateway.address, head).await;
        let go_on = read_until(&mut connection, "\r\n\r\n").await;
        assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
        connection.write_all(b"body").await.unwrap();
        let answer = read_until(&mut connection, "\r\n\r\nbody").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn http_1_0_is_spoken_to_clients_and_upstreams_that_do() {
    within_20_s(async {
        let old = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: x\n\n";
        let gateway = Gateway::start(&raw_upstream(old).await, &[]).await;
        let mut answer = String::new();
        let mut client = raw(gateway.address, "GET / HTTP/1.0\r\n\r\n").await;
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\ndata: x\n\n"), "{answer}");
        assert!(!answer.contains("chunked"), "{answer}");

        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "data: x\n\n");
    })
    .await;
}

#[tokio::test]
async fn a_length_next_to_chunks_splits_no_response() {
    within_20_s(async {
        let ambiguous =
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n6\r\nchunks\r\n0\r\n\r\n";
        let gateway = Gateway::start(&raw_upstream(ambiguous).await, &[]).await;
        for version in VERSIONS {
            let response = gateway.client(version).await.send(get("/")).await.unwrap();
            assert!(!response.headers().contains_key(CONTENT_LENGTH));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "chunks");
        }
    })
    .await;
}

#[tokio::test]
async fn wrong_flags_are_a_sentence_and_exit_code_2() {
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
async fn an_interrupt_ends_it_while_streams_are_open() {
    within_20_s(async {
        let (frames, body) = channel();
        let upstream = upstream_once(event_stream(body)).await;
        let mut gateway = Gateway::start(&upstream, &[]).await;
        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        let pid = gateway.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        assert!(gateway.child.wait().await.unwrap().success());
        drop((frames, response));
    })
    .await;
}

// The stream and its reading.

#[derive(Clone, Copy)]
enum Step {
    /// Bytes, and a moment in which a heartbeat could come at the wrong place.
    Bytes(&'static [u8]),
    /// At a boundary: nothing, until the client saw a heartbeat.
    Silence,
    /// Not at a boundary: nothing, for the time of some heartbeats.
    Stall,
}

// A byte-order mark and CR line ends, which eventsource-stream does not take.
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

// And an event that is never ended, of which no client sees anything.
const LARGE: &[Step] = &[B(LARGE_EVENT), Silence, B(b"data: never ended\n"), Stall];

const LARGE_EVENT: &[u8] = &{
    let mut event = [b'x'; 40_000];
    (event[0], event[1], event[2], event[3], event[4]) = (b'd', b'a', b't', b'a', b':');
    (event[39_998], event[39_999]) = (b'\n', b'\n');
    event
};

/// The bytes of a stream: straight from the upstream, and through the gateway.
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
        seen.send_replace(parse(&proxied).heartbeats);
    }
    assert_only_heartbeats_were_added(&direct, &proxied);
    (direct.to_vec(), proxied)
}

/// By the standard, one between the CR and the LF of a line end would do no harm; to some clients it does.
fn assert_only_heartbeats_were_added(direct: &[u8], proxied: &[u8]) {
    let [direct, proxied] = [direct, proxied].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let splits = |after_cr: &str| after_cr.starts_with(':') && after_cr.trim_start_matches(":\n\n").starts_with('\n');
    assert!(!proxied.split('\r').skip(1).any(splits), "{proxied:?}");
    let without_heartbeats = |text: &str| text.replace(":\n\n", "");
    assert_eq!(without_heartbeats(&proxied), without_heartbeats(direct.trim_start_matches('\u{FEFF}')));
}

/// Without heartbeats to wait for, it does not wait at all.
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

#[derive(Debug, Default)]
struct Parsed {
    events: Vec<Event>,
    retry: Vec<String>,
    /// Comments without text, of which the upstream sends none.
    heartbeats: usize,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Event {
    last_event_id: String,
    event_type: String,
    data: String,
}

/// What the standard says that a client sees (HTML, 9.2.6).
fn parse(bytes: &[u8]) -> Parsed {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What follows the last line end is no line.
    lines.pop();

    let mut parsed = Parsed::default();
    let (mut last_event_id, mut event_type, mut data) = (String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            if data.pop().is_some() {
                let event =
                    Event { last_event_id: last_event_id.clone(), event_type: event_type.clone(), data: data.clone() };
                parsed.events.push(event);
            }
            event_type.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if value.is_empty() => parsed.heartbeats += 1,
            "data" => data = data + value + "\n",
            "event" => event_type = value.to_owned(),
            "id" if !value.contains('\0') => last_event_id = value.to_owned(),
            "retry" => parsed.retry.push(value.to_owned()),
            _ => {}
        }
    }
    parsed
}

async fn parse_with_eventsource_stream(bytes: &[u8]) -> Vec<eventsource_stream::Event> {
    tokio_stream::iter(bytes.chunks(5).map(Ok::<_, Infallible>)).eventsource().map(Result::unwrap).collect().await
}

// Upstreams.

/// A server on a free port, and where it is.
async fn upstream<A>(answer: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static) -> String
where
    A: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    format!("http://{address}")
}

async fn upstream_once(response: Response<AnyBody>) -> String {
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some(response)));
    upstream(move |_| {
        let response = once.lock().unwrap().take().expect("one request");
        async { response }
    })
    .await
}

async fn recording_upstream() -> (String, mpsc::UnboundedReceiver<request::Parts>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let upstream = upstream(move |request| {
        seen.send(request.into_parts().0).unwrap();
        async { Response::new(any(Empty::new())) }
    });
    (upstream.await, requests)
}

/// One that answers every request's head with this text and hangs up.
async fn raw_upstream(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_until(&mut socket, "\r\n\r\n").await;
                socket.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    format!("http://{address}")
}

async fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let framing = match (head.headers.get(CONTENT_LENGTH), head.headers.get("transfer-encoding")) {
        (Some(length), None) => format!("length {}", length.to_str().unwrap()),
        (None, Some(encoding)) => encoding.to_str().unwrap().to_owned(),
        (None, None) => "no body".to_owned(),
        (Some(_), Some(_)) => "ambiguous".to_owned(),
    };
    let response = Response::builder().header("x-method", head.method.as_str()).header("x-framing", framing);
    response.body(any(Full::from(body.collect().await.unwrap().to_bytes()))).unwrap()
}

fn event_stream<B>(body: B) -> Response<AnyBody>
where
    B: Body<Data = Bytes, Error: Into<AnyError>> + Send + 'static,
{
    let mut response = Response::new(any(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

// Bodies.

fn any<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes, Error: Into<AnyError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, AnyError>>, AnyBody) {
    let (frames, body) = mpsc::channel(2);
    (frames, StreamBody::new(ReceiverStream::new(body)).boxed_unsync())
}

fn with_trailers(data: &'static str) -> AnyBody {
    let trailers = [("x-sum", "42")].map(header).into_iter().collect();
    let frames = [Frame::data(data.into()), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    any(StreamBody::new(tokio_stream::iter(frames)))
}

/// One frame, and nothing more until it is dropped.
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

// The gateway and its clients.

struct Gateway {
    address: SocketAddr,
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Gateway {
    async fn start(upstream: &str, flags: &[&str]) -> Self {
        let mut child = command()
            .args(["--listen", "127.0.0.1:0", "--upstream", upstream])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = stdout.next_line().await.unwrap().expect("a line when it is ready");
        let address = ready.strip_prefix("listening on http://").expect("the address").parse().unwrap();
        Self { address, child, stderr, _stdout: stdout }
    }

    async fn client(&self, version: Version) -> Client {
        Client::connect(self.address, version).await
    }
}

async fn run(flags: &[&str]) -> Output {
    command().args(flags).output().await.unwrap()
}

fn command() -> Command {
    let mut command = Command::new(executable());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The example, built as this test was, where this test was.
fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let output = std::process::Command::new(env!("CARGO"))
            .args(["build", "--example", "gateway", "--all-features", "--message-format=json"])
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the gateway example does not build");
        let messages = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        messages
            .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap())
            .filter(|message| message["target"]["name"] == "gateway")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("an executable")
    })
}

enum Client {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

impl Client {
    async fn connect(address: SocketAddr, version: Version) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let socket = TokioIo::new(socket);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn send(&mut self, mut request: Request<AnyBody>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                let host = request.uri().authority().map_or("gateway.test", |authority| authority.as_str());
                let host = HeaderValue::from_str(host).unwrap();
                request.headers_mut().insert(HOST, host);
                if let Some(target) = request.uri().path_and_query().cloned() {
                    *request.uri_mut() = Uri::from(target);
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

fn get(target: &str) -> Request<AnyBody> {
    Request::get(format!("http://gateway.test{target}")).body(any(Empty::new())).unwrap()
}

fn request(method: &str, body: AnyBody) -> Request<AnyBody> {
    Request::builder().method(method).uri("http://gateway.test/").body(body).unwrap()
}

/// The body's next data; `None` at its end. (HTTP/2 may end with an empty frame.)
async fn next_data(response: &mut Response<Incoming>) -> Option<Bytes> {
    loop {
        let data = response.frame().await?.unwrap().into_data().unwrap();
        if !data.is_empty() {
            return Some(data);
        }
    }
}

async fn raw(address: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(socket.read_u8().await.unwrap()));
    }
    text
}

fn header((name, value): (&'static str, &'static str)) -> (http::HeaderName, HeaderValue) {
    (http::HeaderName::from_static(name), HeaderValue::from_static(value))
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// A bound on failure. Building the gateway does not count.
async fn within_20_s(test: impl Future<Output = ()>) {
    executable();
    timeout(Duration::from_secs(20), test).await.expect("it takes too long");
}
