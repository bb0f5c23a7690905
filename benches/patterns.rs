//! The cost of a publish and a delivery to clients of a pattern that matches 10,000 topics, compared with clients of
//! one topic in the same run; and whether the cost depends on the number of other patterns.
//!
//! `cargo bench --bench patterns [-- CLIENTS TOPICS] [-- --quick]`
//!
//! Deliveries are as in `delivery`, with one event per round. Each round uses another topic that the pattern matches.
//! Publishes are on topics with one subscriber that never reads, by pattern or by name. No time is asserted.

#![allow(clippy::expect_used)]

use std::{sync::Arc, time::Instant};

use tower_sse::{ClientHandle, Event, Registry, SseLayer, Subscription};

mod support;
use support::{
    Arrived, PAYLOAD, Side, block, drain, median, stream,
    table::{Arguments, Budget, result},
};

const BLOCKS: usize = 5;

/// Clients that subscribe with this name. Events are published on these topics in turn.
async fn side(registry: &Registry, name: &'static str, topics: Vec<String>, clients: usize) -> Side {
    let arrived = Arc::new(Arrived::default());
    let event = Event::data(PAYLOAD).event("tick");
    let length = event.encode().len() + "id: 1763612345678-0-7k3m9p2xr\n".len();
    let layer = SseLayer::new(registry);
    for _ in 0..clients {
        tokio::spawn(drain(stream(&layer, name).await, arrived.clone(), length));
    }
    let registry = registry.clone();
    let next = std::cell::Cell::new(0);
    let publish = move |events| {
        for _ in 0..events {
            let at = next.replace((next.get() + 7919) % topics.len());
            registry.publish(&topics[at], &event).expect("room for the event");
        }
    };
    (name, Box::new(publish), arrived)
}

/// Nanoseconds per publish on topics whose only subscriber never reads.
fn publish(registry: &Registry, topics: &[String], number: usize) -> f64 {
    let event = Event::data(PAYLOAD).event("tick");
    let start = Instant::now();
    for at in 0..number {
        registry.publish(&topics[at % topics.len()], &event).expect("room for the event");
    }
    start.elapsed().as_nanos() as f64 / number as f64
}

fn names(root: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{root}/{number}")).collect()
}

async fn run(clients: usize, topics: usize, published: usize) {
    let (by_topic, by_pattern) = (Registry::new(), Registry::new());
    let sides = [
        side(&by_topic, "prices/all", vec!["prices/all".to_owned()], clients).await,
        side(&by_pattern, "prices/*", names("prices", topics), clients).await,
    ];
    let quiet = names("quiet", topics);
    let readers = [by_topic.connect(), by_pattern.connect()];
    quiet.iter().for_each(|topic| {
        // One client may not have this many topics, so some subscriptions are refused.
        let _ = readers[0].subscribe(topic);
    });
    readers[1].subscribe(Subscription::matching("quiet/*")).expect("a valid pattern");
    for side in &sides {
        block(side, clients, 2, 1).await;
    }
    let mut others: Vec<ClientHandle> = Vec::new();
    for patterns in [1, 1_000, 10_000] {
        while others.len() + 1 < patterns {
            let client = by_pattern.connect();
            client.subscribe(Subscription::matching(format!("other/{}/*", others.len()))).expect("a valid pattern");
            others.push(client);
        }
        let (mut deliveries, mut publishes) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..BLOCKS {
            for at in 0..2 {
                deliveries[at].push(block(&sides[at], clients, 3, 1).await);
                publishes[at].push(publish([&by_topic, &by_pattern][at], &quiet, published));
            }
        }
        let ([topic, pattern], [plain, matched]) = (deliveries.map(median), publishes.map(median));
        result(
            &format!("a delivery by pattern, {patterns} patterns, and by topic"),
            "ns",
            pattern,
            topic,
            Budget::None,
        );
        result(
            &format!("a publish that a pattern of {patterns} matches, and none"),
            "ns",
            matched,
            plain,
            Budget::None,
        );
    }
}

fn main() {
    let arguments = Arguments::new();
    let (clients, topics) = (arguments.number(0, 100_000, 500), arguments.number(1, 10_000, 500));
    println!(
        "{clients} clients, {topics} topics, one thread, median of {BLOCKS} blocks; theirs: by the topic's own name"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(clients, topics, arguments.pick(100_000, 2_000)));
}
