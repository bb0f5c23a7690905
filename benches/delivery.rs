//! What it costs to deliver an event, beside axum's `Sse` over `tokio::sync::broadcast`, in the same run.
//!
//! `cargo bench --bench delivery [-- CLIENTS ROUNDS BURST]`
//!
//! Each client is a task that polls its response body; there are no sockets. A round publishes one event of 100 bytes (or a burst of
//! 32) and ends when every client has everything. Heartbeats are on, on both sides. The two sides take turns, round
//! block by round block, so that whatever else the machine does hits both; the median block counts. Nothing is asserted: the numbers are printed.

#![allow(clippy::expect_used)]

use std::{convert::Infallible, env, sync::Arc};

use axum::response::{IntoResponse, Sse, sse};
use tokio::sync::broadcast;
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower_sse::{Event, Registry, SseLayer};

mod support;
use support::{Arrived, PAYLOAD, Side, block, drain, median, stream};

const BLOCKS: usize = 9;

async fn ours(clients: usize) -> Side {
    let registry = Registry::new();
    let arrived = Arc::new(Arrived::default());
    let event = Event::data(PAYLOAD).event("tick").expect("a valid event type");
    let length = event.encode().len() + "id: 1763612345678-0\n".len();
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

/// What one would write instead.
async fn axums(clients: usize) -> Side {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let arrived = Arc::new(Arrived::default());
    let length = "event: tick\ndata: \nid: 1763612345678-0\n\n".len() + PAYLOAD.len();
    for _ in 0..clients {
        let events = BroadcastStream::new(sender.subscribe()).filter_map(Result::ok).map(Ok::<_, Infallible>);
        let response = Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response();
        tokio::spawn(drain(response.into_body(), arrived.clone(), length));
    }
    let publish = move |events| {
        for _ in 0..events {
            let event = sse::Event::default().event("tick").data(PAYLOAD).id("1763612345678-0");
            sender.send(event).expect("somebody listens");
        }
    };
    ("axum Sse + broadcast", Box::new(publish), arrived)
}

async fn compare(clients: usize, rounds: usize, burst: usize) {
    let sides = [ours(clients).await, axums(clients).await];
    // The tasks start, and park.
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
    println!(
        "{clients:>7} clients, {burst:>2} events a round: {:<10} {ours:>7.1} ns   {:<20} {axums:>7.1} ns   ratio {:.3}",
        sides[0].0,
        sides[1].0,
        ours / axums
    );
}

fn main() {
    // `cargo bench` passes flags of its own.
    let numbers: Vec<usize> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let clients = numbers.first().copied().unwrap_or(1_000);
    let bursts = numbers.get(2).map_or(vec![1, 32], |burst| vec![*burst]);
    println!("nanoseconds per delivery, one thread, median of {BLOCKS} blocks of rounds");
    for burst in bursts {
        let rounds = numbers.get(1).copied().unwrap_or((400_000 / (clients * burst)).max(2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(compare(clients, rounds, burst));
    }
}
