//! Real clients come, misbehave and vanish in any order while others publish. They must leave nothing behind, and must
//! not harm clients that behave.
//!
//! The test runs for `TOWER_SSE_CHURN_SECONDS`, by default five. On a busy machine it runs longer, until enough has
//! happened. `TOWER_SSE_CHURN_SEED` sets the seed of the random steps, by default the time of day.

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::Request, response::IntoResponse, routing::get};
use bytes::Bytes;
use eventsource_stream::Eventsource;
use http::{HeaderValue, StatusCode, Version, request::Parts};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Handle},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::IntervalStream};
use tower_sse::{
    ClientHandle, CloseReason, Event, Heartbeat, Limit, Observation, Presence, PresenceChange, PublishError,
    RefusedReason, Registry, RegistryConfig, Retention, SlowClientPolicy, SseLayer, Start, Subscription,
};

use crate::{
    client::{self, Client, VERSIONS},
    process::{allocated, is_alone, open_files},
    random::Random,
};

/// The number of clients that misbehave at a time. Each has a socket at both ends and up to eight streams.
const CLIENTS: usize = 150;

/// The pause between two new clients. About 250 clients a second leave enough free ports, as the operating system keeps
/// a port back for a minute.
const PACE: Duration = Duration::from_millis(4);

/// The bytes that the registry retains.
const BUDGET: usize = 16 << 20;

/// The time limit of each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much the memory may have grown. The retained events take the same before and after, but forgotten topics have
/// other names, and collections have other capacities. A minute's run finds a leak of 64 bytes per stream.
const GROWTH: usize = 1 << 20;

#[test]
fn misbehaving_clients_leave_nothing_behind_and_harm_no_other() {
    if !is_alone("churn::misbehaving_clients_leave_nothing_behind_and_harm_no_other") {
        return;
    }
    let number = |name| env::var(name).ok().map(|number| number.parse::<u64>().expect(name));
    let seconds = number("TOWER_SSE_CHURN_SECONDS").unwrap_or(5);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("TOWER_SSE_CHURN_SEED").unwrap_or(now.as_nanos() as u64);
    println!("TOWER_SSE_CHURN_SEED={seed} TOWER_SSE_CHURN_SECONDS={seconds}");
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut random = Random(seed);
        let test_server = TestServer::open().await;
        // What the registry remembers of forgotten topics is bounded. This fills it to the bound, with names of the
        // maximum length.
        for topic in 0..10_000 {
            test_server.registry.publish(format!("bygone/{topic:033}"), Event::data("x")).unwrap();
        }
        let begin = test_server.at_rest().await;
        // The first run allocates what the allocator and the runtime keep for good.
        test_server.churn(Duration::from_secs(2), &mut random).await;
        test_server.comes_to(&begin).await;
        let memory = allocated();
        test_server.churn(Duration::from_secs(seconds), &mut random).await;
        test_server.comes_to(&begin).await;
        let growth = allocated().saturating_sub(memory);
        println!("at rest: {begin:?}");
        println!("memory: {} KiB before, {} KiB after", memory >> 10, allocated() >> 10);
        assert!(growth < GROWTH, "{} KiB are lost", growth >> 10);
    });
}

/// The state without any clients.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AtRest {
    clients: usize,
    subscriptions: usize,
    topics: usize,
    events: usize,
    /// The streams that each limit counts, and its entries.
    limited: Vec<(u64, usize)>,
    /// The members of each presence list, and the members that a watcher has counted.
    present: Vec<(usize, i64)>,
    /// Streams that began and have not ended, as an observer was told.
    open: i64,
    tasks: usize,
    files: usize,
}

/// A server that uses every setting.
struct TestServer {
    registry: Registry,
    address: SocketAddr,
    limits: Vec<Limit>,
    presences: Vec<(Presence, Arc<AtomicI64>)>,
    counts: Arc<Counts>,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    bytes: AtomicU64,
    heartbeats: AtomicU64,
    /// Refused streams, by reason.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    /// What clients did, by the action's name.
    did: Mutex<BTreeMap<&'static str, u64>>,
    /// The longest time that an event took to a well-behaved reader, in microseconds.
    slowest: AtomicU64,
}

impl Counts {
    fn did(&self, what: &'static str) {
        *self.did.lock().unwrap().entry(what).or_default() += 1;
    }

    fn refused(&self, refused: &RefusedReason) {
        let why = match refused {
            RefusedReason::Full { key: None, .. } => "full",
            RefusedReason::Full { limit: 0, .. } => "banned",
            RefusedReason::Full { .. } => "full for one",
            RefusedReason::RateLimited { key: None, .. } => "too fast",
            RefusedReason::RateLimited { .. } => "too fast for one",
            _ => "else",
        };
        *self.refused.lock().unwrap().entry(why).or_default() += 1;
    }
}

/// The user who sent a request, as the request says.
#[derive(Clone)]
struct User(String);

fn user(request: &Parts) -> Option<String> {
    Some(request.headers.get("x-user")?.to_str().ok()?.to_owned())
}

fn retention(topic: &str) -> Retention {
    let kept = Retention::default();
    match topic.split_once('/') {
        Some(("flood", number)) => match number.len() + usize::from(number.ends_with(['0', '5'])) {
            1 => kept.events(50),
            2 => kept.events(1).slow_client_policy(SlowClientPolicy::SkipSilently),
            _ => kept
                .events(20)
                .slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_millis(10) }),
        },
        Some(("answer", _)) => kept.bytes(100_000),
        _ => kept,
    }
}

impl TestServer {
    async fn open() -> Arc<Self> {
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let registry = Registry::with_config(
            RegistryConfig::default()
                .total_retention(Retention::default().bytes(BUDGET))
                .topic_retention_by(retention)
                .subscriptions_per_client(50)
                .stalled_client_timeout(Duration::from_secs(1))
                .ended_topic_ttl(Duration::from_millis(500))
                .presence_key(|client| client.metadata().get::<User>().map(|user| user.0.clone()))
                .presence_grace(Duration::from_millis(300))
                .observer(move |observation: &Observation<'_>| match observation {
                    Observation::Opened { .. } => _ = counted.opened.fetch_add(1, Ordering::Relaxed),
                    Observation::StreamRefused { reason, .. } => counted.refused(reason),
                    Observation::Heartbeat { .. } => _ = counted.heartbeats.fetch_add(1, Ordering::Relaxed),
                    Observation::Closed { summary, .. } => {
                        counted.closed.fetch_add(1, Ordering::Relaxed);
                        counted.bytes.fetch_add(summary.bytes, Ordering::Relaxed);
                    }
                    _ => {}
                }),
        );
        let limits = vec![
            Limit::streams(70),
            Limit::streams(3).per(user),
            Limit::rate(400, Duration::from_secs(1), 100),
            Limit::rate(15, Duration::from_secs(1), 15).per(user),
            Limit::streams(0).per_optional(|request| user(request).filter(|user| user == "banned")),
        ];
        let layer = SseLayer::new(&registry)
            .heartbeat(Heartbeat::every(Duration::from_millis(200)))
            .metadata(|request| user(request).map(User));
        let limited = limits.iter().cloned().fold(layer.clone(), SseLayer::limit);
        let limited = limited
            .max_age(Duration::from_millis(1500))
            .farewell(|_, reason| Some(Event::data(reason.as_str()).event("farewell")));
        let app = Router::new()
            .route("/stream", get(stream))
            .route("/own", get(own))
            .layer(limited)
            .merge(Router::new().route("/steady", get(stream)).layer(layer));

        // Small buffers, so that a client that does not read is noticed soon.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 << 10).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());

        let presences = ["flood/1", "flood/*", "**"].map(|name| {
            let presence = registry.presence(name).unwrap();
            let known = Arc::<AtomicI64>::default();
            let (mut changes, count) = (presence.changes(), Arc::clone(&known));
            tokio::spawn(async move {
                while let Some(change) = changes.next().await {
                    count.fetch_add(
                        match change {
                            PresenceChange::Joined(_) => 1,
                            _ => -1,
                        },
                        Ordering::Relaxed,
                    );
                }
            });
            (presence, known)
        });
        let presences = presences.into();
        Arc::new(Self { registry, address, limits, presences, counts, begun: Instant::now() })
    }

    /// Publishes an event that is too large for the budget, which evicts every other event, and returns the state.
    async fn at_rest(&self) -> AtRest {
        let publish = |bytes| self.registry.publish("last", Event::data("x".repeat(bytes)));
        let Err(PublishError::TooLarge { size, limit }) = publish(BUDGET) else {
            panic!("an event as large as the budget was accepted")
        };
        let besides = size - (BUDGET + BUDGET / 4);
        publish((limit - besides) / 5 * 4 - 16).unwrap();
        self.now()
    }

    fn now(&self) -> AtRest {
        let stats = self.registry.stats();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        AtRest {
            clients: stats.clients,
            subscriptions: stats.subscriptions,
            topics: stats.topics,
            events: stats.events,
            limited: self.limits.iter().map(|limit| (limit.open_streams(), limit.entries())).collect(),
            present: self.presences.iter().map(|(it, known)| (it.count(), known.load(Ordering::Relaxed))).collect(),
            open: count(&self.counts.opened) - count(&self.counts.closed),
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: open_files(),
        }
    }

    /// Waits until the state is as it was at the start.
    async fn comes_to(&self, begin: &AtRest) {
        let deadline = Instant::now() + PATIENCE;
        let mut now = self.at_rest().await;
        while now != *begin {
            assert!(Instant::now() < deadline, "the state was {begin:?} before and is {now:?} after");
            sleep(Duration::from_millis(10)).await;
            now = self.now();
        }
    }

    async fn churn(self: &Arc<Self>, time: Duration, random: &mut Random) {
        let before = self.registry.stats();
        let steady = format!("steady/{}", random.next());
        let (published, all) = watch::channel(None);
        let mut readers = JoinSet::new();
        for version in VERSIONS {
            for expires in [false, true] {
                let target = format!("/steady?topic={steady}&start=oldest{}", if expires { "&expire=700" } else { "" });
                let (test_server, all) = (Arc::clone(self), all.clone());
                readers.spawn(async move { test_server.read_all(version, &target, all).await });
            }
        }
        let until = Instant::now() + time;
        let goes_on = Arc::new(AtomicBool::new(true));
        let mut publishers = JoinSet::new();
        publishers.spawn(Arc::clone(self).flood(Arc::clone(&goes_on), random.split()));
        publishers.spawn(Arc::clone(self).produce(Arc::clone(&goes_on), random.split()));
        publishers.spawn(Arc::clone(self).meddle(Arc::clone(&goes_on), random.split()));
        let publisher = tokio::spawn(Arc::clone(self).publish_steadily(Arc::clone(&goes_on), steady));

        let mut clients = JoinSet::new();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until || !self.is_enough() {
            assert!(Instant::now() < until + PATIENCE, "{:?}", self.registry.stats());
            pace.tick().await;
            while let Some(client) = clients.try_join_next() {
                client.unwrap();
            }
            if clients.len() < CLIENTS {
                clients.spawn(Arc::clone(self).misbehave(random.split()));
            }
        }
        goes_on.store(false, Ordering::Relaxed);
        let steady = publisher.await.unwrap();
        published.send_replace(Some(steady));
        let mut reconnects = Vec::new();
        while let Some(reader) = timeout(PATIENCE, readers.join_next()).await.expect("readers get all events in time") {
            reconnects.push(reader.unwrap());
        }
        for others in [&mut clients, &mut publishers] {
            while let Some(other) = timeout(PATIENCE, others.join_next()).await.expect("all tasks end") {
                other.unwrap();
            }
        }
        self.report(time, steady, &reconnects, &before);
    }

    fn report(&self, time: Duration, steady: u64, reconnects: &[u64], before: &tower_sse::Stats) {
        let stats = self.registry.stats();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!("{time:?} more:");
        println!("  clients did, in all: {:?}", self.counts.did.lock().unwrap());
        println!(
            "  streams, in all: {} opened, {} refused: {:?}, {:?}",
            count(&self.counts.opened),
            stats.refused_streams,
            self.counts.refused.lock().unwrap(),
            stats.closed_streams
        );
        println!(
            "  events: {} published, {} delivered; in all {} MiB, {} gaps, {} lags with {} lost, {} heartbeats, {} subscriptions refused",
            stats.published - before.published,
            stats.delivered - before.delivered,
            count(&self.counts.bytes) >> 20,
            stats.gaps,
            stats.fell_behind,
            stats.missed,
            count(&self.counts.heartbeats),
            stats.refused_subscriptions,
        );
        println!(
            "  {} readers had all {steady} events in order, with {reconnects:?} reconnects; the slowest event took {} ms",
            reconnects.len(),
            count(&self.counts.slowest) / 1000
        );
    }

    /// Whether enough has happened, however busy the machine is. Otherwise the run proves nothing.
    fn is_enough(&self) -> bool {
        let stats = self.registry.stats();
        let closed = |reason| stats.closed_streams.get(&reason).copied().unwrap_or_default();
        let is_refused = stats.refused_streams > 20 && stats.refused_subscriptions > 20;
        is_refused
            && closed(CloseReason::ClientDisconnected) > 50
            && closed(CloseReason::Stalled) > 0
            && stats.gaps > 20
            && stats.fell_behind > 0
    }

    /// Publishes numbered events, one after the other, on a topic that only well-behaved readers read.
    async fn publish_steadily(self: Arc<Self>, goes_on: Arc<AtomicBool>, topic: String) -> u64 {
        let mut pace = interval(Duration::from_millis(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while goes_on.load(Ordering::Relaxed) {
            pace.tick().await;
            let event = Event::data(format!("{number} {}", self.begun.elapsed().as_micros()));
            self.registry.publish(&topic, event).unwrap();
            number += 1;
        }
        number
    }

    /// Reads as a well-behaved client does: whenever its stream ends, it reconnects and resumes. Returns how often it
    /// reconnected.
    async fn read_all(self: Arc<Self>, version: Version, target: &str, mut all: watch::Receiver<Option<u64>>) -> u64 {
        let (mut next, mut last_id, mut reconnects) = (0, None::<String>, 0);
        loop {
            let mut request = client::get(target);
            if let Some(id) = &last_id {
                request.headers_mut().insert("last-event-id", HeaderValue::from_str(id).unwrap());
            }
            let response = Client::connect(self.address, version).await.send(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut events = Box::pin(response.into_body().into_data_stream().eventsource());
            while *all.borrow() != Some(next) {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = all.changed() => continue,
                };
                let Some(Ok(event)) = event else { break };
                if event.event == "position" {
                    last_id = Some(event.id);
                    continue;
                }
                assert_eq!(event.event, "message", "at {next}: {}", event.data);
                let (number, at) = event.data.split_once(' ').unwrap();
                assert_eq!(number.parse(), Ok(next));
                let took = self.begun.elapsed().as_micros() as u64 - at.parse::<u64>().unwrap();
                assert!(took < PATIENCE.as_micros() as u64, "an event took {took} microseconds");
                self.counts.slowest.fetch_max(took, Ordering::Relaxed);
                (next, last_id) = (next + 1, Some(event.id));
            }
            if *all.borrow() == Some(next) {
                return reconnects;
            }
            reconnects += 1;
        }
    }

    /// Publishes in bursts of small and large events, on few topics and on many new ones.
    async fn flood(self: Arc<Self>, goes_on: Arc<AtomicBool>, mut random: Random) {
        let mut pace = interval(Duration::from_millis(5));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while goes_on.load(Ordering::Relaxed) {
            pace.tick().await;
            for _ in 0..random.below(30) {
                let topic = match random.below(20) {
                    0 => format!("user/{}", random.below(1_000_000)),
                    _ => format!("flood/{}", random.below(40)),
                };
                let size = if random.one_in(1000) { 100_000 } else { random.index(400) };
                let mut event = Event::data("x".repeat(size));
                if random.one_in(20) {
                    event = event.id(format!("order-{}", random.below(100))).unwrap();
                }
                if random.one_in(20) {
                    event = event.attribute(random.below(2));
                }
                self.registry.publish(topic, event).unwrap();
            }
        }
    }

    /// Starts producers and ends them in all ways.
    async fn produce(self: Arc<Self>, goes_on: Arc<AtomicBool>, mut random: Random) {
        let mut pace = interval(Duration::from_millis(20));
        let (mut producers, mut pipes) = (Vec::new(), Vec::new());
        while goes_on.load(Ordering::Relaxed) {
            pace.tick().await;
            let topic = format!("answer/{}", random.below(20));
            match random.below(6) {
                0 => producers.extend(self.registry.start_producer(topic)),
                1 => {
                    let events = IntervalStream::new(interval(Duration::from_millis(10))).map(|_| Event::data("token"));
                    pipes
                        .push(self.registry.replace_producer(topic).unwrap().spawn_from(events.take(random.index(50))));
                }
                2 => _ = self.registry.cancel_producer(topic),
                3 if !producers.is_empty() => drop(producers.swap_remove(random.index(producers.len()))),
                _ => producers.iter().for_each(|producer| drop(producer.publish(Event::data("token")))),
            }
        }
        drop(producers);
        for pipe in pipes {
            // A cancelled or replaced producer gets an error for its farewell.
            drop(pipe.await.unwrap());
        }
    }

    /// Does all that a program may do with its current clients.
    async fn meddle(self: Arc<Self>, goes_on: Arc<AtomicBool>, mut random: Random) {
        let mut pace = interval(Duration::from_millis(5));
        // Handles of streams that may have ended long ago.
        let mut kept = VecDeque::new();
        while goes_on.load(Ordering::Relaxed) {
            pace.tick().await;
            let clients = self.registry.clients();
            let misbehaving: Vec<_> = clients.iter().filter(|it| it.metadata().get::<User>().is_some()).collect();
            if misbehaving.is_empty() {
                continue;
            }
            let client = misbehaving[random.index(misbehaving.len())].clone();
            match random.below(10) {
                0 => client.close(),
                1 => client.close_with("enough"),
                2 => client.expire_after(Duration::from_millis(random.below(100))),
                3 => drop(client.subscribe(Subscription::matching("flood/**").from(Start::Oldest))),
                4 => _ = client.subscriptions().first().map(|name| client.unsubscribe(name)),
                5 => client.insert_metadata(User("somebody else".into())),
                6 => {
                    let event = Event::data("not for one").exclude_client(client.id());
                    self.registry.publish("flood/1", event).unwrap();
                }
                7 => _ = (client.stats(), client.resume(), client.is_complete()),
                _ => drop(client.send(Event::data("for you alone"))),
            }
            kept.push_back(client);
            kept.truncate(100);
            if random.one_in(2) {
                kept.pop_front();
            }
        }
    }

    async fn dial(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        socket.connect(self.address).await.expect("the server takes connections")
    }

    async fn misbehave(self: Arc<Self>, mut random: Random) {
        let mut asked = Asked::any(&mut random);
        match random.below(12) {
            0 => {
                self.counts.did("read, and closed");
                let mut socket = self.ask(&asked).await;
                read(&mut socket, &mut random).await;
            }
            1 => {
                self.counts.did("read, and half closed");
                let mut socket = self.ask(&asked).await;
                read(&mut socket, &mut random).await;
                drop(socket.shutdown().await);
                drop(
                    timeout(PATIENCE, socket.read_to_end(&mut Vec::new()))
                        .await
                        .expect("the server closes the connection"),
                );
            }
            2 => {
                self.counts.did("read, and vanished");
                let mut socket = self.ask(&asked).await;
                read(&mut socket, &mut random).await;
                drop(socket.set_zero_linger());
            }
            3..=4 => {
                self.counts.did("stalled");
                asked.target = "/stream?pattern=flood/**&pattern=**&start=oldest".into();
                let socket = self.ask(&asked).await;
                sleep(Duration::from_millis(random.below(3000))).await;
                if random.one_in(2) {
                    drop(socket.set_zero_linger());
                }
            }
            5 => {
                for _ in 0..20 {
                    self.counts.did("opened, and vanished at once");
                    let socket = self.ask(&asked).await;
                    drop(socket.set_zero_linger());
                }
            }
            6 => {
                self.counts.did("asked for everything");
                let topics: String = (0..60).map(|topic| format!("&topic=flood/{topic}")).collect();
                asked.target = format!("/stream?pattern=**&pattern=*/*&start=oldest{topics}");
                let mut socket = self.ask(&asked).await;
                read(&mut socket, &mut random).await;
            }
            7 => {
                self.counts.did("was banned");
                asked.user = "banned".into();
                let mut socket = self.ask(&asked).await;
                let mut head = [0; 12];
                timeout(PATIENCE, socket.read_exact(&mut head)).await.expect("an answer").unwrap();
                // The total limit may be the first to refuse the stream.
                assert!(head == *b"HTTP/1.1 429" || head == *b"HTTP/1.1 503", "{}", head.escape_ascii());
            }
            8 => {
                self.counts.did("pipelined, and closed");
                let mut socket = self.ask(&asked).await;
                drop(socket.write_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\nGET /str").await);
                sleep(Duration::from_millis(random.below(200))).await;
            }
            9 => {
                self.counts.did("sent garbage");
                let mut socket = self.dial().await;
                let garbage = random.bytes(300);
                drop(socket.write_all(&garbage).await);
                if random.one_in(2) {
                    drop(socket.set_zero_linger());
                }
            }
            _ => {
                self.counts.did("came over HTTP/2");
                // An error is one more way to leave.
                drop(self.over_http2(&mut random).await);
            }
        }
    }

    async fn ask(&self, asked: &Asked) -> TcpStream {
        let mut socket = self.dial().await;
        // The server may have closed the connection by now.
        drop(socket.write_all(&asked.http1()).await);
        socket
    }

    /// Opens several streams on one connection. Some are reset, some are read, and some are never read.
    async fn over_http2(&self, random: &mut Random) -> hyper::Result<()> {
        let socket = self.dial().await;
        if random.one_in(2) {
            drop(socket.set_zero_linger());
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(16 << 10).initial_connection_window_size(64 << 10);
        let (mut sender, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(socket)).await?;
        let connection = tokio::spawn(connection);
        let mut stalled = Vec::new();
        for _ in 0..=random.below(8) {
            let request = Asked::any(random).http2();
            sender.ready().await?;
            let mut response = timeout(PATIENCE, sender.send_request(request)).await.expect("an answer")?;
            match random.below(3) {
                0 => self.counts.did("reset a stream"),
                1 => {
                    for _ in 0..random.below(10) {
                        // A stream may be silent, or may have ended.
                        let Ok(Some(Ok(_))) = timeout(Duration::from_millis(300), response.frame()).await else {
                            break;
                        };
                    }
                }
                _ => {
                    self.counts.did("stalled a stream");
                    stalled.push(response);
                }
            }
        }
        sleep(Duration::from_millis(random.below(2000))).await;
        if random.one_in(2) {
            connection.abort();
        }
        drop((sender, stalled));
        let _ = timeout(PATIENCE, connection).await.expect("an unused connection ends");
        Ok(())
    }
}

/// Reads some of what comes, in pieces of any size.
async fn read(socket: &mut TcpStream, random: &mut Random) {
    let mut piece = vec![0; 1 + random.index(2000)];
    for _ in 0..random.below(50) {
        match timeout(Duration::from_millis(300), socket.read(&mut piece)).await {
            Ok(Ok(bytes)) if bytes > 0 => {}
            _ => return,
        }
    }
}

/// A request.
struct Asked {
    target: String,
    user: String,
    last_event_id: Option<Vec<u8>>,
}

impl Asked {
    fn any(random: &mut Random) -> Self {
        let mut target = match random.below(6) {
            0 => "/own?topic=flood/1".to_owned(),
            1 => "/stream?pattern=flood/*".to_owned(),
            2 => "/stream?pattern=**&odd=1".to_owned(),
            3 => format!("/stream?topic=answer/{}", random.below(20)),
            4 => "/stream?topic=&topic=a//b&pattern=a*&topic=$client/1&topic=flood/2".to_owned(),
            _ => format!("/stream?topic=flood/{}&topic=user/{}", random.below(40), random.below(1_000_000)),
        };
        if random.one_in(3) {
            target.push_str("&start=oldest");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let last_event_id = match random.below(8) {
            0 => Some(format!("{}-{}", now - random.below(10_000), random.below(3)).into_bytes()),
            1 => Some(format!("{}-0", now + random.below(1_000_000)).into_bytes()),
            2 => Some(format!("order-{}", random.below(100)).into_bytes()),
            3 => Some(format!("{now}-0~{now}-0:{:x}", random.next()).into_bytes()),
            4 => {
                let len = random.index(3000);
                let bytes = random.bytes(len).into_iter();
                Some(bytes.map(|byte| if byte < b' ' || byte == 0x7f { b'?' } else { byte }).collect())
            }
            _ => None,
        };
        Self { target, user: format!("user {}", random.below(40)), last_event_id }
    }

    fn http1(&self) -> Vec<u8> {
        let Self { target, user, last_event_id } = self;
        let mut wire =
            format!("GET {target} HTTP/1.1\r\nhost: server.test\r\naccept: text/event-stream\r\nx-user: {user}\r\n");
        let id = last_event_id.iter().map(|id| [b"last-event-id: ", &**id, b"\r\n"].concat());
        let id: Vec<u8> = id.flatten().collect();
        wire.push_str("x-end: 1\r\n");
        [wire.into_bytes(), id, b"\r\n".to_vec()].concat()
    }

    fn http2(&self) -> http::Request<Empty<Bytes>> {
        let mut request = http::Request::builder()
            .uri(format!("http://server.test{}", self.target))
            .header("accept", "text/event-stream")
            .header("x-user", &self.user);
        if let Some(id) = &self.last_event_id {
            request = request.header("last-event-id", HeaderValue::from_bytes(id).unwrap());
        }
        request.body(Empty::new()).unwrap()
    }
}

/// Subscribes as the query says, until a subscription is refused.
fn subscribe(client: &ClientHandle, request: &Request) {
    let query = request.uri().query().unwrap_or_default();
    let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let value = |name| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    let start = if value("start").is_some() { Start::Oldest } else { Start::Now };
    for (name, value) in &parameters {
        let subscription = match &**name {
            "topic" => Subscription::to(&**value),
            "pattern" => Subscription::matching(&**value),
            _ => continue,
        };
        let odd = parameters.iter().any(|(name, _)| name == "odd");
        let subscription = match odd {
            true => subscription.filter(|event, _| event.encoded().len() % 2 == 1),
            false => subscription,
        };
        drop(client.subscribe(subscription.from(start)));
    }
    if let Some(milliseconds) = value("expire") {
        client.expire_after(Duration::from_millis(milliseconds.parse().unwrap()));
    }
}

async fn stream(client: ClientHandle, request: Request) -> impl IntoResponse {
    subscribe(&client, &request);
    client.into_stream()
}

/// A handler whose own stream never ends.
async fn own(client: ClientHandle, request: Request) -> impl IntoResponse {
    subscribe(&client, &request);
    let events = IntervalStream::new(interval(Duration::from_millis(20)));
    axum::response::Sse::new(
        events.map(|_| axum::response::sse::Event::default().data("own")).map(Ok::<_, axum::Error>),
    )
}
