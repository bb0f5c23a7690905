//! Counts the work under the registry's locks, so that tests can bound it in steps instead of time.

/// Counts one turn of a loop under the registry's locks, in unit tests only.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(test)]
    STEPS.set(STEPS.get() + 1);
}

#[cfg(test)]
std::thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        collections::{BTreeMap, VecDeque},
        pin::Pin,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use futures_core::Stream;
    use tokio::time::advance;

    use super::*;
    use crate::{
        ClientHandle, Event, Events, Producer, Registry, RegistryConfig, Retention, Start, Subscription, TopicState,
        sync::lock,
        topics::{Deferred, Kept, ending::AT_A_TIME, shared_log::ByName},
    };

    /// The most steps of one call: to forget as much as one call forgets, and to evict as much as it adds.
    const MOST: usize = AT_A_TIME + 8;

    fn steps<T>(act: impl FnOnce() -> T) -> (T, usize) {
        let before = STEPS.get();
        let result = act();
        (result, STEPS.get() - before)
    }

    /// Publishes an event, in at most `most` steps.
    fn publish(registry: &Registry, topic: &str, most: usize) {
        let (result, steps) = steps(|| registry.publish(topic, Event::data("x")));
        result.unwrap();
        assert!(steps <= most, "{steps} steps to publish on {topic}");
    }

    fn with(budget: usize) -> RegistryConfig {
        let bytes = Retention::default().bytes(budget);
        RegistryConfig::default().total_retention(bytes).topic_retention(bytes).subscriptions_per_client(usize::MAX)
    }

    /// Returns how many events of a topic are retained.
    fn retained(registry: &Registry, topic: &str) -> usize {
        let mut deferred = Deferred::default();
        let order = registry.shared.topics.order(&mut deferred);
        order.topic(topic).map_or(0, |topic| lock(&topic.state).log.len())
    }

    fn produced(registry: &Registry, number: usize) -> Vec<Producer> {
        (0..number).map(|number| registry.start_producer(format!("answer/{number}")).unwrap()).collect()
    }

    /// Returns a client that is subscribed to the topics of so many producers and does not read.
    fn reader(registry: &Registry, number: usize) -> ClientHandle {
        let client = registry.connect();
        (0..number).for_each(|number| client.subscribe(format!("answer/{number}")).unwrap());
        client
    }

    #[tokio::test(start_paused = true)]
    async fn ended_topics_with_readers_are_checked_once() {
        const TOPICS: usize = 4000;
        let config = with(64 << 20).ended_topic_ttl(Duration::ZERO);
        let registry = Registry::with_config(config);
        let producers = produced(&registry, TOPICS);
        let reader = reader(&registry, TOPICS);
        producers.into_iter().for_each(Producer::end);
        advance(Duration::from_secs(1)).await;
        let (_, all) = steps(|| (0..TOPICS / AT_A_TIME + 1).for_each(|_| publish(&registry, "t", MOST)));
        assert!(all <= TOPICS + 100, "{all} steps");
        let (_, all) = steps(|| (0..100).for_each(|_| publish(&registry, "t", 0)));
        assert_eq!(all, 0, "the topics are not checked again");
        assert_eq!(registry.topic_state("answer/7"), Some(TopicState::Ended), "its reader still gets to its end");
        drop(reader);
        assert_eq!((registry.topic_state("answer/7"), registry.stats().topics), (None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn topics_that_are_due_are_forgotten_in_small_steps() {
        const TOPICS: usize = 1000;
        let registry = Registry::with_config(with(64 << 20));
        for producer in produced(&registry, TOPICS) {
            (0..50).for_each(|_| _ = producer.publish(Event::data("x")).unwrap());
            producer.end();
        }
        advance(Duration::from_secs(301)).await;
        let pieces = TOPICS * 51 / AT_A_TIME + 1;
        (0..pieces).for_each(|_| publish(&registry, "t", MOST));
        let stats = registry.stats();
        assert_eq!((stats.topics, stats.events), (1, pieces));
    }

    #[tokio::test(start_paused = true)]
    async fn short_answers_do_not_evict_newer_events() {
        const BUDGET: usize = 1 << 20;
        let registry = Registry::with_config(with(BUDGET));
        let mut topics = 0;
        for number in 0..20_000 {
            let (producer, few) = steps(|| registry.start_producer(format!("answer/{number}")).unwrap());
            let (_, some) = steps(|| _ = producer.publish(Event::data("x")).unwrap());
            let (_, more) = steps(|| producer.end());
            assert!(few + some + more <= 3 * MOST, "{few}, {some}, {more}");
            if number % 10 == 0 {
                publish(&registry, "t", MOST);
            }
            let stats = registry.stats();
            assert!(stats.bytes <= BUDGET, "{stats:?}");
            topics = stats.topics;
        }
        // Each topic takes about 1,200 bytes.
        assert!(topics > 700 && retained(&registry, "t") > 70, "{topics}, {}", retained(&registry, "t"));
    }

    #[tokio::test(start_paused = true)]
    async fn open_producers_evict_no_events() {
        const BUDGET: usize = 1 << 20;
        let registry = Registry::with_config(with(BUDGET));
        (0..1000).for_each(|_| publish(&registry, "t", MOST));
        let before = registry.stats();
        let producers = produced(&registry, 5000);
        (0..10).for_each(|_| publish(&registry, "t", MOST));
        assert_eq!((registry.stats().events, retained(&registry, "t")), (1010, 1010));
        // An ended topic counts as retained, and is evicted before newer events.
        producers.into_iter().for_each(Producer::end);
        (0..1000).for_each(|_| publish(&registry, "t", MOST));
        let stats = registry.stats();
        assert!(stats.bytes <= BUDGET && stats.bytes > before.bytes, "{stats:?}");
        assert!(retained(&registry, "t") >= 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_of_many_ended_topics_cost_a_publisher_nothing() {
        const BUDGET: usize = 64 << 10;
        let registry = Registry::with_config(with(BUDGET));
        let producers = produced(&registry, 2000);
        let first = reader(&registry, 2000);
        producers.into_iter().for_each(Producer::end);
        let (_, all) = steps(|| (0..10_000).for_each(|_| publish(&registry, "t", MOST)));
        assert!(all <= 2000 + 10_000 * 2, "{all} steps");
        assert!(registry.stats().bytes <= BUDGET && retained(&registry, "t") > 100);
        // The names now count as retained.
        drop(first);
        let stats = registry.stats();
        assert!(stats.bytes <= BUDGET && stats.topics < 100, "{stats:?}");
        publish(&registry, "t", MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_many_topics_keeps_the_budget() {
        const BUDGET: usize = 256 << 10;
        let registry = Registry::with_config(with(BUDGET));
        let client = registry.connect();
        (0..1000).for_each(|number| client.subscribe(format!("room/{number}")).unwrap());
        (0..1000).for_each(|number| publish(&registry, &format!("room/{number}"), MOST));
        for number in 0..1000 {
            let (_, few) = steps(|| client.unsubscribe(format!("room/{number}")));
            assert!(few <= MOST && registry.stats().bytes <= BUDGET);
        }
        publish(&registry, "t", MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_topic_can_end_again() {
        let registry = Registry::with_config(with(1 << 20));
        for _ in 0..3 {
            registry.start_producer("a").unwrap().end();
            advance(Duration::from_secs(299)).await;
            publish(&registry, "t", MOST);
            assert_eq!(registry.topic_state("a"), Some(TopicState::Ended));
        }
        let producer = registry.start_producer("a").unwrap();
        advance(Duration::from_secs(400)).await;
        publish(&registry, "t", MOST);
        assert_eq!(registry.topic_state("a"), Some(TopicState::Producing));
        producer.end();
        advance(Duration::from_secs(400)).await;
        assert_eq!(registry.topic_state("a"), None);
    }

    /// Returns patterns that all match a topic of so many segments.
    fn patterns(segments: usize, number: usize) -> impl Iterator<Item = String> {
        (1..=number).map(move |number| {
            let segment = |at| if number >> at & 1 == 0 { "s" } else { "*" };
            (0..segments).map(segment).collect::<Vec<_>>().join("/")
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_maximum_of_patterns_delays_no_publisher_and_evicts_no_others_events() {
        let registry =
            Registry::with_config(RegistryConfig::default().total_retention(Retention::default().bytes(8 << 20)));
        let topic = ["s"; 14].join("/");
        let mut all = patterns(14, 160);
        let clients: Vec<ClientHandle> = (0..10).map(|_| registry.connect()).collect();
        for client in &clients {
            all.by_ref().take(16).for_each(|name| client.subscribe(Subscription::matching(name)).unwrap());
            assert!(client.subscribe(Subscription::matching("**")).is_err());
        }
        (0..1000).for_each(|_| publish(&registry, "others", 1));
        // One step for each pattern, one to free its oldest row, and the same again when the topic's oldest event is
        // evicted.
        (0..10_000).for_each(|_| publish(&registry, &topic, 160 * 2 + 4));
        let stats = registry.stats();
        assert_eq!(retained(&registry, "others"), 1000, "{stats:?}");
        assert!(retained(&registry, &topic) > 5000, "{}", retained(&registry, &topic));
        // Similar patterns have the same share, and their retained events can be read.
        let mut events = clients[0].clone().into_events();
        let next = Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(next, Poll::Ready(Some(Err(_)))), "the client has lost the oldest event");
        let next = Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(next, Poll::Ready(Some(Ok(_)))));
        drop((events, clients));
        assert_eq!(retained(&registry, "others"), 1000);
        drop(registry.connect());
        check(&registry);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pattern_that_matches_everything_takes_only_its_share() {
        const BUDGET: usize = 1 << 20;
        let registry = Registry::with_config(with(BUDGET).patterns_per_client(1000));
        (0..10_000).for_each(|number| publish(&registry, &format!("a/{}", number % 100), MOST));
        let events = registry.stats().events;
        let client = registry.connect();
        for name in patterns(2, 4).map(|name| name.replace('s', "a")).chain(["**".into(), "a/**".into()]) {
            let oldest = Subscription::matching(name).from(Start::Oldest);
            client.subscribe(oldest).unwrap();
            check(&registry);
        }
        let few = registry.stats().events;
        // Three quarters of what is left without the names of the topics.
        assert!(few > events / 10 * 7, "{few} of {events}");
    }

    /// Checks that the registry's counts are correct.
    fn check(registry: &Registry) {
        let mut deferred = Deferred::default();
        let order = registry.shared.topics.order(&mut deferred);
        let (mut cost, mut events, mut ended) = (0, 0, 0);
        let mut patterns = BTreeMap::new();
        for ByName(topic) in &order.topics {
            let state = lock(&topic.state);
            let is_ending = matches!(state.kept, Some(Kept::Ending(_)));
            assert!(state.is_held() || is_ending || !state.log.is_empty(), "{} is kept without a reason", topic.name());
            assert_eq!(state.kept.is_some(), topic.has_ended());
            cost += state.log.cost() + if state.is_held() { 0 } else { topic.cost() };
            events += state.log.len();
            ended += usize::from(is_ending);
            patterns.extend(state.patterns.iter().map(|pattern| (pattern.id(), Arc::clone(pattern))));
        }
        let rows: usize = patterns.values().map(|pattern| lock(&pattern.state).log.cost()).sum();
        let few = patterns.len() * 64 * 80;
        assert!(rows == order.rows && rows <= registry.shared.topics.settings.total_retention.bytes / 4 + few);
        cost += rows;
        assert_eq!((order.cost, order.eviction_queue.len(), order.ended.len()), (cost, events, ended));
        assert!(order.cost <= registry.shared.topics.settings.total_retention.bytes);
    }

    /// A stress test with short and long answers, readers that stay and that leave, patterns and floods.
    ///
    /// It runs for `TOWER_SSE_STRESS_SECONDS` (default: one second) with the seed `TOWER_SSE_STRESS_SEED` (default: the
    /// time of day).
    #[tokio::test(start_paused = true)]
    async fn a_mix_of_everything_delays_no_publisher_and_evicts_no_new_events() {
        const BUDGET: usize = 4 << 20;
        const PATTERNS: usize = 64;
        let number = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().expect(name));
        let seconds = number("TOWER_SSE_STRESS_SECONDS").unwrap_or(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut seed = number("TOWER_SSE_STRESS_SEED").unwrap_or(now.as_nanos() as u64);
        println!("TOWER_SSE_STRESS_SEED={seed} TOWER_SSE_STRESS_SECONDS={seconds}");
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 33) % below
        };
        let retention = Retention::default().bytes(BUDGET);
        let config = RegistryConfig::default().total_retention(retention).ended_topic_ttl(Duration::from_secs(20));
        let registry = Registry::with_config(config.stalled_client_timeout(None));
        let mut producers = VecDeque::new();
        let mut clients: Vec<ClientHandle> = Vec::new();
        let mut readers: Vec<Events> = Vec::new();
        let (mut turns, mut most, mut least) = (0u64, 0, usize::MAX);
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) || turns < 10_000 {
            turns += 1;
            match random(12) {
                0..=2 => {
                    let producer = registry.start_producer(format!("answer/{turns}")).unwrap();
                    producer.publish(Event::data("token")).unwrap();
                    producers.push_back(producer);
                    let live = 1 + random(500) as usize;
                    while producers.len() > live {
                        producers.pop_front();
                    }
                }
                3 => {
                    let client = registry.connect();
                    for _ in 0..random(20) {
                        let topic = format!("answer/{}", turns - random(turns.min(2000)));
                        let start = [Start::Now, Start::Oldest, Start::Last(3)][random(3) as usize];
                        client.subscribe_from(topic, start).unwrap();
                    }
                    clients.push(client);
                }
                4 => {
                    let client = registry.connect();
                    for name in patterns(6, PATTERNS).skip(random(48) as usize).take(16) {
                        let start = [Start::Now, Start::Oldest][random(2) as usize];
                        client.subscribe(Subscription::matching(name).from(start)).unwrap();
                    }
                    readers.push(client.into_events());
                }
                5 if !clients.is_empty() => drop(clients.swap_remove(random(clients.len() as u64) as usize)),
                6 if readers.len() > 20 => drop(readers.swap_remove(random(readers.len() as u64) as usize)),
                7 => {
                    for events in &mut readers {
                        let _ = Pin::new(events).poll_next(&mut Context::from_waker(Waker::noop()));
                    }
                }
                8 => advance(Duration::from_millis(random(200))).await,
                _ => {
                    let topics = ["s/s/s/s/s/s".to_owned(), "s/s/s/s/s/x".into(), format!("flood/{}", random(5000))];
                    let event = Event::data("x".repeat(random(300) as usize));
                    let (_, few) = steps(|| registry.publish(&topics[random(3) as usize], event).unwrap());
                    // For each matching pattern: one row that is added and four that are evicted; and as many evictions
                    // as the event needs.
                    assert!(few <= MOST + PATTERNS * 6 + 80, "{few} steps");
                    most = most.max(few);
                }
            }
            clients.truncate(300);
            if turns % 64 == 0 {
                check(&registry);
                if turns > 5000 {
                    least = least.min(registry.stats().events);
                }
            }
        }
        println!("{turns} turns, at most {most} steps, at least {least} events, {:?}", registry.stats());
        // With its bookkeeping, an event takes less than 1 KiB.
        assert!(least > BUDGET / 2048, "{least} events were left");
        drop((clients, readers, producers));
        advance(Duration::from_secs(21)).await;
        for _ in 0..BUDGET / 256 {
            publish(&registry, "t", MOST + 80);
        }
        check(&registry);
    }
}
