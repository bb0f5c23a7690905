//! Requests that are answered without a stream although their handlers have prepared one, over real sockets: what HEAD
//! returns, and that no such request leaves anything behind.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get as on_get};
use http::{HeaderMap, Request, Response, StatusCode, Version, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::StreamExt;
use tower::{ServiceExt, service_fn};
use tower_sse::{ClientHandle, CloseReason, Event, Heartbeat, Limit, Presence, Registry, Retention, SseLayer};

use crate::{
    bodies::{AnyBody, any, event_stream},
    client::{Client, VERSIONS, get, request},
    observer::{Observed, Recorder},
    test_server::{App, TestServer, app, handle_of, on_all, until, within},
};

fn quiet(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::off())
}

/// The headers without those that frame the body, and without the date.
fn said(headers: &HeaderMap) -> BTreeMap<String, String> {
    let said = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    said.filter(|(name, _)| name != "date" && name != "transfer-encoding").collect()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

/// The status and headers of HEAD, and those of GET, for one route on one connection.
async fn compare(address: SocketAddr, version: Version, target: &str) -> (StatusCode, BTreeMap<String, String>) {
    let mut peer = Client::connect(address, version).await;
    let mut heads = Vec::new();
    for method in ["HEAD", "HEAD", "GET"] {
        let response = within(peer.send(request(method, target, AnyBody::default()))).await.unwrap();
        let (head, body) = response.into_parts();
        if method == "HEAD" {
            assert!(within(body.collect()).await.unwrap().to_bytes().is_empty());
        }
        heads.push((head.status, said(&head.headers)));
    }
    assert_eq!((&heads[0], &heads[1]), (&heads[2], &heads[2]), "{target}");
    heads.remove(0)
}

fn is_that_of_a_stream(said: &BTreeMap<String, String>, version: Version) {
    assert_eq!(said["content-type"], "text/event-stream");
    assert_eq!(said["cache-control"], "no-cache, no-transform");
    assert_eq!(said["x-accel-buffering"], "no");
    assert!(!said.contains_key("content-length"), "{said:?}");
    assert_eq!(said.get("connection").map(String::as_str), (version == Version::HTTP_11).then_some("keep-alive"));
}

mod a_head_response {
    use super::*;

    #[tokio::test]
    async fn has_the_headers_of_get_and_no_stream() {
        on_all(async |server, version| {
            let limit = Limit::streams(1);
            let registry = Registry::new();
            let (sender, mut handles) = mpsc::unbounded_channel();
            let app = app(&quiet(&registry).limit(limit.clone()), move |request| {
                let client = handle_of(&request);
                client.subscribe("news").unwrap();
                client.send(Event::data("welcome")).unwrap();
                sender.send(client.clone()).unwrap();
                std::future::ready(client.into_stream().into_response::<AnyBody>())
            });
            let test_server = TestServer::open(server, app).await;
            let (status, said) = compare(test_server.address, version, "/").await;
            assert_eq!(status, 200);
            is_that_of_a_stream(&said, version);
            for _ in 0..2 {
                let client = handles.recv().await.unwrap();
                assert_eq!(within(client.closed()).await, CloseReason::NoStream);
                assert_eq!((client.subscriptions().len(), client.stats().age), (0, None));
            }
            until(|| limit.open_streams() == 0).await;
            assert_eq!(registry.stats().closed_streams.values().sum::<u64>(), 1, "only GET had a stream");
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }

    /// Axum calls GET's handler for HEAD, and removes the body from the response.
    #[tokio::test]
    async fn of_an_axum_route_has_the_headers_of_get_at_any_layer_position() {
        for version in VERSIONS {
            let registry = Registry::new();
            let layer = quiet(&registry);
            let subscribed = async |client: ClientHandle| {
                client.subscribe("news").unwrap();
                client.into_stream()
            };
            let produced = async |client: ClientHandle| {
                client.subscribe("over").unwrap();
                client.into_stream()
            };
            let read = async |client: ClientHandle| {
                let events = client.clone().into_events();
                client.subscribe("news").unwrap();
                let events = events.map(|_| Ok::<_, Infallible>(axum::response::sse::Event::default()));
                axum::response::Sse::new(events)
            };
            registry.start_producer("over").unwrap().end();
            let routes = move || {
                Router::new()
                    .route("/", on_get(subscribed))
                    .route("/over", on_get(produced))
                    .route("/read", on_get(read))
                    .route("/json", on_get(async || "{}"))
            };
            let around = layer.clone();
            let outside = Router::new().fallback_service(service_fn(move |request: Request<axum::body::Body>| {
                let service = tower_layer::Layer::layer(&around, routes());
                async move { Ok::<_, Infallible>(service.oneshot(request).await.unwrap().map(axum::body::Body::new)) }
            }));
            for router in [routes().layer(layer), outside] {
                let address = serve(router).await;
                let (status, said) = compare(address, version, "/").await;
                assert_eq!(status, 200);
                is_that_of_a_stream(&said, version);
                let over =
                    Client::connect(address, version).await.send(request("HEAD", "/over", AnyBody::default())).await;
                let over = over.unwrap();
                // To a HEAD, axum sends the length of any 204 of its own.
                assert_eq!(
                    (over.status(), over.headers().contains_key("content-type")),
                    (StatusCode::NO_CONTENT, false)
                );
                assert_eq!(compare(address, version, "/json").await.1[CONTENT_LENGTH.as_str()], "2");
                let (status, said) = compare(address, version, "/read").await;
                assert_eq!((status, said["content-type"].as_str()), (StatusCode::OK, "text/event-stream"));
                assert!(!said.contains_key("content-length"));
            }
        }
    }

    #[tokio::test]
    async fn drops_the_handlers_stream_and_its_length() {
        on_all(async |server, version| {
            let registry = Registry::new();
            let app = app(&quiet(&registry), |_| {
                let mut response = event_stream(any("data: own\n\n".to_owned()));
                response.headers_mut().insert(CONTENT_LENGTH, 11.into());
                response.headers_mut().insert("x-own", "1".parse().unwrap());
                std::future::ready(response)
            });
            let test_server = TestServer::open(server, app).await;
            let (_, said) = compare(test_server.address, version, "/").await;
            is_that_of_a_stream(&said, version);
            assert_eq!(said["x-own"], "1");
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }
}

/// A handler that prepares everything that a stream can have, and then returns no stream.
fn prepare(client: &ClientHandle) {
    client.insert_metadata(1_u32);
    client.subscribe("room").unwrap();
    client.subscribe(tower_sse::Subscription::matching("room/*")).unwrap();
    client.send(Event::data("welcome")).unwrap();
    client.expire_after(Duration::from_secs(60));
}

/// The kinds of requests without a stream: the method, the path, how often it is sent, and the status. `None`: the
/// request is cancelled.
const KINDS: [(&str, &str, usize, Option<u16>); 6] = [
    ("HEAD", "/", 500, Some(200)),
    ("HEAD", "/read", 50, Some(200)),
    ("GET", "/403", 50, Some(403)),
    ("GET", "/", 50, Some(503)),
    ("GET", "/panic", 20, None),
    ("GET", "/pending", 20, None),
];

fn app_without_streams(layer: &SseLayer, begun: &Arc<AtomicUsize>) -> App {
    let begun = Arc::clone(begun);
    app(layer, move |request| {
        let (client, begun) = (handle_of(&request), Arc::clone(&begun));
        async move {
            prepare(&client);
            begun.fetch_add(1, Ordering::Relaxed);
            match request.uri().path() {
                "/403" => Response::builder().status(403).body(AnyBody::default()).unwrap(),
                "/panic" => std::panic::resume_unwind(Box::new("a handler that was meant to fail")),
                "/pending" => std::future::pending().await,
                "/read" => event_stream(any(format!("{:?}", client.into_events()))),
                _ => client.into_stream().into_response(),
            }
        }
    })
}

async fn assert_nothing_is_left(registry: &Registry, room: &Presence, recorder: &Recorder) {
    // The state of cancelled requests is removed when the server notices that they are.
    until(|| registry.stats().topics == 0).await;
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions, stats.events, stats.bytes), (0, 0, 0, 0));
    assert!(stats.closed_streams.is_empty() && room.members().is_empty() && registry.clients().is_empty());
    let told = recorder.of_clients();
    assert!(told.iter().all(|told| matches!(told, Observed::StreamRefused(..))), "{told:?}");
}

#[tokio::test]
async fn requests_without_a_stream_leave_nothing_behind() {
    on_all(async |server, version| {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config.limit(Limit::streams(0)).topic_retention(Retention::default()));
        let (room, pattern) = (registry.presence("room").unwrap(), registry.presence("room/*").unwrap());
        let begun = Arc::<AtomicUsize>::default();
        let test_server = TestServer::open(server, app_without_streams(&quiet(&registry), &begun)).await;
        let mut asked = 0;
        for (method, target, times, status) in KINDS {
            let mut peer = Client::connect(test_server.address, version).await;
            for _ in 0..times {
                asked += 1;
                // Without an `accept` header, so that the limit is checked after the handler has run.
                let asking = request(method, target, AnyBody::default());
                let Some(status) = status else {
                    let mut peer = Client::connect(test_server.address, version).await;
                    let answer = tokio::spawn(async move { peer.send(asking).await.map(drop) });
                    until(|| begun.load(Ordering::Relaxed) == asked).await;
                    assert_eq!(
                        (room.count(), registry.stats().clients),
                        (0, 0),
                        "not even while the request is being handled"
                    );
                    answer.abort();
                    continue;
                };
                let response = within(peer.send(asking)).await.unwrap();
                assert_eq!(response.status(), status, "{method} {target}");
                within(response.into_body().collect()).await.unwrap();
            }
            assert_eq!(begun.load(Ordering::Relaxed), asked);
            assert_nothing_is_left(&registry, &room, &recorder).await;
            assert_eq!((room.count(), pattern.count()), (0, 0));
        }
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

/// Between the subscription and the start of the stream, no observer is told of an event, and no event is lost.
#[tokio::test]
async fn events_published_before_the_stream_begins_are_sent_but_not_counted() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut handles) = mpsc::unbounded_channel();
        let app = app(&quiet(&registry), move |request| {
            let (client, (go, going)) = (handle_of(&request), tokio::sync::oneshot::channel());
            client.subscribe("news").unwrap();
            sender.send((client.clone(), go)).unwrap();
            async move {
                going.await.unwrap();
                client.into_stream().into_response::<AnyBody>()
            }
        });
        let test_server = TestServer::open(server, app).await;
        let mut peer = Client::connect(test_server.address, version).await;
        let answer = tokio::spawn(async move { (peer.send(get("/")).await.unwrap(), peer) });
        let (client, go) = handles.recv().await.unwrap();
        assert_eq!(registry.publish("news", Event::data("early")).unwrap().subscribers(), 0);
        assert_eq!((registry.stats().clients, registry.clients().len()), (0, 0));
        assert!(registry.client(&client.id()).is_some(), "the client can be found by its id");
        go.send(()).unwrap();
        let (mut response, _peer) = within(answer).await.unwrap();
        assert_eq!((registry.stats().clients, registry.stats().subscriptions, registry.clients().len()), (1, 1, 1));
        assert_eq!(registry.publish("news", Event::data("late")).unwrap().subscribers(), 1);
        let mut text = String::new();
        while !text.contains("late") {
            let frame = within(response.frame()).await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
        assert_eq!(data.collect::<Vec<_>>(), ["early", "late"]);
        client.close();
        drop(response);
        within(test_server.stop()).await.unwrap();
    })
    .await;
}
