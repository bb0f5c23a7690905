//! Publishing and reading on several threads at once, compared with axum's `Sse` over `tokio::sync::broadcast` in the
//! same run.
//!
//! `cargo bench --bench threads [-- CLIENTS] [-- --quick]`
//!
//! A runtime with 1 to 8 worker threads, as many publishers, and 1,000 clients per topic, which are tasks of the
//! runtime. In a round each publisher publishes a burst of 32 events. The round ends when every client has every event:
//!
//! - on one topic, to which all clients are subscribed: all threads contend for its lock;
//! - on one topic per publisher, with as many clients each: the threads contend only for the registry's one order;
//! - on topics of each publisher without clients: only the order.
//!
//! The result is the time per core: with more threads than cores, the number of cores counts. Each event has the number
//! of its publisher and a number of its own. Each client counts all events. One client in a hundred checks each event:
//! all are there, each once, in each publisher's order. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    future::poll_fn,
    hint::black_box,
    pin::Pin,
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use axum::response::sse;
use bytes::Bytes;
use http_body::Body;
use tokio::{runtime::Runtime, sync::broadcast};
use tower_sse::{Event, Registry, SseLayer};

mod support;
use support::{
    Arrived, axum_stream, median, stream,
    table::{Arguments, Budget, result},
};

const BURST: usize = 32;
const BLOCKS: usize = 5;
const TOPICS: [&str; 8] =
    ["prices/0", "prices/1", "prices/2", "prices/3", "prices/4", "prices/5", "prices/6", "prices/7"];

/// 100 bytes with the number of the publisher and of its event. All ids have the same length, so that events can be
/// counted by their bytes.
fn payload(publisher: usize, number: usize) -> (String, String) {
    (format!("{publisher}:{number:010}:{}", "x".repeat(87)), format!("{publisher}-{number:010}"))
}

const LENGTH: usize = "data: 0:0123456789:\nid: 0-0123456789\n\n".len() + 87;

/// A client. It reports when it has all events of a round, `a_round`. With `looks`, it checks each event.
async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B, arrived: Arc<Arrived>, a_round: usize, looks: bool) {
    let (mut bytes, mut numbers) = (0, [0; TOPICS.len()]);
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let data = frame.into_data().unwrap_or_default();
        assert_eq!(data.len() % LENGTH, 0, "whole events");
        for event in data.chunks(LENGTH).filter(|_| looks) {
            let publisher = usize::from(event["data: ".len()] - b'0');
            let (data, _) = payload(publisher, numbers[publisher]);
            assert!(event["data: ".len()..].starts_with(data.as_bytes()), "the next event of this publisher");
            numbers[publisher] += 1;
        }
        bytes += data.len();
        assert!(bytes <= a_round * LENGTH, "no event comes twice");
        if bytes == a_round * LENGTH {
            bytes = 0;
            arrived.add(a_round);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Plan {
    OneTopic,
    TopicsOfTheirOwn,
}

impl Plan {
    fn topic(self, at: usize, threads: usize) -> usize {
        match self {
            Self::OneTopic => 0,
            Self::TopicsOfTheirOwn => at % threads,
        }
    }

    /// The number of events that a client gets in a round.
    fn a_round(self, threads: usize) -> usize {
        match self {
            Self::OneTopic => threads * BURST,
            Self::TopicsOfTheirOwn => BURST,
        }
    }
}

type Publish = Arc<dyn Fn(usize, usize) + Send + Sync>;

struct Side {
    runtime: Runtime,
    arrived: Arc<Arrived>,
    publish: Publish,
    /// The number of events that each publisher has published.
    published: usize,
}

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

fn ours(plan: Plan, threads: usize, clients: usize) -> Side {
    let (runtime, registry, arrived) = (runtime(threads), Registry::new(), Arc::new(Arrived::default()));
    let layer = SseLayer::new(&registry);
    let a_round = plan.a_round(threads);
    runtime.block_on(async {
        for at in 0..clients {
            let body = stream(&layer, TOPICS[plan.topic(at, threads)]).await;
            tokio::spawn(read(body, arrived.clone(), a_round, at / threads % 100 == 0));
        }
    });
    let publish = move |publisher: usize, number| {
        let (data, id) = payload(publisher, number);
        let event = Event::data(data).id(id).expect("a valid id");
        registry.publish(TOPICS[plan.topic(publisher, threads)], event).expect("room for the event");
    };
    Side { runtime, arrived, publish: Arc::new(publish), published: 0 }
}

fn axums(plan: Plan, threads: usize, clients: usize) -> Side {
    let (runtime, arrived) = (runtime(threads), Arc::new(Arrived::default()));
    let senders: Vec<_> = TOPICS.iter().map(|_| broadcast::channel::<sse::Event>(1024).0).collect();
    let a_round = plan.a_round(threads);
    runtime.block_on(async {
        for at in 0..clients {
            let body = axum_stream(&senders[plan.topic(at, threads)]);
            tokio::spawn(read(body, arrived.clone(), a_round, at / threads % 100 == 0));
        }
    });
    let publish = move |publisher: usize, number| {
        let (data, id) = payload(publisher, number);
        let event = sse::Event::default().data(data).id(id);
        senders[plan.topic(publisher, threads)].send(event).expect("there is a receiver");
    };
    Side { runtime, arrived, publish: Arc::new(publish), published: 0 }
}

impl Side {
    /// Nanoseconds per delivery over a block of rounds.
    fn block(&mut self, plan: Plan, threads: usize, clients: usize, rounds: usize) -> f64 {
        let deliveries = clients * plan.a_round(threads);
        let start = Instant::now();
        for _ in 0..rounds {
            self.arrived.goal.fetch_add(deliveries, std::sync::atomic::Ordering::AcqRel);
            for publisher in 0..threads {
                let (publish, first) = (self.publish.clone(), self.published);
                self.runtime.spawn(async move { (first..first + BURST).for_each(|number| publish(publisher, number)) });
            }
            self.published += BURST;
            self.runtime.block_on(self.arrived.wait());
        }
        start.elapsed().as_nanos() as f64 / (deliveries * rounds) as f64
    }
}

/// Nanoseconds of one core per delivery: ours, theirs.
fn deliveries(plan: Plan, threads: usize, cores: usize, clients: usize, number: usize) -> [f64; 2] {
    let clients = match plan {
        Plan::OneTopic => clients,
        // As many clients per topic, so that a publish costs the same per client.
        Plan::TopicsOfTheirOwn => clients * threads,
    };
    let mut sides = [ours(plan, threads, clients), axums(plan, threads, clients)];
    let rounds = (number / (clients * plan.a_round(threads))).max(2);
    let mut figures = [Vec::new(), Vec::new()];
    for block in 0..=BLOCKS {
        for (side, figures) in sides.iter_mut().zip(&mut figures) {
            let figure = side.block(plan, threads, clients, rounds);
            // The first block only warms the caches.
            if block > 0 {
                figures.push(figure * threads.min(cores) as f64);
            }
        }
    }
    figures.map(median)
}

/// Nanoseconds of one core per publish on topics without clients, 1,000 for each thread.
fn publishes(threads: usize, cores: usize, number: usize) -> f64 {
    let registry = Registry::new();
    let figures = (0..=BLOCKS).map(|_| {
        let barrier = Barrier::new(threads + 1);
        thread::scope(|scope| {
            for publisher in 0..threads {
                let (registry, barrier) = (&registry, &barrier);
                scope.spawn(move || {
                    let topics: Vec<String> = (0..1_000).map(|topic| format!("{publisher}/{topic}")).collect();
                    let event = Event::data(payload(publisher, 0).0);
                    barrier.wait();
                    for at in 0..number {
                        drop(black_box(registry.publish(&topics[at * 7919 % topics.len()], &event)));
                    }
                    barrier.wait();
                });
            }
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            start.elapsed().as_nanos() as f64 / (threads * number) as f64 * threads.min(cores) as f64
        })
    });
    median(figures.skip(1).collect())
}

fn main() {
    let arguments = Arguments::new();
    let clients = arguments.number(0, 1_000, 200);
    let (number, published) = (arguments.pick(2_000_000, 100_000), arguments.pick(50_000, 2_000));
    let cores = thread::available_parallelism().map_or(1, usize::from).min(TOPICS.len());
    let mut all_threads: Vec<usize> = (1..=cores).collect();
    all_threads.extend((cores < TOPICS.len()).then_some(TOPICS.len()));
    println!(
        "{cores} cores, {clients} clients a topic, bursts of {BURST}: nanoseconds of one core; theirs: axum's Sse over a broadcast channel for each topic"
    );
    for (plan, name) in [(Plan::OneTopic, "one topic"), (Plan::TopicsOfTheirOwn, "a topic for each")] {
        let mut with_one = [0.0; 2];
        for threads in &all_threads {
            let figures = deliveries(plan, *threads, cores, clients, number);
            let [ours, axums] = figures;
            let threads_are = named(*threads, cores);
            result(&format!("a delivery, {threads_are}, {name}"), "ns", ours, axums, Budget::None);
            if *threads == 1 {
                with_one = figures;
            } else {
                let what = format!("a delivery a core, {threads_are} against 1, {name}");
                result(&what, "x", ours / with_one[0], axums / with_one[1], budget(*threads, cores));
            }
        }
    }
    let mut with_one = 0.0;
    for threads in all_threads {
        let figure = publishes(threads, cores, published);
        let threads_are = named(threads, cores);
        result(&format!("a publish, {threads_are}, 1,000 topics for each"), "ns", figure, None, Budget::None);
        if threads == 1 {
            with_one = figure;
        } else {
            let what = format!("a publish a core, {threads_are} against 1");
            result(&what, "x", figure / with_one, None, budget(threads, cores));
        }
    }
}

/// The budget is for as many threads as there are cores.
fn budget(threads: usize, cores: usize) -> Budget {
    if threads > cores { Budget::None } else { Budget::AtMost(1.5) }
}

fn named(threads: usize, cores: usize) -> String {
    match threads {
        1 => "1 thread".into(),
        _ if threads > cores => format!("{threads} threads on {cores} cores"),
        _ => format!("{threads} threads"),
    }
}
