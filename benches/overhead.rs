//! The cost of the layer and the registry where they have nothing to do, compared with the same without them in the
//! same run.
//!
//! `cargo bench --bench overhead [-- requests frames publishing] [-- --quick]`
//!
//! - A request whose response is no stream, with the layer and without it. The bench `memory` counts its allocations,
//!   as counting would add to the times here.
//! - A frame of a handler's own stream, through the layer's body and without it.
//! - A publish on a topic without subscribers, among one topic and among a million.
//!
//! The sides take turns, block by block. The fastest block counts. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_sse::{Event, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{
    page_request, ready_now,
    table::{Arguments, Budget, result},
};

const BLOCKS: usize = 25;

/// Nanoseconds per item in the fastest block of each side.
fn measure<const SIDES: usize>(number: usize, mut sides: [&mut dyn FnMut(); SIDES]) -> [f64; SIDES] {
    let mut best = [f64::INFINITY; SIDES];
    for _ in 0..BLOCKS {
        for (side, best) in sides.iter_mut().zip(&mut best) {
            let start = Instant::now();
            (0..number).for_each(|_| side());
            *best = best.min(start.elapsed().as_nanos() as f64 / number as f64);
        }
    }
    best
}

fn requests(number: usize) {
    let handler = |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let mut bare = service_fn(handler);
    let mut layered = SseLayer::new(&Registry::new()).layer(service_fn(handler));
    let [ours, theirs] = measure(
        number,
        [&mut || drop(black_box(ready_now(layered.call(page_request())))), &mut || {
            drop(black_box(ready_now(bare.call(page_request()))));
        }],
    );
    result("a request that is no stream, layer on and off", "ns", ours, theirs, Budget::More(120.0));
}

/// A body that returns the same frame without end.
struct Endless(Bytes);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
    }
}

fn frames(size: usize, number: usize) {
    let text = format!("data: {}\n\n", "x".repeat(size.saturating_sub(8)));
    let frame = Bytes::from(text);
    let own = frame.clone();
    let handler = move |_: Request<()>| -> Ready<Result<_, Infallible>> {
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Endless(own.clone()));
        ready(Ok(response.expect("a response")))
    };
    let mut service = SseLayer::new(&Registry::new()).layer(service_fn(handler));
    let mut wrapped = ready_now(service.call(Request::new(()))).expect("an answer").into_body();
    let mut bare = Endless(frame);
    let waker = Waker::noop();
    let [ours, theirs] = measure(
        number,
        [&mut || drop(black_box(Pin::new(&mut wrapped).poll_frame(&mut Context::from_waker(waker)))), &mut || {
            drop(black_box(Pin::new(&mut bare).poll_frame(&mut Context::from_waker(waker))));
        }],
    );
    result(&format!("a frame of {size} B of a wrapped stream, and bare"), "ns", ours, theirs, Budget::More(25.0));
}

fn publishing(topics: usize, number: usize) {
    let registry = |topics: usize| {
        let registry = Registry::with_config(
            RegistryConfig::default()
                .total_retention(Retention::default().bytes(2 << 30).events(topics + 1_000))
                .topic_retention(Retention::default().events(1_000)),
        );
        for topic in 0..topics {
            registry.publish(format!("prices/{topic:07}"), Event::data("")).expect("room");
        }
        registry
    };
    let event = Event::data("x".repeat(100));
    let (with_one, with_many) = (registry(1), registry(topics));
    let [many, one] = measure(
        number,
        [&mut || drop(black_box(with_many.publish("prices/0000000", &event))), &mut || {
            drop(black_box(with_one.publish("prices/0000000", &event)));
        }],
    );
    result("a publish without subscribers, 1 topic", "ns", one, None, Budget::AtMost(300.0));
    result(&format!("a publish without subscribers, {topics} topics, and 1"), "ns", many, one, Budget::AtMost(300.0));
}

fn main() {
    // The layer uses tokio's timers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let arguments = Arguments::new();
    let is_asked = |what: &str| arguments.words.is_empty() || arguments.words.iter().any(|word| word == what);
    println!("one thread, the fastest of {BLOCKS} blocks");
    if is_asked("requests") {
        requests(arguments.pick(20_000, 500));
    }
    if is_asked("frames") {
        [16, 1024, 64 << 10].into_iter().for_each(|size| frames(size, arguments.pick(50_000, 1_000)));
    }
    if is_asked("publishing") {
        publishing(arguments.pick(1_000_000, 10_000), arguments.pick(20_000, 500));
    }
}
