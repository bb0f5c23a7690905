//! Loom models of the registry. They run the crate's code with loom's locks and atomics, in all thread orders that have
//! few preemptions.
//!
//! A lost wake-up is a deadlock here, and a reader that polls without end has too many branches. Loom reports both. The
//! models trust what loom does not know: `Arc`, `OnceLock`, and tokio's `Notify`.
//!
//! The sources are compiled into this program, as the library itself uses std's locks. The program has its own `main`,
//! as the unit tests in those sources cannot run with loom's locks.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/backplane/mod.rs"]
mod backplane;
#[path = "../src/client/mod.rs"]
mod client;
#[path = "../src/cluster/mod.rs"]
mod cluster;
#[path = "../src/collections/mod.rs"]
mod collections;
#[path = "../src/event/mod.rs"]
mod event;
#[path = "../src/handle/mod.rs"]
mod handle;
#[path = "../src/limit/mod.rs"]
mod limit;
#[path = "../src/log/mod.rs"]
mod log;
#[path = "../src/presence/mod.rs"]
mod presence;
#[path = "../src/reader/mod.rs"]
mod reader;
#[path = "../src/reading/mod.rs"]
mod reading;
#[path = "../src/registry/mod.rs"]
mod registry;
#[path = "../src/stream/mod.rs"]
mod stream;
#[path = "../src/time/mod.rs"]
mod time;
#[path = "../src/topics/mod.rs"]
mod topics;

/// The items of `src/sync.rs`, from loom.
mod sync {
    use std::sync::{Arc, PoisonError};

    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    };

    /// Both kinds of locks. The unit tests inside the modules are compiled here too, but not run. They use std's locks.
    pub(crate) trait Lock {
        type Guard<'a>
        where
            Self: 'a;

        fn guard(&self) -> Self::Guard<'_>;
    }

    impl<T> Lock for Mutex<T> {
        type Guard<'a>
            = MutexGuard<'a, T>
        where
            T: 'a;

        fn guard(&self) -> MutexGuard<'_, T> {
            self.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> Lock for std::sync::Mutex<T> {
        type Guard<'a>
            = std::sync::MutexGuard<'a, T>
        where
            T: 'a;

        fn guard(&self) -> std::sync::MutexGuard<'_, T> {
            self.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<M: Lock> Lock for Arc<M> {
        type Guard<'a>
            = M::Guard<'a>
        where
            M: 'a;

        fn guard(&self) -> M::Guard<'_> {
            (**self).guard()
        }
    }

    pub(crate) fn lock<M: Lock>(mutex: &M) -> M::Guard<'_> {
        mutex.guard()
    }

    pub(crate) fn nothing_is_locked() {}

    pub(crate) fn each<T>(items: impl IntoIterator<Item = T>, act: impl FnMut(T)) {
        items.into_iter().for_each(act);
    }

    /// Two shards: the model's main thread uses one, and the threads that it starts use the other.
    pub(crate) mod shard {
        use std::cell::Cell;

        loom::thread_local! {
            pub(crate) static MINE: Cell<usize> = Cell::new(0);
        }

        std::thread_local! {
            /// Whether all logs have shards.
            pub(crate) static ARE_WORTH_IT: Cell<bool> = const { Cell::new(false) };
        }

        pub(crate) fn count() -> usize {
            2
        }

        pub(crate) fn mine() -> usize {
            MINE.with(Cell::get)
        }

        pub(crate) fn is_worth_it(_: usize) -> bool {
            ARE_WORTH_IT.get()
        }
    }
}

use std::{
    env,
    future::Future,
    num::NonZero,
    pin::{Pin, pin},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_core::Stream;
use loom::{sync::Notify, thread::JoinHandle};

// The items at the library's root, and some more.
use self::{
    client::*, event::*, handle::*, limit::*, log::*, presence::*, reader::*, reading::*, registry::*, stream::*,
    topics::*,
};

/// The maximum number of preemptions in an order. One more makes three to ten times as many orders.
const PREEMPTIONS: usize = 3;

/// The maximum for models with three threads, or with two long threads.
const FEW_PREEMPTIONS: usize = 2;

macro_rules! models {
    ($($name:ident,)*) => { &[$((stringify!($name), $name)),*] };
}

/// Returns the number of orders that were tried.
type Model = fn() -> usize;

const MODELS: &[(&str, Model)] = models![
    a_published_event_wakes_a_reader_and_comes_once_in_order,
    readers_on_one_shard_get_shared_frames_once_in_order,
    readers_on_several_shards_are_woken_and_get_all_events_once_in_order,
    events_of_several_publishers_come_once_in_position_order,
    a_new_pattern_gets_what_is_published_meanwhile,
    a_reader_dropped_during_a_publish_leaves_nothing,
    a_closed_reader_gets_what_was_published_before_and_ends,
    a_subscription_removed_during_a_publish_leaves_nothing,
    a_waiting_or_parked_reader_gets_events_of_a_new_subscription,
    a_reader_gets_all_of_a_topic_that_its_producer_ends,
    a_reader_gets_all_that_a_cancelled_producer_published,
    a_reader_that_has_the_last_event_sees_the_end,
    a_restarted_topic_blocks_no_reader,
    a_reader_that_moves_during_a_publish_is_woken_in_its_new_task,
    a_reader_dropped_as_stalled_while_it_reads_ends,
    a_task_that_waits_for_the_end_of_a_client_is_told,
    presence_sees_a_client_that_comes_and_goes_during_the_first_question,
    one_of_two_requests_gets_the_last_slot,
    requests_that_need_several_slots_get_all_or_no_slots,
    a_released_slot_goes_to_a_concurrent_request_or_stays_free,
    shared_slots_are_released_by_the_last_holder_and_not_taken_again,
    a_stream_that_opens_as_the_drain_begins_ends,
];

/// Runs all models, or those whose names contain one of the arguments. If a model fails, loom panics and may abort, as
/// values that are dropped then need the model.
fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().take_while(|argument| !argument.starts_with('-')).collect();
    let is_asked_for = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let models: Vec<_> = MODELS.iter().filter(|(name, _)| is_asked_for(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        models.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    // A model takes one core for seconds, and models are independent.
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((name, model)) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !holds(name, *model) {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("\ntest result: {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a model in a thread of its own, so that a panic message has the model's name.
fn holds(name: &str, model: Model) -> bool {
    let began = Instant::now();
    let result = thread::Builder::new().name(name.to_owned()).spawn(model).unwrap().join();
    match &result {
        Ok(orders) => println!("test {name} ... ok ({orders} orders in {:.1} s)", began.elapsed().as_secs_f64()),
        Err(_) => println!("test {name} ... FAILED"),
    }
    result.is_ok()
}

/// Tries all orders with up to this many preemptions. Returns the number of orders.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    orders.load(Ordering::Relaxed)
}

/// As `check`, with both ways to read a client, and with and without shards.
fn check_each(preemptions: usize, model: impl Fn(Way) + Copy + Send + Sync + 'static) -> usize {
    let check_with = |way, shards| {
        sync::shard::ARE_WORTH_IT.set(shards);
        check(preemptions, move || model(way))
    };
    [Way::Events, Way::Frames].into_iter().flat_map(|way| [false, true].map(|shards| check_with(way, shards))).sum()
}

/// A task that sleeps until its waker is woken. At times, loom wakes it for no reason.
struct Task {
    notify: Arc<TaskNotify>,
    waker: Waker,
}

struct TaskNotify(Notify);

impl Wake for TaskNotify {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Task {
    fn new() -> Self {
        let notify = Arc::new(TaskNotify(Notify::new()));
        Self { waker: Arc::clone(&notify).into(), notify }
    }

    fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(&self.waker))
    }

    fn wait<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        loop {
            match self.poll(&mut poll) {
                Poll::Ready(value) => return value,
                Poll::Pending => self.notify.0.wait(),
            }
        }
    }

    /// The number of clones of its waker that something still holds.
    fn kept(&self) -> usize {
        Arc::strong_count(&self.notify) - 2
    }
}

/// Polls as a response body does whose handler has no body of its own.
fn next_frame(reader: &mut Reader, cx: &mut Context<'_>) -> Poll<Result<Bytes, CloseReason>> {
    match reader.poll_fast(cx) {
        FastRead::Live(wire) => return Poll::Ready(Ok(wire)),
        FastRead::Nothing => return Poll::Pending,
        FastRead::Unclear => {}
    }
    let frame = ready!(reader.poll_frame(cx, OwnBody::Absent));
    Poll::Ready(frame.map(|frame| {
        assert!(frame.gap.is_none());
        frame.wire
    }))
}

/// How a client is read: event by event, or as frames, as a response body reads it. A body parks its reader when it has
/// read everything.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Events,
    Frames,
}

enum Reading {
    Events(Events),
    Frames(Reader),
}

impl Reading {
    fn open(registry: &Registry, way: Way, subscriptions: &[&str]) -> (ClientHandle, Self) {
        let client = registry.connect_with(&client::ClientPool::default(), None, None, false);
        let handle = ClientHandle::new(Arc::clone(&client));
        subscriptions.iter().for_each(|name| handle.subscribe(Subscription::matching(*name)).unwrap());
        let reading = match way {
            Way::Events => Self::Events(handle.clone().into_events()),
            Way::Frames => Self::Frames(Reader::open(&client).unwrap().0),
        };
        (handle, reading)
    }

    /// Returns the data of the next events, or `None` at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<String>>> {
        match self {
            Self::Events(events) => {
                let next = ready!(Pin::new(events).poll_next(cx));
                Poll::Ready(next.map(|delivery| vec![delivery.unwrap().data().unwrap().into_owned()]))
            }
            Self::Frames(reader) => match ready!(next_frame(reader, cx)) {
                Ok(wire) => {
                    let wire = String::from_utf8(wire.to_vec()).unwrap();
                    let data = wire.lines().filter_map(|line| line.strip_prefix("data: "));
                    Poll::Ready(Some(data.map(str::to_owned).collect()))
                }
                Err(reason) => {
                    reader.client().end(reason);
                    Poll::Ready(None)
                }
            },
        }
    }

    /// Returns the data of this many events.
    fn read(&mut self, task: &Task, events: usize) -> Vec<String> {
        let mut read = Vec::new();
        while read.len() < events {
            read.extend(task.wait(|cx| self.poll(cx)).expect("the stream goes on"));
        }
        read
    }

    /// Returns the data of all events until the end.
    fn read_all(&mut self, task: &Task) -> Vec<String> {
        std::iter::from_fn(|| task.wait(|cx| self.poll(cx))).flatten().collect()
    }
}

fn registry() -> Registry {
    // The check for stalled clients depends on a clock. A model must not.
    Registry::with_config(RegistryConfig::default().stalled_client_timeout(None))
}

fn publish(registry: &Registry, topic: &str, data: &str) -> Position {
    registry.publish(topic, Event::data(data)).unwrap().position().unwrap()
}

/// Runs `act` in a thread of its own.
fn with<T: 'static>(registry: &Registry, act: impl FnOnce(&Registry) -> T + 'static) -> JoinHandle<T> {
    let registry = registry.clone();
    loom::thread::spawn(move || {
        sync::shard::MINE.with(|mine| mine.set(1));
        act(&registry)
    })
}

/// Checks that nothing is left when all clients have been dropped.
fn assert_nothing_is_left(registry: &Registry, task: &Task) {
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    assert_eq!(task.kept(), 0, "a waker of the task is kept");
}

fn a_published_event_wakes_a_reader_and_comes_once_in_order() -> usize {
    let model = |way, subscription| {
        let (registry, task) = (registry(), Task::new());
        let (_, mut reading) = Reading::open(&registry, way, &[subscription]);
        let publisher = with(&registry, |registry| ["1", "2"].map(|data| publish(registry, "a", data)));
        assert_eq!(reading.read(&task, 2), ["1", "2"]);
        publisher.join().unwrap();
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    };
    ["a", "*"].into_iter().map(|subscription| check_each(PREEMPTIONS, move |way| model(way, subscription))).sum()
}

fn readers_on_one_shard_get_shared_frames_once_in_order() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let mut readings = [(); 2].map(|()| Reading::open(&registry, way, &["a"]).1);
        publish(&registry, "a", "0");
        readings.iter_mut().for_each(|reading| assert_eq!(reading.read(&task, 1), ["0"]));
        let publisher = with(&registry, |registry| ["1", "2"].map(|data| publish(registry, "a", data)));
        readings.iter_mut().for_each(|reading| assert_eq!(reading.read(&task, 2), ["1", "2"]));
        publisher.join().unwrap();
        readings.iter_mut().for_each(|reading| assert!(task.poll(|cx| reading.poll(cx)).is_pending()));
        drop(readings);
        assert_nothing_is_left(&registry, &task);
    })
}

fn readers_on_several_shards_are_woken_and_get_all_events_once_in_order() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let (_, mut mine) = Reading::open(&registry, way, &["a"]);
        let (_, mut other) = Reading::open(&registry, way, &["a"]);
        let reader = with(&registry, move |_| {
            let task = Task::new();
            assert_eq!(other.read(&task, 1), ["1"]);
            assert!(task.poll(|cx| other.poll(cx)).is_pending());
        });
        let publisher = with(&registry, |registry| publish(registry, "a", "1"));
        assert_eq!(mine.read(&task, 1), ["1"]);
        publisher.join().unwrap();
        reader.join().unwrap();
        assert!(task.poll(|cx| mine.poll(cx)).is_pending());
        drop(mine);
        assert_nothing_is_left(&registry, &task);
    })
}

fn events_of_several_publishers_come_once_in_position_order() -> usize {
    let model = |way, subscriptions| {
        let (registry, task) = (registry(), Task::new());
        let (_, mut reading) = Reading::open(&registry, way, subscriptions);
        let publishers =
            ["a", "b"].map(|topic| with(&registry, move |registry| (publish(registry, topic, topic), topic)));
        let read = reading.read(&task, 2);
        let mut published = publishers.map(|publisher| publisher.join().unwrap());
        published.sort_unstable();
        assert_eq!(read, published.map(|(_, topic)| topic));
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    };
    let subscriptions: [&[&str]; 3] = [&["a", "b"], &["*"], &["a", "*"]];
    subscriptions.into_iter().map(|names| check_each(FEW_PREEMPTIONS, move |way| model(way, names))).sum()
}

fn a_new_pattern_gets_what_is_published_meanwhile() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let publisher = with(&registry, |registry| ["1", "2"].map(|data| publish(registry, "a", data)));
        let (client, mut reading) = Reading::open(&registry, way, &[]);
        client.subscribe(Subscription::matching("*").from(Start::Oldest)).unwrap();
        assert_eq!(reading.read(&task, 2), ["1", "2"]);
        publisher.join().unwrap();
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_dropped_during_a_publish_leaves_nothing() -> usize {
    let model = |way, subscription| {
        let (registry, task) = (registry(), Task::new());
        let (_, mut reading) = Reading::open(&registry, way, &[subscription]);
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        let publisher = with(&registry, |registry| ["1", "2"].map(|data| publish(registry, "a", data)));
        let _ = task.poll(|cx| reading.poll(cx));
        drop(reading);
        publisher.join().unwrap();
        assert_nothing_is_left(&registry, &task);
    };
    ["a", "*"].into_iter().map(|subscription| check_each(PREEMPTIONS, move |way| model(way, subscription))).sum()
}

fn a_closed_reader_gets_what_was_published_before_and_ends() -> usize {
    let model = |way, goes_on| {
        let (registry, task) = (registry(), Task::new());
        let (client, mut reading) = Reading::open(&registry, way, &["a"]);
        let closer = with(&registry, move |registry| {
            publish(registry, "a", "before");
            client.close();
            if goes_on {
                publish(registry, "a", "after");
            }
        });
        assert_eq!(reading.read_all(&task), ["before"]);
        closer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::ByServer, 1)].into());
        assert_nothing_is_left(&registry, &task);
    };
    [false, true].into_iter().map(|goes_on| check_each(PREEMPTIONS, move |way| model(way, goes_on))).sum()
}

fn a_subscription_removed_during_a_publish_leaves_nothing() -> usize {
    let model = |way, subscription: &'static str| {
        let (registry, task) = (registry(), Task::new());
        let (client, mut reading) = Reading::open(&registry, way, &[subscription]);
        let publisher = with(&registry, |registry| publish(registry, "a", "1"));
        let _ = task.poll(|cx| reading.poll(cx));
        assert!(client.unsubscribe(subscription));
        assert_eq!(registry.stats().subscriptions, 0);
        assert!(task.poll(|cx| reading.poll(cx)).is_pending(), "an event that was not sent before is not sent");
        publisher.join().unwrap();
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    };
    ["a", "*"].into_iter().map(|subscription| check_each(PREEMPTIONS, move |way| model(way, subscription))).sum()
}

fn a_waiting_or_parked_reader_gets_events_of_a_new_subscription() -> usize {
    let model = |way, rests| {
        let (registry, task) = (registry(), Task::new());
        let (client, mut reading) = Reading::open(&registry, way, &["a"]);
        if rests {
            publish(&registry, "a", "0");
            assert_eq!(reading.read(&task, 1), ["0"]);
        }
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        let subscriber = with(&registry, move |registry| {
            client.subscribe("b").unwrap();
            publish(registry, "b", "1");
        });
        assert_eq!(reading.read(&task, 1), ["1"]);
        subscriber.join().unwrap();
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    };
    [false, true].into_iter().map(|rests| check_each(PREEMPTIONS, move |way| model(way, rests))).sum()
}

fn a_reader_gets_all_of_a_topic_that_its_producer_ends() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let producer = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let producer = with(&registry, move |_| {
            producer.publish(Event::data("1")).unwrap();
            producer.end();
        });
        assert_eq!(reading.read_all(&task), ["1"]);
        producer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::TopicsEnded, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_gets_all_that_a_cancelled_producer_published() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let producer = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let canceller = with(&registry, |registry| registry.cancel_producer("a"));
        let producer = with(&registry, move |_| producer.publish(Event::data("1")).map(drop));
        let read = reading.read_all(&task);
        let was_cancelled = canceller.join().unwrap();
        let was_taken = producer.join().unwrap().is_ok();
        // The producer is dropped in its thread. If that happens first, the topic has failed.
        assert!(was_taken || was_cancelled);
        assert_eq!(read.len(), usize::from(was_taken) + 1, "{read:?}");
        drop(reading);
        let reason = if was_cancelled { CloseReason::TopicCancelled } else { CloseReason::TopicFailed };
        assert_eq!(registry.stats().closed_streams, [(reason, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_that_has_the_last_event_sees_the_end() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let producer = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let producer = with(&registry, move |_| _ = producer.finish(Event::data("last")).unwrap());
        assert_eq!(reading.read(&task, 1), ["last"]);
        // The end is ready without waiting.
        assert_eq!(task.poll(|cx| reading.poll(cx)), Poll::Ready(None));
        producer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::TopicsEnded, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_restarted_topic_blocks_no_reader() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let first = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let producer = with(&registry, move |registry| {
            first.end();
            let second = registry.start_producer("a").unwrap();
            second.publish(Event::data("1")).unwrap();
            second.end();
        });
        // The result depends on whether the reader polled between the two.
        let read = reading.read_all(&task);
        assert!(read.is_empty() || read == ["1"], "{read:?}");
        producer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::TopicsEnded, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_that_moves_during_a_publish_is_woken_in_its_new_task() -> usize {
    let model = |way, rests, pauses| {
        let (registry, first, second) = (registry(), Task::new(), Task::new());
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        if rests {
            publish(&registry, "a", "0");
            assert_eq!(reading.read(&first, 1), ["0"]);
        }
        assert!(first.poll(|cx| reading.poll(cx)).is_pending());
        let publisher = with(&registry, |registry| publish(registry, "a", "1"));
        if let (Reading::Frames(reader), true) = (&mut reading, pauses) {
            // Polls as a batching body does.
            assert!(second.poll(|cx| reader.poll_closing(cx)).is_pending());
        }
        assert_eq!(reading.read(&second, 1), ["1"]);
        publisher.join().unwrap();
        assert_eq!(first.kept(), 0, "a waker of the reader's old task is kept");
        drop(reading);
        assert_nothing_is_left(&registry, &second);
    };
    [(false, false), (true, false), (true, true)]
        .into_iter()
        .map(|(rests, pauses)| check_each(PREEMPTIONS, move |way| model(way, rests, pauses)))
        .sum()
}

fn a_reader_dropped_as_stalled_while_it_reads_ends() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        // With a timeout of zero, each publish checks for stalled clients, whatever the clock says.
        let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(Duration::ZERO));
        let task = Task::new();
        let (client, mut reading) = Reading::open(&registry, way, &["a"]);
        let publisher = with(&registry, move |registry| {
            let _ = ["1", "2", "3"].map(|data| publish(registry, "a", data));
            client.close();
        });
        let read = reading.read_all(&task);
        assert!(["1", "2", "3"].starts_with(&read.iter().map(String::as_str).collect::<Vec<_>>()), "{read:?}");
        publisher.join().unwrap();
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_task_that_waits_for_the_end_of_a_client_is_told() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let (client, mut reading) = Reading::open(&registry, way, &["a"]);
        let waiter = with(&registry, move |_| {
            let (task, mut closed) = (Task::new(), pin!(client.closed()));
            task.wait(|cx| closed.as_mut().poll(cx))
        });
        let _ = task.poll(|cx| reading.poll(cx));
        drop(reading);
        assert_eq!(waiter.join().unwrap(), CloseReason::ClientDisconnected);
        assert_nothing_is_left(&registry, &task);
    })
}

fn presence_sees_a_client_that_comes_and_goes_during_the_first_question() -> usize {
    check(PREEMPTIONS, || {
        let registry = Registry::with_config(RegistryConfig::default().presence_grace(Duration::ZERO));
        let (client, task) = (registry.connect(), Task::new());
        let id = client.id();
        client.subscribe("a").unwrap();
        let comes = with(&registry, move |_| (client.clone(), client.into_events()));
        let presence = registry.presence("a").unwrap();
        let mut changes = presence.changes();
        let first = task.wait(|cx| Pin::new(&mut changes).poll_next(cx));
        assert!(matches!(first, Some(PresenceChange::Joined(member)) if member.clients() == [id]));
        let (client, events) = comes.join().unwrap();
        drop((presence, changes));
        let goes = with(&registry, move |_| client.unsubscribe("a"));
        let presence = registry.presence("a").unwrap();
        assert!(goes.join().unwrap());
        assert_eq!(presence.count(), 0);
        drop((presence, events));
        assert_nothing_is_left(&registry, &task);
    })
}

/// What a request takes of these limits.
fn admission(limits: &[&Limit]) -> Arc<Admission> {
    let (request, ()) = http::Request::new(()).into_parts();
    let limits: Vec<Limit> = limits.iter().copied().cloned().collect();
    Admission::of(&request, [&limits, &[]], None)
}

/// Takes slots as a layer does, and holds them.
fn ask(limits: &[&Limit]) -> (Hold, Result<(), RefusedReason>) {
    let admission = admission(limits);
    let hold = admission.hold();
    (hold, admission.acquire_slot())
}

fn assert_nothing_is_counted(limits: &[&Limit]) {
    limits.iter().for_each(|limit| assert_eq!((limit.open_streams(), limit.entries()), (0, 0)));
}

fn one_of_two_requests_gets_the_last_slot() -> usize {
    let model = |limit: fn() -> Limit| {
        let limit = limit();
        let other = limit.clone();
        let other = loom::thread::spawn(move || ask(&[&other]));
        let one = ask(&[&limit]);
        let other = other.join().unwrap();
        assert_ne!(one.1.is_ok(), other.1.is_ok());
        drop((one, other));
        assert_nothing_is_counted(&[&limit]);
        assert_eq!(ask(&[&limit]).1, Ok(()));
    };
    let limits: [fn() -> Limit; 3] = [
        || Limit::streams(1),
        || Limit::streams(1).per(|_: &http::request::Parts| Some("key")),
        || Limit::rate(1, Duration::from_secs(3600), 1),
    ];
    limits.into_iter().map(|limit| check(PREEMPTIONS, move || model(limit))).sum()
}

fn requests_that_need_several_slots_get_all_or_no_slots() -> usize {
    check(PREEMPTIONS, || {
        let limits = [Limit::streams(1), Limit::rate(1, Duration::from_secs(3600), 1), Limit::streams(1)];
        let [a, b, c] = limits.clone();
        // The other way round: the two requests must not deadlock.
        let other = loom::thread::spawn(move || ask(&[&c, &b, &a]));
        let [a, b, c] = &limits;
        let one = ask(&[a, b, c]);
        let other = other.join().unwrap();
        let admitted = [&one, &other].iter().filter(|(_, result)| result.is_ok()).count();
        assert!(admitted <= 1);
        assert_eq!([a.open_streams(), c.open_streams()], [admitted as u64; 2]);
        drop((one, other));
        assert_nothing_is_counted(&[a, b, c]);
    })
}

fn a_released_slot_goes_to_a_concurrent_request_or_stays_free() -> usize {
    check(PREEMPTIONS, || {
        let limit = Limit::streams(1);
        let (hold, result) = ask(&[&limit]);
        assert_eq!(result, Ok(()));
        let leaves = loom::thread::spawn(move || drop(hold));
        let admission = admission(&[&limit]);
        let hold = admission.hold();
        let result = admission.acquire_slot();
        leaves.join().unwrap();
        assert_eq!(limit.open_streams(), u64::from(result.is_ok()));
        assert_eq!(admission.acquire_slot(), Ok(()), "a slot is free now");
        drop(hold);
        assert_nothing_is_counted(&[&limit]);
    })
}

fn shared_slots_are_released_by_the_last_holder_and_not_taken_again() -> usize {
    check(FEW_PREEMPTIONS, || {
        let limit = Limit::streams(1);
        let admission = admission(&[&limit]);
        let [outer, inner] = [admission.hold(), admission.hold()];
        assert_eq!(admission.acquire_slot(), Ok(()));
        let drops = loom::thread::spawn(move || drop(outer));
        let asks = loom::thread::spawn(move || admission.acquire_slot());
        drop(inner);
        drops.join().unwrap();
        // The stream has a slot, or another thread is releasing the slot.
        let result = asks.join().unwrap();
        assert!(matches!(result, Ok(()) | Err(RefusedReason::Full { .. })), "{result:?}");
        assert_nothing_is_counted(&[&limit]);
    })
}

fn a_stream_that_opens_as_the_drain_begins_ends() -> usize {
    // The runtime's clock stands still, so no timeout fires. Loom runs all threads of a model in this thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let drains = with(&registry, |registry| {
            let (task, mut draining) = (Task::new(), pin!(registry.drain(Drain::within(Duration::from_secs(8)))));
            // The first poll closes the streams that are open. Waiting for their ends uses tokio's `Notify`, which loom
            // does not model.
            let _ = task.poll(|cx| draining.as_mut().poll(cx));
        });
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        assert!(reading.read_all(&task).is_empty());
        drop(reading);
        drains.join().unwrap();
        assert_eq!(registry.stats().closed_streams, [(CloseReason::Drained, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}
