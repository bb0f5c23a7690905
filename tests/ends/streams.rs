//! How streams end over real sockets, on HTTP/1.1 and HTTP/2: the reason that observers are told, and how a returning
//! client goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use reqwest_eventsource::{EventSource, retry};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_stream::StreamExt;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_sse::{
    ClientHandle, CloseReason, Drain, Event, Registry, RegistryConfig, Retention, SlowClientPolicy, SseBody, SseLayer,
    Start, Subscription,
};

use crate::{
    bodies::{AnyBody, any, channel, event_stream},
    client::{Client, get},
    layers::quiet,
    test_server::{App, Frames, SERVERS, Server, TestServer, app, handle_of, on_all, own_bodies, text, until, within},
    wire::{End, Http1, Http2},
};

const SECOND: Duration = Duration::from_secs(1);

mod lifetimes {
    use super::*;

    /// Publishes one event after the other until the flag is set.
    fn publish_on(registry: &Registry) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>) {
        let enough = Arc::new(AtomicBool::new(false));
        let (is_enough, registry) = (Arc::clone(&enough), registry.clone());
        let publisher = tokio::spawn(async move {
            let (mut ticks, mut number) = (interval(Duration::from_millis(1)), 0);
            while !is_enough.load(Ordering::Relaxed) {
                publish(&registry, &number.to_string());
                number += 1;
                ticks.tick().await;
            }
            publish(&registry, "end");
            number
        });
        (enough, publisher)
    }

    #[tokio::test]
    async fn a_client_library_reconnects_after_each_end_and_gets_each_event_once() {
        for server in SERVERS {
            let registry = Registry::new();
            let layer = quiet(&registry)
                .max_age(SECOND / 5)
                .farewell(|_, reason| Some(Event::data(reason.as_str()).event("farewell")));
            let test_server = TestServer::open(server, streaming(&layer, |_| {})).await;
            let mut source = EventSource::get(format!("http://{}/", test_server.address));
            source.set_retry_policy(Box::new(retry::Constant::new(Duration::from_millis(5), None)));
            assert!(matches!(source.next().await, Some(Ok(reqwest_eventsource::Event::Open))));
            let (enough, publisher) = publish_on(&registry);
            let (mut arrived, mut farewells) = (Vec::new(), 0);
            loop {
                match within(source.next()).await.expect("the client does not give up") {
                    Ok(reqwest_eventsource::Event::Message(message)) if message.event == "farewell" => {
                        assert_eq!(message.data, "max_age");
                        farewells += 1;
                        enough.store(farewells == 5, Ordering::Relaxed);
                    }
                    Ok(reqwest_eventsource::Event::Message(message)) if message.data == "end" => break,
                    Ok(reqwest_eventsource::Event::Message(message)) => {
                        assert_eq!(message.event, "message", "{message:?}");
                        arrived.push(message.data);
                    }
                    // The stream opened, or it was cut and the client will reconnect.
                    Ok(reqwest_eventsource::Event::Open) | Err(_) => {}
                }
            }
            source.close();
            let published = publisher.await.unwrap();
            assert_eq!(arrived, Vec::from_iter((0..published).map(|number| number.to_string())));
            assert!(registry.stats().closed_streams[&CloseReason::MaxAge] >= 5);
            within(test_server.stop()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_age_ends_a_stream_after_the_current_event() {
        on_all(async |server, version| {
            let registry = Registry::new();
            let (sender, mut frames) = mpsc::unbounded_channel();
            let layer = quiet(&registry).max_age(SECOND).farewell(|_, _| Some(Event::data("bye")));
            let test_server = TestServer::open(server, own_bodies(&layer, sender)).await;
            let mut response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
            let (client, frames) = frames.recv().await.unwrap();
            let write = async |text: &'static str| frames.send(Ok(Frame::data(text.into()))).await;
            write("data: half").await.unwrap();
            assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "data: half");
            let _ = timeout(SECOND * 5 / 4, client.closed()).await.unwrap_err();
            write(" and half\n\n").await.unwrap();
            assert_eq!(text(response).await, " and half\n\ndata: bye\n\n");
            assert_eq!(within(client.closed()).await, CloseReason::MaxAge);
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn an_expiry_can_be_postponed_while_the_stream_is_open() {
        on_all(async |server, version| {
            let registry = Registry::new();
            let layer = quiet(&registry).farewell(|_, reason| Some(Event::data(reason.as_str())));
            let test_server = TestServer::open(server, streaming(&layer, |client| client.expire_after(SECOND))).await;
            let open = async |target: &str| {
                let mut peer = Client::connect(test_server.address, version).await;
                let response = peer.send(get(target)).await.unwrap();
                (peer, response)
            };
            let (_peer, refreshed) = open("/").await;
            let client = registry.clients().pop().unwrap();
            client.expire_at(SystemTime::now() + 1000 * SECOND);
            // The second stream began later.
            let (_other_peer, expired) = open("/").await;
            assert_eq!(text(expired).await, "data: authorization_expired\n\n");
            publish(&registry, "still here");
            client.expire_after(Duration::ZERO);
            let told = text(refreshed).await;
            assert!(
                told.starts_with("data: still here\n") && told.ends_with("\n\ndata: authorization_expired\n\n"),
                "{told:?}"
            );
            assert_eq!(within(client.closed()).await, CloseReason::AuthorizationExpired);
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }
}

mod the_close_reason {
    use super::*;

    /// Opens a stream, lets `cause` end it, and checks that everyone who waits is told the reason.
    async fn ends_with(
        server: Server,
        version: Version,
        layer: impl Fn(&Registry) -> SseLayer,
        config: RegistryConfig,
        expected: CloseReason,
        cause: impl AsyncFn(&Registry, &ClientHandle, Frames, &mut Option<Response<hyper::body::Incoming>>),
    ) {
        let registry = Registry::with_config(config);
        let (sender, mut frames) = mpsc::unbounded_channel();
        let (told, mut reasons) = mpsc::unbounded_channel();
        let app = app(&layer(&registry), move |request| {
            let client = handle_of(&request);
            client.subscribe("news").unwrap();
            let (writer, body) = channel();
            for _ in 0..3 {
                let (client, told) = (client.clone(), told.clone());
                tokio::spawn(async move { told.send(client.closed().await) });
            }
            sender.send((client, writer)).unwrap();
            std::future::ready(event_stream(body))
        });
        let test_server = TestServer::open(server, app).await;
        let mut peer = Client::connect(test_server.address, version).await;
        let mut response = Some(peer.send(get("/")).await.unwrap());
        let (client, frames) = frames.recv().await.unwrap();
        let late = tokio::spawn({
            let client = client.clone();
            async move { client.closed().await }
        });
        within(cause(&registry, &client, frames, &mut response)).await;
        for _ in 0..3 {
            assert_eq!(within(reasons.recv()).await, Some(expected));
        }
        assert_eq!(within(late).await.unwrap(), expected);
        assert_eq!(within(client.closed()).await, expected, "a later question gets the same reason");
        assert_eq!(registry.stats().closed_streams, [(expected, 1)].into());
        drop((response, peer));
        within(test_server.stop()).await.unwrap();
    }

    async fn on_all_ends_with(
        layer: impl Fn(&Registry) -> SseLayer,
        config: RegistryConfig,
        expected: CloseReason,
        cause: impl AsyncFn(&Registry, &ClientHandle, Frames, &mut Option<Response<hyper::body::Incoming>>),
    ) {
        on_all(async |server, version| ends_with(server, version, &layer, config.clone(), expected, &cause).await)
            .await;
    }

    fn plain() -> RegistryConfig {
        RegistryConfig::default()
    }

    #[tokio::test]
    async fn is_that_the_client_has_left() {
        on_all_ends_with(quiet, plain(), CloseReason::ClientDisconnected, async |_, _, _, response| {
            drop(response.take());
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_handlers_own_body_has_ended() {
        on_all_ends_with(quiet, plain(), CloseReason::BodyEnded, async |_, client, frames, response| {
            client.unsubscribe("news");
            drop(frames);
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_program_closed_it() {
        on_all_ends_with(quiet, plain(), CloseReason::ByServer, async |_, client, _frames, response| {
            client.close();
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
        on_all_ends_with(quiet, plain(), CloseReason::Other("enough"), async |_, client, _frames, response| {
            client.close_with("enough");
            client.close();
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_its_topics_have_ended() {
        on_all_ends_with(quiet, plain(), CloseReason::TopicsEnded, async |registry, _, frames, response| {
            let producer = registry.start_producer("news").unwrap();
            producer.publish(Event::data("last")).unwrap();
            producer.end();
            drop(frames);
            assert!(text(response.take().unwrap()).await.starts_with("data: last\n"));
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_one_of_its_topics_has_failed() {
        on_all_ends_with(quiet, plain(), CloseReason::TopicFailed, async |registry, _, frames, response| {
            let producer = registry.start_producer("news").unwrap();
            producer.publish(Event::data("half")).unwrap();
            drop(producer);
            drop(frames);
            let text = text(response.take().unwrap()).await;
            assert!(
                text.starts_with("data: half\n") && text.contains("\n\nevent: failed\ndata: {\"topic\":\"news\"}\n")
            );
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_one_of_its_topics_was_cancelled() {
        on_all_ends_with(quiet, plain(), CloseReason::TopicCancelled, async |registry, _, frames, response| {
            let producer = registry.start_producer("news").unwrap();
            producer.publish(Event::data("half")).unwrap();
            assert!(registry.cancel_producer_with("news", Event::data("enough")).unwrap());
            drop(frames);
            let text = text(response.take().unwrap()).await;
            assert!(text.starts_with("data: half\n") && text.contains("\n\ndata: enough\n"));
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_client_fell_behind() {
        let retention =
            Retention::default().events(2).slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: SECOND });
        let config = plain().topic_retention(retention);
        on_all_ends_with(quiet, config, CloseReason::FellBehind, async |registry, _, _frames, response| {
            // Publishes all at once, for a server that has only this thread.
            (0..10).for_each(|_| publish(registry, "news"));
            let text = text(response.take().unwrap()).await;
            let retry: u64 = text.strip_prefix("retry: ").unwrap().trim_end().parse().unwrap();
            assert!((500..=1500).contains(&retry), "{text:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_its_age_or_expiry_was_reached() {
        let aging = |registry: &Registry| quiet(registry).max_age(SECOND / 20);
        on_all_ends_with(aging, plain(), CloseReason::MaxAge, async |_, _, _frames, response| {
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
        on_all_ends_with(quiet, plain(), CloseReason::AuthorizationExpired, async |_, client, _frames, response| {
            client.expire_after(SECOND / 20);
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_registry_was_drained() {
        on_all_ends_with(quiet, plain(), CloseReason::Drained, async |registry, _, _frames, response| {
            let drained = registry.drain(Drain::within(SECOND)).await;
            assert_eq!((drained.ended, drained.still_open), (1, 0));
            assert_eq!(text(response.take().unwrap()).await, "");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_handlers_own_body_failed() {
        on_all_ends_with(quiet, plain(), CloseReason::BodyFailed, async |_, _, frames, response| {
            frames.send(Err("the handler's".into())).await.unwrap();
            response.take().unwrap().into_body().collect().await.expect_err("no clean end");
        })
        .await;
    }

    #[tokio::test]
    async fn is_that_the_client_has_stalled() {
        let config = plain().stalled_client_timeout(Duration::from_millis(50));
        on_all_ends_with(quiet, config, CloseReason::Stalled, async |registry, client, _frames, _response| {
            let event = Event::data("x".repeat(100 << 10));
            (0..300).for_each(|_| _ = registry.publish("news", &event).unwrap());
            let mut ticks = interval(Duration::from_millis(5));
            let others = async {
                loop {
                    ticks.tick().await;
                    registry.publish("elsewhere", Event::data("")).unwrap();
                }
            };
            tokio::select! {
                _ = client.closed() => {}
                () = others => {}
            }
        })
        .await;
    }
}

mod failures {
    use super::*;

    fn saying_why(registry: &Registry) -> SseLayer {
        quiet(registry).farewell(|_, reason| Some(Event::data(reason.as_str()).event("farewell")))
    }

    /// Returns what the client receives of a handler's body that fails after `own`, and whether the end is clean.
    async fn failing_after(server: Server, version: Version, own: &'static str) -> (String, bool) {
        let registry = Registry::new();
        let (sender, mut frames) = mpsc::unbounded_channel();
        let test_server = TestServer::open(server, own_bodies(&saying_why(&registry), sender)).await;
        let mut response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
        let (client, frames) = frames.recv().await.unwrap();
        let mut text = String::new();
        if !own.is_empty() {
            frames.send(Ok(Frame::data(own.into()))).await.unwrap();
            text.push_str(std::str::from_utf8(&response.frame().await.unwrap().unwrap().into_data().unwrap()).unwrap());
        }
        frames.send(Err("the handler's".into())).await.unwrap();
        let mut is_clean = true;
        while let Some(frame) = within(response.frame()).await {
            match frame {
                Ok(frame) => text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap()),
                Err(_) => {
                    is_clean = false;
                    break;
                }
            }
        }
        assert_eq!(within(client.closed()).await, CloseReason::BodyFailed);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::BodyFailed, 1)].into());
        drop(response);
        within(test_server.stop()).await.unwrap();
        (text, is_clean)
    }

    async fn body_failure_is_reported() {
        on_all(async |server, version| {
            let told = failing_after(server, version, "data: own\n\n").await;
            assert_eq!(told, ("data: own\n\nevent: farewell\ndata: body_failed\n\n".into(), false));
            let told = failing_after(server, version, "").await;
            assert_eq!(told, ("event: farewell\ndata: body_failed\n\n".into(), false));
            let told = failing_after(server, version, "data: own\n\ndata: half\n").await;
            assert_eq!(told, ("data: own\n\ndata: half\n".into(), false), "inside an event, nothing can be inserted");
        })
        .await;
    }

    #[tokio::test]
    async fn of_a_body_are_told_to_the_client_before_the_unclean_end() {
        body_failure_is_reported().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_a_body_are_told_before_the_unclean_end_on_several_threads() {
        body_failure_is_reported().await;
    }

    /// A handler that streams the topic that the path names from its beginning, if that topic exists.
    fn existing(registry: &Registry) -> App {
        app(&quiet(registry), |request| {
            let client = handle_of(&request);
            let topic = Subscription::to(request.uri().path().trim_start_matches('/')).from(Start::Oldest);
            let response = match client.subscribe(topic.existing()) {
                Ok(()) => client.into_stream().into_response::<Empty<Bytes>>().map(any),
                Err(error) => axum::response::IntoResponse::into_response(error).map(any),
            };
            std::future::ready(response)
        })
    }

    #[tokio::test]
    async fn a_client_library_gets_a_truncated_answer_once_and_stops() {
        const MINUTE: Duration = Duration::from_secs(60);
        for server in SERVERS {
            let registry = Registry::with_config(RegistryConfig::default().ended_topic_ttl(MINUTE));
            let test_server = TestServer::open(server, existing(&registry)).await;
            for (topic, last, status) in
                [("failed", "failed", 410), ("cancelled", "cancelled", 410), ("whole", "done", 204)]
            {
                let producer = registry.start_producer(topic).unwrap();
                let mut source = EventSource::get(format!("http://{}/{topic}", test_server.address));
                source.set_retry_policy(Box::new(retry::Constant::new(Duration::from_millis(5), None)));
                assert!(matches!(within(source.next()).await, Some(Ok(reqwest_eventsource::Event::Open))));
                producer.publish(Event::data("token")).unwrap();
                match topic {
                    "failed" => drop(producer),
                    "cancelled" => assert!(registry.cancel_producer(topic)),
                    _ => _ = producer.finish(Event::data("").event("done")).unwrap(),
                }
                let (mut types, mut statuses) = (Vec::new(), Vec::new());
                while let Some(next) = within(source.next()).await {
                    match next {
                        Ok(reqwest_eventsource::Event::Message(message)) => types.push(message.event),
                        Err(reqwest_eventsource::Error::InvalidStatusCode(status, _)) => statuses.push(status.as_u16()),
                        Ok(reqwest_eventsource::Event::Open) | Err(reqwest_eventsource::Error::StreamEnded) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!((types, statuses), (vec!["message".to_owned(), last.to_owned()], vec![status]));
            }
            within(test_server.stop()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_topic_that_is_forgotten_or_unknown_is_a_404() {
        on_all(async |server, version| {
            let registry = Registry::with_config(RegistryConfig::default().ended_topic_ttl(Duration::ZERO));
            let test_server = TestServer::open(server, existing(&registry)).await;
            let get = async |topic: &str, last_event_id: &str| {
                let mut request = get(topic);
                request.headers_mut().insert("last-event-id", last_event_id.parse().unwrap());
                let response = Client::connect(test_server.address, version).await.send(request).await.unwrap();
                (response.status().as_u16(), text(response).await)
            };
            assert_eq!(
                get("/never", "1-0").await,
                (404, "the topic \"never\" does not exist, or was forgotten".into())
            );
            let producer = registry.start_producer("answer").unwrap();
            let id = producer.publish(Event::data("1")).unwrap().position().unwrap().to_string();
            producer.end();
            until(|| registry.topic_state("answer").is_none()).await;
            assert_eq!(get("/answer", &id).await.0, 404);
            assert_eq!((registry.stats().topics, registry.stats().clients), (0, 0));
            within(test_server.stop()).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_reset_stream_ends_and_other_streams_of_its_connection_go_on() {
    for server in SERVERS {
        let registry = Registry::new();
        let (sender, mut handles) = mpsc::unbounded_channel();
        let test_server =
            TestServer::open(server, streaming(&quiet(&registry), move |client| sender.send(client.clone()).unwrap()))
                .await;
        let mut connection = Http2::connect(test_server.address, 1 << 20).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let id = connection.get("/").await;
            connection.answered().await;
            clients.push((id, handles.recv().await.unwrap()));
        }
        let (id, leaves) = clients.remove(1);
        connection.reset(id).await;
        assert_eq!(within(leaves.closed()).await, CloseReason::ClientDisconnected);
        assert_eq!(registry.stats().clients, 2);
        publish(&registry, "for those who stay");
        for (id, client) in clients {
            within(connection.has_received(id, "data: for those who stay\n")).await;
            client.close();
            assert_eq!(within(connection.over(id)).await.end, End::Clean);
            assert_eq!(within(client.closed()).await, CloseReason::ByServer);
        }
        drop(connection);
        within(test_server.stop()).await.unwrap();
    }
}

/// Sets its flag when it is dropped.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handler that never responds.
fn pondering(layer: &SseLayer, handles: mpsc::UnboundedSender<ClientHandle>, dropped: &Arc<AtomicU32>) -> App {
    let dropped = Arc::clone(dropped);
    app(layer, move |request| {
        let client = handle_of(&request);
        client.subscribe("news").unwrap();
        handles.send(client).unwrap();
        let dropped = Dropped(Arc::clone(&dropped));
        async move {
            let _dropped = dropped;
            std::future::pending::<Response<AnyBody>>().await
        }
    })
}

#[tokio::test]
async fn a_request_cancelled_before_its_response_was_no_stream() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut handles) = mpsc::unbounded_channel();
        let dropped = Arc::new(AtomicU32::new(0));
        let test_server = TestServer::open(server, pondering(&quiet(&registry), sender, &dropped)).await;
        let client = match version {
            Version::HTTP_2 => {
                let mut connection = Http2::connect(test_server.address, 1 << 10).await;
                let [gone, _] = [connection.get("/").await, connection.get("/").await];
                let [client, other] = [handles.recv().await.unwrap(), handles.recv().await.unwrap()];
                connection.reset(gone).await;
                let reason = within(client.closed()).await;
                assert_eq!(reason, CloseReason::NoStream);
                assert!(registry.client(&other.id()).is_some(), "the other request is still waiting");
                drop(connection);
                other
            }
            _ => {
                let connection = Http1::get(test_server.address, "/").await;
                let client = handles.recv().await.unwrap();
                drop(connection);
                client
            }
        };
        assert_eq!(within(client.closed()).await, CloseReason::NoStream);
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.subscriptions, stats.closed_streams.len()), (0, 0, 0), "there was no stream");
        let requests = if version == Version::HTTP_2 { 2 } else { 1 };
        until(|| dropped.load(Ordering::Relaxed) == requests).await;
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

/// Limits the time to the head of a response, as `TimeoutLayer` does.
fn in_time(app: App, time: Duration) -> App {
    BoxCloneSyncService::new(service_fn(move |request: Request<()>| {
        let answer = app.clone().oneshot(request);
        async move {
            let timed_out = || Response::builder().status(408).body(SseBody::default()).unwrap();
            timeout(time, answer).await.unwrap_or_else(|_| Ok(timed_out()))
        }
    }))
}

#[tokio::test]
async fn a_timeout_of_an_outer_layer_cuts_no_stream() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let time = SECOND / 10;
        let test_server = TestServer::open(server, in_time(streaming(&quiet(&registry), |_| {}), time)).await;
        let response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
        let client = registry.clients().pop().unwrap();
        let _ = timeout(3 * time, client.closed()).await.unwrap_err();
        publish(&registry, "later");
        client.close();
        assert!(text(response).await.starts_with("data: later\n"));
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_response_that_misses_the_timeout_was_no_stream() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let (sender, mut handles) = mpsc::unbounded_channel();
        let dropped = Arc::new(AtomicU32::new(0));
        let app = pondering(&quiet(&registry), sender, &dropped);
        let test_server = TestServer::open(server, in_time(app, SECOND / 20)).await;
        let response = Client::connect(test_server.address, version).await.send(get("/")).await.unwrap();
        assert_eq!((response.status().as_u16(), dropped.load(Ordering::Relaxed)), (408, 1));
        assert_eq!(within(handles.recv().await.unwrap().closed()).await, CloseReason::NoStream);
        assert_eq!(registry.stats().clients, 0);
        drop(response);
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn observers_are_told_of_all_clients_that_leave_at_once() {
    on_all(async |server, version| {
        let registry = Registry::new();
        let waiting = Arc::new(std::sync::Mutex::new(JoinSet::new()));
        let tasks = Arc::clone(&waiting);
        let test_server = TestServer::open(
            server,
            streaming(&quiet(&registry), move |client| {
                let client = client.clone();
                tasks.lock().unwrap().spawn(async move { client.closed().await });
            }),
        )
        .await;
        let mut peers = Vec::new();
        for _ in 0..100 {
            let mut peer = Client::connect(test_server.address, version).await;
            peers.push((peer.send(get("/")).await.unwrap(), peer));
        }
        drop(peers);
        let tasks = std::mem::take(&mut *waiting.lock().unwrap());
        assert_eq!(within(tasks.join_all()).await, [CloseReason::ClientDisconnected; 100]);
        assert_eq!(registry.stats().clients, 0);
        within(test_server.stop()).await.unwrap();
    })
    .await;
}

fn publish(registry: &Registry, data: &str) {
    registry.publish("news", Event::data(data)).unwrap();
}

/// A handler that streams a topic after it called `handle` with its client.
fn streaming(layer: &SseLayer, handle: impl Fn(&ClientHandle) + Clone + Send + Sync + 'static) -> App {
    app(layer, move |request| {
        let client = handle_of(&request);
        client.subscribe("news").unwrap();
        handle(&client);
        std::future::ready(client.into_stream().into_response::<Empty<Bytes>>().map(any))
    })
}
