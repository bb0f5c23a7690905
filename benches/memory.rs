//! What things take in memory when nothing happens, as a counting allocator sees it.
//!
//! `cargo bench --bench memory`
//!
//! Each figure is the growth over many, divided by their number. A client is a response body that has been polled, with its heartbeat
//! timer set; the task that polls it and hyper's connection are not in it. Nothing is asserted: the numbers are printed.

#![allow(clippy::expect_used)]
#![allow(dead_code, reason = "not all of the support is needed here")]

use std::{
    alloc::System,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use axum::response::{IntoResponse, Sse, sse};
use cap::Cap;
use http_body::Body;
use tokio::sync::broadcast;
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower_sse::{Event, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{PAYLOAD, stream};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const MANY: usize = 100_000;

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

/// With the size of what is not on the heap.
fn print(what: &str, heap: f64, inline: usize) {
    println!("{:>9.1} B  {what}", heap + inline as f64);
}

async fn clients() {
    let registry = Registry::new();
    let layer = SseLayer::new(&registry);
    let mut size = 0;
    let heap = each(MANY, async |_| {
        let mut body = stream(&layer, "prices").await;
        park(&mut body);
        size = size_of_val(&body);
        body
    })
    .await;
    print("a client that is subscribed to one topic", heap, size);
}

async fn axums_clients() {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let mut size = 0;
    let heap = each(MANY, async |_| {
        let events = BroadcastStream::new(sender.subscribe()).filter_map(Result::ok).map(Ok::<_, Infallible>);
        let mut body = Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response().into_body();
        park(&mut body);
        size = size_of_val(&body);
        body
    })
    .await;
    print("the same with axum's Sse over a broadcast channel", heap, size);
}

async fn subscriptions() {
    let registry = Registry::new();
    let topics: Vec<String> = (0..10).map(|topic| format!("prices/{topic}")).collect();
    let measure = async |topics: &[String]| {
        each(MANY / 10, async |_| {
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
    print("each further topic that it is subscribed to", (ten - one) / 9.0, 0);
}

async fn topics() {
    let registry = Registry::with_config(RegistryConfig::default().retention(Retention::default().bytes(1 << 30)));
    let event = Event::data(PAYLOAD);
    let own = event.encode().len() + "id: 1763612345678-0\n".len();
    let publish = async |topic: usize| _ = registry.publish(format!("prices/{topic:06}"), &event).expect("room");
    let heap = each(MANY, publish).await;
    print("a topic with a name of 13 bytes and one event", heap, 0);
    let heap = each(MANY, publish).await;
    print(&format!("a retained event of {own} bytes"), heap, 0);
    let stats = registry.stats();
    assert_eq!((stats.topics, stats.events), (MANY, 2 * MANY), "nothing was evicted");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    clients().await;
    axums_clients().await;
    subscriptions().await;
    topics().await;
}
