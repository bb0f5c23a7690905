//! The cost to deliver an event, compared with axum's `Sse` over `tokio::sync::broadcast` in the same run.
//!
//! `cargo bench --bench delivery [-- CLIENTS ROUNDS BURST] [-- --quick]`
//!
//! Each client is a task that polls its response body. There are no sockets. A round publishes one event of 100 bytes,
//! or a burst of 32, and ends when every client has every event. Heartbeats are on in both sides. The two sides take
//! turns, block by block of rounds, so that the machine's other work affects both. The median block counts. Without
//! numbers: 100, 1,000, 10,000 and 100,000 clients. No time is asserted.

#![allow(clippy::expect_used)]

use std::sync::Arc;

use axum::response::sse;
use tokio::sync::broadcast;
use tower_sse::{Event, Registry, SseLayer};

mod support;
use support::{
    Arrived, PAYLOAD, Side, axum_stream, block, drain, median, stream,
    table::{Arguments, Budget, result},
};

const BLOCKS: usize = 9;

async fn ours(clients: usize) -> Side {
    let registry = Registry::new();
    let arrived = Arc::new(Arrived::default());
    let event = Event::data(PAYLOAD).event("tick");
    let length = event.encode().len() + "id: 1763612345678-0-7k3m9p2xr\n".len();
    let layer = SseLayer::new(&registry);
    for _ in 0..clients {
        tokio::spawn(drain(stream(&layer, "prices").await, arrived.clone(), length));
    }
    let publish = move |events| {
        for _ in 0..events {
            registry.publish("prices", &event).expect("room for the event");
        }
    };
    ("tower-sse", Box::new(publish), arrived)
}

/// The alternative: axum's `Sse`.
async fn axums(clients: usize) -> Side {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let arrived = Arc::new(Arrived::default());
    let length = "event: tick\ndata: \nid: 1763612345678-0-7k3m9p2xr\n\n".len() + PAYLOAD.len();
    for _ in 0..clients {
        tokio::spawn(drain(axum_stream(&sender), arrived.clone(), length));
    }
    let publish = move |events| {
        for _ in 0..events {
            let event = sse::Event::default().event("tick").data(PAYLOAD).id("1763612345678-0-7k3m9p2xr");
            sender.send(event).expect("there is a receiver");
        }
    };
    ("axum Sse + broadcast", Box::new(publish), arrived)
}

async fn compare(clients: usize, rounds: usize, burst: usize) {
    let sides = [ours(clients).await, axums(clients).await];
    // The tasks start and wait for events.
    for side in &sides {
        block(side, clients, 3, burst).await;
    }
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..BLOCKS {
        for (side, figures) in sides.iter().zip(&mut figures) {
            figures.push(block(side, clients, rounds, burst).await);
        }
    }
    let [ours, axums] = figures.map(median);
    let (what, budget) = match burst {
        1 => ("all idle".to_owned(), Budget::Times(0.40)),
        32 => ("a burst of 32".to_owned(), Budget::Times(0.05)),
        _ => (format!("a burst of {burst}"), Budget::None),
    };
    result(&format!("a delivery to {clients} clients, {what}"), "ns", ours, axums, budget);
}

fn main() {
    let arguments = Arguments::new();
    let default = arguments.pick(vec![100, 1_000, 10_000, 100_000], vec![100]);
    let all_clients = arguments.numbers.first().map_or(default, |clients| vec![*clients]);
    let bursts = arguments.numbers.get(2).map_or(vec![1, 32], |burst| vec![*burst]);
    println!(
        "nanoseconds per delivery, one thread, median of {BLOCKS} blocks of rounds; theirs: axum's Sse over a broadcast channel"
    );
    for (clients, burst) in all_clients.iter().flat_map(|clients| bursts.iter().map(move |burst| (*clients, *burst))) {
        let deliveries = arguments.pick(400_000, 20_000);
        let rounds = arguments.numbers.get(1).copied().unwrap_or((deliveries / (clients * burst)).max(2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(compare(clients, rounds, burst));
    }
}
