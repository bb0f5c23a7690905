//! Two nodes over a real Redis that is stopped, cut, emptied, filled and put back.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tower_sse::{
    Event, Health, Position, PublishError, Receipt, Registry, RegistryConfig, Resume, Retention, Start, Subscription,
    TopicState,
};

use super::{
    everywhere::{all_have_read, from_oldest},
    nodes::{all_of, reader},
    redis_server::{Server, WITH_AOF},
};

const LONG: Duration = Duration::from_secs(60);

fn node(server: &Server) -> Registry {
    Registry::with_config(RegistryConfig::default().backplane(server.engine().stream("events")))
}

/// What a reader got: events, and gaps as `None`.
type Got = Arc<Mutex<Vec<Option<(Position, String)>>>>;

/// What became of each event.
type Published = Arc<Mutex<Vec<(String, Result<Position, PublishError>)>>>;

struct World {
    nodes: [Registry; 2],
    got: [Got; 2],
    published: Published,
    stop: Arc<AtomicBool>,
    publishers: Vec<tokio::task::JoinHandle<()>>,
}

impl World {
    /// Two nodes, a reader at each, and a publisher at each that awaits each receipt.
    async fn start(server: &Server) -> Self {
        let nodes = [node(server), node(server)];
        for node in &nodes {
            node.ready().await.unwrap();
        }
        let got = [Got::default(), Got::default()];
        for (node, got) in nodes.iter().zip(&got) {
            let (mut events, got) = (reader(node, "t"), Arc::clone(got));
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    let event = event.ok().map(|event| (event.position(), event.data().unwrap().into_owned()));
                    got.lock().unwrap().push(event);
                }
            });
        }
        let (published, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut world = Self { nodes, got, published, stop, publishers: Vec::new() };
        for (at, node) in world.nodes.iter().enumerate() {
            let (node, published, stop) = (node.clone(), Arc::clone(&world.published), Arc::clone(&world.stop));
            world.publishers.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let data = format!("{at}-{number}");
                    let outcome = node.publish("t", Event::data(&data)).unwrap().await;
                    published.lock().unwrap().push((data, outcome));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        world.more(20).await;
        world
    }

    /// Waits until so many more events were published and stored.
    async fn more(&self, events: usize) {
        let before = self.published.lock().unwrap().len();
        let begun = Instant::now();
        while self.published.lock().unwrap().len() < before + events {
            let health = self.nodes.each_ref().map(Registry::health);
            assert!(begun.elapsed() < LONG, "nothing is stored any more: {health:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a node is in such a health.
    async fn until(&self, at: usize, is: impl Fn(&Health) -> bool) {
        let begun = Instant::now();
        while !is(&self.nodes[at].health()) {
            assert!(begun.elapsed() < LONG, "node {at} is {:?}", self.nodes[at].health());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops publishing, and returns how many gaps each reader was told of. Nothing else is missing, twice or out of order.
    async fn finish(mut self, is_gap_expected: bool) -> Vec<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers.drain(..) {
            timeout(LONG, publisher).await.expect("each receipt is answered").unwrap();
        }
        let last = self.nodes[0].publish("t", Event::data("the last")).unwrap().await.unwrap();
        let published: HashMap<_, _> = self.published.lock().unwrap().drain(..).collect();
        let mut gaps = Vec::new();
        for got in &self.got {
            let begun = Instant::now();
            while !got.lock().unwrap().iter().flatten().any(|(position, _)| *position == last) {
                assert!(begun.elapsed() < LONG, "a reader never gets the last event");
                sleep(Duration::from_millis(5)).await;
            }
            let got = got.lock().unwrap();
            let mut seen = HashSet::new();
            let mut before = Position::default();
            for (position, data) in got.iter().flatten() {
                assert!(*position > before, "{data} is out of order");
                assert!(seen.insert(data.clone()), "{data} came twice");
                before = *position;
            }
            let told = got.iter().filter(|it| it.is_none()).count();
            for (data, outcome) in &published {
                outcome.as_ref().unwrap_or_else(|error| panic!("{data}: {error}"));
                assert!(seen.contains(data) || told > 0, "{data} is missing without a gap");
            }
            assert_eq!(told > 0, is_gap_expected, "{told} gaps were told");
            gaps.push(told);
        }
        gaps
    }
}

#[tokio::test]
async fn a_killed_redis_costs_no_event_and_no_gap() {
    let mut server = Server::start(WITH_AOF);
    let world = World::start(&server).await;
    server.kill();
    for at in 0..2 {
        world.until(at, |health| matches!(health, Health::Away { .. })).await;
    }
    server.start_again();
    world.more(50).await;
    world.finish(false).await;
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_no_event_and_no_gap() {
    let server = Server::start(&[]);
    let world = World::start(&server).await;
    server.signal(Signal::SIGSTOP);
    world.until(0, |health| matches!(health, Health::Away { .. })).await;
    server.signal(Signal::SIGCONT);
    world.more(50).await;
    world.finish(false).await;
}

#[tokio::test]
async fn killed_connections_and_paused_writes_cost_no_event_and_no_gap() {
    let server = Server::start(&[]);
    let world = World::start(&server).await;
    for command in ["CLIENT KILL TYPE normal", "CLIENT PAUSE 1500 WRITE", "CLIENT KILL TYPE normal"] {
        server.tell::<redis::Value>(command);
        world.more(30).await;
    }
    world.finish(false).await;
}

#[tokio::test]
async fn trimming_what_all_have_read_costs_no_event_and_no_gap() {
    let server = Server::start(&[]);
    let world = World::start(&server).await;
    for _ in 0..3 {
        server.tell::<u64>("XTRIM events MAXLEN 30");
        world.more(30).await;
    }
    world.finish(false).await;
}

/// A node that starts after the loss knows only what was published since, and the others have told their clients.
#[tokio::test]
async fn a_redis_that_forgets_everything_is_a_gap_and_ids_go_on_upwards() {
    for command in ["FLUSHALL", "DEL events"] {
        let server = Server::start(&[]);
        let world = World::start(&server).await;
        let before = world.nodes[0].position();
        let [over, producer] = ["over", "goes on"].map(|topic| world.nodes[0].start_producer(topic).unwrap());
        drop(over);
        world.nodes[0].flushed().await;
        server.tell::<redis::Value>(command);
        server.tell::<redis::Value>("CLIENT KILL TYPE normal");
        world.more(50).await;
        let late = node(&server);
        late.ready().await.unwrap();
        // The others say again how the topics stand.
        let states = [("over", TopicState::Failed), ("goes on", TopicState::Producing)];
        let known = async {
            while states.iter().any(|(topic, state)| late.topic_state(topic) != Some(*state)) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(20), known).await.expect("a later node knows how the topics stand");
        producer.publish(Event::data("more")).unwrap().await.unwrap();
        assert!(late.position() > before, "ids go on upwards");
        let client = late.connect();
        client.resume_from(before.to_string()).unwrap();
        client.subscribe("t").unwrap();
        assert!(matches!(client.resume(), Resume::Gap(_)));
        world.finish(true).await;
    }
}

#[tokio::test]
async fn a_full_redis_says_so_and_what_waited_is_stored_when_there_is_room() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let world = World::start(&server).await;
    server.tell::<String>("CONFIG SET maxmemory 1");
    world.until(0, |health| matches!(health, Health::Full { .. })).await;
    server.tell::<String>("CONFIG SET maxmemory 0");
    world.more(50).await;
    world.finish(false).await;
}

/// What was stored after the copy was made is lost: each client is told, ids go on upwards, and all nodes have the same in the end.
#[tokio::test]
async fn an_older_copy_that_is_put_back_is_a_gap_for_every_client_and_nothing_is_missing_without_a_word() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let world = World::start(&server).await;
    let (folder, copy) = (server.folder().join("appendonlydir"), server.folder().join("copy"));
    copy_folder(&folder, &copy);
    world.more(60).await;
    server.kill();
    let before = world.nodes[0].position();
    fs::remove_dir_all(&folder).unwrap();
    copy_folder(&copy, &folder);
    server.start_again();
    world.more(60).await;
    let nodes = world.nodes.clone();
    let last = nodes[1].publish("t", Event::data("of all")).unwrap().await.unwrap();
    assert!(last > before, "ids go on upwards");
    let gaps = world.finish(true).await;
    assert_eq!(gaps, [1, 1], "each client is told once");
    let late = node(&server);
    late.ready().await.unwrap();
    let [a, b, c] = [retained(&nodes[0]).await, retained(&nodes[1]).await, retained(&late).await];
    assert_eq!(a, b, "both nodes have the same");
    assert!(a.ends_with(&c) || c == a, "a new node has the same");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn retained(node: &Registry) -> Vec<(Position, String)> {
    // What is on its way to this node is there when this event is.
    node.publish("barrier", Event::data("x")).unwrap().await.unwrap();
    let mut events = reader(node, Subscription::to("t").from(Start::Oldest));
    let mut all = Vec::new();
    while let Ok(Some(event)) = timeout(Duration::from_millis(300), events.next()).await {
        if let Ok(event) = event {
            all.push((event.position(), event.data().unwrap().into_owned()));
        }
    }
    all
}

#[tokio::test]
async fn a_program_in_another_language_publishes_with_plain_fields() {
    let server = Server::start(&[]);
    // Before any node has said which log it is.
    server.tell::<String>("XADD events * topic orders/17 data zero");
    let node = node(&server);
    node.ready().await.unwrap();
    let mut events = reader(&node, Subscription::to("orders/17").from(Start::Oldest));
    server.tell::<String>("XADD events * topic orders/17 event paid data {}");
    server.tell::<String>("XADD events * topic an//invalid//name data x");
    server.tell::<String>("XADD events * topic orders/17 data two");
    for (event_type, data) in [(None, "zero"), (Some("paid"), "{}"), (None, "two")] {
        let event = timeout(LONG, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((event.event_type(), &*event.data().unwrap()), (event_type, data));
    }
}

/// Numbered blocks would be missed, and an event of another program has no number.
#[tokio::test]
async fn a_program_that_removes_its_events_before_they_are_read_makes_a_gap() {
    let server = Server::start(&[]);
    let node = node(&server);
    node.ready().await.unwrap();
    let mut events = reader(&node, "t");
    server.tell::<String>("XADD events * topic t data 0");
    assert_eq!(timeout(LONG, events.next()).await.unwrap().unwrap().unwrap().data().unwrap(), "0");
    let at_once = "for i = 1, 50 do redis.call('XADD', 'events', 'MAXLEN', 5, '*', 'topic', 't', 'data', i) end";
    let mut connection = ::redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    ::redis::cmd("EVAL").arg(at_once).arg(0).exec(&mut connection).unwrap();
    assert!(timeout(LONG, events.next()).await.unwrap().unwrap().is_err(), "first the gap");
    for number in 46..=50 {
        let event = timeout(LONG, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.data().unwrap(), number.to_string());
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_for_the_server_holds_up_nothing_and_its_publisher_is_told() {
    let server = Server::start(&["--proto-max-bulk-len", "1mb"]);
    let node = node(&server);
    node.ready().await.unwrap();
    let mut events = reader(&node, "t");
    let mut answers = reader(&node, "answer");
    let producer = node.start_producer("answer").unwrap();
    let large = || Event::data("x".repeat(3 << 19));
    let too_large = node.publish("t", large()).unwrap();
    let last_word = producer.finish(large()).unwrap();
    let behind = node.publish("t", Event::data("behind")).unwrap();
    for receipt in [too_large, last_word] {
        let error = timeout(LONG, receipt).await.unwrap().unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { limit: 1_048_576, size } if size > 3 << 19), "{error:?}");
    }
    timeout(LONG, behind).await.unwrap().unwrap();
    assert_eq!(timeout(LONG, events.next()).await.unwrap().unwrap().unwrap().data().unwrap(), "behind");
    assert!(timeout(LONG, answers.next()).await.unwrap().is_none(), "the topic has ended all the same");
    assert_eq!(node.health(), Health::Following);
}

#[tokio::test]
async fn a_wrong_password_is_an_error_at_the_start_that_names_the_cause() {
    let server = Server::start(&["--requirepass", "secret"]);
    let engine = tower_sse::backplane::Redis::at(&format!("redis://:wrong@127.0.0.1:{}", server.port)).unwrap();
    let registry = Registry::with_config(RegistryConfig::default().backplane(engine));
    let refused = timeout(LONG, registry.ready()).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("WRONGPASS"), "{refused}");
    assert!(matches!(registry.health(), Health::Refused { .. }));
}

#[tokio::test]
async fn the_outbox_is_bounded_while_the_engine_is_away() {
    let mut server = Server::start(&[]);
    let node = node(&server);
    node.ready().await.unwrap();
    server.kill();
    let mut taken = 0;
    while node.publish("t", Event::data("x")).is_ok() {
        taken += 1;
    }
    assert_eq!(node.publish("t", Event::data("x")), Err(PublishError::Busy));
    assert!((10_000..=11_001).contains(&taken), "{taken}");
    assert!(node.stats().waiting >= taken);
}

/// A Redis without files starts again, empty, three times.
#[tokio::test]
async fn topics_whose_events_redis_lost_take_no_room_of_those_that_come_later() {
    let mut server = Server::start(&[]);
    let all = Retention::default().bytes(1 << 20);
    let start = async |server: &Server| {
        let engine = server.engine().stream("events");
        let config = RegistryConfig::default().backplane(engine).total_retention(all).topic_retention(all);
        let node = Registry::with_config(config);
        node.ready().await.unwrap();
        node
    };
    let node = start(&server).await;
    for life in 0..3 {
        all_stored((0..900).map(|number| node.publish(format!("rooms/{life}/{number}"), Event::data("x")))).await;
        server.kill();
        server.start_again();
    }
    all_stored((0..900).map(|number| node.publish("orders", Event::data(format!("{number:500}"))))).await;
    let late = start(&server).await;
    all_have_read(&[&node, &late]).await;
    let mut got = Vec::new();
    for node in [&node, &late] {
        let all = all_of(&mut from_oldest(node, "orders")).await;
        got.push(all.iter().filter(|data| *data != "GAP").count());
    }
    assert!(got[0] >= got[1], "{got:?} events; {:?} and {:?}", node.stats(), late.stats());
}

async fn all_stored(published: impl Iterator<Item = Result<Receipt, PublishError>>) {
    for receipt in published.map(Result::unwrap).collect::<Vec<_>>() {
        timeout(LONG, receipt).await.expect("it is stored in time").unwrap();
    }
}

#[tokio::test]
async fn an_entry_of_another_program_whose_field_is_called_block_stops_no_node() {
    let server = Server::start(&[]);
    let node = node(&server);
    node.ready().await.unwrap();
    for text in ["hello", "a-text-that-is-as-long-as-a-block"] {
        server.tell::<String>(&format!("XADD events * block {text}"));
        all_stored([node.publish("t", Event::data("1"))].into_iter()).await;
        assert_eq!(node.health(), Health::Following);
    }
}

#[tokio::test]
async fn an_event_of_another_program_that_no_client_can_get_costs_nothing_else() {
    let server = Server::start(&[]);
    let node = node(&server);
    node.ready().await.unwrap();
    let mut events = reader(&node, Subscription::matching("**"));
    server.tell::<String>("XADD events * topic orders/*/paid data 1");
    server.tell::<String>("XADD events * topic orders/17 event pa\nid data 2");
    server.tell::<String>("XADD events * topic orders/17 event paid data 3");
    all_have_read(&[&node]).await;
    let mut got = all_of(&mut events).await;
    // `all_have_read` publishes events without data.
    got.retain(|data| !data.is_empty());
    assert_eq!(got, ["3"]);
}
