//! Several runtimes and one registry: while one runtime stands still, nothing is late in another.
//!
//! A timer fires only while the runtime in which it was set runs. So each test has readers in a runtime that comes to stand still, and readers of another
//! runtime that wait for the same milliseconds and have to get what they wait for meanwhile. Durations are only bounds on failure.

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

/// So many in each runtime that some of both wait for the same millisecond.
const READERS: usize = 100;
/// What a reader waits for, and long enough for all to begin before the first is due.
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

/// A runtime that is to stand still.
struct Stopping {
    kind: Kind,
    /// The end of a runtime waits for its workers, so this is dropped first.
    go_on: Option<mpsc::Sender<()>>,
    runtime: Runtime,
}

impl Stopping {
    fn new(kind: Kind) -> Self {
        Self { kind, go_on: None, runtime: kind.runtime(1) }
    }

    /// From now on nobody drives it, or a task blocks its only worker.
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

/// Runs a test with a runtime of each kind that is to stand still, and one of each kind that runs.
fn in_each_pair(test: impl Fn(Stopping, &Runtime)) {
    for (stopping, running) in Kind::ALL.into_iter().flat_map(|one| Kind::ALL.map(|other| (one, other))) {
        println!("{stopping:?} stands still, {running:?} runs");
        test(Stopping::new(stopping), &running.runtime(2));
    }
}

/// Who waits for time to pass.
trait Reader: Unpin + Send + Sized + 'static {
    /// Whether there was something, and more is to come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Reads all that is there in a task of this runtime, and waits there from then on.
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

/// Who is told that somebody has left.
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

/// A reader in each runtime, as often, in turns.
type Pairs<R> = Vec<[R; 2]>;

fn pairs<R: Reader>(open: impl Fn() -> R) -> Pairs<R> {
    (0..READERS).map(|_| [open(), open()]).collect()
}

fn park<R: Reader>(pairs: Pairs<R>, stopping: &Stopping, running: &Runtime) -> Pairs<R> {
    let park = |[one, other]: [R; 2]| [one.park(&stopping.runtime), other.park(running)];
    pairs.into_iter().map(park).collect()
}

/// One of the runtimes comes to stand still, and in the other everybody reads to the end. Those who stand still are given back.
fn read<R: Reader, F>(pairs: Pairs<R>, stopping: &mut Stopping, running: &Runtime, end: impl Fn(R) -> F) -> Vec<R>
where
    F: Future<Output = ()> + Send + 'static,
{
    stopping.stop();
    running.block_on(async {
        let (still, tasks): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|[one, other]| (one, tokio::spawn(timeout(BOUND, end(other))))).unzip();
        for task in tasks {
            task.await.unwrap().expect("it does not wait for the other runtime");
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
fn heartbeats() {
    in_each_pair(|mut stopping, running| {
        let layer = SseLayer::new(&Registry::new()).heartbeat(Heartbeat::every(SHORT));
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, three_frames);
    });
}

#[test]
fn batching_windows() {
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
fn ages() {
    in_each_pair(|mut stopping, running| {
        let layer = quiet(&Registry::new()).max_age(4 * SHORT);
        let pairs = park(pairs(|| stream(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, all);
    });
}

#[test]
fn expiries() {
    in_each_pair(|mut stopping, running| {
        let layer = quiet(&Registry::new());
        let pairs = park(pairs(|| expiring(&layer)), &stopping, running);
        read(pairs, &mut stopping, running, all);
    });
}

#[test]
fn expiries_of_readers_in_this_process() {
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
fn grace_times_of_presence() {
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
fn the_ends_of_a_drain() {
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

/// Wherever a stream has waited before, it waits where it is polled.
mod a_stream_that_moves_on {
    use super::*;

    /// Streams that wait in a runtime that stands still, and then in one that has ended, go on in another.
    ///
    /// They have waited in a task, or with the waker that they have again where a runtime has threads besides the one that waits for it.
    fn check<F>(open: impl Fn() -> SseBody<Empty>, publish: impl Fn(&str), end: impl Fn(SseBody<Empty>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let waiting = |runtime: &Runtime| {
            let [mut one, mut other] = [open(), open()];
            // What is published begins a window.
            for data in ["first", "second"] {
                one = one.park(runtime);
                other = runtime.block_on(other.parked());
                publish(data);
            }
            [one, other]
        };
        let read = |running: &Runtime, bodies: [SseBody<Empty>; 2]| {
            for body in bodies {
                running.block_on(async { timeout(BOUND, end(body)).await.expect("its timer moves along") });
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
