//! Several registries, one after the other and beside each other, as behind a balancer, in a deploy and after restarts, with clocks
//! that differ and ids of every form: whoever is told that nothing is missed misses nothing.

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
    /// Versions that are used again.
    Version(u8),
    /// One that is never used again.
    Unique,
    /// As a Redis stream has them, about as old as the event.
    Redis { ms: i64, seq: u8 },
    /// The one that another event had on the wire, so many before this one, of any registry.
    Copy(usize),
    /// A position of the registry's own that is still to come, or was not given.
    Near { ms: i64, seq: u32 },
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        at: usize,
        topic: usize,
        own_id: Option<OwnId>,
    },
    /// The registry at this place is another one from now on, whose clock is behind if time has passed.
    Restart {
        at: usize,
    },
    Time {
        ms: u64,
    },
    /// A client is open for so many publishes, and of what it gets then so much arrives.
    Visit {
        client: usize,
        at: usize,
        between: Vec<(usize, Option<OwnId>)>,
        arrives: usize,
    },
}

/// One life of a registry.
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
    /// The life that gave it, if that id is one of the registry's, and how many events it had published by then.
    source: Option<(usize, usize, bool)>,
    had: BTreeSet<(usize, usize)>,
}

struct History {
    retained: usize,
    lives: Vec<Life>,
    /// By place.
    current: [usize; 2],
    /// What went out, of all lives.
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
        // From which event on it is to have all.
        let from = match client.source {
            None => Some(there),
            Some((source, since, _)) if source == life => Some(since),
            // A copy of the other's event, which has kept its id.
            Some((.., true)) if self.lives[life].events.iter().any(|(_, own_id)| *own_id == client.last_id) => None,
            Some((.., true)) => {
                prop_assert!(was_told, "{:?} is of another registry, and taken for one of this", client.last_id);
                None
            }
            // An id of the publisher's own that two registries know is what the publisher says that it is.
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
                "it came back with {:?}, was told {:?} and got {:?}",
                client.last_id,
                handle.resume(),
                came
            );
        }
        drop(body);
        // Of what arrives, it keeps what it comes back with.
        for (event_type, data, id) in messages.into_iter().take(arrives) {
            let number = match &*event_type {
                "message" => data.parse().map_or(0, |number: usize| number + 1),
                "position" => there,
                // Whatever is missing before it, it was told of.
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

/// All that a stream has without waiting: the types, the data and the ids of its events.
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
                // The clock of a new one is the system's, which has not gone on with the test's.
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
    fn whoever_is_told_that_nothing_is_missed_misses_nothing_whoever_issued_the_id(
        steps in prop::collection::vec(step(), 1..80),
        names in prop::array::uniform3(0..NAMES.len()),
        retained in prop_oneof![1 => Just(usize::MAX), 2 => 1usize..5],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(tokio::task::coop::unconstrained(run(&steps, names, retained)))?;
    }
}

/// What a client of this registry that comes back with an id is told, and the data of all it gets.
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

/// As in a deploy with overlap, on a second node behind a balancer, with a registry for each tenant.
#[tokio::test(start_paused = true)]
async fn an_id_of_another_registry_is_a_gap_whatever_the_clocks_say() {
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
    // Nor one that says how far it was in catching up.
    let late = format!("{id};{}-0;*", old.position().ms() - 1);
    assert!(matches!(back(&new, &["t"], &late).0, Resume::Gap(_)), "{late}");
    assert_eq!(back(&old, &["t"], &late).0, Resume::Continued);
}

#[test]
fn an_own_id_that_looks_like_a_position_is_an_id_as_any_other() {
    let registry = Registry::new();
    let redis = format!("{}-0", registry.position().ms().saturating_sub(2));
    publish(&registry, "t", "1", Some(&redis));
    assert_eq!(back(&registry, &["t"], &redis), (Resume::Continued, vec![]), "it has had it");
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
fn of_events_with_the_same_id_those_after_the_first_come_again() {
    let registry = Registry::new();
    ["v7", "v8", "v7", "v9"].iter().for_each(|id| drop(publish(&registry, "t", id, Some(id))));
    for names in [&["t"][..], &["*"], &["t", "**"]] {
        assert_eq!(back(&registry, names, "v7"), (Resume::Continued, ["v8", "v7", "v9"].map(str::to_owned).to_vec()));
        assert_eq!(back(&registry, names, "v8"), (Resume::Continued, ["v7", "v9"].map(str::to_owned).to_vec()));
    }
}

#[test]
fn an_id_that_was_used_by_an_event_that_is_gone_is_a_gap() {
    let retention = Retention::default().events(2);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    ["v7", "v8", "v9", "v7"].iter().for_each(|id| drop(publish(&registry, "t", id, Some(id))));
    for names in [&["t"][..], &["*"], &["t", "**"]] {
        assert!(matches!(back(&registry, names, "v7").0, Resume::Gap(_)), "{names:?}");
        assert_eq!(back(&registry, names, "v9").0, Resume::Continued);
    }
}

#[test]
fn an_id_that_the_registry_may_still_give_is_refused() {
    let registry = Registry::new();
    let issued = publish(&registry, "t", "1", None);
    let era = issued.rsplit('-').next().unwrap();
    let to_come = format!("{}-0-{era}", registry.position().ms() + 3_600_000);
    let error = registry.publish("t", Event::data("2").id(&to_come).unwrap()).unwrap_err();
    assert_eq!(error, PublishError::IdToCome { id: to_come.clone() });
    assert!(error.to_string().contains(&to_come));
    publish(&registry, "copies", "1", Some(&issued));
}
