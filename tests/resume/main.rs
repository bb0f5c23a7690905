//! Random publishes, reads, disconnects, resumes and subscriptions in any order. Each client gets each retained event
//! of its subscriptions exactly once and in order, and is told of events that are no longer retained.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fmt, time::Duration};

use proptest::{prelude::*, test_runner::TestCaseError};
use tower_sse::{Event, Registry, SlowClientPolicy};

mod histories;
#[path = "../support/open.rs"]
mod open;
mod reader;
mod subscribed;
mod world;
use reader::Reader;
use subscribed::{Filter, From, Want};
use world::{Kept, Level, NAMES, TOPICS, World};

const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        topic: usize,
        level: u8,
        size: usize,
        own_id: bool,
        excluded: Option<usize>,
    },
    Read {
        client: usize,
        moves: bool,
    },
    /// The connection breaks, and this many events of the last frame never arrive.
    Cut {
        client: usize,
        lost: usize,
        is_noticed: bool,
    },
    Subscribe {
        client: usize,
        name: &'static str,
        from: From,
        filter: Option<Filter>,
    },
    /// Subscribes to this many topics at once.
    SubscribeAll {
        client: usize,
        names: usize,
    },
    Unsubscribe {
        client: usize,
        which: usize,
    },
}

/// Prints a step in one line, as a failure prints many.
#[derive(Clone)]
struct Line<T>(T);

impl<T: fmt::Debug> fmt::Debug for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Steps with events' own ids, or steps with unsubscribes, but not both: an own id of a topic is unknown to a client
/// that is no longer subscribed to that topic.
fn step(own_ids: bool) -> impl Strategy<Value = Line<Step>> {
    let size = prop_oneof![10 => Just(10usize), 2 => Just(1_000), 1 => Just(30_000), 1 => Just(70_000)];
    let from = prop_oneof![
        2 => Just(From::Now),
        4 => Just(From::Oldest),
        1 => (0usize..5).prop_map(From::Last),
        2 => (0usize..20).prop_map(From::Back),
    ];
    let filter = prop_oneof![4 => Just(None), 2 => (1u8..3).prop_map(|least| Some(Filter::Level(least))), 1 => Just(Some(Filter::Even))];
    let excluded = prop_oneof![9 => Just(None), 1 => (0..CLIENTS).prop_map(Some)];
    // Some topics are created only later.
    let topic = prop_oneof![15 => 0..4usize, 1 => 4..TOPICS.len()];
    let (client, name) = (0..CLIENTS, prop::sample::select(&NAMES[..]));
    prop_oneof![
        24 => (topic, 0u8..3, size, any::<bool>(), excluded).prop_map(move |(topic, level, size, own, excluded)| {
            Step::Publish { topic, level, size, own_id: own && own_ids, excluded }
        }),
        12 => (client.clone(), prop::bool::weighted(0.1)).prop_map(|(client, moves)| Step::Read { client, moves }),
        6 => (client.clone(), 0usize..4, any::<bool>()).prop_map(|(client, lost, is_noticed)| Step::Cut { client, lost, is_noticed }),
        8 => (client.clone(), name, from, filter).prop_map(|(client, name, from, filter)| Step::Subscribe { client, name, from, filter }),
        1 => (client.clone(), 8..NAMES.len()).prop_map(|(client, names)| Step::SubscribeAll { client, names }),
        if own_ids { 0 } else { 6 } => (client, 0..NAMES.len()).prop_map(|(client, which)| Step::Unsubscribe { client, which }),
    ]
    .prop_map(Line)
}

fn kept() -> impl Strategy<Value = Line<Kept>> {
    let events = || prop_oneof![1 => Just(usize::MAX), 2 => 1usize..5];
    let end = SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_millis(1000) };
    let policy =
        prop_oneof![3 => Just(SlowClientPolicy::NotifyGap), 1 => Just(SlowClientPolicy::SkipSilently), 1 => Just(end)];
    let of_all = prop_oneof![2 => Just(usize::MAX), 2 => 1usize..4, 2 => 4usize..20];
    (prop::collection::vec((events(), policy), TOPICS.len()), of_all)
        .prop_map(|(of_topics, of_all)| Line(Kept { of_topics, of_all }))
}

fn run(steps: &[Line<Step>], kept: Kept) -> Result<World, TestCaseError> {
    let mut world = World::new(kept);
    let mut readers: Vec<Reader> = (0..CLIENTS).map(Reader::new).collect();
    for (now, Line(step)) in steps.iter().enumerate() {
        world.now = now;
        match step {
            Step::Publish { topic, level, size, own_id, excluded } => {
                let at = *topic;
                let excluded = excluded.and_then(|client| readers[client].id());
                let sleeping: Vec<bool> = readers.iter().map(Reader::sleeps).collect();
                let receipt = world.publish(at, Level(*level), *size, *own_id, excluded);
                let others = readers.iter().filter(|reader| excluded.is_none() || reader.id() != excluded);
                let all: usize = others.map(|reader| reader.subscriptions(TOPICS[at])).sum();
                prop_assert_eq!(
                    receipt.subscribers(),
                    all,
                    "the number of subscribers of event {}",
                    world.events.len() - 1
                );
                for (reader, slept) in readers.iter().zip(sleeping) {
                    let is_for_it = reader.subscriptions(TOPICS[at]) > 0;
                    prop_assert!(
                        !slept || reader.sleeps() != is_for_it,
                        "{} and event {} ({})",
                        reader,
                        world.events.len() - 1,
                        TOPICS[at]
                    );
                }
            }
            Step::Read { client, moves } => drop(readers[*client].read(*moves, &world)?),
            Step::Cut { client, lost, is_noticed } => readers[*client].cut(*lost, *is_noticed, &world)?,
            Step::Subscribe { client, name, from, filter } => {
                let want = Want { name, filter: *filter, start: from.start(&world) };
                readers[*client].subscribe(want, &world);
            }
            Step::SubscribeAll { client, names } => {
                for name in &NAMES[..*names] {
                    let want = Want { name, filter: None, start: From::Oldest.start(&world) };
                    readers[*client].subscribe(want, &world);
                }
            }
            Step::Unsubscribe { client, which } => readers[*client].unsubscribe(*which, &world),
        }
    }
    world.now = steps.len();
    for reader in &mut readers {
        let mut looks = 0;
        while reader.read(false, &world)? {
            looks += 1;
            prop_assert!(looks < 1000, "{} reads without end", reader);
        }
    }
    Ok(world)
}

/// How much the retained bytes of a topic grow by an event of a fixed size.
fn growth(registry: &Registry, topic: &str) -> usize {
    let publish = |id: &str| {
        registry.publish(topic, Event::data("x").id(id).unwrap()).unwrap();
        registry.stats().bytes
    };
    let before = publish("before");
    publish("after.") - before
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_retained_event_comes_exactly_once_in_order(
        steps in any::<bool>().prop_flat_map(|own_ids| prop::collection::vec(step(own_ids), 1..120)),
    ) {
        let world = run(&steps, Kept::everything())?;
        let stats = world.registry.stats();
        prop_assert_eq!((stats.clients, stats.subscriptions), (0, 0));
        prop_assert_eq!((stats.fell_behind, stats.missed, stats.gaps), (0, 0, 0));
        let unused = Registry::new();
        for topic in TOPICS {
            let expected = growth(&unused, topic);
            prop_assert_eq!(growth(&world.registry, topic), expected, "a pattern without subscribers takes part of {}", topic);
        }
    }

    #[test]
    fn each_missing_event_was_told_and_each_told_event_is_missing(
        steps in prop::collection::vec(step(false), 1..120),
        Line(kept) in kept(),
    ) {
        let world = run(&steps, kept)?;
        let events = world.events.iter().filter(|event| event.evicted.is_none()).count();
        prop_assert_eq!(world.registry.stats().events, events, "the number of retained events");
    }
}
