//! What threads do to one another in a registry: its own code, with loom's locks and atomics in the place of the
//! standard library's, in all orders that have few preemptions.
//!
//! A wake-up that is lost is a deadlock here, and a reader that runs in circles has too many branches: loom reports both.
//! What loom does not know (`Arc`, `OnceLock`, tokio's `Notify`) is taken for granted.
//!
//! It is compiled from the sources, as the library itself has std's locks, and has a `main` of its own, as the unit tests in
//! those sources cannot run with loom's.
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

/// What `src/sync.rs` gives, from loom.
mod sync {
    use std::sync::{Arc, PoisonError};

    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    };

    /// Both kinds of locks: the unit tests inside the modules, which are compiled here too but not run, lock std's.
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

    /// Two shards: the model's own thread is on one, and the threads that it starts are on the other.
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

// What the modules find at the library's root, and some more.
use self::{
    client::*, event::*, handle::*, limit::*, log::*, presence::*, reader::*, reading::*, registry::*, stream::*,
    topics::*,
};

/// How many preemptions an order has at most. One more makes three to ten times as many orders.
const PREEMPTIONS: usize = 3;

/// The same where three threads meet, or two for long.
const FEW_PREEMPTIONS: usize = 2;

macro_rules! models {
    ($($name:ident,)*) => { &[$((stringify!($name), $name)),*] };
}

/// Says how many orders were tried.
type Model = fn() -> usize;

const MODELS: &[(&str, Model)] = models![
    what_is_published_wakes_a_reader_and_comes_once_and_in_order,
    readers_on_one_shard_get_what_each_other_have_read_once_and_in_order,
    readers_on_several_shards_are_woken_and_get_everything_once_and_in_order,
    events_of_several_publishers_come_once_and_in_the_order_of_their_positions,
    a_pattern_has_what_was_published_on_a_topic_while_it_was_subscribed_to,
    a_reader_that_is_dropped_while_something_is_published_leaves_nothing,
    a_reader_that_is_closed_gets_what_was_published_before_and_ends,
    a_subscription_that_is_taken_back_while_something_is_published_leaves_nothing,
    a_reader_that_waits_or_rests_gets_what_it_is_subscribed_to_from_elsewhere,
    a_reader_of_a_topic_that_its_producer_ends_has_all_of_it_and_ends,
    a_reader_of_a_topic_that_is_cancelled_has_what_was_taken_and_ends,
    a_reader_that_has_the_last_event_has_the_end,
    a_topic_that_begins_anew_holds_no_reader_up,
    a_reader_that_moves_while_something_is_published_is_woken_where_it_is,
    a_reader_that_is_counted_out_while_it_reads_ends,
    who_waits_for_the_end_of_a_client_is_told,
    presence_knows_of_a_client_that_comes_and_goes_while_it_is_asked_for,
    of_two_requests_for_the_last_place_one_gets_it,
    requests_that_need_several_places_get_all_or_none,
    a_place_that_is_given_back_while_another_request_asks_for_it_is_had_by_that_or_by_nobody,
    places_that_several_hold_are_given_back_by_the_last_and_not_taken_again,
    a_stream_that_opens_while_the_registry_begins_to_drain_ends,
];

/// Runs them all, or those whose names have a word of the arguments in them. Where a model goes wrong, loom panics, and may
/// abort, as what is dropped then needs the model.
fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().take_while(|argument| !argument.starts_with('-')).collect();
    let is_asked_for = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let models: Vec<_> = MODELS.iter().filter(|(name, _)| is_asked_for(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        models.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    // A model takes one core for seconds, and models know nothing of each other.
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

/// Runs a model in a thread of its own, so that a panic has the model's name.
fn holds(name: &str, model: Model) -> bool {
    let began = Instant::now();
    let result = thread::Builder::new().name(name.to_owned()).spawn(model).unwrap().join();
    match &result {
        Ok(orders) => println!("test {name} ... ok ({orders} orders in {:.1} s)", began.elapsed().as_secs_f64()),
        Err(_) => println!("test {name} ... FAILED"),
    }
    result.is_ok()
}

/// Tries all orders with up to so many preemptions, and says how many they are.
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

/// As `check`, for both ways to read a client, and for logs with shards and without.
fn check_each(preemptions: usize, model: impl Fn(Way) + Copy + Send + Sync + 'static) -> usize {
    let check_with = |way, shards| {
        sync::shard::ARE_WORTH_IT.set(shards);
        check(preemptions, move || model(way))
    };
    [Way::Events, Way::Frames].into_iter().flat_map(|way| [false, true].map(|shards| check_with(way, shards))).sum()
}

/// A task that sleeps until its waker is woken; at times, as loom pleases, it wakes for no reason at all.
struct Task {
    alarm: Arc<Timer>,
    waker: Waker,
}

struct Timer(Notify);

impl Wake for Timer {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Task {
    fn new() -> Self {
        let alarm = Arc::new(Timer(Notify::new()));
        Self { waker: Arc::clone(&alarm).into(), alarm }
    }

    fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(&self.waker))
    }

    fn wait<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        loop {
            match self.poll(&mut poll) {
                Poll::Ready(value) => return value,
                Poll::Pending => self.alarm.0.wait(),
            }
        }
    }

    /// How many clones of its waker somebody keeps.
    fn kept(&self) -> usize {
        Arc::strong_count(&self.alarm) - 2
    }
}

/// What a body gets that has nothing of its own to say.
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

/// How a client is read: event by event, or as frames, as a response's body does. That one rests when it has had all.
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

    /// The data of the next events. `None`: it has ended.
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

    /// The data of so many events.
    fn read(&mut self, task: &Task, events: usize) -> Vec<String> {
        let mut read = Vec::new();
        while read.len() < events {
            read.extend(task.wait(|cx| self.poll(cx)).expect("it goes on"));
        }
        read
    }

    /// The data of all events until it ends.
    fn read_all(&mut self, task: &Task) -> Vec<String> {
        std::iter::from_fn(|| task.wait(|cx| self.poll(cx))).flatten().collect()
    }
}

fn registry() -> Registry {
    // When stalled clients are looked for depends on a clock, which a model must not.
    Registry::with_config(RegistryConfig::default().stalled_client_timeout(None))
}

fn publish(registry: &Registry, topic: &str, data: &str) -> Position {
    registry.publish(topic, Event::data(data)).unwrap().position().unwrap()
}

/// In a thread of its own.
fn with<T: 'static>(registry: &Registry, act: impl FnOnce(&Registry) -> T + 'static) -> JoinHandle<T> {
    let registry = registry.clone();
    loom::thread::spawn(move || {
        sync::shard::MINE.with(|mine| mine.set(1));
        act(&registry)
    })
}

/// What there has to be when all clients are gone: nothing of them.
fn assert_nothing_is_left(registry: &Registry, task: &Task) {
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    assert_eq!(task.kept(), 0, "its waker is kept");
}

fn what_is_published_wakes_a_reader_and_comes_once_and_in_order() -> usize {
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

fn readers_on_one_shard_get_what_each_other_have_read_once_and_in_order() -> usize {
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

fn readers_on_several_shards_are_woken_and_get_everything_once_and_in_order() -> usize {
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

fn events_of_several_publishers_come_once_and_in_the_order_of_their_positions() -> usize {
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

fn a_pattern_has_what_was_published_on_a_topic_while_it_was_subscribed_to() -> usize {
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

fn a_reader_that_is_dropped_while_something_is_published_leaves_nothing() -> usize {
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

fn a_reader_that_is_closed_gets_what_was_published_before_and_ends() -> usize {
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

fn a_subscription_that_is_taken_back_while_something_is_published_leaves_nothing() -> usize {
    let model = |way, subscription: &'static str| {
        let (registry, task) = (registry(), Task::new());
        let (client, mut reading) = Reading::open(&registry, way, &[subscription]);
        let publisher = with(&registry, |registry| publish(registry, "a", "1"));
        let _ = task.poll(|cx| reading.poll(cx));
        assert!(client.unsubscribe(subscription));
        assert_eq!(registry.stats().subscriptions, 0);
        assert!(task.poll(|cx| reading.poll(cx)).is_pending(), "what was not sent yet is not sent");
        publisher.join().unwrap();
        assert!(task.poll(|cx| reading.poll(cx)).is_pending());
        drop(reading);
        assert_nothing_is_left(&registry, &task);
    };
    ["a", "*"].into_iter().map(|subscription| check_each(PREEMPTIONS, move |way| model(way, subscription))).sum()
}

fn a_reader_that_waits_or_rests_gets_what_it_is_subscribed_to_from_elsewhere() -> usize {
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

fn a_reader_of_a_topic_that_its_producer_ends_has_all_of_it_and_ends() -> usize {
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

fn a_reader_of_a_topic_that_is_cancelled_has_what_was_taken_and_ends() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let producer = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let canceller = with(&registry, |registry| registry.cancel_producer("a"));
        let producer = with(&registry, move |_| producer.publish(Event::data("1")).map(drop));
        let read = reading.read_all(&task);
        let was_cancelled = canceller.join().unwrap();
        let was_taken = producer.join().unwrap().is_ok();
        // The producer is dropped in its thread: if that is first, it has failed.
        assert!(was_taken || was_cancelled);
        assert_eq!(read.len(), usize::from(was_taken) + 1, "{read:?}");
        drop(reading);
        let reason = if was_cancelled { CloseReason::TopicCancelled } else { CloseReason::TopicFailed };
        assert_eq!(registry.stats().closed_streams, [(reason, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_that_has_the_last_event_has_the_end() -> usize {
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let producer = registry.start_producer("a").unwrap();
        let (_, mut reading) = Reading::open(&registry, way, &["a"]);
        let producer = with(&registry, move |_| _ = producer.finish(Event::data("last")).unwrap());
        assert_eq!(reading.read(&task, 1), ["last"]);
        // Without waiting for anybody.
        assert_eq!(task.poll(|cx| reading.poll(cx)), Poll::Ready(None));
        producer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::TopicsEnded, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_topic_that_begins_anew_holds_no_reader_up() -> usize {
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
        // It depends on whether it looked between the two.
        let read = reading.read_all(&task);
        assert!(read.is_empty() || read == ["1"], "{read:?}");
        producer.join().unwrap();
        drop(reading);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::TopicsEnded, 1)].into());
        assert_nothing_is_left(&registry, &task);
    })
}

fn a_reader_that_moves_while_something_is_published_is_woken_where_it_is() -> usize {
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
            // As a body does that batches.
            assert!(second.poll(|cx| reader.poll_closing(cx)).is_pending());
        }
        assert_eq!(reading.read(&second, 1), ["1"]);
        publisher.join().unwrap();
        assert_eq!(first.kept(), 0, "a waker that is no longer the reader's is kept");
        drop(reading);
        assert_nothing_is_left(&registry, &second);
    };
    [(false, false), (true, false), (true, true)]
        .into_iter()
        .map(|(rests, pauses)| check_each(PREEMPTIONS, move |way| model(way, rests, pauses)))
        .sum()
}

fn a_reader_that_is_counted_out_while_it_reads_ends() -> usize {
    check_each(FEW_PREEMPTIONS, |way| {
        // With no patience, whoever publishes looks each time, whatever the clock says.
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

fn who_waits_for_the_end_of_a_client_is_told() -> usize {
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

fn presence_knows_of_a_client_that_comes_and_goes_while_it_is_asked_for() -> usize {
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

/// What a request takes of these.
fn admission(limits: &[&Limit]) -> Arc<Admission> {
    let (request, ()) = http::Request::new(()).into_parts();
    let limits: Vec<Limit> = limits.iter().copied().cloned().collect();
    Admission::of(&request, [&limits, &[]], None)
}

/// As a layer does: it holds what it takes.
fn ask(limits: &[&Limit]) -> (Hold, Result<(), RefusedReason>) {
    let admission = admission(limits);
    let hold = admission.hold();
    (hold, admission.acquire_slot())
}

fn assert_nothing_is_counted(limits: &[&Limit]) {
    limits.iter().for_each(|limit| assert_eq!((limit.open_streams(), limit.entries()), (0, 0)));
}

fn of_two_requests_for_the_last_place_one_gets_it() -> usize {
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

fn requests_that_need_several_places_get_all_or_none() -> usize {
    check(PREEMPTIONS, || {
        let limits = [Limit::streams(1), Limit::rate(1, Duration::from_secs(3600), 1), Limit::streams(1)];
        let [a, b, c] = limits.clone();
        // The other way round: they must not wait for each other.
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

fn a_place_that_is_given_back_while_another_request_asks_for_it_is_had_by_that_or_by_nobody() -> usize {
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
        assert_eq!(admission.acquire_slot(), Ok(()), "now there is room");
        drop(hold);
        assert_nothing_is_counted(&[&limit]);
    })
}

fn places_that_several_hold_are_given_back_by_the_last_and_not_taken_again() -> usize {
    check(FEW_PREEMPTIONS, || {
        let limit = Limit::streams(1);
        let admission = admission(&[&limit]);
        let [outer, inner] = [admission.hold(), admission.hold()];
        assert_eq!(admission.acquire_slot(), Ok(()));
        let drops = loom::thread::spawn(move || drop(outer));
        let asks = loom::thread::spawn(move || admission.acquire_slot());
        drop(inner);
        drops.join().unwrap();
        // It has its place; or nobody has it any more, and it may be just about to be given back.
        let result = asks.join().unwrap();
        assert!(matches!(result, Ok(()) | Err(RefusedReason::Full { .. })), "{result:?}");
        assert_nothing_is_counted(&[&limit]);
    })
}

fn a_stream_that_opens_while_the_registry_begins_to_drain_ends() -> usize {
    // Its clock stands still, so that no time-out is over. All threads of a model are this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    check_each(PREEMPTIONS, |way| {
        let (registry, task) = (registry(), Task::new());
        let drains = with(&registry, |registry| {
            let (task, mut draining) = (Task::new(), pin!(registry.drain(Drain::within(Duration::from_secs(8)))));
            // That closes those that it finds. Waiting for their ends is tokio's `Notify`.
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
