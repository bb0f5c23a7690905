//! Subscriptions to patterns: which topics match, what comes once, what is resumed, and what they cost.

use tokio_test::{assert_pending, task};
use tower_sse::{
    ClientHandle, Event, Gap, ProducerError, PublishError, Registry, RegistryConfig, Resume, Retention,
    SlowClientPolicy, SseBody, Start, SubscribeError, Subscription,
};

use crate::{
    open::{Empty, open},
    polling::{bounded, data, fields, frame, next, position, publish, quiet, received, retaining, subscribed, text},
};

/// Resumes from this id. Returns the result and the stream.
fn resumed(registry: &Registry, id: &str, names: &[&str]) -> (Resume, SseBody<Empty>) {
    let (client, body) = open(&quiet(registry), Some(id), |client| {
        names.iter().for_each(|name| start(client, name, Start::Now));
    });
    (client.resume(), body)
}

/// Opens a stream with these subscriptions.
fn reading(registry: &Registry, names: &[&str]) -> (ClientHandle, SseBody<Empty>) {
    open(&quiet(registry), None, |client| names.iter().for_each(|name| start(client, name, Start::Now)))
}

/// Subscribes to a topic or a pattern.
fn start(client: &ClientHandle, name: &str, at: Start) {
    client.subscribe(Subscription::matching(name).from(at)).unwrap();
}

/// The events that are ready for a client that subscribes now.
fn from(registry: &Registry, name: &str, at: Start) -> Vec<String> {
    let client = registry.connect();
    start(&client, name, at);
    data(&mut client.into_events())
}

#[test]
fn a_single_wildcard_matches_one_segment_and_a_double_one_several() {
    bounded(|| {
        let registry = Registry::new();
        let mut one = subscribed(&registry, ["prices/*"]).into_events();
        let mut rest = subscribed(&registry, ["orders/**"]).into_events();
        let mut inner = subscribed(&registry, ["*/1/items"]).into_events();
        let mut all = subscribed(&registry, ["**"]).into_events();
        let topics = ["prices", "prices/a", "prices/a/b", "orders", "orders/1", "orders/1/items"];
        topics.iter().for_each(|topic| publish(&registry, topic, topic));
        assert_eq!(data(&mut one), ["prices/a"]);
        assert_eq!(data(&mut rest), ["orders/1", "orders/1/items"]);
        assert_eq!(data(&mut inner), ["orders/1/items"]);
        assert_eq!(data(&mut all), topics);
    });
}

#[test]
fn a_new_topics_first_event_wakes_the_subscriber() {
    let registry = Registry::new();
    let mut events = task::spawn(subscribed(&registry, ["prices/*"]).into_events());
    assert_pending!(events.poll_next());
    publish(&registry, "elsewhere/a", "not for it");
    assert!(!events.is_woken());
    let position = position(&registry, "prices/new", "1");
    assert!(events.is_woken());
    let event = next(&mut events.into_inner()).unwrap().unwrap();
    assert_eq!((event.topic(), event.position(), event.data().as_deref()), ("prices/new", position, Some("1")));
}

#[test]
fn events_of_patterns_and_topics_are_sent_in_position_order() {
    let registry = Registry::new();
    let (_, mut body) = reading(&registry, &["a/*", "b", "c/**"]);
    let topics = ["c/1", "a/1", "b", "a/2", "c/1/x", "b", "a/1"];
    topics.iter().for_each(|topic| publish(&registry, topic, topic));
    assert_eq!(received(&mut body), topics);
}

#[test]
fn an_event_that_several_subscriptions_match_comes_once() {
    for names in [["a/1", "a/*", "**"], ["**", "a/1", "a/*"], ["a/*", "**", "a/1"]] {
        let registry = Registry::new();
        let (client, mut body) = reading(&registry, &[names[0]]);
        publish(&registry, "a/1", "0");
        assert_eq!(received(&mut body), ["0"]);
        start(&client, names[1], Start::Now);
        publish(&registry, "a/1", "1");
        start(&client, names[2], Start::Now);
        publish(&registry, "a/1", "2");
        assert_eq!(received(&mut body), ["1", "2"], "{names:?}");
        publish(&registry, "a/1", "3");
        assert_eq!(received(&mut body), ["3"], "{names:?}");
    }
}

#[test]
fn an_event_does_not_come_again_when_another_subscription_catches_up() {
    for (first, second) in [("a/1", "a/*"), ("a/*", "a/1"), ("a/*", "**")] {
        let registry = Registry::new();
        publish(&registry, "a/1", "before");
        let (client, mut body) = reading(&registry, &[first]);
        publish(&registry, "a/1", "given");
        assert_eq!(received(&mut body), ["given"]);
        publish(&registry, "a/1", "pending");
        start(&client, second, Start::Oldest);
        let mut all = received(&mut body);
        all.sort_unstable();
        assert_eq!(all, ["before", "pending"], "{first} then {second}");
        publish(&registry, "a/1", "next");
        assert_eq!(received(&mut body), ["next"], "{first} then {second}");
    }
}

#[test]
fn a_client_that_starts_now_gets_no_older_events_of_another_client() {
    let registry = Registry::new();
    ["a/1", "a/2"].iter().for_each(|topic| publish(&registry, topic, "old"));
    let mut now = subscribed(&registry, ["a/*"]).into_events();
    assert_eq!(from(&registry, "a/*", Start::Oldest), ["old", "old"]);
    let oldest = registry.connect();
    start(&oldest, "a/*", Start::Oldest);
    publish(&registry, "a/1", "new");
    assert_eq!(data(&mut now), ["new"]);
    assert_eq!(data(&mut oldest.into_events()), ["old", "old", "new"]);
}

#[test]
fn a_pattern_starts_at_its_subscriptions_start() {
    let registry = Registry::new();
    let topics = ["a/1", "b", "a/2", "a/1", "a/3"];
    let positions: Vec<_> =
        topics.iter().zip(0..).map(|(topic, at)| position(&registry, topic, &at.to_string())).collect();
    let from = |start| from(&registry, "a/*", start).concat();
    // Without other subscribers, and with one that has read the pattern since before.
    let mut others = Vec::new();
    for _ in 0..2 {
        assert_eq!(from(Start::Now), "");
        assert_eq!(from(Start::Oldest), "0234");
        assert_eq!(from(Start::Last(2)), "34");
        assert_eq!(from(Start::Last(0)), "");
        assert_eq!(from(Start::Last(usize::MAX)), "0234");
        assert_eq!(from(Start::After(positions[1])), "234");
        assert_eq!(from(Start::After(positions[4])), "");
        others.push(subscribed(&registry, ["a/*"]));
    }
}

#[test]
fn a_new_subscriber_reads_retained_events_without_waiting() {
    let registry = Registry::new();
    publish(&registry, "a/1", "1");
    let (_, mut body) = open(&quiet(&registry), None, |client| start(client, "a/*", Start::Oldest));
    assert_eq!(received(&mut body), ["1"]);
}

#[test]
fn a_resumed_pattern_sends_exactly_the_missed_events() {
    let registry = Registry::new();
    let (_, mut body) = reading(&registry, &["a/**"]);
    publish(&registry, "a/1", "seen");
    let id = fields(&text(&mut body), "id")[0].to_owned();
    drop(body);
    // The second topic was created while the client was away.
    ["a/1", "a/new/topic", "b", "a/1"].iter().for_each(|topic| publish(&registry, topic, topic));
    let (resume, mut body) = resumed(&registry, &id, &["a/**"]);
    assert_eq!(
        (resume, received(&mut body)),
        (Resume::Continued, vec!["a/1".into(), "a/new/topic".into(), "a/1".into()])
    );
    publish(&registry, "a/2", "live");
    let live = text(&mut body);
    assert_eq!(fields(&live, "data"), ["live"]);
}

#[test]
fn a_resumed_client_gets_an_event_of_several_subscriptions_once() {
    let registry = Registry::new();
    let seen = position(&registry, "a/1", "seen");
    (0..3).for_each(|number| publish(&registry, "a/1", &number.to_string()));
    for names in [&["a/1", "a/*"][..], &["**", "a/1"], &["a/*", "a/1", "*/1"]] {
        let (resume, mut body) = resumed(&registry, &seen.to_string(), names);
        assert_eq!((resume, received(&mut body).concat()), (Resume::Continued, "012".into()), "{names:?}");
    }
}

#[test]
fn a_cut_while_a_pattern_catches_up_loses_and_repeats_no_event() {
    let registry = Registry::new();
    (0..3).for_each(|number| publish(&registry, &format!("late/{number}"), &number.to_string()));
    let (client, mut body) = reading(&registry, &["live"]);
    publish(&registry, "live", "seen");
    assert_eq!(received(&mut body), ["seen"]);
    start(&client, "late/*", Start::Oldest);
    let wire = text(&mut body);
    assert_eq!(fields(&wire, "data"), ["0", "1", "2"]);
    let (resume, mut body) = resumed(&registry, fields(&wire, "id")[0], &["live", "late/*"]);
    assert_eq!((resume, received(&mut body).concat()), (Resume::Continued, "12".into()));
}

#[test]
fn a_pattern_resumes_from_an_own_id() {
    let registry = Registry::new();
    for order in 1..4 {
        let event = Event::data(order.to_string()).id(format!("order-{order}")).unwrap();
        registry.publish(format!("orders/{order}"), event).unwrap();
    }
    let (resume, mut body) = resumed(&registry, "order-2", &["orders/*"]);
    assert_eq!((resume, received(&mut body)), (Resume::Continued, vec!["3".into()]));
}

#[test]
fn an_invalid_name_is_a_typed_error() {
    let registry = Registry::new();
    let client = registry.connect();
    for name in ["", "/", "a//b", "a*", "**/a", "a/**/b", "***", "$client/*", "$client/**", "a\n", &"x/".repeat(200)] {
        let refused = client.subscribe(Subscription::matching(name));
        assert!(matches!(&refused, Err(SubscribeError::Topic(error)) if error.name() == name), "{refused:?}");
    }
    for pattern in ["a/*", "**", "*"] {
        assert!(matches!(client.subscribe(pattern), Err(SubscribeError::Topic(error)) if error.name() == pattern));
        assert!(matches!(registry.publish(pattern, Event::data("")), Err(PublishError::Topic(_))));
        assert!(matches!(registry.start_producer(pattern), Err(ProducerError::Topic(_))));
        assert!(matches!(registry.replace_producer(pattern), Err(ProducerError::Topic(_))));
        assert_eq!((registry.topic_state(pattern), registry.cancel_producer(pattern)), (None, false));
    }
    assert_eq!((client.subscriptions(), registry.stats().refused_subscriptions), (vec![], 14));
    assert_eq!((registry.stats().topics, registry.stats().subscriptions, registry.stats().bytes), (0, 0, 0));
}

#[test]
fn an_event_sent_to_one_client_matches_no_pattern() {
    let registry = Registry::new();
    let target = registry.connect();
    target.send(Event::data("before")).unwrap();
    let mut sent = target.clone().into_events();
    let mut early = subscribed(&registry, ["**"]).into_events();
    let other = subscribed(&registry, ["*/*"]);
    start(&other, "**", Start::Oldest);
    let receipt = target.send(Event::data("secret")).unwrap();
    assert_eq!(receipt.subscribers(), 1);
    assert_eq!((data(&mut early), data(&mut other.into_events())), (vec![], vec![]));
    assert_eq!(data(&mut sent), ["before", "secret"]);
    let (client, mut body) = reading(&registry, &["**"]);
    client.send(Event::data("own")).unwrap();
    assert_eq!(received(&mut body), ["own"]);
}

#[test]
fn a_pattern_over_last_value_topics_starts_with_each_current_value() {
    let registry = retaining(1);
    let early = subscribed(&registry, ["state/*"]);
    ["a", "b", "a", "c", "b", "a"]
        .iter()
        .zip(1..)
        .for_each(|(topic, number)| publish(&registry, &format!("state/{topic}"), &format!("{topic}{number}")));
    assert_eq!(from(&registry, "state/*", Start::Oldest), ["c4", "b5", "a6"]);
    drop(early);
    assert_eq!(from(&registry, "state/*", Start::Oldest), ["c4", "b5", "a6"], "made anew");
}

#[test]
fn an_event_evicted_from_a_patterns_middle_is_a_gap_of_the_pattern() {
    let by_name = |topic: &str| Retention::default().events(if topic == "a/small" { 1 } else { 100 });
    let registry = Registry::with_config(RegistryConfig::default().topic_retention_by(by_name));
    let mut events = subscribed(&registry, ["a/*"]).into_events();
    publish(&registry, "a/big", "0");
    assert_eq!(data(&mut events), ["0"]);
    ["a/big", "a/small", "a/big", "a/small"]
        .iter()
        .zip(1..)
        .for_each(|(topic, number)| publish(&registry, topic, &number.to_string()));
    let gap: Gap = next(&mut events).unwrap().unwrap_err();
    assert_eq!(gap.topics(), ["a/*"]);
    assert_eq!(data(&mut events).concat(), "134");
    assert_eq!((registry.stats().missed, registry.stats().fell_behind, registry.stats().gaps), (1, 1, 1));
}

#[test]
fn events_lost_while_a_pattern_was_unused_are_a_gap_on_resume() {
    let registry = retaining(1);
    let seen = position(&registry, "a/1", "seen");
    let lost = position(&registry, "a/1", "lost");
    publish(&registry, "a/1", "kept");
    let (resume, mut body) = resumed(&registry, &seen.to_string(), &["a/*"]);
    assert!(matches!(resume, Resume::Gap(gap) if gap.topics() == ["a/*"] && gap.after() == seen.to_string()));
    assert!(text(&mut body).ends_with(&format!("data: kept\nid: {}\n\n", registry.position())));
    let (resume, mut body) = resumed(&registry, &lost.to_string(), &["a/*"]);
    assert_eq!((resume, received(&mut body)), (Resume::Continued, vec!["kept".into()]));
}

#[test]
fn events_evicted_with_their_topic_are_a_gap_on_resume() {
    let registry = Registry::with_config(RegistryConfig::default().total_retention(Retention::default().events(1)));
    let seen = position(&registry, "b", "seen");
    let lost = position(&registry, "a/1", "lost");
    publish(&registry, "b", "what made it go");
    assert_eq!(registry.stats().topics, 1, "the topic is forgotten");
    assert!(matches!(resumed(&registry, &seen.to_string(), &["a/*"]).0, Resume::Gap(_)));
    assert_eq!(resumed(&registry, &lost.to_string(), &["a/*"]).0, Resume::Continued);
    assert_eq!(resumed(&registry, &seen.to_string(), &["c/*"]).0, Resume::Continued, "this pattern lost no event");
}

#[test]
fn a_client_that_catches_up_skips_evicted_events_and_goes_on() {
    bounded(|| {
        let state = Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently);
        let registry = Registry::with_config(RegistryConfig::default().topic_retention(state));
        let large = "x".repeat(70_000);
        for (topic, data) in [("p/a", "a"), ("p/b", &large), ("p/c", &large), ("p/d", "d")] {
            publish(&registry, topic, data);
        }
        let (client, mut body) = reading(&registry, &["live"]);
        publish(&registry, "live", "seen");
        assert_eq!(received(&mut body), ["seen"]);
        start(&client, "p/*", Start::Oldest);
        assert!(frame(&mut body).unwrap().starts_with(b"data: a\n"));
        // The client's next event is evicted, as a newer one takes its place.
        ["p/b", "p/c"].iter().for_each(|topic| publish(&registry, topic, topic));
        assert_eq!(received(&mut body), ["d", "p/b", "p/c"]);
    });
}

#[test]
fn only_retained_events_count_as_delivered() {
    let registry = retaining(1);
    let keeper = subscribed(&registry, ["a/*"]);
    ["a/1", "a/2", "a/3", "a/2"].iter().for_each(|topic| publish(&registry, topic, topic));
    let (_, mut body) = open(&quiet(&registry), None, |client| start(client, "a/*", Start::Oldest));
    assert_eq!((received(&mut body).len(), registry.stats().delivered), (3, 3));
    drop(keeper);
}

#[test]
fn an_unsubscribe_from_a_pattern_keeps_the_topics_subscription() {
    let registry = Registry::new();
    let (client, mut body) = reading(&registry, &["a/*", "a/1"]);
    ["a/1", "a/2"].iter().for_each(|topic| publish(&registry, topic, topic));
    assert_eq!(received(&mut body), ["a/1", "a/2"]);
    publish(&registry, "a/2", "not sent yet");
    assert!(client.unsubscribe("a/*") && !client.unsubscribe("a/*"));
    assert_eq!(client.subscriptions(), ["a/1"]);
    ["a/1", "a/2", "a/3", "a/1"].iter().for_each(|topic| publish(&registry, topic, topic));
    assert_eq!(received(&mut body), ["a/1", "a/1"]);
    assert!(client.unsubscribe("a/1") && registry.stats().subscriptions == 0);
}

#[test]
fn the_receipt_counts_the_subscribers_of_patterns() {
    let registry = Registry::new();
    let clients =
        [&["a/1"][..], &["a/*"], &["a/*"], &["**"], &["b/*"]].map(|names| subscribed(&registry, names.to_vec()));
    let count = |topic| registry.publish(topic, Event::data("")).unwrap().subscribers();
    assert_eq!((count("a/1"), count("a/2")), (0, 0), "no client has a stream");
    let streams = clients.each_ref().map(|client| client.clone().into_events());
    assert_eq!((count("a/1"), count("a/2"), count("b/1"), count("c")), (4, 3, 2, 1));
    let [_, pattern, ..] = &clients;
    assert!(pattern.unsubscribe("a/*"));
    assert_eq!((count("a/1"), count("a/2")), (3, 2));
    pattern.subscribe(Subscription::matching("a/*")).unwrap();
    assert_eq!((count("a/1"), count("a/2")), (4, 3), "the client's stream is open");
    drop(streams);
    assert_eq!((count("a/1"), count("a/2")), (0, 0));
}

#[test]
fn a_patterns_memory_is_freed_with_its_last_subscriber() {
    let registry = Registry::new();
    let own_id = |number: usize| Event::data("x").id(format!("order-{number}")).unwrap();
    for number in 0..100 {
        registry.publish(format!("a/{}", number % 7), own_id(number)).unwrap();
    }
    let alone = registry.stats();
    let first = registry.connect();
    start(&first, "a/*", Start::Oldest);
    let with_one = registry.stats().bytes;
    assert!(with_one > alone.bytes);
    let second = registry.connect();
    start(&second, "a/*", Start::Oldest);
    assert_eq!(registry.stats().bytes, with_one, "the subscribers share the memory");
    drop(first);
    second.unsubscribe("a/*");
    let after = registry.stats();
    assert_eq!((after.bytes, after.topics, after.subscriptions), (alone.bytes, alone.topics, 0));
}

#[test]
fn the_budget_holds_with_many_patterns() {
    const BUDGET: usize = 256 << 10;
    let registry = Registry::with_config(RegistryConfig::default().total_retention(Retention::default().bytes(BUDGET)));
    let clients: Vec<ClientHandle> = (0..50)
        .map(|number| subscribed(&registry, [format!("t/{number}/**").as_str(), "t/*/x", "**", "*/*/*"]))
        .collect();
    for number in 0..5000 {
        publish(&registry, &format!("t/{}/x", number % 200), &"x".repeat(number % 300));
        assert!(registry.stats().bytes <= BUDGET);
        // A client reads another pattern over the same topics while the budget is used up.
        assert!(number % 500 > 0 || !from(&registry, "t/**", Start::Oldest).is_empty());
    }
    drop(clients);
    assert!(registry.stats().bytes <= BUDGET && registry.stats().subscriptions == 0);
    assert_eq!(from(&registry, "t/*/x", Start::Last(1)).len(), 1, "the newest event is still retained");
}
