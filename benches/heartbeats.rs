//! The cost of heartbeats for idle and busy streams, compared with axum's `KeepAlive` in the same run.
//!
//! `cargo bench --bench heartbeats [-- STREAMS BUSY] [-- --quick]`
//!
//! The clock is tokio's paused clock, which advances to the next timer when no task is ready. 100,000 streams with a
//! heartbeat every 15 seconds are idle for a minute. Each must get four heartbeats, and its task must be woken only for
//! those. Then streams get an event every 100 milliseconds. Any other wake-up of such a stream is its timer, which is
//! set anew when it fires. That may happen at most once per interval. The cost of a heartbeat for such a stream is the
//! difference to a stream without heartbeats. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::Bytes;
use http_body::Body;
use tokio::{runtime::Runtime, sync::broadcast, time};
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower_sse::{Event, Heartbeat, Registry, SseLayer};

mod support;
use support::{
    PAYLOAD, stream,
    table::{Arguments, Budget, result},
};

const INTERVAL: Duration = Duration::from_secs(15);
/// The time at which all streams have begun. The streams with axum's `Sse` began in the time before. No stream with the
/// layer has had its first heartbeat, which comes after half an interval or more.
const SETTLED: Duration = Duration::from_millis(7_450);
const WHILE: Duration = Duration::from_secs(60);
const INTERVALS: usize = 4;
const BLOCKS: usize = 5;

/// Counts over all streams.
#[derive(Default)]
struct Counted {
    /// How often a task was polled after its start.
    wakes: AtomicUsize,
    heartbeats: AtomicUsize,
    events: AtomicUsize,
}

impl Counted {
    fn take(&self) -> [usize; 3] {
        [&self.wakes, &self.heartbeats, &self.events].map(|number| number.swap(0, Ordering::Relaxed))
    }
}

/// A task that reads this body from a given time on, as hyper does.
fn read<B: Body<Data = Bytes> + Unpin + Send + 'static>(mut body: B, counted: &Arc<Counted>, delay: Duration) {
    let counted = Arc::clone(counted);
    let reading = poll_fn(move |cx| {
        counted.wakes.fetch_add(1, Ordering::Relaxed);
        loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    let is_comment = frame.data_ref().is_some_and(|data| data.starts_with(b":"));
                    let number = if is_comment { &counted.heartbeats } else { &counted.events };
                    number.fetch_add(1, Ordering::Relaxed);
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    });
    tokio::spawn(async move {
        time::sleep(delay).await;
        reading.await;
    });
}

/// A number of streams, and the function that publishes to them.
struct Side {
    publish: Box<dyn Fn()>,
    counted: Arc<Counted>,
}

async fn ours(streams: usize, heartbeat: bool) -> Side {
    let (registry, counted) = (Registry::new(), Arc::new(Counted::default()));
    let heartbeat = if heartbeat { Heartbeat::every(INTERVAL) } else { Heartbeat::off() };
    let layer = SseLayer::new(&registry).heartbeat(heartbeat);
    for _ in 0..streams {
        read(stream(&layer, "prices").await, &counted, Duration::ZERO);
    }
    let event = Event::data(PAYLOAD);
    let publish = move || _ = registry.publish("prices", &event).expect("room");
    Side { publish: Box::new(publish), counted }
}

async fn axums(streams: usize, heartbeat: bool) -> Side {
    let ((sender, _), counted) = (broadcast::channel(1024), Arc::new(Counted::default()));
    for at in 0..streams {
        let events = BroadcastStream::new(sender.subscribe()).filter_map(Result::ok).map(Ok::<_, Infallible>);
        let sse = Sse::new(events);
        let response = match heartbeat {
            true => sse.keep_alive(sse::KeepAlive::new().interval(INTERVAL)).into_response(),
            false => sse.into_response(),
        };
        // The layer spreads its streams over half an interval, in random order. The number of heartbeats that are due
        // at once, and the order of their memory, cause most of the cost. So axum's streams are spread too.
        read(response.into_body(), &counted, Duration::from_millis(at as u64 * 5003 % 7_400));
    }
    let publish =
        move || _ = sender.send(sse::Event::default().data(PAYLOAD).id("1763612345678-0-7k3m9p2xr")).expect("readers");
    Side { publish: Box::new(publish), counted }
}

/// A side in a runtime of its own. Its clock stands still while the other sides run.
struct Paused {
    runtime: Runtime,
    side: Side,
}

impl Paused {
    fn new(side: impl AsyncFnOnce() -> Side) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let side = runtime.block_on(async {
            let side = side().await;
            // All tasks start and wait.
            time::sleep(SETTLED).await;
            side.counted.take();
            side
        });
        Self { runtime, side }
    }

    /// The nanoseconds per heartbeat of idle streams, and the wake-ups per heartbeat.
    fn idle(&self, streams: usize) -> (f64, f64) {
        let start = Instant::now();
        self.runtime.block_on(async { time::sleep(WHILE).await });
        let took = start.elapsed();
        let [wakes, heartbeats, events] = self.side.counted.take();
        assert_eq!((heartbeats, events), (INTERVALS * streams, 0), "each stream has its heartbeats");
        (took.as_nanos() as f64 / heartbeats as f64, wakes as f64 / heartbeats as f64)
    }

    /// The nanoseconds per event of busy streams, and the other wake-ups of each stream per interval.
    fn busy(&self, streams: usize) -> (f64, f64) {
        let rounds = WHILE.as_millis() as usize / 100;
        let start = Instant::now();
        self.runtime.block_on(async {
            for _ in 0..rounds {
                (self.side.publish)();
                time::sleep(Duration::from_millis(100)).await;
            }
        });
        let took = start.elapsed();
        let [wakes, heartbeats, events] = self.side.counted.take();
        assert_eq!((heartbeats, events), (0, rounds * streams), "each stream has all events and no heartbeats");
        let intervals = WHILE.as_secs_f64() / INTERVAL.as_secs_f64() * streams as f64;
        (took.as_nanos() as f64 / events as f64, (wakes - events) as f64 / intervals)
    }
}

fn main() {
    let arguments = Arguments::new();
    let (streams, some) = (arguments.number(0, 100_000, 2_000), arguments.number(1, 1_000, 100));
    println!("one thread, a minute of paused time; theirs: axum's Sse and KeepAlive over a broadcast channel");

    let (ours_each, ours_wakes) = Paused::new(async || ours(streams, true).await).idle(streams);
    let (axums_each, axums_wakes) = Paused::new(async || axums(streams, true).await).idle(streams);
    let what = format!("wake-ups for each heartbeat of {streams} idle streams");
    result(&what, "", ours_wakes, axums_wakes, Budget::AtMost(1.0));
    result(&format!("a heartbeat of one of {streams} idle streams"), "ns", ours_each, axums_each, Budget::None);

    let sides = [
        Paused::new(async || ours(some, true).await),
        Paused::new(async || ours(some, false).await),
        Paused::new(async || axums(some, true).await),
        Paused::new(async || axums(some, false).await),
    ];
    // The first timers are spread, so no stream can have more wake-ups than this in this time.
    let [(_, rearms), (_, without), (_, axums_wakes), _] = sides.each_ref().map(|side| side.busy(some));
    assert_eq!(
        (without, axums_wakes),
        (0.0, 0.0),
        "without a heartbeat there is no timer, and axum's timer never fires"
    );
    let mut best = [f64::INFINITY; 4];
    for _ in 0..arguments.pick(BLOCKS, 1) {
        for (side, best) in sides.iter().zip(&mut best) {
            *best = best.min(side.busy(some).0);
        }
    }
    // axum's `KeepAlive` sets its timer anew with each event. That cannot be counted from outside.
    result("timer set anew by a busy stream in an interval", "", rearms, None, Budget::AtMost(1.0));
    let [ours, ours_without, axums, axums_without] = best;
    println!(
        "an event of a busy stream: ours {ours:.0} ns, without heartbeat {ours_without:.0} ns; axum's {axums:.0} ns, without {axums_without:.0} ns"
    );
    let what = "what the heartbeat adds to an event of a busy stream";
    result(what, "ns", ours - ours_without, axums - axums_without, Budget::None);
}
