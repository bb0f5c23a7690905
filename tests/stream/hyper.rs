//! The layer on plain hyper servers over real loopback sockets: the same contracts on HTTP/1.1 and HTTP/2.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::{Buf, Bytes};
use eventsource_stream::{Event as Received, Eventsource};
use http::{
    HeaderValue, Request, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TE, TRAILER},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{body::Incoming, server};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt};
use tower::service_fn;
use tower_layer::Layer;
use tower_sse::{ClientHandle, CloseReason, Event, Heartbeat, Registry, SseLayer};

use crate::{
    bodies::{AnyBody, AnyError, channel, event_stream, with_trailers},
    client::{Client, get, request},
    listener::listen,
    test_server::handle_of,
    time_limit::{on_both_versions, within_20_s},
};

#[tokio::test]
async fn headers_come_at_once_before_any_event() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, subscribed_to("news")).await;
        let response = test_server.client().await.send(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.version(), version);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(test_server.registry.stats().published, 0);
        assert_eq!(test_server.registry.stats().clients, 1);
        test_server.handles.recv().await.unwrap();
    })
    .await;
}

/// Firefox shows a page nothing of the response before the first bytes.
#[tokio::test]
async fn the_first_bytes_come_at_once_with_default_settings() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, async |request: Request<Incoming>| {
            let handle = handle_of(&request);
            if request.uri().query() == Some("subscribed") {
                handle.subscribe("news").unwrap();
            }
            handle.into_stream().into_response::<Empty<Bytes>>()
        })
        .await;
        // The first heartbeat is due after 7 s at the earliest.
        let patience = Duration::from_secs(5);
        for (target, expected) in [("/default", ":\n\n"), ("/default?subscribed", "event: position\ndata: \nid: ")] {
            let mut response = test_server.client().await.send(get(target)).await.unwrap();
            let frame =
                timeout(patience, response.frame()).await.expect("the first bytes come at once").unwrap().unwrap();
            let first = frame.into_data().unwrap();
            assert!(first.starts_with(expected.as_bytes()) && first.ends_with(b"\n\n"), "{target}: {first:?}");
        }
        assert_eq!(test_server.registry.stats().published, 0);
    })
    .await;
}

#[tokio::test]
async fn keep_alive_is_sent_on_http_1_1_only() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, subscribed_to("news")).await;
        let response = test_server.client().await.send(get("/")).await.unwrap();
        match version {
            Version::HTTP_11 => assert_eq!(response.headers()[CONNECTION], "keep-alive"),
            _ => assert!(!response.headers().contains_key(CONNECTION)),
        }
    })
    .await;
}

#[tokio::test]
async fn published_events_arrive() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, subscribed_to("news")).await;
        let mut events = subscribed(test_server.client().await.send(get("/")).await.unwrap()).await;
        for text in ["one", "two\nlines", "", "grüße"] {
            let receipt = test_server.registry.publish("news", Event::data(text).event("item")).unwrap();
            assert_eq!(receipt.subscribers(), 1);
            test_server.registry.publish("elsewhere", Event::data("not for this one")).unwrap();
            let event = events.next().await.unwrap();
            assert_eq!((event.event.as_str(), event.data.as_str()), ("item", text));
            assert_eq!(event.id, receipt.position().unwrap().to_string());
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_stream_gets_heartbeats() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, subscribed_to("news")).await;
        let response = test_server.client().await.send(get("/with-heartbeats")).await.unwrap();
        let mut body = response.into_body().into_data_stream();
        assert_eq!(after_the_position(&body.next().await.unwrap().unwrap()), "");
        for _ in 0..3 {
            assert_eq!(body.next().await.unwrap().unwrap(), ":\n\n");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_resumed_by_header_and_by_query() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, subscribed_to("news")).await;
        let publish =
            |text| test_server.registry.publish("news", Event::data(text)).unwrap().position().unwrap().to_string();
        let seen = publish("seen");
        publish("missed");

        let mut by_header = get("/");
        by_header.headers_mut().insert("last-event-id", HeaderValue::from_str(&seen).unwrap());
        let by_query = get(&format!("/?topic=news&lastEventId={seen}"));
        let mut client = test_server.client().await;
        let mut streams = Vec::new();
        for request in [by_header, by_query] {
            // HTTP/1.1 has one stream per connection.
            if version == Version::HTTP_11 {
                client = test_server.client().await;
            }
            let mut events = subscribed(client.send(request).await.unwrap()).await;
            assert_eq!(events.next().await.unwrap().data, "missed");
            streams.push(events);
        }
        publish("live");
        for events in &mut streams {
            assert_eq!(events.next().await.unwrap().data, "live");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_is_unregistered() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, subscribed_to("news")).await;
        let mut client = test_server.client().await;
        let response = client.send(get("/")).await.unwrap();
        let handle = test_server.handles.recv().await.unwrap();
        assert_eq!(test_server.registry.stats().clients, 1);
        drop(response);
        assert_eq!(handle.closed().await, CloseReason::ClientDisconnected);
        assert_eq!(test_server.registry.stats().clients, 0);
        assert_eq!(test_server.registry.publish("news", Event::data("nobody")).unwrap().subscribers(), 0);
        assert!(handle.subscribe("too-late").is_err());
    })
    .await;
}

/// hyper does not notice that such a client closed its connection until a write fails.
#[tokio::test]
async fn a_heartbeat_finds_that_a_client_with_a_pipelined_request_has_left() {
    within_20_s(async {
        let mut test_server = TestServer::open(Version::HTTP_11, subscribed_to("news")).await;
        let mut socket = TcpStream::connect(test_server.address).await.unwrap();
        socket.write_all(b"GET /with-heartbeats HTTP/1.1\r\nhost: x.test\r\n\r\nGET / HTTP").await.unwrap();
        let handle = test_server.handles.recv().await.unwrap();
        socket.read_u8().await.unwrap();
        drop(socket);
        assert_eq!(handle.closed().await, CloseReason::ClientDisconnected);
        assert_eq!(test_server.registry.stats().clients, 0);
    })
    .await;
}

#[tokio::test]
async fn closing_the_client_ends_the_response_cleanly() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, subscribed_to("news")).await;
        let mut client = test_server.client().await;
        for publishes_on in [true, false] {
            let response = client.send(get("/")).await.unwrap();
            let handle = test_server.handles.recv().await.unwrap();
            test_server.registry.publish("news", Event::data("the last")).unwrap();
            handle.close();
            if publishes_on {
                test_server.registry.publish("news", Event::data("too late")).unwrap();
            }
            let body = response.into_body().collect().await.expect("a clean end").to_bytes();
            let body = after_the_position(&body);
            assert!(body.starts_with("data: the last\n") && body.ends_with("\n\n"), "{body:?}");
            assert_eq!(body.matches("data:").count(), 1, "{body:?}");
            assert_eq!(handle.closed().await, CloseReason::ByServer);
            assert_eq!(test_server.registry.stats().clients, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn closing_a_silent_client_ends_the_response_cleanly() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, subscribed_to("news")).await;
        let response = test_server.client().await.send(get("/")).await.unwrap();
        let handle = test_server.handles.recv().await.unwrap();
        handle.close();
        let body = response.into_body().collect().await.expect("a clean end").to_bytes();
        assert_eq!(after_the_position(&body), "");
        assert_eq!(handle.closed().await, CloseReason::ByServer);
    })
    .await;
}

#[tokio::test]
async fn a_head_request_gets_no_stream() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, subscribed_to("news")).await;
        let mut client = test_server.client().await;
        let response = client.send(request("HEAD", "/", AnyBody::default())).await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        let handle = test_server.handles.recv().await.unwrap();
        assert_eq!(handle.closed().await, CloseReason::NoStream);
        assert_eq!(test_server.registry.stats().clients, 0);
    })
    .await;
}

#[tokio::test]
async fn a_response_that_is_no_stream_keeps_its_length() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, async |_: Request<Incoming>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"{\"a\": 1}\n\n")));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        })
        .await;
        let response = test_server.client().await.send(get("/with-heartbeats")).await.unwrap();
        assert_eq!(response.headers()[CONTENT_LENGTH], "10");
        for absent in ["cache-control", "x-accel-buffering", "connection"] {
            assert!(!response.headers().contains_key(absent), "{absent}");
        }
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{\"a\": 1}\n\n");
        assert_eq!(test_server.registry.stats().clients, 0);
    })
    .await;
}

#[tokio::test]
async fn trailers_of_the_handlers_own_body_come_last() {
    on_both_versions(async |version| {
        // The handler's body ends at once. The subscription goes on until the client is closed.
        let mut test_server = TestServer::open(version, async |request: Request<Incoming>| {
            if request.uri().path() == "/subscribed" {
                handle_of(&request).subscribe("news").unwrap();
            }
            let mut response = event_stream(with_trailers("data: own\n\n"));
            response.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
            response
        })
        .await;
        let subscribed = "event: position\ndata: \n\ndata: own\n\ndata: published\n\n";
        for (path, expected) in [("/alone", "data: own\n\n"), ("/subscribed", subscribed)] {
            let mut request = get(path);
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            let mut response = test_server.client().await.send(request).await.unwrap();
            let mut begin = Vec::new();
            while !begin.ends_with(b"data: own\n\n") {
                begin.extend(response.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            let handle = test_server.handles.recv().await.unwrap();
            test_server.registry.publish("news", Event::data("published")).unwrap();
            handle.close();
            let rest = response.into_body().collect().await.unwrap();
            assert_eq!(rest.trailers().unwrap()["x-sum"], "42");
            let all = [&begin, &rest.to_bytes()[..]].concat();
            let without_ids: String =
                String::from_utf8(all).unwrap().split_inclusive('\n').filter(|line| !line.starts_with("id:")).collect();
            assert_eq!(without_ids, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_of_the_handlers_body_ends_the_response_uncleanly() {
    on_both_versions(async |version| {
        let (fails, failing) = watch::channel(false);
        let mut test_server = TestServer::open(version, move |_| {
            let (frames, body) = channel();
            let mut failing = failing.clone();
            tokio::spawn(async move {
                frames.send(Ok(Frame::data("data: own\n\n".into()))).await.unwrap();
                failing.wait_for(|fails| *fails).await.unwrap();
                frames.send(Err("the handler's".into())).await.unwrap();
            });
            std::future::ready(event_stream(body))
        })
        .await;
        let response = test_server.client().await.send(get("/")).await.unwrap();
        let mut frames = response.into_body().into_data_stream();
        assert_eq!(frames.next().await.unwrap().unwrap(), "data: own\n\n");
        fails.send_replace(true);
        assert!(frames.next().await.unwrap().is_err());
        let handle = test_server.handles.recv().await.unwrap();
        assert_eq!(handle.closed().await, CloseReason::BodyFailed);
        assert_eq!(test_server.registry.stats().clients, 0);
    })
    .await;
}

#[tokio::test]
async fn two_hundred_dropped_streams_leave_nothing_behind() {
    on_both_versions(async |version| {
        let mut test_server = TestServer::open(version, async |request: Request<Incoming>| {
            let handle = handle_of(&request);
            handle.subscribe("common").unwrap();
            handle.subscribe(request.uri().path().trim_start_matches('/')).unwrap();
            handle.into_stream().into_response::<Empty<Bytes>>()
        })
        .await;
        let mut client = test_server.client().await;
        let mut streams = Vec::new();
        for n in 0..200 {
            // HTTP/1.1 has one stream per connection.
            if version == Version::HTTP_11 {
                client = test_server.client().await;
            }
            streams.push(client.send(get(&format!("/own/{n}"))).await.unwrap());
        }
        assert_eq!((test_server.registry.stats().clients, test_server.registry.stats().topics), (200, 201));
        drop(streams);
        for _ in 0..200 {
            let handle = test_server.handles.recv().await.unwrap();
            assert_eq!(handle.closed().await, CloseReason::ClientDisconnected);
        }
        assert_eq!((test_server.registry.stats().clients, test_server.registry.stats().topics), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_body_may_have_other_data_than_bytes() {
    on_both_versions(async |version| {
        let test_server = TestServer::open(version, async |request: Request<Incoming>| {
            // The `\r` and `
            // ` of one line end are in two pieces of one frame, and in two frames.
            let chained = |front: &'static [u8], back: &[u8]| Buf::chain(front, VecDeque::from(back.to_vec()));
            let frames = [chained(b"data: a\r", b"\n\r\ndata: "), chained(b"", b"b\r\n\r"), chained(b"\n", b"")];
            let mut response =
                event_stream(StreamBody::new(tokio_stream::iter(frames.map(Frame::data).map(Ok::<_, Infallible>))));
            if request.uri().path() == "/plain" {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            response
        })
        .await;
        for path in ["/stream", "/plain"] {
            let response = test_server.client().await.send(get(path)).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "data: a\r\n\r\ndata: b\r\n\r\n", "{path}");
        }
        let mut events = events(test_server.client().await.send(get("/stream")).await.unwrap());
        assert_eq!(events.next().await.unwrap().data, "a");
        assert_eq!(events.next().await.unwrap().data, "b");
        assert!(events.next().await.is_none());
    })
    .await;
}

/// A server with the layer, and the handles of its handlers' clients.
struct TestServer {
    version: Version,
    address: SocketAddr,
    registry: Registry,
    /// The client handle of every request, in order.
    handles: mpsc::UnboundedReceiver<ClientHandle>,
}

impl TestServer {
    /// The path `/with-heartbeats` has a heartbeat every 3 ms, `/default` has the layer's defaults, and others have no
    /// heartbeats.
    async fn open<A, B>(version: Version, answer: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static) -> Self
    where
        A: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data: Send, Error: Into<AnyError> + Send> + Send + 'static,
    {
        let registry = Registry::new();
        let (seen, handles) = mpsc::unbounded_channel();
        let layer = SseLayer::new(&registry);
        let address = listen(move |socket| {
            let inner = service_fn({
                let (answer, seen) = (answer.clone(), seen.clone());
                move |request: Request<Incoming>| {
                    let _ = seen.send(handle_of(&request));
                    let answer = answer(request);
                    async { Ok::<_, Infallible>(answer.await) }
                }
            });
            let default = layer.clone().layer(inner.clone());
            let quiet = layer.clone().heartbeat(Heartbeat::off()).layer(inner.clone());
            let lively = layer.clone().heartbeat(Heartbeat::every(Duration::from_millis(3))).layer(inner);
            let service = service_fn(move |request: Request<Incoming>| {
                let service = match request.uri().path() {
                    "/with-heartbeats" => lively.clone(),
                    "/default" => default.clone(),
                    _ => quiet.clone(),
                };
                tower::ServiceExt::oneshot(service, request)
            });
            async move {
                let (socket, service) = (TokioIo::new(socket), TowerToHyperService::new(service));
                let _ = if version == Version::HTTP_2 {
                    let server = server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(socket, service).await
                } else {
                    server::conn::http1::Builder::new().serve_connection(socket, service).await
                };
            }
        })
        .await;
        Self { version, address, registry, handles }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address, self.version).await
    }
}

/// A handler that subscribes its client to a topic and streams.
fn subscribed_to(
    topic: &'static str,
) -> impl Fn(Request<Incoming>) -> std::future::Ready<Response<Empty<Bytes>>> + Clone + Send {
    move |request| {
        let handle = handle_of(&request);
        handle.subscribe(topic).unwrap();
        std::future::ready(handle.into_stream().into_response())
    }
}

fn events(response: Response<Incoming>) -> impl Stream<Item = Received> + Unpin {
    Box::pin(response.into_body().into_data_stream().eventsource().map(Result::unwrap))
}

/// The events of a stream with subscriptions, after its position event.
async fn subscribed(response: Response<Incoming>) -> impl Stream<Item = Received> + Unpin {
    let mut events = events(response);
    let first = events.next().await.unwrap();
    assert_eq!((&*first.event, &*first.data, first.id.is_empty()), ("position", "", false));
    events
}

/// The text after the position event of a stream with subscriptions.
fn after_the_position(wire: &[u8]) -> &str {
    let wire = std::str::from_utf8(wire).unwrap();
    let id_and_rest = wire.strip_prefix("event: position\ndata: \nid: ").expect(wire);
    id_and_rest.split_once("\n\n").expect(wire).1
}
