//! What is paid where the layer or the registry has nothing to do, beside the same without it, in the same run.
//!
//! `cargo bench --bench overhead [-- requests frames publishing]`
//!
//! - A request whose answer is no stream, behind the layer and without it; and how often memory is allocated for it.
//! - A frame of a stream of the handler's own, through the layer's body and without it.
//! - Publishing on a topic without subscribers, where there is one and where there are a million.
//!
//! The sides take turns, block by block; the fastest block counts. Nothing is asserted: the numbers are printed.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    env,
    future::{Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_sse::{Event, Registry, RegistryConfig, Retention, SseLayer};

const BLOCKS: usize = 25;

/// Nanoseconds for each of `number`, of the fastest block of each side.
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

fn print(what: &str, [ours, theirs]: [f64; 2], budget: &str) {
    let more = ours - theirs;
    println!("{what:<44} {ours:>8.1} ns, without {theirs:>8.1} ns: {more:>+7.1} ns   (budget: {budget})");
}

fn ready_now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing waits"),
    }
}

fn requests() {
    let handler = |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let mut bare = service_fn(handler);
    let mut layered = SseLayer::new(&Registry::new()).layer(service_fn(handler));
    // As a browser has it for a page.
    let request =
        || Request::builder().uri("/orders/17").header("accept", "text/html,*/*").body(()).expect("a request");
    let allocations = allocation_counter::measure(|| drop(black_box(ready_now(layered.call(request()))))).count_total
        - allocation_counter::measure(|| drop(black_box(ready_now(bare.call(request()))))).count_total;
    let times = measure(
        20_000,
        [&mut || drop(black_box(ready_now(layered.call(request())))), &mut || {
            drop(black_box(ready_now(bare.call(request()))));
        }],
    );
    print("a request whose answer is no stream", times, "120 ns");
    println!("{:<44} {allocations} allocations more   (budget: 3)", "");
}

/// The same frame again and again.
struct Endless(Bytes);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
    }
}

fn frames(size: usize) {
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
    let times = measure(
        50_000,
        [&mut || drop(black_box(Pin::new(&mut wrapped).poll_frame(&mut Context::from_waker(waker)))), &mut || {
            drop(black_box(Pin::new(&mut bare).poll_frame(&mut Context::from_waker(waker))));
        }],
    );
    print(&format!("a frame of {size} bytes of a handler's own stream"), times, "25 ns");
}

fn publishing() {
    let registry = |topics: usize| {
        let registry = Registry::with_config(
            RegistryConfig::default().retention(Retention::default().bytes(2 << 30).events(topics + 1_000)),
        );
        for topic in 0..topics {
            registry.publish(format!("prices/{topic:07}"), Event::data("")).expect("room");
        }
        registry
    };
    let event = Event::data("x".repeat(100));
    let (one, many) = (registry(1), registry(1_000_000));
    let times = measure(
        20_000,
        [&mut || drop(black_box(many.publish("prices/0000000", &event))), &mut || {
            drop(black_box(one.publish("prices/0000000", &event)));
        }],
    );
    print("publishing: 1,000,000 topics; without: 1", times, "300 ns, both");
}

fn main() {
    // The layer's timers are tokio's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    // `cargo bench` passes flags of its own.
    let asked: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_asked = |what: &str| asked.is_empty() || asked.iter().any(|argument| argument == what);
    println!("one thread, the fastest of {BLOCKS} blocks");
    if is_asked("requests") {
        requests();
    }
    if is_asked("frames") {
        [16, 1024, 64 << 10].into_iter().for_each(frames);
    }
    if is_asked("publishing") {
        publishing();
    }
}
