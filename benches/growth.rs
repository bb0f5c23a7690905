//! How the costs of a delivery and of a publish grow with clients, topics, topics per client, and the size of events.
//!
//! `cargo bench --bench growth [-- clients topics topics-per-client bytes] [-- --quick]`
//!
//! Clients are tasks that poll their bodies. There are no sockets. A round publishes one event to idle clients, and
//! ends when all have it. The publish alone is measured too: until it returns, with the wake-ups of its clients. A
//! publish without clients, on all topics in turn, is measured as well. One quantity grows, and the others stay: 1,000
//! clients (100 with many topics each), 1 topic, events of 100 bytes.
//!
//! The last lines show the exponent of each growth, from the smallest size to the largest. 0 is constant, 1 is linear.
//! Cache misses at large sizes are included. The alternative is axum's `Sse` over broadcast channels, with several of
//! them in a `StreamMap`. Each client must get each event once. One client in a hundred checks all of them, in order.
//! No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    hint::black_box,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Empty;
use tokio::sync::broadcast;
use tokio_stream::{StreamExt, StreamMap, wrappers::BroadcastStream};
use tower::{Layer, Service, service_fn};
use tower_sse::{ClientHandle, Event, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{
    Arrived, begun, median,
    table::{Arguments, Budget, result},
};

#[derive(Debug, Clone, Copy)]
struct Case {
    clients: usize,
    /// Topics that have one event each and no clients.
    topics: usize,
    topics_per_client: usize,
    bytes: usize,
}

/// Costs in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    delivery: f64,
    publish: f64,
}

/// The payload of a round. It begins with the round's number.
fn payload(round: usize, bytes: usize) -> String {
    format!("{round:010}{}", "x".repeat(bytes - 10))
}

/// A client. With `looks`, it checks each event.
async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B, arrived: Arc<Arrived>, bytes: usize, looks: bool) {
    let mut round = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if looks {
            let data = frame.into_data().unwrap_or_default();
            let number = data.strip_prefix(b"data: ").and_then(|data| data.get(..10));
            assert_eq!(number, Some(format!("{round:010}").as_bytes()), "the event of this round");
            assert!(data.ends_with(b"\n\n") && data.len() < bytes + 64, "exactly one event");
        }
        round += 1;
        arrived.add(1);
    }
}

/// Publishes this many rounds. Returns the median costs.
async fn rounds(case: Case, rounds: usize, arrived: &Arrived, mut publish: impl FnMut(usize, String)) -> Cost {
    let (mut deliveries, mut publishes) = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        arrived.goal.fetch_add(case.clients, Ordering::AcqRel);
        let data = payload(round, case.bytes);
        let start = Instant::now();
        publish(round, data);
        let published = start.elapsed();
        arrived.wait().await;
        let all = start.elapsed();
        // In the first round, the tasks start and wait for events.
        if round > 1 {
            publishes.push(published.as_nanos() as f64);
            deliveries.push(all.as_nanos() as f64 / case.clients as f64);
        }
    }
    // Lets the clients read, so that no client falls behind.
    tokio::task::yield_now().await;
    assert_eq!(arrived.count.load(Ordering::Acquire), arrived.goal.load(Ordering::Acquire), "each once");
    Cost { delivery: median(deliveries), publish: median(publishes) }
}

/// Returns the costs, and the cost of a publish without clients.
async fn ours(case: Case, number: usize) -> (Cost, f64) {
    let retention = Retention::default().bytes(8 << 30);
    let config = RegistryConfig::default().total_retention(retention).topic_retention(Retention::default().events(10));
    let registry = Registry::with_config(config);
    let others: Vec<String> = (0..case.topics).map(|topic| format!("other/{topic:07}")).collect();
    let event = Event::data(payload(0, case.bytes));
    for topic in &others {
        registry.publish(topic, &event).expect("room");
    }
    let publishes = 20_000.min(number);
    let start = Instant::now();
    for at in 0..publishes {
        drop(black_box(registry.publish(&others[at * 7919 % others.len()], &event)));
    }
    let alone = start.elapsed().as_nanos() as f64 / publishes as f64;

    let names: Arc<[String]> = (0..case.topics_per_client).map(|topic| format!("prices/{topic}")).collect();
    let (arrived, topics) = (Arc::new(Arrived::default()), Arc::clone(&names));
    let mut service = SseLayer::new(&registry).layer(service_fn(move |request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().expect("the layer adds the handle");
        topics.iter().for_each(|name| client.subscribe(name.as_str()).expect("a name"));
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Empty::<Bytes>::new());
        ready(Ok::<_, Infallible>(response.expect("a response")))
    }));
    for client in 0..case.clients {
        let body = service.call(Request::new(())).await.expect("an answer").into_body();
        tokio::spawn(read(begun(body), arrived.clone(), case.bytes, client % 100 == 0));
    }
    let cost = rounds(case, number_of_rounds(case, number), &arrived, |round, data| {
        registry.publish(&names[round % names.len()], Event::data(data)).expect("room");
    });
    (cost.await, alone)
}

async fn axums(case: Case, number: usize) -> Cost {
    let arrived = Arc::new(Arrived::default());
    let senders: Vec<_> = (0..case.topics_per_client).map(|_| broadcast::channel::<sse::Event>(16).0).collect();
    for client in 0..case.clients {
        let looks = client % 100 == 0;
        let mut streams = senders.iter().map(|sender| BroadcastStream::new(sender.subscribe()));
        let response = match case.topics_per_client {
            1 => {
                let events = streams.next_back().expect("one").filter_map(Result::ok).map(Ok::<_, Infallible>);
                Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response()
            }
            _ => {
                let all: StreamMap<usize, _> = streams.enumerate().collect();
                let events = all.filter_map(|(_, event)| event.ok()).map(Ok::<_, Infallible>);
                Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response()
            }
        };
        tokio::spawn(read(response.into_body(), arrived.clone(), case.bytes, looks));
    }
    let publish = |round: usize, data: String| {
        let event = sse::Event::default().data(data).id("1763612345678-0-7k3m9p2xr");
        senders[round % senders.len()].send(event).expect("there is a receiver");
    };
    rounds(case, number_of_rounds(case, number), &arrived, publish).await
}

fn number_of_rounds(case: Case, number: usize) -> usize {
    (number / case.clients).clamp(3, 2_000)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

/// Returns the exponent of the growth.
fn power(sizes: &[usize], costs: &[f64]) -> f64 {
    let ratio = |first: f64, last: f64| (last / first).ln();
    let (first, last) = (sizes[0] as f64, sizes[sizes.len() - 1] as f64);
    ratio(costs[0], costs[costs.len() - 1]) / ratio(first, last)
}

/// Measures with one growing quantity. `has_like`: the alternative can do the same.
fn grow(what: &str, sizes: &[usize], number: usize, has_like: bool, case: impl Fn(usize) -> Case) {
    println!("{:>18} | a delivery, axum's      | a publish, axum's           | a publish without clients", what);
    let (mut costs, mut axums_costs, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for size in sizes {
        let case = case(*size);
        let (cost, without_clients) = block_on(ours(case, number));
        let axum = has_like.then(|| block_on(axums(case, number)));
        let or_none = |cost: Option<f64>| cost.map_or("-".into(), |cost| format!("{cost:.0}"));
        println!(
            "{size:>18} | {:>8.0} ns {:>8} ns | {:>10.0} ns {:>10} ns | {without_clients:>8.0} ns",
            cost.delivery,
            or_none(axum.map(|cost| cost.delivery)),
            cost.publish,
            or_none(axum.map(|cost| cost.publish)),
        );
        costs.push(cost);
        axums_costs.extend(axum);
        alone.push(without_clients);
    }
    let of = |costs: &[Cost], which: fn(&Cost) -> f64| costs.iter().map(which).collect::<Vec<_>>();
    let axums_power = |which| has_like.then(|| power(sizes, &of(&axums_costs, which)));
    let from_to = format!("{} to {} {what}", sizes[0], sizes[sizes.len() - 1]);
    let line = |cost: &str, ours, theirs: Option<f64>| {
        result(&format!("{cost}, {from_to}: grows by the power"), "", ours, theirs, Budget::AtMost(1.1));
    };
    line("a delivery", power(sizes, &of(&costs, |cost| cost.delivery)), axums_power(|cost| cost.delivery));
    line("a publish", power(sizes, &of(&costs, |cost| cost.publish)), axums_power(|cost| cost.publish));
    line("a publish without clients", power(sizes, &alone), None);
}

fn main() {
    let arguments = Arguments::new();
    let is_asked = |what: &str| arguments.words.is_empty() || arguments.words.iter().any(|word| word == what);
    let number = arguments.pick(300_000, 5_000);
    let base = Case { clients: arguments.pick(1_000, 100), topics: 1, topics_per_client: 1, bytes: 100 };
    println!("one thread; theirs: axum's Sse over broadcast channels");
    if is_asked("clients") {
        let sizes: &[usize] = arguments.pick(&[10, 100, 1_000, 10_000, 100_000, 1_000_000], &[10, 100]);
        grow("clients", sizes, number, true, |clients| Case { clients, ..base });
    }
    if is_asked("topics") {
        let sizes: &[usize] = arguments.pick(&[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000], &[1, 10, 1_000]);
        grow("topics", sizes, number, false, |topics| Case { topics, ..base });
    }
    if is_asked("topics-per-client") {
        let sizes: &[usize] = arguments.pick(&[1, 10, 100, 1_000], &[1, 10]);
        let clients = 100.min(base.clients);
        let case = |topics_per_client| Case { topics_per_client, clients, ..base };
        grow("topics per client", sizes, number / 10, true, case);
    }
    if is_asked("bytes") {
        let sizes: &[usize] = arguments.pick(&[16, 256, 4 << 10, 64 << 10, 256 << 10], &[16, 4 << 10]);
        grow("bytes per event", sizes, number, true, |bytes| Case { bytes, ..base });
    }
}
