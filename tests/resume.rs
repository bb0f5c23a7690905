//! Whatever is published, read, cut and resumed, and in whatever order: each client gets each retained event exactly once and in
//! order, and is told of what is no longer retained.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http_body::Body;
use proptest::{prelude::*, sample::Index};
use tower_sse::{
    ClientHandle, Event, Heartbeat, Position, Registry, RegistryConfig, Retention, SseBody, SseLayer, Start,
};

#[path = "support/open.rs"]
mod open;
use open::{Empty, open};

const TOPICS: usize = 4;

fn topic(number: usize) -> String {
    format!("topic/{number}")
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        topic: usize,
        size: usize,
        own_id: bool,
    },
    Read {
        client: Index,
    },
    /// The connection breaks, and of the last frame so many events never arrived.
    Cut {
        client: Index,
        lost: usize,
    },
    Subscribe {
        client: Index,
        topic: usize,
        start: Start,
    },
    Unsubscribe {
        client: Index,
        topic: usize,
    },
}

/// With ids of the events' own, or with topics that are unsubscribed from; not with both, as an id of a topic's own leads
/// nowhere for a client that is no longer subscribed to that topic.
fn step(own_ids: bool) -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => Just(10usize), 2 => Just(1_000), 1 => Just(30_000), 1 => Just(70_000)];
    let start = prop_oneof![Just(Start::Now), Just(Start::Oldest), (0usize..5).prop_map(Start::Last)];
    prop_oneof![
        12 => (0..TOPICS, size, any::<bool>()).prop_map(move |(topic, size, own)| Step::Publish { topic, size, own_id: own && own_ids }),
        6 => any::<Index>().prop_map(|client| Step::Read { client }),
        3 => (any::<Index>(), 0usize..4).prop_map(|(client, lost)| Step::Cut { client, lost }),
        2 => (any::<Index>(), 0..TOPICS, start).prop_map(|(client, topic, start)| Step::Subscribe { client, topic, start }),
        u32::from(!own_ids) => (any::<Index>(), 0..TOPICS).prop_map(|(client, topic)| Step::Unsubscribe { client, topic }),
    ]
}

/// One event or gap, as it arrived.
#[derive(Debug, Clone)]
enum Arrival {
    Event { topic: usize, number: usize },
    Gap { topics: Vec<usize> },
}

/// Somebody who reads, is cut off, and comes back with what it had last.
struct Reader {
    handle: ClientHandle,
    body: SseBody<Empty>,
    /// What it is subscribed to, with the number of the first event that it must get.
    topics: BTreeMap<usize, usize>,
    /// What it ever was subscribed to.
    ever: BTreeSet<usize>,
    arrivals: Vec<(Arrival, Option<String>)>,
    /// How many of them came with the last frame.
    last_frame: usize,
    woken: Arc<Woken>,
    /// There was nothing when it last looked: it waits to be woken.
    waits: bool,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct World {
    registry: Registry,
    layer: SseLayer,
    /// How many events each topic had.
    published: [usize; TOPICS],
    /// Where each topic's events stand.
    positions: [Vec<Position>; TOPICS],
}

impl World {
    fn new(of_a_topic: Retention, of_all: Retention) -> Self {
        let registry = Registry::with_config(RegistryConfig::default().topic_retention(of_a_topic).retention(of_all));
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        Self { registry, layer, published: [0; TOPICS], positions: Default::default() }
    }

    fn publish(&mut self, at: usize, size: usize, own_id: bool) {
        let number = self.published[at];
        let mut event = Event::data(format!("{at} {number} {}", "x".repeat(size)));
        if own_id {
            event = event.id(format!("own-{at}-{number}")).unwrap();
        }
        let receipt = self.registry.publish(topic(at), event).unwrap();
        self.positions[at].push(receipt.position());
        self.published[at] += 1;
    }

    fn connect(&self, topics: &BTreeMap<usize, usize>, last_event_id: Option<&str>) -> (ClientHandle, SseBody<Empty>) {
        open(&self.layer, last_event_id, |client| {
            topics.keys().for_each(|at| client.subscribe(topic(*at)).unwrap());
            // Also without a subscription it stays open.
            drop(client.clone().into_stream());
        })
    }

    fn reader(&self, topics: impl IntoIterator<Item = usize>) -> Reader {
        let topics: BTreeMap<usize, usize> = topics.into_iter().map(|at| (at, self.published[at])).collect();
        let (handle, body) = self.connect(&topics, None);
        let ever = topics.keys().copied().collect();
        Reader { handle, body, topics, ever, arrivals: Vec::new(), last_frame: 0, woken: Arc::default(), waits: false }
    }

    fn cut(&self, reader: &mut Reader, lost: usize) {
        let lost = lost.min(reader.last_frame);
        reader.arrivals.truncate(reader.arrivals.len() - lost);
        reader.last_frame = 0;
        let last_id = reader.arrivals.iter().rev().find_map(|(_, id)| id.clone());
        for (at, first) in &mut reader.topics {
            let arrived = reader
                .arrivals
                .iter()
                .any(|(arrival, _)| matches!(arrival, Arrival::Event { topic, .. } if topic == at));
            if last_id.is_none() {
                // It has nothing to resume from: it is new.
                *first = self.published[*at];
            } else if !arrived {
                // What it had asked for from before its position, and got nothing of, nobody knows of any more.
                let seen = last_id.as_deref().and_then(|id| self.position(id));
                let known = self.positions[*at].iter().filter(|position| Some(**position) <= seen).count();
                *first = (*first).max(known);
            }
        }
        // The new one first: the old one is not missed by the server for a while.
        let (handle, body) = self.connect(&reader.topics, last_id.as_deref());
        (reader.handle, reader.body, reader.waits) = (handle, body, false);
    }

    /// Up to where an id says that everything was seen.
    fn position(&self, id: &str) -> Option<Position> {
        if let Some(own) = id.strip_prefix("own-") {
            let (at, number) = own.split_once('-').unwrap();
            return Some(self.positions[at.parse::<usize>().unwrap()][number.parse::<usize>().unwrap()]);
        }
        id.split(';').next().unwrap().parse().ok()
    }
}

impl Reader {
    /// Takes one frame, if there is one. When there was none, there is none before it is woken.
    fn read(&mut self) -> bool {
        let is_woken = self.woken.0.swap(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        let frame = match Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap(),
            Poll::Ready(_) | Poll::Pending => {
                self.waits = true;
                return false;
            }
        };
        assert!(is_woken || !self.waits, "it was not woken for {frame:?}");
        self.waits = false;
        let text = std::str::from_utf8(&frame).unwrap();
        let blocks: Vec<&str> = text.strip_suffix("\n\n").unwrap().split("\n\n").collect();
        self.last_frame = blocks.len();
        self.arrivals.extend(blocks.into_iter().map(arrival));
        true
    }
}

fn arrival(block: &str) -> (Arrival, Option<String>) {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = field("data").unwrap();
    let arrival = match field("event") {
        Some("gap") => {
            let gap: serde_json::Value = serde_json::from_str(data).unwrap();
            let topics = gap["topics"].as_array().unwrap().iter();
            let number =
                |topic: &serde_json::Value| topic.as_str().unwrap().strip_prefix("topic/").unwrap().parse().unwrap();
            Arrival::Gap { topics: topics.map(number).collect() }
        }
        _ => {
            let mut words = data.split(' ');
            let mut word = || words.next().unwrap().parse().unwrap();
            Arrival::Event { topic: word(), number: word() }
        }
    };
    (arrival, field("id").map(str::to_owned))
}

fn run(steps: Vec<Step>, of_a_topic: Retention, of_all: Retention) -> (World, Vec<Reader>) {
    let mut world = World::new(of_a_topic, of_all);
    let mut readers = vec![world.reader([0]), world.reader([1, 2]), world.reader(0..TOPICS)];
    for step in steps {
        match step {
            Step::Publish { topic, size, own_id } => world.publish(topic, size, own_id),
            Step::Read { client } => drop(client.get_mut(&mut readers).read()),
            Step::Cut { client, lost } => world.cut(client.get_mut(&mut readers), lost),
            Step::Subscribe { client, topic: at, start } => {
                let reader = client.get_mut(&mut readers);
                // Only once: who asks again for what is older gets it again.
                if reader.ever.insert(at) {
                    let first = match start {
                        Start::Oldest => 0,
                        Start::Last(events) => world.published[at].saturating_sub(events),
                        _ => world.published[at],
                    };
                    reader.handle.subscribe_from(topic(at), start).unwrap();
                    reader.topics.insert(at, first);
                }
            }
            Step::Unsubscribe { client, topic: at } => {
                let reader = client.get_mut(&mut readers);
                assert_eq!(reader.handle.unsubscribe(topic(at)), reader.topics.remove(&at).is_some());
            }
        }
    }
    readers.iter_mut().for_each(|reader| while reader.read() {});
    (world, readers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_retained_event_comes_exactly_once_and_in_order(steps in any::<bool>().prop_flat_map(|own_ids| prop::collection::vec(step(own_ids), 1..120))) {
        let (world, readers) = run(steps, Retention::default(), Retention::default());
        for reader in readers {
            for at in 0..TOPICS {
                let numbers: Vec<usize> = reader.arrivals.iter().filter_map(|(arrival, _)| match arrival {
                    Arrival::Event { topic, number } if *topic == at => Some(*number),
                    _ => None,
                }).collect();
                for pair in numbers.windows(2) {
                    prop_assert_eq!(pair[0] + 1, pair[1], "topic {} of {:?}", at, numbers);
                }
                if let Some(first) = reader.topics.get(&at) {
                    prop_assert!(numbers.first().is_none_or(|number| number <= first), "topic {} should start at {}: {:?}", at, first, numbers);
                    let next = numbers.last().map_or(*first, |number| number + 1);
                    prop_assert_eq!(next, world.published[at], "topic {} to its end: {:?}", at, numbers);
                }
            }
            let gaps = reader.arrivals.iter().filter(|(arrival, _)| matches!(arrival, Arrival::Gap { .. })).count();
            prop_assert_eq!(gaps, 0, "everything is retained");
        }
    }

    #[test]
    fn what_is_missing_was_told_and_what_was_told_is_missing(
        steps in prop::collection::vec(step(false), 1..120),
        of_a_topic in 1usize..4,
        of_all in 1usize..12,
    ) {
        let (world, readers) = run(steps, Retention::default().events(of_a_topic), Retention::default().events(of_all));
        for reader in readers {
            for at in 0..TOPICS {
                let (mut last, mut told) = (None, false);
                for (arrival, _) in &reader.arrivals {
                    match arrival {
                        Arrival::Gap { topics } => told |= topics.contains(&at),
                        Arrival::Event { topic, number } if *topic == at => {
                            if let Some(last) = last {
                                prop_assert!(*number > last, "topic {} comes in order and once: {:?}", at, reader.arrivals);
                                prop_assert_eq!(*number > last + 1, told, "topic {}, {} after {}: {:?}", at, number, last, reader.arrivals);
                            }
                            (last, told) = (Some(*number), false);
                        }
                        Arrival::Event { .. } => {}
                    }
                }
                if let (Some(_), Some(last)) = (reader.topics.get(&at), last) {
                    prop_assert!(last + 1 == world.published[at] || told, "topic {} to its end: {:?}", at, reader.arrivals);
                }
            }
        }
    }

    #[test]
    fn the_position_of_a_client_never_goes_back(steps in prop::collection::vec(step(false), 1..120)) {
        let (world, readers) = run(steps, Retention::default().events(5), Retention::default());
        for reader in readers {
            let ids = reader.arrivals.iter().filter_map(|(_, id)| world.position(id.as_deref()?));
            prop_assert!(ids.is_sorted(), "{:?}", reader.arrivals);
        }
    }
}
