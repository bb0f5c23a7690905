//! What the gateway passes on, and what it does not.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TE, TRAILER},
    request::Parts,
};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    Gateway,
    bodies::{AnyBody, any, channel, event_stream, with_trailers},
    client::{VERSIONS, get, request},
    next_data, raw, raw_upstream, read_until, upstream, upstream_once, within_20_s,
};

#[tokio::test]
async fn json_passes_unchanged_with_its_content_length() {
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
async fn a_request_body_is_streamed_before_it_ends() {
    within_20_s(async {
        let upstream = upstream(|request| async { Response::new(any(request.into_body())) }).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let mut response = gateway.client(version).await.send(request("POST", "/echo", body)).await.unwrap();
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
                let response = client.send(request(method, "/", sized)).await.unwrap();
                assert_eq!(response.headers()["x-method"], method);
                assert_eq!(response.headers()["x-framing"], "length 6", "{version:?} {method}");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a body");

                let (frames, unsized_body) = channel();
                frames.send(Ok(Frame::data("in two ".into()))).await.unwrap();
                frames.send(Ok(Frame::data("chunks".into()))).await.unwrap();
                drop(frames);
                let mut chunked = request(method, "/", unsized_body);
                if version == Version::HTTP_11 {
                    chunked.headers_mut().insert("transfer-encoding", HeaderValue::from_static("chunked"));
                }
                let response = client.send(chunked).await.unwrap();
                assert_eq!(response.headers()["x-framing"], "chunked", "{version:?} {method}");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "in two chunks");
            }
            for method in ["GET", "DELETE"] {
                let response = client.send(request(method, "/", AnyBody::default())).await.unwrap();
                assert_eq!(response.headers()["x-method"], method);
                assert_eq!(response.headers()["x-framing"], "no body", "{version:?} {method}");
                assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn responses_without_a_body_are_correct() {
    within_20_s(async {
        let upstream = upstream(|request| async move {
            let mut response = Response::new(AnyBody::default());
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
                let uri = if target == "*" { "*".to_owned() } else { format!("http://server.test{target}") };
                let request = Request::builder().method(method).uri(uri).body(AnyBody::default()).unwrap();
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
                // hyper's client cannot send this request over HTTP/2.
                assert_eq!(answer(Method::OPTIONS, "*").await.headers["x-target"], "*");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn response_trailers_pass() {
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
            let opening = if content_type == "text/plain" { "" } else { ":\n\n" };
            assert_eq!(body.to_bytes(), format!("{opening}data: x\n\n"));
        }
    })
    .await;
}

#[tokio::test]
async fn request_trailers_pass() {
    within_20_s(async {
        let upstream = upstream(|request| async {
            let body = request.into_body().collect().await.unwrap();
            Response::builder().header("x-got", &body.trailers().unwrap()["x-sum"]).body(AnyBody::default()).unwrap()
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut request = request("POST", "/", with_trailers("some"));
            request.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
            let response = gateway.client(version).await.send(request).await.unwrap();
            assert_eq!(response.headers()["x-got"], "42");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_with_trailers_ends_for_a_client_that_accepts_none() {
    within_20_s(async {
        let response = event_stream(with_trailers("data: x\n\n"));
        let upstream = upstream_once(response).await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert!(body.trailers().is_none());
        assert_eq!(body.to_bytes(), ":\n\ndata: x\n\n");
    })
    .await;
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
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
            assert_eq!(all(&headers, "connection"), ["te"], "`connection` must name `te`");
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
async fn the_upstream_is_told_the_clients_address_and_host() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            gateway.client(version).await.send(get("/")).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
            assert_eq!(headers["x-forwarded-host"], "server.test");
            assert_eq!(headers["x-forwarded-proto"], "http");
            assert_eq!(all(&headers, "host"), ["server.test"]);

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
            assert_eq!(all(&headers, "x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(all(&headers, "x-forwarded-host"), ["server.test"]);
            assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
            assert_eq!(all(&headers, "cookie"), ["a=1; b=2"]);
        }
        let to_a_forward_proxy = "GET http://other.test/path HTTP/1.1\r\nhost: x.test\r\n\r\n";
        let _connection = raw(gateway.address, to_a_forward_proxy).await;
        let request = requests.recv().await.unwrap();
        assert_eq!(request.uri, "/path");
        assert_eq!(all(&request.headers, "host"), ["other.test"]);
        assert_eq!(request.headers["x-forwarded-host"], "other.test");
    })
    .await;
}

#[tokio::test]
async fn the_upstreams_path_is_prepended() {
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
async fn clients_and_upstreams_of_http_1_0_work() {
    within_20_s(async {
        let old = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: x\n\n";
        let gateway = Gateway::start(&raw_upstream(old).await, &[]).await;
        let mut answer = String::new();
        let mut client = raw(gateway.address, "GET / HTTP/1.0\r\n\r\n").await;
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\n:\n\ndata: x\n\n"), "{answer}");
        assert!(!answer.contains("chunked"), "{answer}");

        let response = gateway.client(Version::HTTP_11).await.send(get("/")).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), ":\n\ndata: x\n\n");
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

pub(crate) async fn recording_upstream() -> (String, mpsc::UnboundedReceiver<Parts>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let upstream = upstream(move |request| {
        seen.send(request.into_parts().0).unwrap();
        async { Response::new(AnyBody::default()) }
    });
    (upstream.await, requests)
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

pub(crate) fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

pub(crate) fn header((name, value): (&'static str, &'static str)) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}
