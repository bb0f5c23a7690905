//! Streams leave nothing behind, however they ended. Poll by poll, with paused time.

use std::{
    convert::Infallible,
    future::{pending, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_core::Stream;
use http::{Request, Response};
use http_body::Body;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{advance, timeout},
};
use tokio_stream::{StreamExt, iter};
use tower::{Layer, Service, service_fn};
use tower_sse::{
    Batching, ClientHandle, Event, Events, Heartbeat, Observation, Presence, PresenceChanges, Producer, PublishError,
    Registry, RegistryConfig, Retention, SlowClientPolicy, SseBody, SseLayer, Start, Stats, Subscription,
};

use crate::{
    open::{Empty, open},
    process::{allocated, is_alone},
};

const STREAMS: u64 = 10_000;

/// The age at which events are evicted and ended topics are forgotten.
const AGE: Duration = Duration::from_secs(60);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// A value of the program that the registry holds. Its reference count shows whether anything still holds it.
type Token = Arc<()>;

/// A task, as far as a registry knows of it.
struct TaskWaker;

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {}
}

enum Reading {
    Body(SseBody<Empty>),
    Events(Events),
}

impl Reading {
    fn poll(&mut self, task_waker: &Arc<TaskWaker>) {
        let waker = Waker::from(Arc::clone(task_waker));
        let mut cx = Context::from_waker(&waker);
        let _ = match self {
            Self::Body(body) => Pin::new(body).poll_frame(&mut cx).map(drop),
            Self::Events(events) => Pin::new(events).poll_next(&mut cx).map(drop),
        };
    }
}

struct Open {
    client: ClientHandle,
    reading: Reading,
    task_waker: Arc<TaskWaker>,
}

/// A program that uses all features of a registry at random.
struct Program {
    random: Random,
    registry: Registry,
    layers: [SseLayer; 2],
    streams: Vec<Open>,
    /// Handles of streams that have ended.
    handles: Vec<ClientHandle>,
    producers: Vec<Producer>,
    spawned: Vec<JoinHandle<Result<(), PublishError>>>,
    presences: Vec<(Presence, PresenceChanges)>,
    /// All wakers that anything was polled with.
    task_wakers: Vec<Arc<TaskWaker>>,
    /// Held by filters, metadata, attributes, and the streams that producers send.
    token: Token,
    /// Held by the registry's configuration.
    config_token: Token,
    /// How many streams were opened and how many were closed, as an observer was told.
    opened: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
    answers: u64,
}

impl Program {
    fn new(seed: u64) -> Self {
        let (token, config_token) = (Token::default(), Token::default());
        let (opened, closed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let by_name = Arc::clone(&config_token);
        let by_name = move |topic: &str| {
            let _ = &by_name;
            match topic.len() % 4 {
                0 => Retention::default().events(2).slow_client_policy(SlowClientPolicy::SkipSilently),
                1 => Retention::default()
                    .events(3)
                    .slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_secs(1) }),
                _ => Retention::default().events(50),
            }
        };
        let (has_opened, has_closed) = (Arc::clone(&opened), Arc::clone(&closed));
        let config = RegistryConfig::default()
            .total_retention(Retention::default().age(AGE))
            .topic_retention_by(by_name)
            .ended_topic_ttl(AGE)
            .stalled_client_timeout(Duration::from_secs(20))
            .presence_grace(Duration::from_secs(5))
            .observer(move |observation: &Observation<'_>| match observation {
                Observation::Opened { .. } => drop(has_opened.fetch_add(1, Ordering::Relaxed)),
                Observation::Closed { .. } => drop(has_closed.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            });
        let registry = Registry::with_config(config);
        let known = Arc::clone(&token);
        let layer = SseLayer::new(&registry).metadata(move |_| Some(Arc::clone(&known)));
        let often = Heartbeat::every(Duration::from_secs(1));
        let layers =
            [layer.clone().heartbeat(often).reconnect_delay(Duration::from_secs(1)), layer.heartbeat(Heartbeat::off())];
        Self {
            random: Random(seed),
            registry,
            layers,
            streams: Vec::new(),
            handles: Vec::new(),
            producers: Vec::new(),
            spawned: Vec::new(),
            presences: Vec::new(),
            task_wakers: Vec::new(),
            token,
            config_token,
            opened,
            closed,
            answers: 0,
        }
    }

    fn task_waker(&mut self) -> Arc<TaskWaker> {
        let task_waker = Arc::new(TaskWaker);
        self.task_wakers.push(Arc::clone(&task_waker));
        task_waker
    }

    fn topic(&mut self) -> String {
        match self.random.below(4) {
            // Topics that only one client has.
            0 => format!("user/{}/inbox", self.random.below(1_000_000)),
            1 => format!("answer/{}", self.random.below(self.answers + 1)),
            _ => format!("topic/{}", self.random.below(30)),
        }
    }

    fn subscription(&mut self) -> Subscription {
        let name = match self.random.below(6) {
            0 => "topic/*".to_owned(),
            1 => "**".to_owned(),
            2 => format!("*/{}/**", self.random.below(100)),
            _ => self.topic(),
        };
        let start = match self.random.below(8) {
            0 => Start::Oldest,
            1 => Start::Last(3),
            2 => Start::After(self.registry.position()),
            _ => Start::Now,
        };
        let subscription = Subscription::matching(name).from(start);
        if self.random.one_in(3) {
            let (token, odd) = (Arc::clone(&self.token), self.random.one_in(2));
            return subscription.filter(move |event, _| {
                let _ = &token;
                event.data().is_some_and(|data| data.len() % 2 == 1) == odd
            });
        }
        subscription
    }

    fn event(&mut self) -> Event {
        let mut event = Event::data("x".repeat(self.random.index(200)));
        if self.random.one_in(4) {
            event = event.attribute(Arc::clone(&self.token));
        }
        if self.random.one_in(10) {
            event = event.id(format!("order-{}", self.random.below(1000))).unwrap();
        }
        if self.random.one_in(10) && !self.streams.is_empty() {
            let at = self.random.index(self.streams.len());
            event = event.exclude_client(self.streams[at].client.id());
        }
        event
    }

    fn open(&mut self) {
        let last_event_id = match self.random.below(6) {
            0 => Some(self.registry.position().to_string()),
            1 => Some("1-0".to_owned()),
            2 => Some("order-1".to_owned()),
            3 => Some("no position".to_owned()),
            _ => None,
        };
        let subscriptions: Vec<Subscription> = (0..self.random.below(4)).map(|_| self.subscription()).collect();
        let (is_held, is_labelled, batches) = (self.random.one_in(2), self.random.one_in(4), self.random.one_in(8));
        let (welcome, snapshot) = (self.random.one_in(4), self.random.one_in(8));
        let handle = |client: &ClientHandle| {
            subscriptions.iter().for_each(|subscription| drop(client.subscribe(subscription.clone())));
            client.topic_as_event_type(is_labelled);
            if batches {
                client.batch(Batching::every(Duration::from_secs(1)));
            }
            if welcome {
                client.send(Event::data("welcome")).unwrap();
            }
            if is_held || snapshot {
                let stream = client.clone().into_stream();
                if snapshot {
                    drop(stream.snapshot(Event::data("all"), client.registry().position()));
                }
            }
        };
        let at = self.random.index(self.layers.len());
        let (client, reading) = match self.random.below(8) {
            // A client without a request.
            0 => {
                let client = self.registry.connect();
                handle(&client);
                (client.clone(), Reading::Events(client.into_events()))
            }
            // A handler that is cancelled, and one that returns another response.
            1 => {
                let mut service = self.layers[at].layer(service_fn(|request: Request<()>| {
                    handle(request.extensions().get::<ClientHandle>().unwrap());
                    pending::<Result<Response<Empty>, Infallible>>()
                }));
                let mut answer = Box::pin(service.call(Request::new(())));
                assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                return;
            }
            2 => {
                let mut service = self.layers[at].layer(service_fn(|request: Request<()>| {
                    handle(request.extensions().get::<ClientHandle>().unwrap());
                    ready(Ok::<_, Infallible>(Response::new(Empty::new())))
                }));
                let mut answer = Box::pin(service.call(Request::new(())));
                assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
                return;
            }
            _ => {
                let (client, body) = open(&self.layers[at], last_event_id.as_deref(), handle);
                (client, Reading::Body(body))
            }
        };
        let task_waker = self.task_waker();
        self.streams.push(Open { client, reading, task_waker });
    }

    /// Does something to a random stream.
    fn act_on_stream(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let at = self.random.index(self.streams.len());
        match self.random.below(24) {
            0 => self.streams[at].client.close(),
            1 => self.streams[at].client.close_with("enough"),
            2 => {
                let subscription = self.subscription();
                drop(self.streams[at].client.subscribe(subscription));
            }
            3 => {
                let names = self.streams[at].client.subscriptions();
                names.iter().take(2).for_each(|name| assert!(self.streams[at].client.unsubscribe(name)));
            }
            4 => {
                let event = self.event();
                drop(self.streams[at].client.send(event));
            }
            // The stream moves to another task.
            5 => self.streams[at].task_waker = self.task_waker(),
            // The handle outlives the stream and is used later.
            6 => {
                let Open { client, .. } = self.streams.swap_remove(at);
                assert!(client.subscribe("topic/1").is_err());
                assert!(client.send(Event::data("too late")).is_err());
                self.handles.push(client);
            }
            7..10 => drop(self.streams.swap_remove(at)),
            _ => {
                let Open { reading, task_waker, .. } = &mut self.streams[at];
                reading.poll(task_waker);
            }
        }
    }

    fn publish(&mut self) {
        let (topic, event) = (self.topic(), self.event());
        // A topic that has ended accepts no event.
        drop(self.registry.publish(topic, event));
    }

    fn produce(&mut self) {
        let topic = match self.random.one_in(4) {
            true => format!("topic/{}", self.random.below(30)),
            false => {
                self.answers += 1;
                format!("answer/{}", self.answers)
            }
        };
        let producer = match self.random.one_in(2) {
            true => self.registry.replace_producer(&topic),
            false => self.registry.start_producer(&topic),
        };
        let Ok(producer) = producer else { return };
        let (event, token) = (self.event(), Arc::clone(&self.token));
        let events = iter([event.clone(), event]).map(move |event| event.attribute(Arc::clone(&token)));
        match self.random.below(3) {
            0 => self.spawned.push(producer.spawn_from(events)),
            // A stream that does not end by itself.
            1 => self.spawned.push(producer.spawn_from(events.chain(tokio_stream::pending()))),
            _ => self.producers.push(producer),
        }
    }

    fn step_producers(&mut self) {
        let topic = format!("answer/{}", self.random.below(self.answers + 1));
        if self.producers.is_empty() {
            self.registry.cancel_producer(topic);
            return;
        }
        let at = self.random.index(self.producers.len());
        match self.random.below(5) {
            0 => drop(self.producers.swap_remove(at)),
            1 => drop(self.registry.cancel_producer(topic)),
            2 => drop(self.registry.cancel_producer(self.producers[at].topic())),
            _ => {
                let event = self.event();
                drop(self.producers[at].publish(event));
            }
        }
    }

    fn step_presence(&mut self) {
        let somebody = format!("user/{}/inbox", self.random.below(1_000_000));
        drop(self.registry.presence(somebody).unwrap());
        if self.presences.len() < 3 {
            let name = if self.random.one_in(3) { "topic/*".to_owned() } else { self.topic() };
            let presence = self.registry.presence(name).unwrap();
            let changes = presence.changes();
            self.presences.push((presence, changes));
            return;
        }
        let at = self.random.index(self.presences.len());
        if self.random.one_in(4) {
            drop(self.presences.swap_remove(at));
            return;
        }
        let waker = Waker::from(self.task_waker());
        let (presence, changes) = &mut self.presences[at];
        let _ = Pin::new(changes).poll_next(&mut Context::from_waker(&waker));
        assert!(presence.count() <= self.streams.len() + 1000);
    }

    /// Opens this many streams and ends them all.
    async fn run(&mut self, streams: u64) {
        for number in 0..streams {
            self.open();
            for _ in 0..self.random.below(8) {
                match self.random.below(20) {
                    0..4 => self.publish(),
                    4 => self.produce(),
                    5 => self.step_producers(),
                    6 => self.step_presence(),
                    _ => self.act_on_stream(),
                }
            }
            if number % 16 == 0 {
                // Gives the producers' tasks a turn, and renews tokio's budget.
                yield_now().await;
            }
            if number % 64 == 0 {
                advance(Duration::from_millis(self.random.below(5_000))).await;
            }
            if number % 1024 == 0 {
                // Drops all streams at once.
                self.streams.clear();
            }
        }
        self.streams.clear();
        self.producers.clear();
        self.presences.clear();
        for topic in 0..self.answers.max(30) + 1 {
            self.registry.cancel_producer(format!("answer/{topic}"));
            self.registry.cancel_producer(format!("topic/{topic}"));
        }
        for task in self.spawned.drain(..) {
            drop(timeout(AGE, task).await.expect("a producer's stream ends with its topic"));
        }
    }

    /// Lets the retained events become too old. The next publish evicts them.
    async fn grow_old(&mut self) -> Stats {
        self.handles = Vec::new();
        advance(2 * AGE).await;
        self.registry.publish("last", Event::data("x")).unwrap();
        // Old events are evicted piece by piece.
        let pieces = self.registry.stats().topics;
        (0..pieces).for_each(|_| drop(self.registry.stats()));
        self.registry.stats()
    }
}

/// The stats of a registry that has one event and nothing else.
async fn alone() -> Stats {
    Program::new(0).grow_old().await
}

#[tokio::test(start_paused = true)]
async fn streams_leave_nothing_behind_however_they_ended() {
    let mut program = Program::new(1);
    program.run(STREAMS).await;

    let stats = program.registry.stats();
    assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    assert!(program.registry.clients().is_empty());
    let kept = program.task_wakers.iter().filter(|task_waker| Arc::strong_count(task_waker) > 1).count();
    assert_eq!(kept, 0, "wakers of {} are kept", program.task_wakers.len());
    let (opened, closed) = (program.opened.load(Ordering::Relaxed), program.closed.load(Ordering::Relaxed));
    assert_eq!(opened, closed);
    assert_eq!(stats.closed_streams.values().sum::<u64>(), closed);
    // Everything has happened. Otherwise the test proves nothing.
    assert!(opened > STREAMS / 2 && stats.published > STREAMS && stats.topics > 100, "{stats:?}");
    assert!(stats.gaps > 100 && stats.fell_behind > 100 && stats.closed_streams.len() >= 6, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn topics_and_events_that_are_too_old_are_dropped_with_their_attributes() {
    let mut program = Program::new(2);
    program.run(STREAMS).await;
    assert!(Arc::strong_count(&program.token) > 100, "events hold their attributes");

    let (stats, alone) = (program.grow_old().await, alone().await);
    assert_eq!((stats.topics, stats.events, stats.bytes), (1, 1, alone.bytes));
    // The layers hold it too, in one closure that both share.
    assert_eq!(Arc::strong_count(&program.token), 2);
}

#[test]
fn a_pattern_without_subscribers_costs_nothing() {
    let bytes = |patterns: &[&str]| {
        let registry = Registry::new();
        registry.publish("topic/1", Event::data("before")).unwrap();
        for start in [Start::Now, Start::Oldest, Start::Last(1)] {
            let clients: Vec<ClientHandle> = (0..10).map(|_| registry.connect()).collect();
            let subscribe = |client: &ClientHandle, name: &str| {
                client.subscribe(Subscription::matching(name).from(start)).unwrap();
            };
            clients.iter().for_each(|client| patterns.iter().for_each(|name| subscribe(client, name)));
            drop(clients);
        }
        let receipt = registry.publish("topic/1", Event::data("after")).unwrap();
        assert_eq!(receipt.subscribers(), 0);
        registry.stats().bytes
    };
    assert_eq!(bytes(&["*/*", "topic/*", "*/1", "topic/**", "**"]), bytes(&[]));
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_dropped_with_its_last_handle() {
    let mut program = Program::new(3);
    program.run(STREAMS / 10).await;
    program.open();
    let Program { config_token, registry, layers, streams, handles, .. } = program;
    drop((registry, layers, handles));
    assert!(Arc::strong_count(&config_token) > 1, "a stream is open");
    drop(streams);
    assert_eq!(Arc::strong_count(&config_token), 1);
}

/// Runs in a process of its own, so that no other test allocates or frees memory.
#[tokio::test(start_paused = true)]
async fn streams_that_come_and_go_do_not_grow_the_memory() {
    if !is_alone("leaks::streams_that_come_and_go_do_not_grow_the_memory") {
        return;
    }
    let mut program = Program::new(4);
    // What the registry remembers of forgotten topics is bounded. This fills it to the bound, with as few topics in use
    // at a time as later: memory that is freed here would hide a leak.
    for topic in 0..10_000 {
        program.registry.publish(format!("bygone/{topic}"), Event::data("x")).unwrap();
        advance(AGE / 100).await;
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        program.run(STREAMS).await;
        program.grow_old().await;
        program.task_wakers = Vec::new();
        taken.push(allocated());
    }
    // That is 50 bytes for each of 20,000 streams. Most of it is memory that the allocator cannot use.
    println!("{taken:?}");
    assert!(taken[2].saturating_sub(taken[0]) < 1 << 20, "{taken:?}");
}
