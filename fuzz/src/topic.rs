//! Topics and patterns: any name is refused or works, each event reaches the clients that it is for, and nothing is
//! left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tower_sse::{
    ClientHandle, CloseReason, Event, Events, Producer, ProducerError, PublishError, Registry, RegistryConfig,
    SubscribeError, Subscription, TopicError, TopicState,
};

use super::{
    input::Input,
    polled::{assert_quotes, ready},
};

const CLIENTS: usize = 3;
const SUBSCRIPTIONS: usize = 4;
const STEPS: usize = 64;

fn name(input: &mut Input<'_>) -> String {
    const SEGMENTS: [&str; 12] = ["a", "b", "*", "**", "a", "b", "*", "é", "", "$x", "a*", "\n"];
    match input.below(8) {
        0 => input.text(),
        1 => "x/".repeat(120 + input.below(10)) + &input.text(),
        segments => {
            let segments: Vec<&str> = (0..=segments / 3).map(|_| SEGMENTS[input.below(SEGMENTS.len())]).collect();
            segments.join("/")
        }
    }
}

fn is_plain(name: &str) -> bool {
    let is_segment = |segment: &str| !segment.is_empty() && !segment.chars().any(|it| it.is_control() || it == '*');
    name.len() <= 256 && !name.starts_with('$') && name.split('/').all(is_segment)
}

fn is_pattern(name: &str) -> bool {
    // A pattern becomes a topic's name when its wildcards are replaced by words.
    let segments: Vec<&str> = name.split('/').collect();
    let word = |(at, segment): (usize, &&str)| match *segment {
        "*" => "x".to_owned(),
        "**" if at + 1 == segments.len() => "xx".to_owned(),
        other => other.to_owned(),
    };
    is_plain(&segments.iter().enumerate().map(word).collect::<Vec<_>>().join("/"))
}

fn matches(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) => true,
        (["**"], [_, ..]) => true,
        ([first, pattern @ ..], [segment, topic @ ..]) => {
            (*first == "*" || first == segment) && matches(pattern, topic)
        }
        _ => false,
    }
}

fn is_for(name: &str, topic: &str) -> bool {
    matches(&name.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
}

fn assert_refused(error: &TopicError, name: &str) {
    assert_eq!(error.name(), name);
    if !name.is_empty() {
        assert_quotes(error, name);
    }
}

/// A client, and the events that it must get.
struct Reader {
    handle: ClientHandle,
    events: Events,
    names: BTreeSet<String>,
    /// For each subscription, how many events had been published before it.
    since: BTreeMap<String, usize>,
    /// The numbers of the events that must come.
    awaited: BTreeSet<usize>,
    is_over: bool,
    /// The close reason, if the client ends with the topics that it has read to their ends.
    reason: CloseReason,
}

struct World {
    registry: Registry,
    readers: Vec<Reader>,
    /// The number of events of each topic.
    topics: BTreeMap<String, usize>,
    producers: BTreeMap<String, Producer>,
    ended: BTreeMap<String, TopicState>,
    /// The event of each unfinished topic that reports this. Every reader must get it.
    last_words: BTreeMap<String, usize>,
    published: Vec<(String, String)>,
    has_produced: bool,
}

impl Reader {
    fn new(registry: &Registry) -> Self {
        let handle = registry.connect();
        let events = handle.clone().into_events();
        let (names, since, awaited) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { handle, events, names, since, awaited, is_over: false, reason: CloseReason::TopicsEnded }
    }

    /// `last_word` is the event that reports that the topic was not finished.
    fn subscribe(&mut self, name: &str, may_be_pattern: bool, last_word: Option<usize>, published: usize) {
        let subscription = if may_be_pattern { Subscription::matching(name) } else { Subscription::to(name) };
        let is_valid = if may_be_pattern { is_pattern(name) } else { is_plain(name) };
        match self.handle.subscribe(subscription) {
            Ok(()) => {
                assert!(is_valid && !self.is_over, "{name:?}");
                if self.names.insert(name.to_owned()) {
                    // An event that the client gets or will get by another subscription does not come again.
                    let has = |other: &String, last: usize| {
                        other != name
                            && is_for(other, name)
                            && self.since.get(other).is_some_and(|since| *since <= last)
                    };
                    let last_word = last_word.filter(|last| !self.names.iter().any(|other| has(other, *last)));
                    self.awaited.extend(last_word);
                    self.since.insert(name.to_owned(), published);
                }
            }
            Err(SubscribeError::Topic(error)) => {
                assert!(!is_valid, "{error}");
                assert_refused(&error, name);
            }
            Err(SubscribeError::TooManySubscriptions { limit }) => {
                assert_eq!((limit, self.names.len()), (SUBSCRIPTIONS, SUBSCRIPTIONS));
                assert!(is_valid && !self.names.contains(name));
            }
            Err(SubscribeError::StreamEnded { reason }) => {
                assert!(is_valid && self.is_over && reason == self.reason, "{reason}");
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(BTreeSet::from_iter(self.handle.subscriptions()), self.names);
    }

    fn unsubscribe(&mut self, name: &str) {
        assert_eq!(self.handle.unsubscribe(name), self.names.remove(name), "{name:?}");
    }

    fn read(&mut self, ended: &BTreeMap<String, TopicState>, published: &[(String, String)]) {
        let deliveries = ready(&mut self.events).into_iter().map(|delivery| {
            let delivery = delivery.expect("no event is evicted");
            (delivery.topic().to_owned(), delivery.data().unwrap().into_owned())
        });
        let awaited = mem::take(&mut self.awaited).into_iter().map(|number| published[number].clone());
        assert_eq!(deliveries.collect::<Vec<_>>(), awaited.collect::<Vec<_>>());
        let before = self.names.len();
        let ends: Vec<_> = self.names.iter().filter_map(|name| ended.get(name)).collect();
        if ends.contains(&&TopicState::Failed) {
            self.reason = CloseReason::TopicFailed;
        } else if ends.contains(&&TopicState::Cancelled) && self.reason == CloseReason::TopicsEnded {
            self.reason = CloseReason::TopicCancelled;
        }
        self.names.retain(|name| !ended.contains_key(name));
        // A client ends with the last of its topics.
        self.is_over |= self.names.is_empty() && before > 0;
    }
}

impl World {
    fn new() -> Self {
        let config = RegistryConfig::default().subscriptions_per_client(SUBSCRIPTIONS);
        let registry = Registry::with_config(config.presence_grace(std::time::Duration::ZERO));
        Self {
            readers: (0..CLIENTS).map(|_| Reader::new(&registry)).collect(),
            registry,
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            ended: BTreeMap::new(),
            last_words: BTreeMap::new(),
            published: Vec::new(),
            has_produced: false,
        }
    }

    fn publish(&mut self, name: &str, by_producer: bool) {
        let data = format!("{} {name}", self.published.len());
        let producer = self.producers.get(name).filter(|_| by_producer);
        let receipt = match producer {
            Some(producer) => producer.publish(Event::data(&data)),
            None => self.registry.publish(name, Event::data(&data)),
        };
        match receipt {
            Ok(receipt) => {
                assert!(is_plain(name) && !self.ended.contains_key(name), "{name:?}");
                assert_eq!(receipt.subscribers(), self.note_published(name, data), "{name:?}");
            }
            Err(PublishError::Topic(error)) => {
                assert!(!is_plain(name), "{error}");
                assert_refused(&error, name);
            }
            Err(PublishError::Ended { topic }) => assert!(topic == name && self.ended.contains_key(name), "{topic:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns the number of subscriptions that the event is for.
    fn note_published(&mut self, name: &str, data: String) -> usize {
        let (number, mut clients) = (self.published.len(), 0);
        for reader in &mut self.readers {
            let subscriptions = reader.names.iter().filter(|known| is_for(known, name)).count();
            clients += subscriptions;
            reader.awaited.extend((subscriptions > 0).then_some(number));
        }
        *self.topics.entry(name.to_owned()).or_default() += 1;
        // The data as it arrives.
        self.published.push((name.to_owned(), data));
        clients
    }

    fn produce(&mut self, name: &str, takes_over: bool) {
        let result = if takes_over { self.registry.replace_producer(name) } else { self.registry.start_producer(name) };
        let is_busy = self.producers.contains_key(name);
        match result {
            Ok(producer) => {
                assert!(is_plain(name) && (takes_over || !is_busy), "{name:?}");
                assert_eq!(producer.topic(), name);
                let old = self.producers.insert(name.to_owned(), producer);
                if let Some(old) = old {
                    assert!(
                        matches!(old.publish(Event::data("")), Err(PublishError::Replaced { topic }) if topic == name)
                    );
                }
                self.ended.remove(name);
                self.last_words.remove(name);
                self.has_produced = true;
            }
            Err(ProducerError::Topic(error)) => {
                assert!(!is_plain(name), "{error}");
                assert_refused(&error, name);
            }
            Err(ProducerError::Busy { topic }) => assert!(topic == name && is_busy && !takes_over),
            Err(error) => panic!("{error}"),
        }
    }

    fn end(&mut self, name: &str, how: TopicState) {
        if how == TopicState::Cancelled {
            assert_eq!(self.registry.cancel_producer(name), self.producers.contains_key(name), "{name:?}");
        }
        let Some(producer) = self.producers.remove(name) else { return };
        match how {
            TopicState::Cancelled => assert!(
                matches!(producer.publish(Event::data("")), Err(PublishError::Cancelled { topic }) if topic == name)
            ),
            TopicState::Failed => drop(producer),
            _ => producer.end(),
        }
        if how != TopicState::Ended {
            self.last_words.insert(name.to_owned(), self.published.len());
            self.note_published(name, serde_json::json!({ "topic": name }).to_string());
        }
        self.ended.insert(name.to_owned(), how);
    }

    fn expect_state(&self, name: &str) {
        let is_there = self.topics.contains_key(name) || self.readers.iter().any(|reader| reader.names.contains(name));
        let expected = match (self.producers.contains_key(name), self.ended.get(name)) {
            (true, _) => Some(TopicState::Producing),
            (false, Some(how)) => Some(*how),
            (false, None) => (is_there && is_plain(name)).then_some(TopicState::Open),
        };
        assert_eq!(self.registry.topic_state(name), expected, "{name:?}");
    }

    fn expect_presence(&self, name: &str) {
        match self.registry.presence(name) {
            Ok(presence) => {
                assert!(is_pattern(name) && presence.name() == name, "{name:?}");
                let mut expected: Vec<_> = self.readers.iter().filter(|reader| reader.names.contains(name)).collect();
                assert_eq!(presence.count(), expected.len(), "{name:?}");
                let mut ids: Vec<_> = presence.members().iter().flat_map(|member| member.clients().to_vec()).collect();
                ids.sort_unstable();
                expected.sort_unstable_by_key(|reader| reader.handle.id());
                assert_eq!(ids, expected.iter().map(|reader| reader.handle.id()).collect::<Vec<_>>());
            }
            Err(error) => {
                assert!(!is_pattern(name), "{error}");
                assert_refused(&error, name);
            }
        }
    }

    fn expect_stats(&self) {
        let stats = self.registry.stats();
        let mut topics: BTreeSet<&String> =
            self.topics.keys().chain(self.producers.keys()).chain(self.ended.keys()).collect();
        topics.extend(self.readers.iter().flat_map(|reader| &reader.names).filter(|name| is_plain(name)));
        assert_eq!(stats.topics, topics.len());
        assert_eq!(stats.subscriptions, self.readers.iter().map(|reader| reader.names.len()).sum::<usize>());
        assert_eq!((stats.events, stats.published), (self.published.len(), self.published.len() as u64));
        assert_eq!(stats.clients, self.readers.iter().filter(|reader| !reader.is_over).count());
    }

    /// All clients have been dropped: only the published events are left.
    fn expect_nothing_else_to_be_left(mut self) {
        self.readers.clear();
        let producers: Vec<String> = self.producers.keys().cloned().collect();
        producers.iter().for_each(|name| self.end(name, TopicState::Failed));
        self.expect_stats();
        if self.has_produced {
            return;
        }
        let alone = Registry::new();
        for (name, data) in &self.published {
            alone.publish(name, Event::data(data)).unwrap();
        }
        assert_eq!(self.registry.stats().bytes, alone.stats().bytes, "memory is used for something that no client has");
    }
}

/// `data` encodes the operations and their names.
pub fn check(data: &[u8]) {
    // The clock stands still, so that positions have the same length in every registry.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let mut input = Input::new(data);
    let mut world = World::new();
    let mut steps = 0;
    while !input.is_empty() && steps < STEPS {
        steps += 1;
        let (step, client) = (input.below(16), input.below(CLIENTS));
        let name = name(&mut input);
        let reader = &mut world.readers[client];
        match step {
            0..4 => {
                let last_word = world.last_words.get(&name).copied();
                reader.subscribe(&name, step < 3, last_word, world.published.len());
            }
            4 => {
                // Unread events would not come after the unsubscribe.
                reader.read(&world.ended, &world.published);
                reader.unsubscribe(&name);
            }
            5 => reader.read(&world.ended, &world.published),
            6 => world.expect_presence(&name),
            7 => world.produce(&name, false),
            8 => world.produce(&name, true),
            9 => world.end(&name, TopicState::Cancelled),
            // Chosen by an even number of steps, so that old inputs in the corpus still reach the same states.
            10 => world.end(&name, if steps % 2 == 0 { TopicState::Ended } else { TopicState::Failed }),
            11 => world.expect_state(&name),
            12 => world.publish(&name, true),
            _ => world.publish(&name, false),
        }
        world.expect_stats();
    }
    let World { readers, ended, published, .. } = &mut world;
    readers.iter_mut().for_each(|reader| reader.read(ended, published));
    world.expect_stats();
    world.expect_nothing_else_to_be_left();
}
