//! The events that a pattern loses, and the ids that clients get then.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http_body::Body;
use tower_sse::{
    Delivery, Event, Events, Gap, Position, Registry, RegistryConfig, Resume, Retention, SlowClientPolicy, SseBody,
    Start, Subscription,
};

use crate::{
    open::{Empty, open},
    polling::{self, publish_id, quiet},
};

/// Reads until nothing is ready, in at most 100 polls.
fn text(body: &mut SseBody<Empty>) -> String {
    let mut text = String::new();
    for _ in 0..100 {
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }
    text
}

fn data(wire: &str) -> Vec<&str> {
    wire.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| &data[..data.len().min(3)]).collect()
}

fn ids(wire: &str) -> Vec<&str> {
    wire.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

fn with_retention(events: impl Fn(&str) -> usize + Send + Sync + 'static) -> Registry {
    let by_name = move |topic: &str| Retention::default().events(events(topic));
    Registry::with_config(RegistryConfig::default().topic_retention_by(by_name))
}

#[test]
fn a_gap_in_a_pattern_repeats_no_event() {
    let registry = with_retention(|topic| if topic == "a/1" { 1 } else { 100 });
    publish_id(&registry, "a/0", "1");
    let seen = publish_id(&registry, "a/0", "2");
    for data in ["lost", "3"] {
        publish_id(&registry, "a/1", data);
    }
    let (client, mut body) =
        open(&quiet(&registry), Some(&seen), |client| client.subscribe(Subscription::matching("a/*")).unwrap());
    assert!(matches!(client.resume(), Resume::Gap(_)));
    assert_eq!(data(&text(&mut body))[1..], ["3"]);
}

#[test]
fn a_pattern_reports_events_that_it_loses_out_of_order() {
    let registry = with_retention(|topic| if topic == "a/0" { 1 } else { 2 });
    let (_other, _held) =
        open(&quiet(&registry), None, |client| client.subscribe(Subscription::matching("a/*")).unwrap());
    for (topic, data) in [("a/1", "1"), ("a/1", "2"), ("a/0", "3"), ("a/0", "4")] {
        publish_id(&registry, topic, data);
    }
    let (_client, mut body) = open(&quiet(&registry), None, |client| {
        client.subscribe(Subscription::matching("a/*").from(Start::Oldest)).unwrap();
    });
    // Event 1 is evicted. It is older than 3, which was evicted before.
    publish_id(&registry, "a/1", "5");
    let wire = text(&mut body);
    assert!(wire.starts_with("event: gap\n"), "{wire}");
    assert_eq!(data(&wire)[1..], ["2", "4", "5"]);
}

#[test]
fn the_id_of_a_gap_never_moves_the_client_back() {
    let registry = Registry::with_config(RegistryConfig::default().total_retention(Retention::default().events(1)));
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("b").unwrap());
    let after = registry.publish("a", Event::data("1")).unwrap().position().unwrap();
    for (topic, data) in [("a", "2"), ("b", "3"), ("a", "4")] {
        publish_id(&registry, topic, data);
    }
    let first = text(&mut body);
    client.subscribe_from("a", Start::After(after)).unwrap();
    let second = text(&mut body);
    let ids: Vec<Position> =
        [&*first, &*second].iter().flat_map(|wire| ids(wire)).map(|id| id.parse().unwrap()).collect();
    assert!(ids.is_sorted(), "{first}{second}");
}

#[tokio::test(start_paused = true)]
async fn topics_whose_events_are_too_old_for_a_pattern_are_forgotten() {
    let age = Retention::default().age(Duration::from_secs(10));
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(age));
    for topic in 0..100 {
        registry.publish(format!("topic/{topic}"), Event::data("x")).unwrap();
    }
    tokio::time::advance(Duration::from_secs(20)).await;
    let client = registry.connect();
    client.subscribe(Subscription::matching("topic/*").from(Start::Oldest)).unwrap();
    drop(client);
    let stats = registry.stats();
    assert_eq!((stats.events, stats.topics, stats.bytes), (0, 0, 0));
}

/// A client that starts there is not told of the gap again.
#[test]
fn a_gap_has_the_position_to_go_on_from() {
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(Retention::default().events(1)));
    let client = registry.connect();
    client.subscribe("topic").unwrap();
    let mut events = client.into_events();
    for data in ["1", "2", "3"] {
        registry.publish("topic", Event::data(data)).unwrap();
    }
    let position = polling::next(&mut events).unwrap().unwrap_err().position().unwrap();
    let back = registry.connect();
    back.subscribe_from("topic", Start::After(position)).unwrap();
    assert_eq!(polling::data(&mut back.into_events()), ["3"]);
}

/// The data of the events that read_all, with `gap` for each gap, until the stream waits or ends.
fn read_all(events: &mut Events) -> Vec<String> {
    let name = |item: Result<Delivery, Gap>| item.map_or("gap".into(), |event| event.data().unwrap().into_owned());
    std::iter::from_fn(|| polling::next(events)).map(name).collect()
}

#[test]
fn an_event_sent_for_a_pattern_is_not_missing_on_its_topic() {
    for policy in
        [SlowClientPolicy::NotifyGap, SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_secs(1) }]
    {
        for (first, second) in [("a/*", "a/1"), ("**", "a/1"), ("**", "a/*"), ("a/**", "a/*")] {
            let kept = Retention::default().events(2).slow_client_policy(policy);
            let registry = Registry::with_config(RegistryConfig::default().topic_retention(kept));
            let client = registry.connect();
            client.subscribe(Subscription::matching(first)).unwrap();
            let mut events = client.clone().into_events();
            ["1", "2"].iter().for_each(|data| drop(publish_id(&registry, "a/1", data)));
            assert_eq!(read_all(&mut events), ["1", "2"]);
            client.subscribe(Subscription::matching(second).from(Start::Oldest)).unwrap();
            publish_id(&registry, "a/1", "3");
            assert_eq!(read_all(&mut events), ["3"], "{first} and {second}: the client already has the evicted events");
            ["4", "5", "6"].iter().for_each(|data| drop(publish_id(&registry, "a/1", data)));
            match policy {
                SlowClientPolicy::NotifyGap => {
                    assert_eq!(read_all(&mut events), ["gap", "5", "6"], "{first} and {second}");
                }
                _ => assert_eq!((read_all(&mut events), client.stats().missed > 0), (vec![], true)),
            }
        }
    }
}

#[test]
fn an_event_that_a_patterns_filter_refused_is_missing_on_its_topic() {
    let registry = with_retention(|_| 2);
    let client = registry.connect();
    client.subscribe(Subscription::matching("a/*").filter(|_, _| false)).unwrap();
    let mut events = client.clone().into_events();
    ["1", "2"].iter().for_each(|data| drop(publish_id(&registry, "a/1", data)));
    assert!(read_all(&mut events).is_empty());
    client.subscribe_from("a/1", Start::Oldest).unwrap();
    publish_id(&registry, "a/1", "3");
    assert_eq!(read_all(&mut events), ["gap", "2", "3"]);
}

/// While the client reads, another thread evicts events that one of its subscriptions has taken and another one has not
/// looked for yet.
#[test]
fn an_event_that_came_by_another_subscription_is_not_missing() {
    const EVENTS: u64 = 2000;
    polling::bounded(|| {
        for names in [["a/1", "*/1"], ["*/1", "a/1"], ["a/*", "*/1"]] {
            let registry = with_retention(|_| 3);
            let client = registry.connect();
            names.iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
            let mut events = client.into_events();
            let publisher = std::thread::spawn({
                let registry = registry.clone();
                move || {
                    for number in 0..EVENTS {
                        publish_id(&registry, "a/1", &number.to_string());
                    }
                }
            });
            let (mut next, mut is_told) = (0, false);
            while next < EVENTS {
                match polling::next(&mut events) {
                    Some(Ok(event)) => {
                        let number: u64 = event.data().unwrap().parse().unwrap();
                        assert_eq!(number > next, is_told, "{names:?}: {number} after {next}");
                        (next, is_told) = (number + 1, false);
                    }
                    Some(Err(_)) => {
                        is_told = true;
                    }
                    None => std::hint::spin_loop(),
                }
            }
            publisher.join().unwrap();
        }
    });
}
