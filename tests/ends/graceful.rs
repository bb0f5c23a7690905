//! Graceful shutdown over real sockets, together with the servers' own: what each peer sees on the wire, and what the
//! process is told.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tower_sse::{
    ClientHandle, CloseReason, Drain, Drained, Event, EventStream, RefusedResponse, Registry, RegistryConfig, SseLayer,
};

use crate::{
    bodies::{AnyBody, any},
    client::{Client, get, request},
    layers::quiet,
    test_server::{App, BOUND, SERVERS, Server, TestServer, app, handle_of, on_all, own_bodies, text, until, within},
    wire::{End, Http1, Http2, Seen},
};

const SECOND: Duration = Duration::from_secs(1);
/// A window that no test fills.
const ALL: u32 = 0x7fff_ffff;

const STREAMS: usize = 1000;
const CONNECTIONS: usize = 10;

/// Ends a thousand streams over HTTP/1.1 and a thousand over HTTP/2 within two seconds.
async fn two_thousand_streams_end(server: Server) {
    const BEFORE: usize = 20;
    let window = 2 * SECOND;
    rlimit::increase_nofile_limit(8192).unwrap();
    let registry = Registry::new();
    let test_server = TestServer::open(server, news(&quiet(&registry))).await;
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS {
        let mut one = Http1::get(test_server.address, "/").await;
        assert!(one.head().await.starts_with("http/1.1 200"));
        ones.push(one);
    }
    for _ in 0..CONNECTIONS {
        let mut two = Http2::connect(test_server.address, ALL).await;
        for _ in 0..STREAMS / CONNECTIONS {
            two.get("/").await;
        }
        two.answered().await;
        twos.push(two);
    }
    assert_eq!(registry.stats().clients, 2 * STREAMS);
    (0..BEFORE).for_each(|number| publish(&registry, number));

    let start = Instant::now();
    let mut peers = JoinSet::new();
    ones.into_iter().for_each(|one| _ = peers.spawn(async { vec![one.last_body().await] }));
    twos.into_iter().for_each(|two| _ = peers.spawn(two.all()));
    let served = test_server.stop();
    let farewell = Event::data("bye").event("restart");
    let draining = tokio::spawn(registry.drain(Drain::within(window).farewell(farewell).reconnect_delay(10 * SECOND)));
    let publisher = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(25));
        for number in BEFORE.. {
            ticks.tick().await;
            publish(&registry, number);
        }
    });
    let drained = within(draining).await.unwrap();
    let drained_in = start.elapsed();
    within(served).await.unwrap();
    let served_in = start.elapsed();
    publisher.abort();
    let seen: Vec<Seen> = within(peers.join_all()).await.into_iter().flatten().collect();

    assert_eq!((drained.ended, drained.still_open), (2 * STREAMS as u64, 0));
    assert!(drained_in < window + SECOND / 4, "the drain takes no longer than its window: {drained_in:?}");
    assert!(served_in < window + 10 * SECOND, "a server without streams stops: {served_in:?}");
    let mut retries: Vec<u64> = seen.iter().map(|seen| last_words(seen, BEFORE)).collect();
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > STREAMS, "{} different ones", retries.len());

    let mut ends: Vec<Duration> = seen.iter().map(|seen| seen.at - start).collect();
    ends.sort_unstable();
    assert_eq!(ends.len(), 2 * STREAMS);
    let last = ends[ends.len() - 1];
    println!(
        "{server:?}: first end {:?}, median {:?}, last {last:?}; drained {drained_in:?}, served {served_in:?}",
        ends[0], ends[STREAMS]
    );
    assert!(last < window, "{last:?}");
    for (nth, end) in ends.iter().enumerate() {
        // On a busy machine, several late ends may come at once. But no end may come before its time.
        let due = (window * 3 / 4).mul_f64(nth as f64 / ends.len() as f64);
        assert!(*end >= due, "end {nth} of {} comes after {end:?}", ends.len());
    }
}

fn publish(registry: &Registry, number: usize) {
    registry.publish("news", Event::data(number.to_string())).unwrap();
}

/// Checks what a stream got: all events from before, later ones without a hole, the farewell, and the reconnection
/// time. Returns that time.
fn last_words(seen: &Seen, before: usize) -> u64 {
    assert_eq!(seen.end, End::Clean, "{:?}", seen.text);
    let (events, retry) = seen.text.split_once("event: restart\ndata: bye\nretry: ").expect(&seen.text);
    let events = events.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    let numbers: Vec<&str> = events.map(|event| event.split_once("\nid: ").unwrap().0).collect();
    assert!(numbers.len() >= before, "{numbers:?}");
    numbers.iter().enumerate().for_each(|(nth, number)| assert_eq!(number.parse(), Ok(nth), "{numbers:?}"));
    let retry = retry.strip_suffix("\n\n").unwrap().parse().unwrap();
    assert!((5_000..=15_000).contains(&retry), "{retry}");
    retry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_ends_a_thousand_streams_of_each_version_in_two_seconds() {
    two_thousand_streams_end(Server::Axum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_ends_a_thousand_streams_of_each_version_in_two_seconds() {
    two_thousand_streams_end(Server::Hyper).await;
}

#[tokio::test]
async fn a_drain_refuses_new_streams_and_answers_other_requests() {
    on_all(async |server, version| {
        for refusal in [RefusedResponse::status(), RefusedResponse::reconnect()] {
            let reconnects = format!("{refusal:?}").contains("reconnect");
            let registry = Registry::new();
            // The first stream may finish, so that the drain goes on.
            let test_server =
                TestServer::open(server, news(&quiet(&registry).refused_response(refusal).finish_on_drain(true))).await;
            let stream = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
            let mut other = Client::connect(test_server.address, version).await;
            let draining = tokio::spawn(registry.drain(Drain::within(SECOND).finish_within(BOUND)));
            until(|| registry.is_draining()).await;

            for _ in 0..2 {
                // All requests use the same connection: a refusal does not close it.
                let refused = other.send(asking("/")).await.unwrap();
                let (head, body) = refused.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                if reconnects {
                    assert_eq!(
                        (head.status.as_u16(), &head.headers["content-type"]),
                        (200, &"text/event-stream".parse().unwrap())
                    );
                    let retry = std::str::from_utf8(&body).unwrap().strip_prefix("retry: ").unwrap();
                    let retry: u64 = retry.strip_suffix("\n\n").unwrap().parse().unwrap();
                    assert!((2_500..=7_500).contains(&retry), "{retry}");
                } else {
                    assert_eq!(head.status, 503);
                    let seconds: u64 = head.headers["retry-after"].to_str().unwrap().parse().unwrap();
                    assert!((3..=8).contains(&seconds), "{seconds}");
                }
                let plain = other.send(get("/plain")).await.unwrap();
                assert_eq!((plain.status().as_u16(), text(plain).await.as_str()), (200, "plain"));
                let head = other.send(request("HEAD", "/", AnyBody::default())).await.unwrap();
                assert_eq!((head.status().as_u16(), text(head).await.as_str()), (200, ""));
            }
            // The first stream still goes on.
            publish(&registry, 0);
            registry.clients().iter().for_each(ClientHandle::close);
            assert!(text(stream).await.starts_with("data: 0\n"));
            let drained = within(draining).await.unwrap();
            assert_eq!((drained.ended, drained.still_open), (1, 0), "a refused stream is not counted");
            drop(other);
            within(test_server.stop()).await.unwrap();
        }
    })
    .await;
}

/// The server was not told to stop, so its connections stay open.
#[tokio::test]
async fn a_client_that_reconnects_at_once_on_its_connection_is_refused() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let test_server = TestServer::open(server, news(&quiet(&registry))).await;
        let mut client = Client::connect(test_server.address, version).await;
        let stream = client.send(asking("/")).await.unwrap();
        let drained = within(registry.drain(Drain::within(SECOND))).await;
        assert_eq!((drained.ended, drained.still_open), (1, 0));
        assert_eq!(text(stream).await, "");
        assert_eq!(client.send(asking("/")).await.unwrap().status(), 503);
        assert_eq!(text(client.send(get("/plain")).await.unwrap()).await, "plain");
        drop(client);
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_request_pipelined_behind_a_stream_is_answered_after_its_end() {
    for server in SERVERS {
        let registry = Registry::new();
        let test_server = TestServer::open(server, news(&quiet(&registry))).await;
        let mut connection = Http1::get(test_server.address, "/").await;
        connection.send("GET", "/").await;
        connection.send("GET", "/plain").await;
        assert!(connection.head().await.starts_with("http/1.1 200"));
        let drained = within(registry.drain(Drain::within(SECOND).farewell(Event::data("bye")))).await;
        assert_eq!((drained.ended, drained.still_open), (1, 0));
        let seen = within(connection.body()).await;
        assert_eq!((seen.text.as_str(), seen.end), ("data: bye\n\n", End::Clean));
        assert!(within(connection.head()).await.starts_with("http/1.1 503"));
        drop(connection);
        within(test_server.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_with_a_pipelined_request_ends_cleanly_when_the_server_stops() {
    for server in SERVERS {
        for _ in 0..20 {
            let registry = Registry::new();
            let test_server = TestServer::open(server, news(&quiet(&registry))).await;
            let mut connection = Http1::get(test_server.address, "/").await;
            assert!(connection.head().await.starts_with("http/1.1 200"));
            connection.send("GET", "/plain").await;
            let served = test_server.stop();
            let drained = within(registry.drain(Drain::within(SECOND).farewell(Event::data("bye")))).await;
            assert_eq!((drained.ended, drained.still_open), (1, 0));
            within(served).await.unwrap();
            let seen = within(connection.body()).await;
            assert_eq!((seen.text.as_str(), seen.end), ("data: bye\n\n", End::Clean));
            // Then the connection is closed, in order or by a reset. The request gets no response.
            let _ = within(connection.socket.read_u8()).await.unwrap_err();
        }
    }
}

/// A peer that does not read, so that its bytes wait in the server's buffers.
mod stalled {
    use super::*;

    /// Publishes more than the kernel and a server buffer.
    fn flood(registry: &Registry, topic: &str) {
        let event = Event::data("x".repeat(100 << 10));
        (0..300).for_each(|_| _ = registry.publish(topic, &event).unwrap());
    }

    /// Opens a stream of the topic `flood` and reads only the head of the response.
    async fn peer_that_reads_nothing(address: SocketAddr, version: Version) -> (Option<Http1>, Option<Http2>) {
        if version == Version::HTTP_2 {
            let mut connection = Http2::connect(address, 1 << 10).await;
            connection.get("/?topic=flood").await;
            connection.answered().await;
            return (None, Some(connection));
        }
        let mut connection = Http1::get(address, "/?topic=flood").await;
        connection.head().await;
        (Some(connection), None)
    }

    #[tokio::test]
    async fn drain_reports_a_peer_that_reads_nothing_and_delays_no_other() {
        on_all(async |server, version| {
            let registry = Registry::new();
            let test_server = TestServer::open(server, news(&quiet(&registry))).await;
            let peer = peer_that_reads_nothing(test_server.address, version).await;
            let mut others = Vec::new();
            for _ in 0..20 {
                others.push(Client::connect(test_server.address, version).await.send(get("/")).await.unwrap());
            }
            flood(&registry, "flood");
            publish(&registry, 0);
            let served = test_server.stop();
            let start = Instant::now();
            let draining = tokio::spawn(registry.drain(Drain::within(SECOND).farewell(Event::data("bye"))));
            for other in others {
                let text = text(other).await;
                assert!(text.starts_with("data: 0\n") && text.ends_with("\n\ndata: bye\n\n"), "{text:?}");
            }
            let drained = within(draining).await.unwrap();
            assert_eq!((drained.ended, drained.still_open), (20, 1));
            assert!(start.elapsed() >= SECOND, "the silent peer had the whole window");
            // The test does not wait for the server, as the documentation of `Registry::drain` advises.
            let mut served = served;
            assert!(timeout(SECOND / 10, &mut served).await.is_err());
            drop(peer);
            within(served).await.unwrap();
            assert_eq!(registry.stats().closed_streams[&CloseReason::Drained], 21);
        })
        .await;
    }

    #[tokio::test]
    async fn an_unread_stream_delays_no_other_stream_of_its_connection() {
        for server in SERVERS {
            let registry = Registry::new();
            let test_server = TestServer::open(server, news(&quiet(&registry))).await;
            let mut connection = Http2::connect(test_server.address, 1 << 10).await;
            connection.get("/?topic=flood").await;
            let other = connection.get("/").await;
            connection.answered().await;
            flood(&registry, "flood");
            let served = test_server.stop();
            let draining = tokio::spawn(registry.drain(Drain::within(SECOND).farewell(Event::data("bye"))));
            let seen = within(connection.over(other)).await;
            assert_eq!((seen.text.as_str(), seen.end), ("data: bye\n\n", End::Clean));
            // The peer reads on, but gives the other stream no window.
            let (drained, _) = tokio::join!(within(draining), timeout(2 * SECOND, connection.all()));
            let drained = drained.unwrap();
            assert_eq!((drained.ended, drained.still_open), (1, 1));
            within(served).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_stalled_before_the_drain_counts_as_still_open() {
        on_all(async |server, version| {
            let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(SECOND));
            let test_server = TestServer::open(server, news(&quiet(&registry))).await;
            let peer = peer_that_reads_nothing(test_server.address, version).await;
            let client = registry.clients().pop().unwrap();
            flood(&registry, "flood");
            let mut ticks = interval(Duration::from_millis(5));
            let ticking = async {
                loop {
                    ticks.tick().await;
                    publish(&registry, 0);
                }
            };
            tokio::select! {
                reason = within(client.closed()) => assert_eq!(reason, CloseReason::Stalled),
                () = ticking => {}
            }
            assert_eq!(registry.stats().clients, 0);
            let drained = within(registry.drain(Drain::within(SECOND / 5))).await;
            assert_eq!((drained.ended, drained.still_open), (0, 1));
            drop(peer);
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }

    /// The registry does not control bytes that the server has taken.
    #[tokio::test]
    async fn bytes_in_the_servers_buffer_keep_the_server_but_count_as_sent() {
        let registry = Registry::new();
        let (mut peer, socket) = tokio::io::duplex(1 << 10);
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(
            TokioIo::new(socket),
            TowerToHyperService::new(tower::service_fn({
                let app = news(&quiet(&registry));
                move |request: Request<hyper::body::Incoming>| {
                    tower::ServiceExt::oneshot(app.clone(), request.map(drop))
                }
            })),
        );
        let mut connection = tokio::spawn(connection);
        peer.write_all(b"GET / HTTP/1.1\r\nhost: server.test\r\n\r\n").await.unwrap();
        until(|| registry.stats().clients == 1).await;
        registry.publish("news", Event::data("x".repeat(10 << 10))).unwrap();
        let drained = within(registry.drain(Drain::within(10 * SECOND))).await;
        assert_eq!((drained.ended, drained.still_open), (1, 0));
        assert!(timeout(SECOND / 10, &mut connection).await.is_err());
        drop(peer);
        let _ = within(connection).await.unwrap();
    }

    /// The half request is no stream.
    #[tokio::test]
    async fn half_a_request_keeps_the_server_and_counts_as_no_stream() {
        for server in SERVERS {
            let registry = Registry::new();
            let test_server = TestServer::open(server, news(&quiet(&registry))).await;
            let mut half = Http1::get(test_server.address, "/plain").await;
            let mut rest = [0; 1024];
            assert!(half.socket.read(&mut rest).await.unwrap() > 0);
            half.socket.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
            let stream = Client::connect(test_server.address, Version::HTTP_11).await.send(get("/")).await.unwrap();
            let served = test_server.stop();
            let drained = within(registry.drain(Drain::within(SECOND))).await;
            assert_eq!((drained.ended, drained.still_open), (1, 0));
            assert_eq!(text(stream).await, "");
            drop(half);
            within(served).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_that_stalls_in_the_middle_of_an_event_is_cut() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut frames) = mpsc::unbounded_channel();
        let test_server = TestServer::open(server, own_bodies(&quiet(&registry), sender)).await;
        let mut response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
        let (_, frames) = frames.recv().await.unwrap();
        frames.send(Ok(Frame::data("data: whole\n\ndata: half".into()))).await.unwrap();
        let first = response.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: whole\n\ndata: half");
        let served = test_server.stop();
        let drained = within(registry.drain(Drain::within(SECOND).farewell(Event::data("bye")))).await;
        assert_eq!((drained.ended, drained.still_open), (1, 0));
        // The end is a clean one. Clients drop the half event and reconnect.
        assert_eq!(text(response).await, "");
        within(served).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn drain_lets_answers_finish() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut frames) = mpsc::unbounded_channel();
        let layer = quiet(&registry);
        let own = own_bodies(&layer, sender);
        let produced = app(&layer, async |request: Request<()>| {
            let client = handle_of(&request);
            client.finish_on_drain(request.uri().path() == "/produced");
            client.subscribe("answer").unwrap();
            any_response(client.into_stream())
        });
        let (own, produced) = (TestServer::open(server, own).await, TestServer::open(server, produced).await);
        let producer = registry.start_producer("answer").unwrap();
        let own_response = Client::connect(own.address, version).await.send(get("/")).await.unwrap();
        let (client, frames) = frames.recv().await.unwrap();
        client.finish_on_drain(true);
        let produced_response = Client::connect(produced.address, version).await.send(get("/produced")).await.unwrap();
        let ordinary = Client::connect(produced.address, version).await.send(get("/ordinary")).await.unwrap();
        let tell = async |token: &'static str| {
            frames.send(Ok(Frame::data(format!("data: {token}\n\n").into()))).await.unwrap();
            producer.publish(Event::data(token)).unwrap();
        };

        tell("one").await;
        let served = (own.stop(), produced.stop());
        let farewell = Event::data("bye");
        let drain = Drain::within(SECOND / 2).finish_within(BOUND).farewell(farewell);
        let draining = tokio::spawn(registry.drain(drain));
        assert!(text(ordinary).await.ends_with("\n\ndata: bye\n\n"), "the ordinary stream ends within the window");
        // The time here is twice the window.
        let _ = timeout(SECOND, client.closed()).await.unwrap_err();
        tell("two").await;
        drop(frames);
        producer.end();
        let finished = [text(own_response).await, text(produced_response).await];
        for text in finished {
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            assert_eq!(data, ["one", "two"], "no farewell, as the answer is complete");
        }
        let drained = within(draining).await.unwrap();
        assert_eq!((drained.ended, drained.still_open), (3, 0));
        let closed = registry.stats().closed_streams;
        assert_eq!(
            [CloseReason::BodyEnded, CloseReason::TopicsEnded, CloseReason::Drained].map(|reason| closed[&reason]),
            [1; 3]
        );
        within(served.0).await.unwrap();
        within(served.1).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_misses_the_deadline_ends_at_a_boundary() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut frames) = mpsc::unbounded_channel();
        let test_server = TestServer::open(server, own_bodies(&quiet(&registry).finish_on_drain(true), sender)).await;
        let response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
        let (client, frames) = frames.recv().await.unwrap();
        let writer = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(1));
            while frames.send(Ok(Frame::data("data: on\n\n".into()))).await.is_ok() {
                ticks.tick().await;
            }
        });
        let served = test_server.stop();
        let drain = Drain::within(SECOND / 5).finish_within(SECOND).farewell(Event::data("bye"));
        let draining = tokio::spawn(registry.drain(drain));
        let text = text(response).await;
        assert!(text.strip_suffix("data: bye\n\n").unwrap().replace("data: on\n\n", "").is_empty());
        let drained = within(draining).await.unwrap();
        assert_eq!((drained.ended, drained.still_open), (1, 0));
        assert_eq!(client.closed().await, CloseReason::Drained);
        within(writer).await.unwrap();
        within(served).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn drain_can_be_called_from_a_handler_and_twice_at_once() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let drains = registry.clone();
        let news = news(&quiet(&registry));
        let test_server = TestServer::open(
            server,
            app(&quiet(&registry), move |request| {
                let (registry, news) = (drains.clone(), news.clone());
                async move {
                    if request.uri().path() != "/drain" {
                        let answer = tower::ServiceExt::oneshot(news, request).await.unwrap();
                        return answer.map(any);
                    }
                    let Drained { ended, still_open, .. } = registry.drain(Drain::within(SECOND)).await;
                    Response::new(any(Full::new(Bytes::from(format!("{ended} {still_open}")))))
                }
            }),
        )
        .await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(Client::connect(test_server.address, version).await.send(get("/")).await.unwrap());
        }
        let [mut a, mut b] =
            [Client::connect(test_server.address, version).await, Client::connect(test_server.address, version).await];
        let (a, b) = tokio::join!(a.send(get("/drain")), b.send(get("/drain")));
        let (a, b) = (text(a.unwrap()).await, text(b.unwrap()).await);
        for stream in streams {
            assert_eq!(text(stream).await, "");
        }
        // The drain that began later may have begun after some streams ended.
        assert!(a == "10 0" || b == "10 0", "{a:?} {b:?}");
        assert!(a.ends_with(" 0") && b.ends_with(" 0"), "{a:?} {b:?}");
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn clients_that_leave_during_the_drain_count_as_ended() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let test_server = TestServer::open(server, news(&quiet(&registry).finish_on_drain(true))).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut client = Client::connect(test_server.address, version).await;
            streams.push((client.send(get("/")).await.unwrap(), client));
        }
        let served = test_server.stop();
        let draining = tokio::spawn(registry.drain(Drain::within(SECOND).finish_within(BOUND)));
        until(|| registry.is_draining()).await;
        drop(streams);
        let drained = within(draining).await.unwrap();
        assert_eq!((drained.ended, drained.still_open), (10, 0));
        assert_eq!(registry.stats().closed_streams[&CloseReason::ClientDisconnected], 10);
        within(served).await.unwrap();
    })
    .await;
}

/// A handler that streams the topic `news`, or the topic that the query names.
fn news(layer: &SseLayer) -> App {
    app(layer, async |request: Request<()>| {
        if request.uri().path() == "/plain" {
            return Response::new(any(Full::new(Bytes::from_static(b"plain"))));
        }
        let client = handle_of(&request);
        client
            .subscribe(request.uri().query().and_then(|query| query.strip_prefix("topic=")).unwrap_or("news"))
            .unwrap();
        any_response(client.into_stream())
    })
}

fn any_response(stream: EventStream) -> Response<AnyBody> {
    stream.into_response::<Empty<Bytes>>().map(any)
}

fn asking(target: &str) -> Request<AnyBody> {
    let mut request = get(target);
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    request
}
