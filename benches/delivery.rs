//! What it costs to deliver an event, beside axum's `Sse` over `tokio::sync::broadcast`, in the same run.
//!
//! `cargo bench --bench delivery [-- CLIENTS ROUNDS BURST]`
//!
//! Each client is a task that polls its response body; there are no sockets. A round publishes one event of 100 bytes (or a burst of
//! 32) and ends when every client has everything. Heartbeats are on, on both sides. The two sides take turns, round
//! block by round block, so that whatever else the machine does hits both; the median block counts. Nothing is asserted: the numbers are printed.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    env,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Empty;
use tokio::sync::{Notify, broadcast};
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{ClientHandle, Event, Registry, SseLayer};

const PAYLOAD: &str =
    "{\"symbol\":\"AAPL\",\"price\":187.42,\"change\":-0.13,\"volume\":123456,\"venue\":\"XNAS\",\"at\":1763612345678}";
const BLOCKS: usize = 9;

/// Events that arrived, over all clients; whoever brings the last of a round says so.
#[derive(Default)]
struct Arrived {
    count: AtomicUsize,
    goal: AtomicUsize,
    all: Notify,
}

impl Arrived {
    fn add(&self, events: usize) {
        let count = self.count.fetch_add(events, Ordering::AcqRel) + events;
        if count >= self.goal.load(Ordering::Acquire) {
            self.all.notify_one();
        }
    }

    async fn wait(&self) {
        while self.count.load(Ordering::Acquire) < self.goal.load(Ordering::Acquire) {
            self.all.notified().await;
        }
    }
}

/// Polls a body as hyper does, and counts the events that come by the blank lines that end them.
async fn drain<B: Body<Data = Bytes> + Send + 'static>(body: B, arrived: Arc<Arrived>, event_length: usize) {
    let mut body = Box::pin(body);
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        arrived.add(length / event_length);
    }
}

type Publish = Box<dyn Fn(usize)>;
type Side = (&'static str, Publish, Arc<Arrived>);

async fn ours(clients: usize) -> Side {
    let registry = Registry::new();
    let arrived = Arc::new(Arrived::default());
    let event = Event::data(PAYLOAD).event("tick").expect("a valid event type");
    let length = event.encode().len() + "id: 1763612345678-0\n".len();
    let service = SseLayer::new(&registry).layer(service_fn(|request: Request<()>| async move {
        let client = request.extensions().get::<ClientHandle>().expect("the layer is around");
        client.subscribe("prices").expect("a valid topic");
        Ok::<_, Infallible>(
            Response::builder()
                .header(CONTENT_TYPE, "text/event-stream")
                .body(Empty::<Bytes>::new())
                .expect("a valid response"),
        )
    }));
    for _ in 0..clients {
        let response = service.clone().oneshot(Request::new(())).await.expect("an answer");
        tokio::spawn(drain(response.into_body(), arrived.clone(), length));
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

/// Nanoseconds per delivery over a block of rounds.
async fn block((_, publish, arrived): &Side, clients: usize, rounds: usize, burst: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        arrived.goal.fetch_add(clients * burst, Ordering::AcqRel);
        publish(burst);
        arrived.wait().await;
    }
    start.elapsed().as_nanos() as f64 / (clients * rounds * burst) as f64
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
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
