//! Several runtimes share one registry. While one runtime stands still, nothing is late in another.
//!
//! A timer fires only while the runtime in which it was set runs. So each test has readers in two runtimes that wait
//! for the same milliseconds. One runtime is stopped, and the readers of the other must still be woken in time.
//! Durations are only bounds on failure.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_stream::StreamExt;
use tower_sse::{
    Batching, ClientHandle, Drain, Events, Heartbeat, PresenceChange, PresenceChanges, Registry, RegistryConfig,
    SseBody, SseLayer,
};

use crate::{
    open::{Empty, open},
    polling::{publish, quiet, subscribed},
};

/// So many readers in each runtime that some readers of both wait for the same millisecond.
const READERS: usize = 100;
/// How long a reader waits. All readers have begun before the first one is due.
const SHORT: Duration = Duration::from_millis(50);
const BOUND: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
enum Kind {
    CurrentThread,
    MultiThread,
}

impl Kind {
    const ALL: [Self; 2] = [Self::CurrentThread, Self::MultiThread];

    fn runtime(self, workers: usize) -> Runtime {
        match self {
            Self::CurrentThread => Builder::new_current_thread().enable_time().build().unwrap(),
            Self::MultiThread => Builder::new_multi_thread().worker_threads(workers).enable_time().build().unwrap(),
        }
    }
}

/// A runtime that a test stops.
struct Stopping {
    kind: Kind,
    /// Dropped first, as dropping the runtime waits for its workers.
    go_on: Option<mpsc::Sender<()>>,
    runtime: Runtime,
}

impl Stopping {
    fn new(kind: Kind) -> Self {
        Self { kind, go_on: None, runtime: kind.runtime(1) }
    }

    /// Stops the runtime: no thread drives it, or a task blocks its only worker.
    fn stop(&mut self) {
        if let Kind::MultiThread = self.kind {
            let (begin, has_begun) = mpsc::channel();
            let (go_on, goes_on) = mpsc::channel();
            self.runtime.spawn(async move {
                begin.send(()).unwrap();
                let _ = goes_on.recv();
            });
            has_begun.recv().unwrap();
            self.go_on = Some(go_on);
        }
    }
}

/// Runs a test with each pair of one runtime to stop and one that runs.
fn in_each_pair(test: impl Fn(Stopping, &Runtime)) {
    for (stopping, running) in Kind::ALL.into_iter().flat_map(|one| Kind::ALL.map(|other| (one, other))) {
        println!("{stopping:?} stands still, {running:?} runs");
        test(Stopping::new(stopping), &running.runtime(2));
    }
}

/// A reader that waits for time to pass.
trait Reader: Unpin + Send + Sized + 'static {
    /// Reads what is ready. Returns whether more is to come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Reads all that is ready in a task of this runtime, and waits there.
    fn park(self, runtime: &Runtime) -> Self {
        runtime.block_on(async { tokio::spawn(self.parked()).await.unwrap() })
    }

    fn parked(mut self) -> impl Future<Output = Self> + Send {
        async {
            poll_fn(|cx| {
                while self.poll(cx) == Poll::Ready(true) {}
                Poll::Ready(())
            })
            .await;
            self
        }
    }
}

impl Reader for SseBody<Empty> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(self).poll_frame(cx).map(|frame| frame.is_some())
    }
}

impl Reader for Events {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(self).poll_next(cx).map(|item| item.is_some())
    }
}

/// A reader of presence changes, which waits for a leave.
struct Watcher {
    changes: PresenceChanges,
    is_told: bool,
}

impl Reader for Watcher {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let change = ready!(Pin::new(&mut self.changes).poll_next(cx));
        self.is_told |= matches!(change, Some(PresenceChange::Left(_)));
        Poll::Ready(!self.is_told)
    }
}

/// One reader in each runtime, many times, in turns.
type Pairs<R> = Vec<[R; 2]>;

fn pairs<R: Reader>(open: impl Fn() -> R) -> Pairs<R> {
    (0..READERS).map(|_| [open(), open()]).collect()
}

fn park<R: Reader>(pairs: Pairs<R>, stopping: &Stopping, running: &Runtime) -> Pairs<R> {
    let park = |[one, other]: [R; 2]| [one.park(&stopping.runtime), other.park(running)];
    pairs.into_iter().map(park).collect()
}

/// Stops one runtime, and reads all readers of the other to the end. Returns the readers of the stopped runtime.
fn read<R: Reader, F>(pairs: Pairs<R>, stopping: &mut Stopping, running: &Runtime, end: impl Fn(R) -> F) -> Vec<R>
where
    F: Future<Output = ()> + Send + 'static,
{
    stopping.stop();
    running.block_on(async {
        let (still, tasks): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|[one, other]| (one, tokio::spawn(timeout(BOUND, end(other))))).unzip();
        for task in tasks {
            task.await.unwrap().expect("the reader does not wait for the other runtime");
        }
        still
    })
}

fn stream(layer: &SseLayer) -> SseBody<Empty> {
    open(layer, None, |client| client.subscribe("topic").unwrap()).1
}

fn expiring(layer: &SseLayer) -> SseBody<Empty> {
    let handle = |client: &ClientHandle| {
        client.subscribe("topic").unwrap();
        client.expire_after(4 * SHORT);
    };
    open(layer, None, handle).1
}

async fn three_frames(mut body: SseBody<Empty>) {
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
    }
}

async fn the_second(mut body: SseBody<Empty>) {
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(frame.starts_with(b"data: second\n"), "{frame:?}");
}

async fn all(body: SseBody<Empty>) {
    body.collect().await.unwrap();
}

#[test]
fn heartbeats_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let layer = SseLayer::new(&Registry::new()).heartbeat(Heartbeat::every(SHORT));
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, three_frames);
    });
}

#[test]
fn batching_windows_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let registry = Registry::new();
        let layer = quiet(&registry).batching(Batching::every(SHORT));
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        publish(&registry, "topic", "first");
        let pairs = park(pairs, &stopping, running);
        publish(&registry, "topic", "second");
        read(pairs, &mut stopping, running, the_second);
    });
}

#[test]
fn ages_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let layer = quiet(&Registry::new()).max_age(4 * SHORT);
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, all);
    });
}

#[test]
fn expiries_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let layer = quiet(&Registry::new());
        let pairs = park(pairs(|| expiring(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, all);
    });
}

#[test]
fn expiries_of_events_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let registry = Registry::new();
        let events = || {
            let client = subscribed(&registry, ["topic"]);
            client.expire_after(4 * SHORT);
            client.into_events()
        };
        let pairs = park(pairs(events), &stopping, running);
        read(pairs, &mut stopping, running, |mut events| async move {
            assert!(events.next().await.is_none());
        });
    });
}

#[test]
fn grace_times_of_presence_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let registry = Registry::with_config(RegistryConfig::default().presence_grace(4 * SHORT));
        let room = registry.presence("topic").unwrap();
        let member = subscribed(&registry, ["topic"]).into_events().park(running);
        let watcher = || Watcher { changes: room.changes(), is_told: false };
        let pairs = park(pairs(watcher), &stopping, running);
        drop(member);
        let pairs = park(pairs, &stopping, running);
        read(pairs, &mut stopping, running, |mut watcher| async move {
            poll_fn(|cx| if watcher.is_told { Poll::Ready(false) } else { watcher.poll(cx) }).await;
        });
    });
}

#[test]
fn the_ends_of_a_drain_are_not_late() {
    in_each_pair(|mut stopping, running| {
        let registry = Registry::new();
        let layer = quiet(&registry);
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        let drained = running.spawn(registry.drain(Drain::within(4 * SHORT)));
        let still = read(pairs, &mut stopping, running, all);
        let drained = running.block_on(drained).unwrap();
        assert!(drained.still_open >= still.len() as u64, "{drained:?}");
    });
}

/// A stream waits in the runtime in which it is polled now.
mod a_stream_that_moves_to_another_runtime {
    use super::*;

    /// Streams that wait in a runtime that stands still, and then in one that has ended, go on in another runtime.
    ///
    /// They wait in a task, or with the main thread's waker, which they also have in a runtime with worker threads.
    fn check<F>(open: impl Fn() -> SseBody<Empty>, publish: impl Fn(&str), end: impl Fn(SseBody<Empty>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let waiting = |runtime: &Runtime| {
            let [mut one, mut other] = [open(), open()];
            // The first event begins a batching window.
            for data in ["first", "second"] {
                one = one.park(runtime);
                other = runtime.block_on(other.parked());
                publish(data);
            }
            [one, other]
        };
        let read = |running: &Runtime, bodies: [SseBody<Empty>; 2]| {
            for body in bodies {
                running.block_on(async { timeout(BOUND, end(body)).await.expect("the timer moves with the stream") });
            }
        };
        in_each_pair(|mut stopping, running| {
            let streams = waiting(&stopping.runtime);
            stopping.stop();
            read(running, streams);
        });
        in_each_pair(|stopping, running| {
            let streams = waiting(&stopping.runtime);
            drop(stopping);
            read(running, streams);
        });
    }

    #[test]
    fn gets_its_heartbeats() {
        let layer = SseLayer::new(&Registry::new()).heartbeat(Heartbeat::every(SHORT));
        check(|| stream(&layer), |_| {}, three_frames);
    }

    #[test]
    fn gets_its_batches() {
        let registry = Registry::new();
        let layer = quiet(&registry).batching(Batching::every(4 * SHORT));
        check(|| stream(&layer), |data| publish(&registry, "topic", data), the_second);
    }

    #[test]
    fn ends_in_time() {
        let layer = quiet(&Registry::new());
        check(|| expiring(&layer), |_| {}, all);
    }
}
