//! Three processes of the dashboard over one Redis. Nodes and the engine are killed while events are published, and no client notices.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    example::{Example, Server},
    random::Random,
    redis_server,
};

pub(crate) static DASHBOARD: Example = Example::named("dashboard");

const NODES: usize = 3;
const PUBLISHERS: usize = 4;
const TOPICS: usize = 10;

/// A killed Redis has written what it has answered. With `everysec` it puts writes off while a sync takes long.
const WRITES_AT_ONCE: &[&str] = &["--appendonly", "yes", "--appendfsync", "no"];

/// How long something may take on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

struct World {
    addresses: [SocketAddr; NODES],
    redis_url: String,
    published: AtomicUsize,
    /// What became of each event: its id, or `None` if nobody knows.
    outcomes: Mutex<HashMap<String, (String, Option<String>)>>,
}

impl World {
    async fn start_node(&self, at: usize) -> Server {
        let mut command = DASHBOARD.command();
        command
            .env("PORT", self.addresses[at].port().to_string())
            .env("REDIS_URL", &self.redis_url)
            .env("PRICES_MS", "0")
            .env("RETENTION_EVENTS", "1000000")
            .env("RETENTION_BYTES", (256 << 20).to_string())
            .env("MAX_STREAMS_PER_ADDRESS", "10000");
        Server::start(&mut command).await
    }

    async fn connect(&self, at: usize) -> Option<http1::SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect(self.addresses[at]).await.ok()?;
        let _ = socket.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }
}

pub(crate) fn request(method: &str, target: &str, last_event_id: &str, body: String) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", "localhost");
    if !last_event_id.is_empty() {
        request = request.header("last-event-id", last_event_id);
    }
    request.body(Full::from(body)).unwrap()
}

/// Publishes one event, at this node or at the next that can be reached. Returns its id, if the answer came.
async fn publish(world: &World, first: usize, topic: &str, data: &str) -> Option<String> {
    for at in (first..).map(|at| at % NODES) {
        let Some(mut sender) = world.connect(at).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let answer =
            sender.send_request(request("POST", &format!("/publish/{topic}"), "", data.to_owned())).await.ok()?;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("an answer in JSON");
        return Some(answer["id"].as_str().expect("an id").to_owned());
    }
    None
}

async fn publish_all(world: Arc<World>, publisher: usize, events: usize, mut random: Random) {
    for number in 0..events {
        let (topic, data) = (format!("t/{}", random.index(TOPICS)), format!("{publisher}-{number}"));
        let id = publish(&world, publisher, &topic, &data).await;
        world.published.fetch_add(1, Ordering::Relaxed);
        world.outcomes.lock().unwrap().insert(data, (topic, id));
    }
}

/// What a client got: ids and data, in order.
type History = Vec<(String, String)>;

/// Reads a topic until its last event. It is cut off at random, and comes back to any node with its last id.
async fn read(world: Arc<World>, topic: String, started: Arc<AtomicUsize>, mut random: Random) -> History {
    let (mut history, mut last_id) = (History::new(), String::new());
    loop {
        let at = random.index(NODES);
        let Some(mut sender) = world.connect(at).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let target = format!("/events?topic={topic}");
        let Ok(answer) = sender.send_request(request("GET", &target, &last_id, String::new())).await else { continue };
        assert_eq!(answer.status(), StatusCode::OK);
        let until = Instant::now() + Duration::from_millis(200 + random.below(4000));
        let (mut body, mut text) = (answer.into_body(), String::new());
        // A client without an id would begin at the newest event when it comes back.
        while let Ok(Some(Ok(frame))) = timeout(
            if last_id.is_empty() { LONG } else { until.saturating_duration_since(Instant::now()) },
            body.frame(),
        )
        .await
        {
            let Some(data) = frame.data_ref() else { continue };
            text.push_str(std::str::from_utf8(data).expect("text"));
            while let Some(end) = text.find("\n\n") {
                let block: String = text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let Some(id) = field("id: ") else { continue };
                if last_id.is_empty() {
                    started.fetch_add(1, Ordering::Relaxed);
                }
                last_id.clone_from(&id);
                assert_ne!(field("event: ").as_deref(), Some("gap"), "a gap is told that is none: {block}");
                if field("event: ").is_none() {
                    let data = field("data: ").expect("data");
                    if data == "the last" {
                        return history;
                    }
                    history.push((id, data));
                }
            }
        }
    }
}

/// Ends processes while the events are published.
async fn kill(
    world: Arc<World>,
    events: usize,
    mut nodes: Vec<Server>,
    mut redis: redis_server::Server,
) -> Vec<Server> {
    for (turn, share) in [10, 25, 40, 55, 70].into_iter().enumerate() {
        while world.published.load(Ordering::Relaxed) < events * share / 100 {
            sleep(Duration::from_millis(10)).await;
        }
        if turn % 2 == 1 {
            redis = tokio::task::spawn_blocking(move || {
                redis.kill();
                redis.start_again();
                redis
            })
            .await
            .unwrap();
        } else {
            let at = turn / 2;
            nodes[at].process.kill().await.unwrap();
            nodes[at] = world.start_node(at).await;
        }
    }
    // Redis goes on until the readers are done.
    while world.published.load(Ordering::Relaxed) <= events {
        sleep(Duration::from_millis(10)).await;
    }
    nodes
}

/// `TOWER_SSE_CLUSTER_EVENTS`: 100,000 instead of 3,000, and `TOWER_SSE_CLUSTER_CLIENTS`: 300 instead of 60, for the long form.
/// `TOWER_SSE_CLUSTER_SEED` chooses the topics and the cuts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_and_a_killed_engine_cost_no_client_an_event() {
    let events = setting("TOWER_SSE_CLUSTER_EVENTS", 3000);
    let clients = setting("TOWER_SSE_CLUSTER_CLIENTS", 60);
    let seed = setting("TOWER_SSE_CLUSTER_SEED", 1) as u64;
    let redis = redis_server::Server::start(WRITES_AT_ONCE);
    let addresses = [(); NODES].map(|()| SocketAddr::from(([127, 0, 0, 1], redis_server::Server::free_port())));
    let world = Arc::new(World {
        addresses,
        redis_url: redis.url(),
        published: AtomicUsize::new(0),
        outcomes: Mutex::default(),
    });
    let mut nodes = Vec::new();
    for at in 0..NODES {
        nodes.push(world.start_node(at).await);
    }
    let started = Arc::new(AtomicUsize::new(0));
    let mut random = Random(seed);
    let readers: Vec<_> = (0..clients)
        .map(|client| {
            let topic = match client % 5 {
                0 => "t/*".to_owned(),
                _ => format!("t/{}", random.index(TOPICS)),
            };
            (topic.clone(), tokio::spawn(read(Arc::clone(&world), topic, Arc::clone(&started), random.split())))
        })
        .collect();
    // Each client has an id before the first event, by the event that a stream begins with or by this one.
    let begun = Instant::now();
    while started.load(Ordering::Relaxed) < clients {
        for topic in 0..TOPICS {
            publish(&world, 0, &format!("t/{topic}"), "the first").await;
        }
        sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < LONG, "{} of {clients} clients have begun", started.load(Ordering::Relaxed));
    }
    let killing = tokio::spawn(kill(Arc::clone(&world), events, nodes, redis));
    let publishing = Instant::now();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| tokio::spawn(publish_all(Arc::clone(&world), publisher, events / PUBLISHERS, random.split())))
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let took = publishing.elapsed();
    for topic in 0..TOPICS {
        let last = publish(&world, 0, &format!("t/{topic}"), "the last").await;
        assert!(last.is_some(), "the last event of a topic is stored");
    }
    let outcomes = std::mem::take(&mut *world.outcomes.lock().unwrap());
    let unknown = outcomes.values().filter(|(_, id)| id.is_none()).count();
    let (mut delivered, mut of_unknown) = (0, HashSet::new());
    for (topic, reader) in readers {
        let history = timeout(LONG, reader).await.expect("every client gets the last event").unwrap();
        let mut seen = HashMap::new();
        let mut last = None;
        for (id, data) in history.iter().filter(|(_, data)| data != "the first") {
            let position: tower_sse::Position = id.parse().expect("a position");
            assert!(last < Some(position), "{data} is out of order");
            last = Some(position);
            assert!(seen.insert(data.clone(), id.clone()).is_none(), "{data} came twice");
            if outcomes[data].1.is_none() {
                of_unknown.insert(data.clone());
            }
        }
        delivered += seen.len();
        let of_topic = |name: &str| topic == "t/*" || topic == name;
        for (data, (name, id)) in outcomes.iter().filter(|(_, (name, _))| of_topic(name)) {
            match (id, seen.get(data)) {
                (Some(id), Some(got)) => assert_eq!(id, got, "{data} has another id"),
                (Some(id), None) => {
                    // With a pattern, the last event of another topic may have ended the reading.
                    panic!("{data} on {name} with the id {id} was lost for a reader of {topic}")
                }
                (None, _) => {}
            }
        }
    }
    // It lets Redis end.
    world.published.fetch_add(1, Ordering::Relaxed);
    drop(killing.await.unwrap());
    eprintln!(
        "seed {seed}: {} events in {took:.1?}, {unknown} not answered ({} of them stored), {delivered} deliveries to {clients} clients",
        outcomes.len(),
        of_unknown.len()
    );
}
