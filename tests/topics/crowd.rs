//! Topics and patterns with so many clients that the clients on one thread share what they read and do not lock the
//! topic.

use std::{future::poll_fn, ops::Range, pin::Pin, thread, time::Duration};

use futures_core::Stream;
use proptest::{prelude::*, test_runner::TestCaseError};
use tokio::time::timeout;
use tower_sse::{ClientHandle, Event, Registry, RegistryConfig, Retention, SseBody, Start, Subscription};

use crate::{
    open::{Empty, open},
    polling::{fields, position, publish, quiet, received, rest, subscribed, text},
};

/// More clients than sharing needs.
const CROWD: usize = 40;

#[derive(Debug, Clone)]
enum Step {
    /// Publishes on a topic, for all clients except at most one.
    Publish { topic: &'static str, excluded: Option<usize> },
    /// These clients read all that is ready.
    Read(Range<usize>),
    /// This client leaves, and another one comes.
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let topic = prop_oneof![4 => Just("a"), 1 => Just("b")];
    let client = 0..CROWD;
    prop_oneof![
        8 => (topic, prop::option::weighted(0.1, client.clone()))
            .prop_map(|(topic, excluded)| Step::Publish { topic, excluded }),
        6 => (client.clone(), 0..CROWD).prop_map(|(first, length)| Step::Read(first..(first + length).min(CROWD))),
        1 => client.prop_map(Step::Leave),
    ]
}

/// One client of the crowd, and the events that it must get.
struct Member {
    client: ClientHandle,
    body: SseBody<Empty>,
    takes: fn(&str, usize) -> bool,
    labelled: bool,
    expected: Vec<usize>,
    /// How many of those events it has read, or was told are lost.
    read: usize,
}

impl Member {
    /// The subscription depends on the client's number.
    fn join(registry: &Registry, number: usize) -> Self {
        let (subscription, takes): (_, fn(&str, usize) -> bool) = match number % 20 {
            0 => (Subscription::matching("*"), |_, _| true),
            1 => (
                Subscription::matching("a")
                    .filter(|event, _| event.data().is_some_and(|data| data.ends_with(['0', '5']))),
                |topic, number| topic == "a" && number % 5 == 0,
            ),
            _ => (Subscription::matching("a"), |topic, _| topic == "a"),
        };
        let labelled = number % 20 == 2;
        let (client, body) = open(&quiet(registry), None, |client| {
            client.topic_as_event_type(labelled);
            client.subscribe(subscription.clone()).unwrap();
        });
        let mut member = Self { client, body, takes, labelled, expected: Vec::new(), read: 0 };
        assert_eq!(text(&mut member.body), "", "the stream begins now");
        member
    }

    fn read(&mut self, may_lose: bool) -> Result<(), TestCaseError> {
        let wire = text(&mut self.body);
        let mut is_gap = false;
        for block in wire.split_terminator("\n\n") {
            if block.starts_with("event: gap\n") {
                prop_assert!(may_lose, "nothing is lost");
                is_gap = true;
                continue;
            }
            prop_assert_eq!(!fields(block, "event").is_empty(), self.labelled);
            let number: usize = fields(block, "data")[0].parse().unwrap();
            let unread = &self.expected[self.read..];
            let Some(at) = unread.iter().position(|expected| *expected == number) else {
                return Err(TestCaseError::fail(format!("{number} is not among {unread:?}")));
            };
            prop_assert!(at == 0 || is_gap, "{number} comes before {unread:?}: {wire:?}");
            self.read += at + 1;
        }
        prop_assert!(self.read == self.expected.len() || is_gap, "{:?} are missing", &self.expected[self.read..]);
        self.read = self.expected.len();
        Ok(())
    }
}

fn run(steps: Vec<Step>, kept: usize) -> Result<(), TestCaseError> {
    let retention = Retention::default().events(kept);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let mut crowd: Vec<_> = (0..CROWD).map(|number| Member::join(&registry, number)).collect();
    // So many clients that the pattern has a crowd too.
    let _others: Vec<_> = (0..CROWD).map(|_| subscribed(&registry, ["*"])).collect();
    let may_lose = kept < 1000;
    for (number, step) in steps.into_iter().chain([Step::Read(0..CROWD)]).enumerate() {
        match step {
            Step::Publish { topic, excluded } => {
                let event = Event::data(number.to_string());
                let event = match excluded {
                    Some(excluded) => event.exclude_client(crowd[excluded].client.id()),
                    None => event,
                };
                registry.publish(topic, event).unwrap();
                for (at, member) in crowd.iter_mut().enumerate() {
                    if excluded != Some(at) && (member.takes)(topic, number) {
                        member.expected.push(number);
                    }
                }
            }
            Step::Read(members) => crowd[members].iter_mut().try_for_each(|member| member.read(may_lose))?,
            Step::Leave(at) => crowd[at] = Member::join(&registry, at),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_client_of_a_crowd_gets_its_events_once_in_order(steps in prop::collection::vec(step(), 1..60)) {
        run(steps, 1000)?;
    }

    #[test]
    fn each_client_of_a_crowd_is_told_of_its_lost_events(steps in prop::collection::vec(step(), 1..60), kept in 1_usize..6) {
        run(steps, kept)?;
    }
}

#[test]
fn a_crowd_on_many_threads_is_woken_for_every_event() {
    const EVENTS: usize = 2_000;
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(Retention::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let publish = |publisher: usize, number: usize| {
        registry.publish("a", Event::data(format!("{publisher} {number}"))).unwrap();
    };
    runtime.block_on(async {
        let clients = (0..200).map(|at| {
            let client = subscribed(&registry, [if at % 2 == 0 { "a" } else { "*" }]);
            tokio::spawn(async move {
                let mut events = client.into_events();
                let mut next = [0; 2];
                while next != [EVENTS; 2] {
                    let event =
                        poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await.unwrap().expect("nothing is lost");
                    let data = event.data().unwrap();
                    let (publisher, number) = data.split_once(' ').unwrap();
                    let next = &mut next[publisher.parse::<usize>().unwrap()];
                    assert_eq!(number.parse(), Ok(*next), "the next number of this publisher");
                    *next += 1;
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        thread::scope(|scope| {
            for publisher in 0..2 {
                scope.spawn(move || (0..EVENTS).for_each(|number| publish(publisher, number)));
            }
        });
        for client in clients {
            timeout(Duration::from_secs(60), client).await.expect("the client gets all events in time").unwrap();
        }
    });
}

/// Opens a crowd of streams with this subscription, each of which has read everything.
fn crowd(registry: &Registry, name: &str) -> Vec<(ClientHandle, SseBody<Empty>)> {
    let join = |_| open(&quiet(registry), None, |client| client.subscribe(Subscription::matching(name)).unwrap());
    let mut crowd: Vec<_> = (0..CROWD).map(join).collect();
    crowd.iter_mut().for_each(|(_, body)| assert_eq!(text(body), ""));
    crowd
}

#[test]
fn a_closed_client_gets_only_events_published_before() {
    let registry = Registry::new();
    let mut crowd = crowd(&registry, "a");
    publish(&registry, "a", "before");
    crowd[0].0.close();
    publish(&registry, "a", "after");
    assert_eq!(received(&mut crowd[1].1), ["before", "after"]);
    let (wire, has_ended) = rest(&mut crowd[0].1);
    assert!(has_ended);
    assert_eq!(fields(&wire, "data")[0], "before");
    assert!(!wire.contains("after"), "{wire}");
}

#[test]
fn a_late_event_has_no_id_that_moves_the_client_back() {
    let registry = Registry::new();
    let mut crowd = crowd(&registry, "a");
    let (late, mut body) = open(&quiet(&registry), None, |client| client.subscribe("b").unwrap());
    let first = position(&registry, "a", "first");
    let second = position(&registry, "b", "second");
    let [plain, of_late] = [&mut crowd[0].1, &mut body].map(text);
    assert_eq!((fields(&plain, "id"), fields(&of_late, "id")), (vec![&*first.to_string()], vec![&*second.to_string()]));
    late.subscribe_from("a", Start::Oldest).unwrap();
    let wire = text(&mut body);
    assert_eq!(fields(&wire, "data"), ["first"]);
    assert!(fields(&wire, "id")[0].starts_with(&second.to_string()), "{wire}");
}

/// The first reader was told of the loss before it reads the events that the second has not read either.
#[test]
fn each_client_is_told_of_a_patterns_loss_in_any_reading_order() {
    let by_name = |topic: &str| Retention::default().events(if topic == "brief" { 1 } else { 100 });
    let registry = Registry::with_config(RegistryConfig::default().topic_retention_by(by_name));
    let mut crowd = crowd(&registry, "*");
    let large = "x".repeat(40_000);
    publish(&registry, "a", &large);
    let (first, others) = crowd.split_first_mut().unwrap();
    assert_eq!(received(&mut others[0].1), [&*large]);
    for (topic, data) in [("a", &*large), ("brief", "lost"), ("brief", "kept")] {
        publish(&registry, topic, data);
    }
    assert_eq!(received(&mut first.1)[1..], [&*large, &large, "kept"]);
    let told = received(&mut others[0].1);
    assert!(told[0].starts_with("{\"topics\":[\"*\"]"), "{}", told[0]);
    assert_eq!(told[1..], [&*large, "kept"]);
}

#[test]
fn crowds_of_a_topic_and_of_a_pattern_get_their_own_frames() {
    let registry = Registry::new();
    let mut of_topic = crowd(&registry, "a");
    // At some offset, the topic and the pattern use the same slot of the frame cache.
    for number in 0..32 {
        let mut of_pattern = crowd(&registry, &format!("{}*", if number % 2 == 0 { "" } else { "*" }));
        for topic in ["a", "b", "a"] {
            publish(&registry, topic, topic);
        }
        assert_eq!(received(&mut of_topic[0].1), ["a", "a"]);
        assert_eq!(received(&mut of_pattern[0].1), ["a", "b", "a"]);
    }
}

#[test]
fn a_crowd_that_has_left_leaves_nothing_behind() {
    let registry = Registry::new();
    let crowd: Vec<_> = (0..CROWD).map(|_| subscribed(&registry, ["a", "*"])).collect();
    drop(crowd);
    let stats = registry.stats();
    assert_eq!((stats.topics, stats.bytes, stats.subscriptions), (0, 0, 0));
}

#[test]
fn memory_that_a_topic_keeps_after_a_crowd_counts() {
    let left_by = |clients| {
        let registry = Registry::new();
        let crowd: Vec<_> = (0..clients).map(|_| subscribed(&registry, ["a"])).collect();
        publish(&registry, "a", "x");
        drop(crowd);
        registry.stats().bytes
    };
    let lanes = match thread::available_parallelism().unwrap().get() {
        1 => 0,
        cores => cores.min(16),
    };
    assert!(left_by(CROWD) >= left_by(1) + 64 * lanes);
}
