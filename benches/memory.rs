//! The memory of idle streams, subscriptions and topics, as a counting allocator measures it.
//!
//! `cargo bench --bench memory [-- --quick]`
//!
//! Each figure is the growth over many items, divided by their number. A client is a response body that has been polled
//! and whose heartbeat timer is set, without the task that polls it and without hyper's connection. The bench also
//! counts the allocations that the layer adds to a request whose response is no stream. No figure is asserted.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    future::ready,
    hint::black_box,
    pin::Pin,
    task::{Context, Waker},
};

use axum::response::sse;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tokio::sync::broadcast;
use tower::{Layer, Service, service_fn};
use tower_sse::{Event, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{
    PAYLOAD, axum_stream, page_request, ready_now, stream,
    table::{Arguments, Budget, result},
};

/// Bytes per item, while all items are kept.
fn each<T>(number: usize, make: impl FnMut(usize) -> T) -> f64 {
    let mut all = Vec::with_capacity(number);
    let memory = allocation_counter::measure(|| all.extend((0..number).map(make)));
    memory.bytes_current as f64 / number as f64
}

fn park<B: Body + Unpin>(body: &mut B) {
    let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "nothing was published");
}

fn clients(many: usize) -> f64 {
    let registry = Registry::new();
    let layer = SseLayer::new(&registry);
    let mut inline = 0;
    let heap = each(many, |_| {
        let mut body = ready_now(stream(&layer, "prices"));
        park(&mut body);
        inline = size_of_val(&body);
        body
    });
    // Adds the bytes that are not on the heap.
    heap + inline as f64
}

fn axums_clients(many: usize) -> f64 {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let mut inline = 0;
    let heap = each(many, |_| {
        let mut body = axum_stream(&sender);
        park(&mut body);
        inline = size_of_val(&body);
        body
    });
    heap + inline as f64
}

fn subscriptions(many: usize) {
    let registry = Registry::new();
    let topics: Vec<String> = (0..10).map(|topic| format!("prices/{topic}")).collect();
    let measure = |topics: &[String]| {
        each(many / 10, |_| {
            let client = registry.connect();
            topics.iter().for_each(|topic| client.subscribe(topic.as_str()).expect("a name"));
            let mut events = Box::pin(client.into_events());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(futures_core::Stream::poll_next(events.as_mut(), &mut cx).is_pending());
            events
        })
    };
    let (one, ten) = (measure(&topics[..1]), measure(&topics));
    result("memory of each further topic of a client", "B", (ten - one) / 9.0, None, Budget::None);
}

fn topics(many: usize) {
    let registry =
        Registry::with_config(RegistryConfig::default().total_retention(Retention::default().bytes(1 << 30)));
    let event = Event::data(PAYLOAD);
    let own = event.encode().len() + "id: 1763612345678-0-7k3m9p2xr\n".len();
    let publish = |topic: usize| _ = registry.publish(format!("prices/{topic:06}"), &event).expect("room");
    let heap = each(many, publish);
    result("memory of a topic with a name of 13 B and one event", "B", heap, None, Budget::None);
    let heap = each(many, publish);
    result(&format!("memory of a retained event of {own} B"), "B", heap, None, Budget::None);
    result("memory of a retained event besides its own bytes", "B", heap - own as f64, None, Budget::None);
    let stats = registry.stats();
    assert_eq!((stats.topics, stats.events), (many, 2 * many), "nothing was evicted");
}

fn requests() {
    let handler = |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let mut bare = service_fn(handler);
    let mut layered = SseLayer::new(&Registry::new()).layer(service_fn(handler));
    // The first request creates the client that all later requests reuse.
    drop(ready_now(layered.call(page_request())));
    let ours = allocation_counter::measure(|| drop(black_box(ready_now(layered.call(page_request())))));
    let theirs = allocation_counter::measure(|| drop(black_box(ready_now(bare.call(page_request())))));
    let [ours, theirs] = [ours, theirs].map(|memory| memory.count_total as f64);
    result("allocations of a request that is no stream, layer on and off", "", ours, theirs, Budget::More(3.0));
}

fn main() {
    // The heartbeats use tokio's timers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let many = Arguments::new().pick(100_000, 2_000);
    println!("bytes, over {many} of each; theirs: axum's Sse over a broadcast channel");
    let (ours, theirs) = (clients(many), axums_clients(many));
    result("memory of an idle client, one topic, heartbeat on", "B", ours, theirs, Budget::AtMost(512.0));
    subscriptions(many);
    topics(many);
    requests();
}
