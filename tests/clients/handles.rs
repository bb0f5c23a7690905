//! Calls on a client handle that come too late, come twice, or belong to another request's client. Each call works, or
//! returns an error that says why.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::Request, response::IntoResponse, routing::get};
use bytes::Bytes;
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_stream::StreamExt;
use tower_sse::{
    ClientHandle, CloseReason, EventStream, Limit, RefusedReason, Registry, RegistryConfig, SseLayer, Subscription,
};

use crate::{
    answer::answer,
    bodies,
    bodies::event_stream,
    observer::{Observed, Recorder},
    open::open,
    polling,
    polling::{bounded, data, fields, publish, quiet, received, subscribed, text},
};

/// The time limit of each test.
const BOUND: Duration = Duration::from_secs(20);

fn request() -> http::Request<()> {
    http::Request::new(())
}

fn refused<B>(response: &Response<B>) -> Option<RefusedReason> {
    response.extensions().get().cloned()
}

/// The reasons of the refusals that the observer was told.
fn told_refused(recorder: &Recorder) -> Vec<RefusedReason> {
    let refused = |observed| match observed {
        Observed::StreamRefused(_, refused) => Some(refused),
        _ => None,
    };
    recorder.take().into_iter().filter_map(refused).collect()
}

mod an_event_stream_without_a_reader {
    use super::*;

    /// Returns the client's response to a request that is answered with this event stream.
    fn answered_with(
        stream: impl FnOnce(&Registry, &ClientHandle) -> EventStream,
    ) -> (RefusedReason, Vec<RefusedReason>) {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let (_, response) =
            answer(&quiet(&registry), request(), |client| stream(&registry, client).into_response::<Empty<Bytes>>());
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().get(CONTENT_TYPE).is_none_or(|it| it != "text/event-stream"));
        assert_eq!(registry.stats().refused_streams, 1);
        (refused(&response).unwrap(), told_refused(&recorder))
    }

    #[test]
    fn is_refused_if_its_client_has_no_request() {
        let all = answered_with(|registry, _| subscribed(registry, ["topic"]).into_stream());
        assert_eq!(all, (RefusedReason::OtherClient, vec![RefusedReason::OtherClient]));
    }

    #[test]
    fn is_refused_if_its_client_is_closed() {
        let all = answered_with(|_, client| {
            drop(client.clone().into_events());
            client.clone().into_stream()
        });
        let over = RefusedReason::StreamEnded { reason: CloseReason::ClientDisconnected };
        assert_eq!(all, (over.clone(), vec![over]));
    }

    #[test]
    fn is_refused_if_its_clients_events_are_read_elsewhere() {
        let mut events = None;
        let all = answered_with(|_, client| {
            events = Some(client.clone().into_events());
            client.clone().into_stream()
        });
        assert_eq!(all, (RefusedReason::Open, vec![RefusedReason::Open]));
    }

    #[test]
    fn is_refused_as_the_response_to_another_request() {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let layer = quiet(&registry);
        let mut waiting = None;
        let (_, response) = answer(&layer, request(), |other| {
            let (_, response) =
                answer(&layer, request(), |_| other.clone().into_stream().into_response::<Empty<Bytes>>());
            waiting = Some(response);
            other.clone().into_stream().into_response::<Empty<Bytes>>()
        });
        let other = waiting.unwrap();
        assert_eq!(
            (other.status(), refused(&other)),
            (StatusCode::INTERNAL_SERVER_ERROR, Some(RefusedReason::OtherClient))
        );
        assert_eq!(
            (response.status(), refused(&response)),
            (StatusCode::OK, None),
            "the other request's own stream is unchanged"
        );
        assert_eq!(told_refused(&recorder), [RefusedReason::OtherClient]);
    }

    #[tokio::test]
    async fn is_refused_with_a_body_that_says_why() {
        let registry = Registry::new();
        let response = IntoResponse::into_response(registry.connect().into_stream());
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "the response is the event stream of another client");
    }

    #[test]
    fn is_not_assumed_behind_two_layers() {
        let registry = Registry::new();
        let (inner, outer) = (quiet(&registry), quiet(&registry));
        let (_, response) = answer(&outer, request(), |_| {
            let (_, response) =
                answer(&inner, request(), |client| client.clone().into_stream().into_response::<Empty<Bytes>>());
            response
        });
        assert_eq!((response.status(), refused(&response)), (StatusCode::OK, None));
    }

    #[test]
    fn is_not_assumed_if_the_handler_has_a_body_of_its_own() {
        let limit = Limit::streams(1);
        let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
        let (_, response) = answer(&quiet(&registry), request(), |client| {
            drop(client.clone().into_events());
            event_stream(bodies::with_trailers("data: own\n\n"))
        });
        assert_eq!(refused(&response), None);
        assert_eq!(limit.open_streams(), 1);
        let mut body = response.into_body();
        assert_eq!(fields(&polling::rest(&mut body).0, "data"), ["own"]);
        drop(body);
        assert_eq!(limit.open_streams(), 0);
    }
}

mod events {
    use super::*;

    #[test]
    fn of_an_open_stream_cannot_be_read_by_a_second_reader() {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("topic").unwrap());
        let mut thief = registry.client(&client.id()).unwrap().into_events();
        assert_eq!(thief.refused(), Some(&RefusedReason::Open));
        assert_eq!(told_refused(&recorder), [RefusedReason::Open]);
        publish(&registry, "topic", "1");
        assert_eq!((data(&mut thief), received(&mut body)), (vec![], vec!["1".to_owned()]));
        drop(thief);
        publish(&registry, "topic", "2");
        assert_eq!(received(&mut body), ["2"], "the stream is still open");
        assert_eq!(registry.stats().clients, 1);
    }

    #[test]
    fn of_a_client_that_is_being_read_cannot_be_read_by_a_second_reader() {
        let registry = Registry::new();
        let client = subscribed(&registry, ["topic"]);
        let mut events = client.clone().into_events();
        assert_eq!(events.refused(), None);
        assert_eq!(client.clone().into_events().refused(), Some(&RefusedReason::Open));
        publish(&registry, "topic", "1");
        assert_eq!(data(&mut events), ["1"]);
        drop(events);
        assert_eq!(
            client.into_events().refused(),
            Some(&RefusedReason::StreamEnded { reason: CloseReason::ClientDisconnected })
        );
    }

    #[test]
    fn of_one_client_have_one_reader_if_many_threads_ask_at_once() {
        bounded(|| {
            for _ in 0..200 {
                let registry = Registry::new();
                let client = subscribed(&registry, ["topic"]);
                publish(&registry, "topic", "1");
                let mut all = std::thread::scope(|scope| {
                    let asked = [0, 1].map(|_| scope.spawn(|| client.clone().into_events()));
                    asked.map(|asked| asked.join().unwrap())
                });
                assert_eq!(all.iter().filter(|events| events.refused() == Some(&RefusedReason::Open)).count(), 1);
                assert_eq!(all.iter_mut().flat_map(data).collect::<Vec<_>>(), ["1"]);
            }
        });
    }

    #[test]
    fn are_refused_after_the_request_got_another_response() {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let (client, _response) = answer(&quiet(&registry), request(), |client| {
            client.subscribe("topic").unwrap();
            Response::new(Empty::<Bytes>::new())
        });
        let over = RefusedReason::StreamEnded { reason: CloseReason::NoStream };
        assert_eq!(client.into_events().refused(), Some(&over));
        assert_eq!(told_refused(&recorder), [over]);
    }

    #[test]
    fn are_refused_if_no_slot_is_free() {
        let registry = Registry::with_config(RegistryConfig::default().limit(Limit::streams(0)));
        answer(&quiet(&registry), request(), |client| {
            let events = client.clone().into_events();
            assert_eq!(events.refused(), Some(&RefusedReason::Full { key: None, limit: 0 }));
            Response::new(Empty::<Bytes>::new())
        });
    }
}

mod an_upgraded_connection {
    use super::*;

    fn switching() -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }

    fn connecting() -> http::Request<()> {
        http::Request::builder().method(Method::CONNECT).uri("server.test:80").body(()).unwrap()
    }

    /// The same upgrade over HTTP/1.1 and HTTP/2.
    fn upgrades() -> [(http::Request<()>, Response<Empty<Bytes>>); 2] {
        [(request(), switching()), (connecting(), Response::new(Empty::new()))]
    }

    #[test]
    fn reads_its_events_after_the_response() {
        for (request, response) in upgrades() {
            let registry = Registry::new();
            let (client, _response) = answer(&quiet(&registry), request, |client| {
                client.subscribe("topic").unwrap();
                response
            });
            publish(&registry, "topic", "meanwhile");
            client.subscribe("other").unwrap();
            let mut events = client.clone().into_events();
            assert_eq!(events.refused(), None);
            publish(&registry, "other", "later");
            assert_eq!(data(&mut events), ["meanwhile", "later"]);
            drop(events);
            assert_eq!(registry.stats().clients, 0);
        }
    }

    #[test]
    fn leaves_nothing_when_its_last_client_handle_is_dropped() {
        for (request, response) in upgrades() {
            let limit = Limit::streams(1);
            let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
            let (client, _response) = answer(&quiet(&registry), request, |client| {
                client.acquire_slot().unwrap();
                client.subscribe("topic").unwrap();
                response
            });
            assert_eq!((registry.client(&client.id()).is_some(), limit.open_streams()), (true, 1));
            let id = client.id();
            drop(client);
            assert!(registry.client(&id).is_none());
            assert_eq!((registry.stats().topics, limit.open_streams()), (0, 0), "the subscription is removed too");
        }
    }

    #[test]
    fn keeps_its_slot_until_its_events_are_dropped() {
        for (request, response) in upgrades() {
            let limit = Limit::streams(1);
            let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
            let layer = quiet(&registry);
            let (client, _response) = answer(&layer, request, |client| {
                client.acquire_slot().unwrap();
                response
            });
            limit.set_limit(0);
            assert_eq!(limit.open_streams(), 1);
            let events = client.into_events();
            assert_eq!((events.refused(), limit.open_streams()), (None, 1));
            drop(events);
            assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
        }
    }

    #[test]
    fn takes_its_slot_at_the_latest_when_its_events_are_asked_for() {
        for (request, response) in upgrades() {
            let limit = Limit::streams(1);
            let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
            let (client, _response) = answer(&quiet(&registry), request, |_| response);
            assert_eq!(limit.open_streams(), 0);
            let events = client.into_events();
            assert_eq!((events.refused(), limit.open_streams()), (None, 1));
            drop(events);
            assert_eq!(limit.open_streams(), 0);
        }
    }

    /// Answers with a 101 and reads the events in a task of the upgraded connection, as a WebSocket handler does.
    async fn upgrade(client: ClientHandle, mut request: Request) -> Result<Response<axum::body::Body>, RefusedReason> {
        client.acquire_slot()?;
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            client.subscribe(Subscription::to("topic")).unwrap();
            let mut events = client.into_events();
            io.write_all(format!("{:?}\n", events.refused()).as_bytes()).await.unwrap();
            let mut byte = [0];
            loop {
                tokio::select! {
                    event = events.next() => {
                        let data = event.unwrap().unwrap().data().unwrap().into_owned();
                        io.write_all(format!("{data}\n").as_bytes()).await.unwrap();
                    }
                    _ = io.read(&mut byte) => break,
                }
            }
        });
        let headers: HeaderMap =
            [(CONNECTION, "upgrade".parse().unwrap()), (UPGRADE, "lines".parse().unwrap())].into_iter().collect();
        Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
    }

    async fn ask(address: SocketAddr) -> (BufReader<TcpStream>, String) {
        let mut socket = BufReader::new(TcpStream::connect(address).await.unwrap());
        let request = "GET / HTTP/1.1\r\nhost: server.test\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(timeout(BOUND, socket.read_line(&mut head)).await.unwrap().unwrap() > 0, "{head}");
        }
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (socket, status)
    }

    async fn line(socket: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        timeout(BOUND, socket.read_line(&mut line)).await.expect("in time").unwrap();
        line.trim_end().to_owned()
    }

    #[tokio::test]
    async fn reads_its_events_over_a_real_socket() {
        let limit = Limit::streams(1);
        let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
        let app = Router::new().route("/", get(upgrade)).layer(SseLayer::new(&registry));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app.into_make_service()).into_future());
        let (mut socket, status) = ask(address).await;
        assert_eq!(status, "101");
        assert_eq!(line(&mut socket).await, "None");
        publish(&registry, "topic", "1");
        assert_eq!(line(&mut socket).await, "1");
        publish(&registry, "topic", "2");
        assert_eq!(line(&mut socket).await, "2");
        assert_eq!(ask(address).await.1, "503", "the first connection has the only slot");
        drop(socket);
        timeout(BOUND, async {
            while limit.open_streams() > 0 || registry.stats().clients > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the client leaves");
    }
}

mod an_event_sent_before_the_stream_begins {
    use tower_sse::{Batching, Event, PositionEvent, Resume, Start};

    use super::*;

    /// Returns the data and the id of each event that has data.
    fn blocks(wire: &str) -> Vec<(String, Option<String>)> {
        let block = |block: &str| {
            let field = |name| fields(block, name).first().map(|value| (*value).to_owned());
            Some((field("data")?, field("id")))
        };
        // The position event has no data.
        wire.split("\n\n").filter_map(block).filter(|(data, _)| !data.is_empty()).collect()
    }

    fn numbers(blocks: &[(String, Option<String>)]) -> String {
        blocks.iter().map(|(data, _)| data.as_str()).collect()
    }

    fn backlog(registry: &Registry) {
        (0..6).for_each(|number| publish(registry, ["a", "b"][number % 2], &number.to_string()));
    }

    fn welcome(client: &ClientHandle) {
        client.send(Event::data("w")).unwrap();
        for topic in ["a", "b"] {
            client.subscribe_from(topic, Start::Oldest).unwrap();
        }
        client.send(Event::data("x").id("of its own").unwrap()).unwrap();
    }

    /// Opens a stream with this id, sends a welcome, and disconnects the client after each of its events in turn.
    fn cut_after_each(layer: &SseLayer, last_event_id: Option<&str>, missed: &str) {
        let (client, mut body) = open(layer, last_event_id, welcome);
        assert!(!matches!(client.resume(), Resume::Gap(_)));
        let had = blocks(&polling::rest(&mut body).0);
        assert_eq!(numbers(&had), format!("wx{missed}"), "the welcome comes first");
        assert_eq!(client.stats().events, 2 + missed.len() as u64);
        for (nth, (_, id)) in had.iter().enumerate() {
            let (client, mut body) = open(layer, id.as_deref(), welcome);
            assert_eq!(client.resume(), Resume::Continued);
            let rest = &missed[(nth + 1).saturating_sub(2)..];
            assert_eq!(numbers(&blocks(&polling::rest(&mut body).0)), format!("wx{rest}"), "cut after {nth}");
        }
    }

    #[test]
    fn comes_first_and_a_disconnect_after_it_loses_no_event() {
        for position_event in [PositionEvent::default(), PositionEvent::off()] {
            let registry = Registry::new();
            let layer = quiet(&registry).position_event(position_event);
            backlog(&registry);
            cut_after_each(&layer, None, "012345");
            let (_, mut body) = open(&layer, None, |client| client.subscribe_from("a", Start::Oldest).unwrap());
            let first =
                blocks(&polling::rest(&mut body).0).into_iter().find_map(|(data, id)| id.filter(|_| data == "2"));
            cut_after_each(&layer, Some(&first.unwrap()), "345");
        }
    }

    #[test]
    fn comes_first_after_an_unknown_id_and_copies_no_line_of_that_id() {
        let registry = Registry::new();
        backlog(&registry);
        let request = http::Request::get("/?lastEventId=1%0Adata:%20injected").body(()).unwrap();
        let (client, response) = answer(&quiet(&registry), request, |client| {
            welcome(client);
            event_stream(Empty::<Bytes>::new())
        });
        let wire = polling::rest(&mut response.into_body()).0;
        assert!(matches!(client.resume(), Resume::Gap(_)));
        let had = blocks(&wire);
        assert_eq!(numbers(&had[..2]), "wx");
        assert!(!wire.contains("injected\n"), "{wire}");
        let (client, _body) = open(&quiet(&registry), had[0].1.as_deref(), |client| client.subscribe("a").unwrap());
        assert!(
            matches!(client.resume(), Resume::Gap(_)),
            "a client that disconnects before the gap event is told when it resumes"
        );
    }

    #[test]
    fn comes_after_a_snapshot_and_before_newer_events() {
        let registry = Registry::new();
        backlog(&registry);
        let snapshot = registry.position();
        let (_, response) = answer(&quiet(&registry), request(), |client| {
            publish(&registry, "a", "6");
            welcome(client);
            client.clone().into_stream().snapshot(Event::data("s"), snapshot).into_response::<Empty<Bytes>>()
        });
        let had = blocks(&text(&mut response.into_body()));
        assert_eq!(numbers(&had), "swx6");
        assert_eq!(had[1].1, Some(snapshot.to_string()));
    }

    #[test]
    fn is_in_an_array_if_the_stream_sends_arrays() {
        let registry = Registry::new();
        backlog(&registry);
        let (_, mut body) = open(&quiet(&registry), None, |client| {
            client.batch(Batching::every(Duration::ZERO).as_array());
            welcome(client);
        });
        let batches = fields(&text(&mut body), "data").into_iter().filter(|data| data.starts_with('[')).count();
        assert_eq!(batches, 2);
    }

    #[test]
    fn comes_first_in_events_and_later_sends_come_in_order() {
        let registry = Registry::new();
        backlog(&registry);
        let client = registry.connect();
        welcome(&client);
        let mut events = client.clone().into_events();
        publish(&registry, "a", "6");
        client.send(Event::data("y")).unwrap();
        publish(&registry, "a", "7");
        let first = polling::next(&mut events).unwrap().unwrap();
        let id = first.id().unwrap().to_owned();
        assert_eq!(first.data().as_deref(), Some("w"));
        assert_eq!(data(&mut events).concat(), "x0123456y7");
        let (_, mut body) = open(&quiet(&registry), Some(&id), |client| {
            ["a", "b"].into_iter().for_each(|topic| client.subscribe(topic).unwrap());
        });
        assert_eq!(received(&mut body).concat(), "01234567");
    }

    #[test]
    fn keeps_its_own_id_if_the_client_has_no_other_subscription() {
        let registry = Registry::new();
        let client = registry.connect();
        client.send(Event::data("w").id("own").unwrap()).unwrap();
        let mut events = client.into_events();
        assert_eq!(polling::next(&mut events).unwrap().unwrap().id(), Some("own"));
    }
}
