//! The published events, and which of them are still retained.

use std::collections::VecDeque;

use proptest::test_runner::TestCaseError;
use tower_sse::{
    ClientId, Event, Heartbeat, Position, PositionEvent, Receipt, Registry, RegistryConfig, Retention,
    SlowClientPolicy, SseLayer,
};

pub(crate) const TOPICS: [&str; 8] = ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1", "d", "a/b/c"];

/// All names that are subscribed to: topics, and patterns that overlap with topics and with each other.
pub(crate) const NAMES: [&str; 15] =
    ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1", "d", "a/*", "b/*", "*/0", "*/1", "*/*", "a/**", "**", "nobody/*"];

/// Whether a subscription to `name` gets the events of `topic`.
pub(crate) fn matches(name: &str, topic: &str) -> bool {
    let (name, topic): (Vec<&str>, Vec<&str>) = (name.split('/').collect(), topic.split('/').collect());
    let begins = |head: &[&str]| head.iter().zip(&topic).all(|(segment, of)| *segment == "*" || segment == of);
    match name.split_last() {
        Some((&"**", head)) => topic.len() > head.len() && begins(head),
        _ => topic.len() == name.len() && begins(&name),
    }
}

/// The retention and slow-client policy of each topic and of all together.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) of_topics: Vec<(usize, SlowClientPolicy)>,
    pub(crate) of_all: usize,
}

impl Kept {
    pub(crate) fn everything() -> Self {
        Self { of_topics: vec![(usize::MAX, SlowClientPolicy::NotifyGap); TOPICS.len()], of_all: usize::MAX }
    }
}

/// The attribute that filters read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Level(pub(crate) u8);

/// One event. Its number is its place in the order of all events.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) number: usize,
    pub(crate) topic: &'static str,
    pub(crate) level: Level,
    pub(crate) excluded: Option<ClientId>,
    pub(crate) position: Position,
    pub(crate) policy: SlowClientPolicy,
    /// When it was evicted, if it was.
    pub(crate) evicted: Option<usize>,
}

impl Published {
    /// Whether its subscribers must be told that it was evicted.
    pub(crate) fn is_missed(&self) -> bool {
        self.evicted.is_some() && self.policy != SlowClientPolicy::SkipSilently
    }
}

pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) layer: SseLayer,
    pub(crate) events: Vec<Published>,
    /// Increases with each step.
    pub(crate) now: usize,
    kept: Kept,
    /// The numbers of the retained events: of all topics, and of each topic.
    retained: VecDeque<usize>,
    retained_of: [VecDeque<usize>; TOPICS.len()],
}

impl World {
    pub(crate) fn new(kept: Kept) -> Self {
        let of_topics = kept.of_topics.clone();
        let of_topic = move |name: &str| {
            let at = TOPICS.iter().position(|topic| *topic == name);
            let (events, policy) = at.map_or((usize::MAX, SlowClientPolicy::NotifyGap), |at| of_topics[at]);
            Retention::default().events(events).slow_client_policy(policy)
        };
        let config = RegistryConfig::default().topic_retention_by(of_topic);
        let registry = Registry::with_config(config.total_retention(Retention::default().events(kept.of_all)));
        // The histories test the position event.
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off()).position_event(PositionEvent::off());
        let (retained, retained_of) = Default::default();
        Self { registry, layer, events: Vec::new(), now: 0, kept, retained, retained_of }
    }

    pub(crate) fn publish(
        &mut self,
        at: usize,
        level: Level,
        size: usize,
        own_id: bool,
        excluded: Option<ClientId>,
    ) -> Receipt {
        let (number, topic) = (self.events.len(), TOPICS[at]);
        let padding = "x".repeat(size);
        let mut event = Event::data(format!("{number} {topic} {padding}")).attribute(level);
        if own_id {
            event = event.id(format!("own-{number}")).unwrap();
        }
        if let Some(client) = excluded {
            event = event.exclude_client(client);
        }
        let receipt = self.registry.publish(topic, event).unwrap();
        let (of_topic, policy) = self.kept.of_topics[at];
        let position = receipt.position().unwrap();
        self.events.push(Published { number, topic, level, excluded, position, policy, evicted: None });
        self.retained.push_back(number);
        self.retained_of[at].push_back(number);
        if self.retained_of[at].len() > of_topic {
            let oldest = self.retained_of[at][0];
            self.evict(oldest);
        }
        while self.retained.len() > self.kept.of_all {
            self.evict(self.retained[0]);
        }
        receipt
    }

    fn evict(&mut self, number: usize) {
        self.events[number].evicted = Some(self.now);
        self.retained.retain(|other| *other != number);
        self.retained_of.iter_mut().for_each(|all| all.retain(|other| *other != number));
    }

    /// The events of a name from a number on, evicted or not.
    pub(crate) fn events_of(&self, name: &str, from: usize) -> impl DoubleEndedIterator<Item = &Published> {
        let events = self.events.get(from..).unwrap_or_default();
        events.iter().filter(move |event| matches(name, event.topic))
    }

    /// The number of events up to a position.
    pub(crate) fn up_to(&self, position: Position) -> usize {
        self.events.partition_point(|event| event.position <= position)
    }

    /// Parses the progress in an id.
    pub(crate) fn progress(&self, id: &str) -> Result<Progress, TestCaseError> {
        let read = |text: &str| text.parse().map(|position| self.up_to(position));
        let all = |up_to| Progress { up_to, late: None };
        if let Some(own) = id.strip_prefix("own-") {
            return Ok(all(own.parse::<usize>().unwrap() + 1));
        }
        let parts: Vec<&str> = id.split(';').collect();
        match parts[..] {
            [seen] => read(seen).map(all),
            [seen, late, names] => read(seen).and_then(|up_to| {
                let names = (names != "*").then(|| names.split(',').map(str::to_owned).collect());
                let era = seen.rsplit('-').next().unwrap_or_default();
                Ok(Progress { up_to, late: Some((read(&format!("{late}-{era}"))?, names)) })
            }),
            _ => return Err(TestCaseError::fail(format!("no id: {id}"))),
        }
        .map_err(|error| TestCaseError::fail(error.to_string()))
    }
}

/// How many of the events a client has seen, by the last id that it got.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) up_to: usize,
    /// On these names, given by their hashes, or on all, the client was catching up and has seen only this many.
    pub(crate) late: Option<(usize, Option<Vec<String>>)>,
}

impl Progress {
    /// The progress for a client with these subscriptions. Events of other names that it was catching up on may come by
    /// another name.
    pub(crate) fn for_names(mut self, names: impl Iterator<Item = &'static str>) -> Self {
        let known: Vec<String> = names.map(hash).collect();
        if let Some((_, late)) = &mut self.late {
            *late = late.take().filter(|late| late.iter().all(|name| known.contains(name)));
        }
        self
    }

    pub(crate) fn of(&self, name: &str) -> usize {
        match &self.late {
            Some((late, _)) if self.catches_up(name) => *late,
            _ => self.up_to,
        }
    }

    pub(crate) fn catches_up(&self, name: &str) -> bool {
        self.late.as_ref().is_some_and(|(_, names)| names.as_ref().is_none_or(|names| names.contains(&hash(name))))
    }
}

/// FNV-1a. Ids contain the hashes of names.
fn hash(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}
