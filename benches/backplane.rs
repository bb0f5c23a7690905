//! What a backplane costs: a publish, events per second through a file and through Redis, a hop from node to node, and a start.
//!
//! `cargo bench --bench backplane --features file,redis [-- --quick]`
//!
//! Redis is a process of its own on the same machine, without persistence, and shares the cores with the nodes. The
//! bare hop is an `XADD` and a blocked `XREAD` on connections of their own, in the same run: with as many readers as
//! there are nodes, and with one. No time is asserted, but that each node has each event is.

#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../tests/backplane_redis/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the engine need more of it")]
mod redis_server;
mod support;

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;
use tower_sse::{
    Event, PublishError, Registry, RegistryConfig, Retention,
    backplane::{Backplane, File, FileError, Memory, Redis},
};

use self::{
    redis_server::Server,
    support::{
        median,
        table::{Arguments, Budget, result},
    },
};

/// 200 bytes of data.
const DATA: &str = "{\"symbol\":\"AAPL\",\"price\":187.42,\"size\":100,\"venue\":\"XNAS\",\"at\":1763612345678,\"conditions\":[\"regular\"],\"bid\":187.41,\"ask\":187.43,\"volume\":1234567,\"turnover\":231353253.14,\"sequence\":000000000000123}";

fn event() -> Event {
    Event::data(DATA)
}

fn topics() -> Vec<String> {
    (0..16).map(|number| format!("prices/{number}")).collect()
}

fn registry(engine: impl Backplane) -> Registry {
    let retention = Retention::default().bytes(256 << 20);
    Registry::with_config(RegistryConfig::default().total_retention(retention).backplane(engine))
}

/// Publishes so many events as fast as the outbox takes them, and waits until all are stored. Returns the seconds.
async fn publish_all(registry: &Registry, events: usize) -> f64 {
    let (event, topics, start) = (event(), topics(), Instant::now());
    for number in 0..events {
        loop {
            match registry.publish(&topics[number % topics.len()], &event) {
                Ok(_) => break,
                Err(PublishError::Busy) => tokio::time::sleep(Duration::from_micros(200)).await,
                Err(error) => panic!("{error}"),
            }
        }
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    registry.flushed().await;
    start.elapsed().as_secs_f64()
}

/// Nanoseconds of a publish until it returns.
async fn publish_cost(registry: &Registry, rounds: usize, events: usize) -> f64 {
    let (event, topics) = (event(), topics());
    let mut costs = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for number in 0..events {
            registry.publish(&topics[number % topics.len()], &event).expect("room in the outbox");
        }
        costs.push(start.elapsed().as_nanos() as f64 / events as f64);
        registry.flushed().await;
    }
    median(costs)
}

async fn publishes(arguments: &Arguments) {
    let (rounds, events) = arguments.pick((41, 5000), (3, 100));
    let alone = Registry::new();
    let node = registry(Memory::new());
    node.ready().await.expect("memory is ready");
    let alone = publish_cost(&alone, rounds, events).await;
    let ours = publish_cost(&node, rounds, events).await;
    result("publish into the outbox of a backplane, beside no backplane", "ns", ours, alone, Budget::AtMost(400.0));
}

async fn file(arguments: &Arguments) {
    let folder = redis_server::new_folder();
    let path = folder.join("events");
    let events = arguments.pick(500_000, 2000);
    {
        let node = registry(File::open(&path).expect("a new file"));
        node.ready().await.expect("a file is ready");
        let seconds = publish_all(&node, events).await;
        result("file: events stored", "/s", events as f64 / seconds, None, Budget::AtLeast(200_000.0));
    }
    let path = folder.join("start");
    let retained = arguments.pick(100_000, 500);
    {
        let node = registry(File::open(&path).expect("a new file"));
        node.ready().await.expect("a file is ready");
        publish_all(&node, retained).await;
    }
    // The task of the registry that was dropped ends a moment later, and gives the file back.
    while matches!(File::open(&path), Err(FileError::Locked { .. })) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    let node = registry(File::open(&path).expect("the same file"));
    node.ready().await.expect("a file is ready");
    let took = start.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(node.stats().events, retained, "all events are loaded");
    result("file: a start with 100,000 events", "ms", took, None, Budget::AtMost(500.0));
    drop(node);
    let _ = fs::remove_dir_all(folder);
}

fn at(server: &Server, stream: &str) -> Redis {
    Redis::at(&server.url()).expect("a URL").stream(stream)
}

async fn ready(server: &Server, stream: &str) -> Registry {
    let node = registry(at(server, stream));
    node.ready().await.expect("Redis is ready");
    node
}

async fn throughput(arguments: &Arguments, server: &Server) {
    let (events, nodes) = (arguments.pick(600_000, 1500), 3);
    let mut all = Vec::new();
    for _ in 0..nodes {
        all.push(ready(server, "throughput").await);
    }
    let start = Instant::now();
    let publishing: Vec<_> = all
        .iter()
        .map(|node| {
            let node = node.clone();
            tokio::spawn(async move { publish_all(&node, events / nodes).await })
        })
        .collect();
    for publishing in publishing {
        publishing.await.expect("no panic");
    }
    let last = all[0].publish("prices/0", event()).expect("room").await.expect("it is stored");
    for node in &all {
        while node.position() < last {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    for node in &all {
        assert_eq!(node.stats().published, events as u64 + 1, "each node has each event");
    }
    let rate = events as f64 / seconds;
    result("Redis: events that 3 nodes publish and all 3 have", "/s", rate, None, Budget::AtLeast(50_000.0));
}

/// The CPU time of a process, in seconds.
fn cpu_of(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    // The kernel counts in hundredths of a second for user space.
    ticks / 100.0
}

/// When each event of the hop was received on the other node: the events carry their number.
fn receiving(times: &Arc<Mutex<Vec<Instant>>>, node: &Registry) -> tokio::task::JoinHandle<()> {
    let client = node.connect();
    client.subscribe("hop").expect("a topic");
    let (mut events, times) = (client.into_events(), Arc::clone(times));
    tokio::spawn(async move {
        while let Some(Ok(_)) = events.next().await {
            times.lock().expect("no panic").push(Instant::now());
        }
    })
}

fn percentile(mut delays: Vec<f64>, share: f64) -> f64 {
    delays.sort_by(f64::total_cmp);
    delays[((delays.len() - 1) as f64 * share) as usize]
}

fn delays(sent: &[Instant], received: &[Instant]) -> Vec<f64> {
    assert_eq!(sent.len(), received.len(), "each event arrives once");
    sent.iter().zip(received).map(|(sent, received)| received.duration_since(*sent).as_secs_f64() * 1000.0).collect()
}

/// At 1,000 events/s: Redis' CPU with 3 nodes, and what a hop takes beside the bare commands.
async fn hop(arguments: &Arguments, server: &Server) {
    let events = arguments.pick(5000, 100);
    let [from, to, _third] = [ready(server, "hop").await, ready(server, "hop").await, ready(server, "hop").await];
    let times = Arc::new(Mutex::new(Vec::new()));
    let receiving = receiving(&times, &to);
    let mut sent = Vec::new();
    let (before, start) = (cpu_of(server.id()), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..events {
        tick.tick().await;
        sent.push(Instant::now());
        from.publish("hop", event()).expect("room");
    }
    from.flushed().await;
    while times.lock().expect("no panic").len() < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let cpu = share_of(server, before, start);
    receiving.abort();
    let ours = delays(&sent, &times.lock().expect("no panic"));
    let (before, start) = (cpu_of(server.id()), Instant::now());
    let with_three = bare(server, events, 3).await;
    let bare_cpu = share_of(server, before, start);
    let alone = bare(server, events, 1).await;
    let (p50, p99) = (percentile(ours.clone(), 0.5), percentile(ours, 0.99));
    result(
        "Redis: a hop, publish to event on another of 3 nodes, p50, beside XADD to one of 3 XREAD",
        "ms",
        p50,
        percentile(with_three.clone(), 0.5),
        Budget::Times(1.5),
    );
    result("the same, p50, beside XADD to a single XREAD", "ms", p50, percentile(alone, 0.5), Budget::None);
    result("the same, p99", "ms", p99, percentile(with_three, 0.99), Budget::AtMost(5.0));
    let what = "Redis: its CPU at 1,000 events/s and 3 nodes, beside XADD to 3 XREAD";
    result(what, "%", cpu, bare_cpu, Budget::AtMost(10.0));
}

/// Percent of one core that the server took since a time, when it had taken so many seconds.
fn share_of(server: &Server, before: f64, since: Instant) -> f64 {
    (cpu_of(server.id()) - before) / since.elapsed().as_secs_f64() * 100.0
}

/// What `XREAD` returns: the entries of each stream, with their fields.
type Streams = Vec<(String, Vec<(String, Vec<String>)>)>;

/// The same with the two commands of Redis alone. Returns the delays of one reader.
async fn bare(server: &Server, events: usize, readers: usize) -> Vec<f64> {
    let client = redis::Client::open(server.url()).expect("a URL");
    let unbounded = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut writer = client.get_multiplexed_async_connection().await.expect("a connection");
    let stream = format!("bare/{readers}");
    let times: Vec<Arc<Mutex<Vec<Instant>>>> = (0..readers).map(|_| Arc::default()).collect();
    let mut reading = tokio::task::JoinSet::new();
    for received in &times {
        let received = Arc::clone(received);
        let mut reader = client.get_multiplexed_async_connection_with_config(&unbounded).await.expect("a connection");
        let stream = stream.clone();
        reading.spawn(async move {
            let mut last = "0-0".to_owned();
            loop {
                let mut read = redis::cmd("XREAD");
                read.arg(&["COUNT", "1000", "BLOCK", "1000", "STREAMS", &stream, &last]);
                let read: Option<Streams> = read.query_async(&mut reader).await.expect("Redis reads");
                let now = Instant::now();
                for (id, _) in read.into_iter().flatten().flat_map(|(_, entries)| entries) {
                    received.lock().expect("no panic").push(now);
                    last = id;
                }
            }
        });
    }
    let mut sent = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..events {
        tick.tick().await;
        sent.push(Instant::now());
        let mut append = redis::cmd("XADD");
        append.arg(&[&stream, "*", "data", DATA]);
        let _: String = append.query_async(&mut writer).await.expect("Redis appends");
    }
    let times = &times[readers / 2];
    while times.lock().expect("no panic").len() < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let times = times.lock().expect("no panic");
    delays(&sent, &times)
}

async fn start(arguments: &Arguments, server: &Server) {
    let retained = arguments.pick(100_000, 500);
    publish_all(&ready(server, "start").await, retained).await;
    let start = Instant::now();
    let node = ready(server, "start").await;
    let took = start.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(node.stats().events, retained, "all events are loaded");
    result("Redis: a start with 100,000 events", "ms", took, None, Budget::AtMost(1000.0));
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn main() {
    let arguments = Arguments::new();
    let one = Builder::new_current_thread().enable_all().build().expect("a runtime");
    one.block_on(publishes(&arguments));
    let server = Server::start(&[]);
    let two = runtime();
    two.block_on(async {
        file(&arguments).await;
        hop(&arguments, &server).await;
        throughput(&arguments, &server).await;
        start(&arguments, &server).await;
    });
}
