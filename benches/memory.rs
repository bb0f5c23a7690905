//! What things take in memory when nothing happens, as a counting allocator sees it.
//!
//! `cargo bench --bench memory [-- --quick]`
//!
//! Each figure is the growth over many, divided by their number. A client is a response body that has been polled, with its heartbeat
//! timer set; the task that polls it and hyper's connection are not in it. No figure is
//! asserted.

#![allow(clippy::expect_used)]

use std::{
    alloc::System,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use axum::response::sse;
use cap::Cap;
use http_body::Body;
use tokio::sync::broadcast;
use tower_sse::{Event, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{
    PAYLOAD, axum_stream, stream,
    table::{Arguments, Budget, result},
};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Bytes for each of what is made, while all of it is kept.
async fn each<T>(number: usize, mut make: impl AsyncFnMut(usize) -> T) -> f64 {
    let mut all = Vec::with_capacity(number);
    let before = HEAP.allocated();
    for index in 0..number {
        all.push(make(index).await);
    }
    (HEAP.allocated() - before) as f64 / number as f64
}

fn park<B: Body + Unpin>(body: &mut B) {
    let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "nothing was published");
}

async fn clients(many: usize) -> f64 {
    let registry = Registry::new();
    let layer = SseLayer::new(&registry);
    let mut inline = 0;
    let heap = each(many, async |_| {
        let mut body = stream(&layer, "prices").await;
        park(&mut body);
        inline = size_of_val(&body);
        body
    })
    .await;
    // What is not on the heap too.
    heap + inline as f64
}

async fn axums_clients(many: usize) -> f64 {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let mut inline = 0;
    let heap = each(many, async |_| {
        let mut body = axum_stream(&sender);
        park(&mut body);
        inline = size_of_val(&body);
        body
    })
    .await;
    heap + inline as f64
}

async fn subscriptions(many: usize) {
    let registry = Registry::new();
    let topics: Vec<String> = (0..10).map(|topic| format!("prices/{topic}")).collect();
    let measure = async |topics: &[String]| {
        each(many / 10, async |_| {
            let client = registry.connect();
            topics.iter().for_each(|topic| client.subscribe(topic.as_str()).expect("a name"));
            let mut events = Box::pin(client.into_events());
            poll_fn(|cx| {
                assert!(futures_core::Stream::poll_next(events.as_mut(), cx).is_pending());
                Poll::Ready(())
            })
            .await;
            events
        })
        .await
    };
    let (one, ten) = (measure(&topics[..1]).await, measure(&topics).await);
    result("memory of each further topic of a client", "B", (ten - one) / 9.0, None, Budget::None);
}

async fn topics(many: usize) {
    let registry = Registry::with_config(RegistryConfig::default().retention(Retention::default().bytes(1 << 30)));
    let event = Event::data(PAYLOAD);
    let own = event.encode().len() + "id: 1763612345678-0\n".len();
    let publish = async |topic: usize| _ = registry.publish(format!("prices/{topic:06}"), &event).expect("room");
    let heap = each(many, publish).await;
    result("memory of a topic with a name of 13 B and one event", "B", heap, None, Budget::None);
    let heap = each(many, publish).await;
    result(&format!("memory of a retained event of {own} B"), "B", heap, None, Budget::None);
    result("memory of a retained event besides its own bytes", "B", heap - own as f64, None, Budget::None);
    let stats = registry.stats();
    assert_eq!((stats.topics, stats.events), (many, 2 * many), "nothing was evicted");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let many = Arguments::new().pick(100_000, 2_000);
    println!("bytes, over {many} of each; theirs: axum's Sse over a broadcast channel");
    let (ours, theirs) = (clients(many).await, axums_clients(many).await);
    result("memory of an idle client, one topic, heartbeat on", "B", ours, theirs, Budget::AtMost(512.0));
    subscriptions(many).await;
    topics(many).await;
}
