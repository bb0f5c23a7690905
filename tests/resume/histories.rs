//! Several registries after each other and at the same time, as behind a load balancer, in a deploy and after restarts,
//! with different clocks and ids of every form. A client that is told that it missed nothing has missed nothing.

use std::{
    collections::BTreeSet,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http_body::Body;
use proptest::{prelude::*, test_runner::TestCaseError};
use tower_sse::{
    Event, Heartbeat, PublishError, Registry, RegistryConfig, Resume, Retention, SseBody, SseLayer, Subscription,
};

use crate::{
    Line,
    open::{Empty, open},
    world::matches,
};

const TOPICS: [&str; 3] = ["a/0", "a/1", "b"];
const NAMES: [&[&str]; 5] = [&["a/0"], &["a/0", "b"], &["a/*"], &["**"], &["a/*", "a/1", "b"]];
const CLIENTS: usize = 3;

/// How an event gets an id of its own.
#[derive(Debug, Clone, Copy)]
enum OwnId {
    /// Version numbers that are used again.
    Version(u8),
    /// An id that is never used again.
    Unique,
    /// An id in the form of a Redis stream's, about as old as the event.
    Redis { ms: i64, seq: u8 },
    /// The id that another event of any registry had on the wire, this many events ago.
    Copy(usize),
    /// A position that the registry has not given yet, or never gives.
    Near { ms: i64, seq: u32 },
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        at: usize,
        topic: usize,
        own_id: Option<OwnId>,
    },
    /// The registry at this place is replaced by a new one. If time has passed, the new one's clock is behind.
    Restart {
        at: usize,
    },
    Time {
        ms: u64,
    },
    /// A client is open for this many publishes, and receives this many of the events.
    Visit {
        client: usize,
        at: usize,
        between: Vec<(usize, Option<OwnId>)>,
        arrives: usize,
    },
}

/// One registry from its start to its replacement.
struct Life {
    registry: Registry,
    layer: SseLayer,
    events: Vec<(&'static str, Option<String>)>,
}

impl Life {
    fn new(retained: usize) -> Self {
        let retention = Retention::default().events(retained);
        let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        Self { registry, layer, events: Vec::new() }
    }
}

#[derive(Default)]
struct Client {
    last_id: Option<String>,
    /// For an id of a registry: the life that gave it, and how many events that life had published by then.
    source: Option<(usize, usize, bool)>,
    had: BTreeSet<(usize, usize)>,
}

struct History {
    retained: usize,
    lives: Vec<Life>,
    /// The current life at each place.
    current: [usize; 2],
    /// All ids that were sent, in all lives.
    ids: Vec<String>,
}

impl History {
    fn publish(&mut self, life: usize, topic: usize, own_id: Option<OwnId>) {
        let ids = &self.ids;
        let Life { registry, events, .. } = &mut self.lives[life];
        let position = registry.position();
        let like = |ms: i64, seq: u32| format!("{}-{seq}", position.ms().saturating_add_signed(ms));
        let own_id = own_id.map(|own_id| match own_id {
            OwnId::Version(version) => format!("v{version}"),
            OwnId::Unique => format!("unique {}", ids.len()),
            OwnId::Redis { ms, seq } => like(ms, seq.into()),
            OwnId::Copy(back) => ids.iter().rev().nth(back).map_or("none".to_owned(), String::clone),
            OwnId::Near { ms, seq } => {
                let own = position.to_string();
                format!("{}-{}", like(ms, seq), own.rsplit('-').next().unwrap())
            }
        });
        let event = Event::data(events.len().to_string());
        let event = own_id.as_ref().map_or(event.clone(), |id| event.id(id).unwrap());
        match registry.publish(TOPICS[topic], event) {
            Ok(receipt) => {
                let wire_id = own_id.clone().unwrap_or_else(|| receipt.position().unwrap().to_string());
                self.ids.push(wire_id);
                events.push((TOPICS[topic], own_id));
            }
            Err(error) => assert!(matches!(error, PublishError::IdToCome { .. }), "{error}"),
        }
    }

    fn visit(
        &mut self,
        name: usize,
        client: &mut Client,
        at: usize,
        between: &[(usize, Option<OwnId>)],
        arrives: usize,
    ) -> Result<(), TestCaseError> {
        let (life, names) = (self.current[at], NAMES[name]);
        let is_for_it = |topic: &str| names.iter().any(|name| matches(name, topic));
        let (handle, mut body) = open(&self.lives[life].layer, client.last_id.as_deref(), |client| {
            names.iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
        });
        let there = self.lives[life].events.len();
        for (topic, own_id) in between {
            self.publish(life, *topic, *own_id);
        }
        let messages = take_all(&mut body);
        let was_told = matches!(handle.resume(), Resume::Gap(_));
        let lags = messages.iter().any(|(event_type, ..)| event_type == "gap");
        // The first event that the client must get.
        let from = match client.source {
            None => Some(there),
            Some((source, since, _)) if source == life => Some(since),
            // A copy of the other registry's event, which has kept its id.
            Some((.., true)) if self.lives[life].events.iter().any(|(_, own_id)| *own_id == client.last_id) => None,
            Some((.., true)) => {
                prop_assert!(was_told, "the id {:?} of another registry is accepted", client.last_id);
                None
            }
            // If two registries know an id of the publisher's own, the publisher is responsible for its meaning.
            Some(_) => None,
        };
        let events = &self.lives[life].events;
        let came: BTreeSet<usize> = messages
            .iter()
            .filter(|(event_type, ..)| event_type == "message")
            .map(|(_, data, _)| data.parse().unwrap())
            .collect();
        if let Some(from) = from.filter(|_| !was_told && !lags) {
            let missing = (from..events.len()).find(|number| {
                is_for_it(events[*number].0) && !came.contains(number) && !client.had.contains(&(life, *number))
            });
            prop_assert_eq!(
                missing,
                None,
                "the client resumed from {:?}, was told {:?} and got {:?}",
                client.last_id,
                handle.resume(),
                came
            );
        }
        drop(body);
        // Of the events that arrive, the client keeps the last id.
        for (event_type, data, id) in messages.into_iter().take(arrives) {
            let number = match &*event_type {
                "message" => data.parse().map_or(0, |number: usize| number + 1),
                "position" => there,
                // The client was told of whatever is missing before.
                _ => 0,
            };
            if event_type == "message" {
                client.had.insert((life, number - 1));
            }
            if event_type == "gap" {
                client.had.extend((0..events.len()).filter(|at| !came.contains(at)).map(|at| (life, at)));
            }
            if let Some(id) = id {
                let is_known = client.last_id.as_ref() == Some(&id);
                let is_ours = !(event_type == "message" && events[number - 1].1.is_some());
                if !(event_type == "position" && is_known) {
                    client.source = Some((life, number, is_ours));
                }
                client.last_id = Some(id);
            }
        }
        Ok(())
    }
}

/// Reads all that is ready: the types, the data and the ids of the events.
fn take_all(body: &mut SseBody<Empty>) -> Vec<(String, String, Option<String>)> {
    let mut wire = String::new();
    while let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        wire.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
    }
    let message = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (event_type, data) = (field("event").unwrap_or("message"), field("data").unwrap_or_default());
        (event_type.to_owned(), data.to_owned(), field("id").map(str::to_owned))
    };
    wire.split_terminator("\n\n").map(message).collect()
}

fn own_id() -> impl Strategy<Value = Option<OwnId>> {
    prop_oneof![
        4 => Just(None),
        2 => (0u8..3).prop_map(|version| Some(OwnId::Version(version))),
        1 => Just(Some(OwnId::Unique)),
        1 => (-3i64..3, 0u8..2).prop_map(|(ms, seq)| Some(OwnId::Redis { ms, seq })),
        1 => (0usize..6).prop_map(|back| Some(OwnId::Copy(back))),
        1 => (-3i64..3, 0u32..3).prop_map(|(ms, seq)| Some(OwnId::Near { ms, seq })),
    ]
}

fn step() -> impl Strategy<Value = Line<Step>> {
    let event = || (0..TOPICS.len(), own_id());
    prop_oneof![
        8 => (0..2usize, event()).prop_map(|(at, (topic, own_id))| Step::Publish { at, topic, own_id }),
        1 => (0..2usize).prop_map(|at| Step::Restart { at }),
        3 => prop_oneof![1u64..5, Just(50), Just(3_600_000)].prop_map(|ms| Step::Time { ms }),
        8 => (0..CLIENTS, 0..2usize, prop::collection::vec(event(), 0..4), 0usize..6)
            .prop_map(|(client, at, between, arrives)| Step::Visit { client, at, between, arrives }),
    ]
    .prop_map(Line)
}

async fn run(steps: &[Line<Step>], names: [usize; CLIENTS], retained: usize) -> Result<(), TestCaseError> {
    let lives = vec![Life::new(retained), Life::new(retained)];
    let mut history = History { retained, lives, current: [0, 1], ids: Vec::new() };
    let mut clients: [Client; CLIENTS] = Default::default();
    for Line(step) in steps {
        match step {
            Step::Publish { at, topic, own_id } => history.publish(history.current[*at], *topic, *own_id),
            Step::Restart { at } => {
                // A new registry starts with the system's clock, which the test's paused time does not advance.
                history.lives.push(Life::new(history.retained));
                history.current[*at] = history.lives.len() - 1;
            }
            Step::Time { ms } => tokio::time::advance(std::time::Duration::from_millis(*ms)).await,
            Step::Visit { client, at, between, arrives } => {
                history.visit(names[*client], &mut clients[*client], *at, between, *arrives)?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_resumes_without_a_gap_misses_nothing_with_any_id(
        steps in prop::collection::vec(step(), 1..80),
        names in prop::array::uniform3(0..NAMES.len()),
        retained in prop_oneof![1 => Just(usize::MAX), 2 => 1usize..5],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(tokio::task::coop::unconstrained(run(&steps, names, retained)))?;
    }
}

/// Resumes from an id. Returns the result of the resume, and the data of all events that the client gets.
fn back(registry: &Registry, names: &[&str], id: &str) -> (Resume, Vec<String>) {
    let layer = SseLayer::new(registry).heartbeat(Heartbeat::off());
    let (handle, mut body) = open(&layer, Some(id), |client| {
        names.iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
    });
    let data =
        take_all(&mut body).into_iter().filter(|(event_type, ..)| event_type == "message").map(|(_, data, _)| data);
    (handle.resume(), data.collect())
}

fn publish(registry: &Registry, topic: &str, data: &str, own_id: Option<&str>) -> String {
    let event = Event::data(data);
    let event = own_id.map_or(event.clone(), |id| event.id(id).unwrap());
    let position = registry.publish(topic, event).unwrap().position().unwrap().to_string();
    own_id.map_or(position, str::to_owned)
}

/// Another registry is the rule in an overlapping deploy, on a second node behind a load balancer, and with one
/// registry per tenant.
#[tokio::test(start_paused = true)]
async fn an_id_of_another_registry_is_a_gap_with_any_clocks() {
    let old = Registry::new();
    publish(&old, "t", "1", None);
    tokio::time::advance(std::time::Duration::from_millis(50)).await;
    let new = Registry::new();
    let id = publish(&old, "t", "2", None);
    publish(&old, "t", "3", None);
    tokio::time::advance(std::time::Duration::from_millis(20)).await;
    publish(&new, "u", "x", None);
    for registry in [&new, &Registry::new()] {
        assert!(matches!(back(registry, &["t"], &id).0, Resume::Gap(gap) if gap.after() == id), "{id}");
    }
    assert_eq!(back(&old, &["t"], &id), (Resume::Continued, vec!["3".to_owned()]));
    // An id that includes the progress of catching up is a gap too.
    let late = format!("{id};{}-0;*", old.position().ms() - 1);
    assert!(matches!(back(&new, &["t"], &late).0, Resume::Gap(_)), "{late}");
    assert_eq!(back(&old, &["t"], &late).0, Resume::Continued);
}

#[test]
fn an_own_id_that_looks_like_a_position_is_an_ordinary_id() {
    let registry = Registry::new();
    let redis = format!("{}-0", registry.position().ms().saturating_sub(2));
    publish(&registry, "t", "1", Some(&redis));
    assert_eq!(back(&registry, &["t"], &redis), (Resume::Continued, vec![]), "the client already has the event");
    let ahead = format!("{}-0", registry.position().ms() + 3_600_000);
    let retention = Retention::default().events(1);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    publish(&registry, "t", "1", Some(&ahead));
    publish(&registry, "t", "2", None);
    publish(&registry, "t", "3", None);
    assert!(
        matches!(back(&registry, &["t"], &ahead).0, Resume::Gap(_)),
        "the event is gone, and so is the one after it"
    );
}

#[test]
fn events_with_the_same_id_after_the_first_are_sent_again() {
    let registry = Registry::new();
    ["v7", "v8", "v7", "v9"].iter().for_each(|id| drop(publish(&registry, "t", id, Some(id))));
    for names in [&["t"][..], &["*"], &["t", "**"]] {
        assert_eq!(back(&registry, names, "v7"), (Resume::Continued, ["v8", "v7", "v9"].map(str::to_owned).to_vec()));
        assert_eq!(back(&registry, names, "v8"), (Resume::Continued, ["v7", "v9"].map(str::to_owned).to_vec()));
    }
}

#[test]
fn an_id_of_an_evicted_event_is_a_gap() {
    let retention = Retention::default().events(2);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    ["v7", "v8", "v9", "v7"].iter().for_each(|id| drop(publish(&registry, "t", id, Some(id))));
    for names in [&["t"][..], &["*"], &["t", "**"]] {
        assert!(matches!(back(&registry, names, "v7").0, Resume::Gap(_)), "{names:?}");
        assert_eq!(back(&registry, names, "v9").0, Resume::Continued);
    }
}

#[test]
fn an_own_id_that_the_registry_may_still_give_is_refused() {
    let registry = Registry::new();
    let issued = publish(&registry, "t", "1", None);
    let era = issued.rsplit('-').next().unwrap();
    let to_come = format!("{}-0-{era}", registry.position().ms() + 3_600_000);
    let error = registry.publish("t", Event::data("2").id(&to_come).unwrap()).unwrap_err();
    assert_eq!(error, PublishError::IdToCome { id: to_come.clone() });
    assert!(error.to_string().contains(&to_come));
    publish(&registry, "copies", "1", Some(&issued));
}
