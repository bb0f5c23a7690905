//! The registry as its clients see it: order, resume, retention, wake-ups. Poll by poll, with paused time.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::Body;
use tokio_test::{assert_pending, assert_ready, task};
use tower_sse::{
    ClientHandle, CloseReason, Event, Events, PublishError, Registry, RegistryConfig, Resume, Retention, SseBody,
    Start, SubscribeError, Subscription,
};

use crate::{
    layers::quiet,
    open::{Empty, open},
    polling::{frame, next, publish_id},
};

fn data(events: &mut Events) -> Vec<String> {
    std::iter::from_fn(|| next(events)).map(|item| item.unwrap().data().unwrap().into_owned()).collect()
}

fn text(body: &mut SseBody<Empty>) -> String {
    let frames: Vec<Bytes> = std::iter::from_fn(|| frame(body)).collect();
    String::from_utf8(frames.concat()).unwrap()
}

fn subscribed<'a>(registry: &Registry, topics: impl IntoIterator<Item = &'a str>) -> ClientHandle {
    let client = registry.connect();
    topics.into_iter().for_each(|topic| client.subscribe(topic).unwrap());
    client
}

#[test]
fn events_of_several_topics_come_in_one_frame_in_position_order() {
    let registry = Registry::new();
    let (_, mut body) = open(&quiet(&registry), None, |client| {
        ["a", "b", "c"].iter().for_each(|topic| client.subscribe(topic).unwrap());
    });
    assert_eq!(frame(&mut body), None);
    let topics = ["b", "a", "c", "a", "b"];
    let expected: String =
        topics.iter().map(|topic| format!("data: {topic}\nid: {}\n\n", publish_id(&registry, topic, topic))).collect();
    publish_id(&registry, "elsewhere", "not for it");
    assert_eq!(frame(&mut body).unwrap(), expected);
    assert_eq!(frame(&mut body), None);
}

#[test]
fn a_frame_has_at_most_64_kib_unless_one_event_is_larger() {
    let registry = Registry::new();
    for topics in [&["a"][..], &["a", "b"]] {
        let (_, mut body) = open(&quiet(&registry), None, |client| {
            topics.iter().for_each(|topic| client.subscribe(topic).unwrap());
        });
        for number in 0..300 {
            publish_id(&registry, topics[number % topics.len()], &"x".repeat(1000));
        }
        publish_id(&registry, "a", &"x".repeat(100_000));
        let frames: Vec<usize> = std::iter::from_fn(|| frame(&mut body)).map(|frame| frame.len()).collect();
        let (last, others) = frames.split_last().unwrap();
        assert!((100_000..101_000).contains(last), "{frames:?}");
        assert!(others.iter().all(|size| *size <= 64 * 1024), "{frames:?}");
        assert!((5..=6).contains(&others.len()), "{frames:?}");
    }
}

#[test]
fn clients_that_are_behind_by_the_same_range_share_the_bytes() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let mut bodies: Vec<_> = (0..3).map(|_| open(&layer, None, |client| client.subscribe("a").unwrap()).1).collect();
    (0..10).for_each(|number| drop(publish_id(&registry, "a", &number.to_string())));
    let frames: Vec<Bytes> = bodies.iter_mut().map(|body| frame(body).unwrap()).collect();
    assert!(frames.iter().all(|frame| frame.as_ptr() == frames[0].as_ptr()));
}

#[test]
fn only_events_of_its_subscriptions_wake_a_waiting_client() {
    let registry = Registry::new();
    let mut events = task::spawn(subscribed(&registry, ["a", "b"]).into_events());
    assert_pending!(events.poll_next());
    publish_id(&registry, "c", "not for it");
    assert!(!events.is_woken());
    for topic in ["b", "a", "b"] {
        publish_id(&registry, topic, "1");
        assert!(events.is_woken());
        assert!(assert_ready!(events.poll_next()).is_some());
        assert_pending!(events.poll_next());
        assert!(!events.is_woken());
    }
}

#[test]
fn a_client_that_lost_all_of_a_topic_is_told_and_still_woken() {
    let registry = Registry::with_config(RegistryConfig::default().total_retention(Retention::default().events(1)));
    let mut events = task::spawn(subscribed(&registry, ["a"]).into_events());
    assert_pending!(events.poll_next());
    publish_id(&registry, "a", "lost");
    publish_id(&registry, "b", "what made it go");
    assert!(events.is_woken());
    assert_eq!(assert_ready!(events.poll_next()).unwrap().unwrap_err().topics(), ["a"]);
    assert_pending!(events.poll_next());
    publish_id(&registry, "a", "next");
    assert!(events.is_woken());
    assert_eq!(assert_ready!(events.poll_next()).unwrap().unwrap().data().as_deref(), Some("next"));
}

#[test]
fn a_client_that_moved_to_another_task_is_woken_there() {
    let registry = Registry::new();
    let mut first = task::spawn(subscribed(&registry, ["a"]).into_events());
    assert_pending!(first.poll_next());
    let mut second = task::spawn(first.into_inner());
    assert_pending!(second.poll_next());
    publish_id(&registry, "a", "1");
    assert!(second.is_woken());
}

#[test]
fn a_subscription_from_another_task_wakes_the_client_and_starts_now() {
    let registry = Registry::new();
    let client = registry.connect();
    let id = client.id();
    let mut events = task::spawn(client.into_events());
    assert_pending!(events.poll_next());
    publish_id(&registry, "a", "before");
    registry.client(&id).unwrap().subscribe("a").unwrap();
    assert!(events.is_woken());
    assert_pending!(events.poll_next());
    publish_id(&registry, "a", "after");
    assert!(events.is_woken());
    assert_eq!(assert_ready!(events.poll_next()).unwrap().unwrap().data().as_deref(), Some("after"));
    assert!(registry.client(&id).unwrap().unsubscribe("a"));
    assert!(!registry.client(&id).unwrap().unsubscribe("a"));
    publish_id(&registry, "a", "too late");
    assert_pending!(events.poll_next());
}

#[test]
fn a_subscription_starts_at_its_start() {
    let registry = Registry::new();
    let positions: Vec<_> =
        (0..5).map(|n| registry.publish("a", Event::data(n.to_string())).unwrap().position().unwrap()).collect();
    let from = |start| {
        let client = registry.connect();
        client.subscribe_from("a", start).unwrap();
        data(&mut client.into_events()).concat()
    };
    assert_eq!(from(Start::Now), "");
    assert_eq!(from(Start::Oldest), "01234");
    assert_eq!(from(Start::Last(2)), "34");
    assert_eq!(from(Start::Last(usize::MAX)), "01234");
    assert_eq!(from(Start::After(positions[2])), "34");
}

#[test]
fn a_position_that_is_not_retained_is_a_gap_and_the_oldest_event_follows() {
    let config = RegistryConfig::default().topic_retention(Retention::default().events(3));
    let registry = Registry::with_config(config);
    let positions: Vec<_> =
        (0..5).map(|n| registry.publish("a", Event::data(n.to_string())).unwrap().position().unwrap()).collect();
    let client = registry.connect();
    client.subscribe_from("a", Start::After(positions[0])).unwrap();
    let mut events = client.into_events();
    let gap = next(&mut events).unwrap().unwrap_err();
    assert_eq!((gap.topics(), gap.after()), (&["a".to_owned()][..], positions[0].to_string().as_str()));
    assert_eq!(data(&mut events).concat(), "234");

    let client = registry.connect();
    client.subscribe_from("a", Start::After(positions[1])).unwrap();
    assert_eq!(data(&mut client.into_events()).concat(), "234", "event 1 was seen, so no event is missing");
}

#[test]
fn a_slow_client_is_told_of_its_loss_and_goes_on() {
    let config = RegistryConfig::default().topic_retention(Retention::default().events(3));
    let registry = Registry::with_config(config);
    let mut events = subscribed(&registry, ["a", "b"]).into_events();
    let seen = publish_id(&registry, "b", "seen");
    assert_eq!(data(&mut events), ["seen"]);
    (0..5).for_each(|number| drop(publish_id(&registry, "a", &number.to_string())));
    publish_id(&registry, "b", "b");
    let gap = next(&mut events).unwrap().unwrap_err();
    assert_eq!((gap.topics(), gap.after()), (&["a".to_owned()][..], seen.as_str()));
    assert_eq!(data(&mut events).concat(), "234b");
}

fn resumed(registry: &Registry, last_event_id: &str, topics: &[&str]) -> (Resume, String) {
    let layer = quiet(registry);
    let (client, mut body) = open(&layer, Some(last_event_id), |client| {
        topics.iter().for_each(|topic| client.subscribe(topic).unwrap());
    });
    (client.resume(), text(&mut body))
}

#[test]
fn a_resumed_client_gets_exactly_the_missed_events() {
    let registry = Registry::new();
    let ids: Vec<String> = ["a", "b", "a", "b"].iter().map(|topic| publish_id(&registry, topic, topic)).collect();
    let (resume, wire) = resumed(&registry, &ids[1], &["a", "b"]);
    assert_eq!(resume, Resume::Continued);
    assert_eq!(wire, format!("data: a\nid: {}\n\ndata: b\nid: {}\n\n", ids[2], ids[3]));
    assert_eq!(resumed(&registry, &ids[3], &["a", "b"]), (Resume::Continued, String::new()));
    let fresh = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
    assert_eq!(fresh.0.resume(), Resume::Fresh);
}

#[test]
fn an_unknown_id_is_a_gap_with_a_new_id() {
    let registry = Registry::new();
    let before_restart = "1000-0";
    let future = "99999999999999-0";
    let long = "7".repeat(5000);
    for id in [before_restart, future, "never issued", "18446744073709551616-0", "\"\\ü", &long] {
        let (resume, wire) = resumed(&registry, id, &["a", "b"]);
        let Resume::Gap(gap) = resume else { panic!("{id} is no gap") };
        assert_eq!(gap.topics(), ["a", "b"]);
        assert!(gap.after() == id || id.len() > 256, "{gap}");
        let new_id = wire.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        assert!(wire.starts_with("event: gap\ndata: {\"topics\":[\"a\",\"b\"],\"after\":"), "{wire}");
        assert_eq!(resumed(&registry, new_id, &["a", "b"]), (Resume::Continued, String::new()));
    }
    let first = publish_id(&registry, "a", "1");
    let (_, wire) = resumed(&registry, before_restart, &["a", "b"]);
    assert!(wire.ends_with(&format!("\n\ndata: 1\nid: {first}\n\n")), "the retained events come after the gap: {wire}");
}

#[test]
fn a_gap_on_one_topic_skips_no_event_of_another() {
    let by_name = |topic: &str| Retention::default().events(if topic == "small" { 1 } else { 100 });
    let registry = Registry::with_config(RegistryConfig::default().topic_retention_by(by_name));
    let seen = publish_id(&registry, "big", "0");
    publish_id(&registry, "small", "lost");
    let kept = publish_id(&registry, "big", "kept");
    let last = publish_id(&registry, "small", "last");
    let (resume, wire) = resumed(&registry, &seen, &["small", "big"]);
    assert!(matches!(resume, Resume::Gap(gap) if gap.topics() == ["small"]));
    let (gap, rest) = wire.split_once("\n\n").unwrap();
    assert_eq!(rest, format!("data: kept\nid: {kept}\n\ndata: last\nid: {last}\n\n"));
    let id = gap.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    assert!(resumed(&registry, id, &["small", "big"]).1.ends_with(rest), "a cut right after the gap loses nothing");
}

#[test]
fn an_own_id_equal_to_an_issued_position_hides_no_event() {
    let registry = Registry::new();
    let seen = registry.publish("topic", Event::data("seen")).unwrap().position().unwrap().to_string();
    registry.publish("topic", Event::data("missed")).unwrap();
    registry.publish("topic", Event::data("the same id").id(&seen).unwrap()).unwrap();
    registry.publish("topic", Event::data("newest")).unwrap();
    let (resume, wire) = resumed(&registry, &seen, &["topic"]);
    assert_eq!(resume, Resume::Continued);
    let data: Vec<_> = wire.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data, ["missed", "the same id", "newest"]);
}

#[test]
fn an_own_id_is_sent_unchanged_and_can_be_resumed_from() {
    let registry = Registry::new();
    for order in 1..4 {
        registry.publish("orders", Event::data(order.to_string()).id(format!("order-{order}")).unwrap()).unwrap();
    }
    let position = publish_id(&registry, "other", "x");
    let (resume, wire) = resumed(&registry, "order-2", &["other", "orders"]);
    assert_eq!(resume, Resume::Continued);
    assert_eq!(wire, format!("data: 3\nid: order-3\n\ndata: x\nid: {position}\n\n"));
    assert!(matches!(resumed(&registry, "order-9", &["orders"]).0, Resume::Gap(_)));
}

#[test]
fn an_event_without_data_has_no_id() {
    let registry = Registry::new();
    let (_, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
    registry.publish("a", Event::empty().comment("hello").retry(Duration::from_secs(1))).unwrap();
    assert_eq!(text(&mut body), ": hello\nretry: 1000\n\n");
}

#[test]
fn a_late_subscription_never_moves_the_client_back() {
    let registry = Registry::new();
    let late: Vec<String> = (0..3).map(|number| publish_id(&registry, "late", &number.to_string())).collect();
    let layer = quiet(&registry);
    let (client, mut body) = open(&layer, None, |client| client.subscribe("live").unwrap());
    assert_eq!(frame(&mut body), None);
    let live = publish_id(&registry, "live", "seen");
    assert_eq!(text(&mut body), format!("data: seen\nid: {live}\n\n"));

    client.subscribe_from("late", Start::Oldest).unwrap();
    let wire = text(&mut body);
    let ids: Vec<&str> = wire.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 3);
    for (id, position) in ids.iter().zip(&late) {
        // The era is only in the first part of the id.
        let (position, _era) = position.rsplit_once('-').unwrap();
        assert!(id.starts_with(&format!("{live};{position};")), "{id}");
    }
    let (resume, wire) = resumed(&registry, ids[0], &["live", "late"]);
    assert_eq!(resume, Resume::Continued);
    let data: Vec<&str> = wire.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data, ["1", "2"], "only the missing events of both topics");
}

#[test]
fn a_later_catch_up_waits_for_an_earlier_one() {
    let registry = Registry::new();
    ["second", "first", "second", "first"]
        .iter()
        .for_each(|topic| drop(publish_id(&registry, topic, &"x".repeat(60_000))));
    let layer = quiet(&registry);
    let (client, mut body) = open(&layer, None, |client| client.subscribe("live").unwrap());
    publish_id(&registry, "live", "seen");
    frame(&mut body).unwrap();
    let last_id = |frame: Bytes| {
        let text = String::from_utf8(frame.to_vec()).unwrap();
        text.lines().rfind(|line| line.starts_with("id: ")).unwrap()[4..].to_owned()
    };
    client.subscribe_from("first", Start::Oldest).unwrap();
    let halfway = last_id(frame(&mut body).unwrap());
    client.subscribe_from("second", Start::Oldest).unwrap();
    let through = last_id(frame(&mut body).unwrap());
    let halfway_again = last_id(frame(&mut body).unwrap());
    let missed = |id: &str, topics: &[&str]| resumed(&registry, id, topics).1.matches("data: ").count();
    assert_eq!(missed(&halfway, &["live", "first"]), 1);
    assert_eq!(missed(&through, &["live", "first"]), 0);
    assert_eq!(missed(&halfway_again, &["live", "first", "second"]), 1);
}

#[test]
fn a_client_gets_all_events_of_an_additional_subscription() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let (client, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
    assert_eq!(frame(&mut body), None);
    publish_id(&registry, "a", "1");
    assert!(text(&mut body).starts_with("data: 1\n"));
    client.subscribe("b").unwrap();
    for data in ["2", "3"] {
        publish_id(&registry, "b", data);
        assert!(text(&mut body).starts_with(&format!("data: {data}\n")));
    }
}

#[test]
fn an_event_sent_to_one_client_goes_to_that_client_only() {
    let registry = Registry::new();
    let client = subscribed(&registry, ["a"]);
    client.send(Event::data("welcome")).unwrap();
    let mut other = subscribed(&registry, ["a"]).into_events();
    let mut events = client.clone().into_events();
    publish_id(&registry, "a", "1");
    assert_eq!(client.send(Event::data("2")).unwrap().subscribers(), 1);
    publish_id(&registry, "a", "3");
    assert_eq!(data(&mut events), ["welcome", "1", "2", "3"]);
    assert_eq!(data(&mut other), ["1", "3"]);
    drop(events);
    assert!(matches!(
        client.send(Event::data("4")),
        Err(PublishError::StreamEnded { reason: CloseReason::ClientDisconnected })
    ));
    assert!(matches!(client.subscribe("b"), Err(SubscribeError::StreamEnded { .. })));
}

#[test]
fn a_closed_client_gets_only_events_published_before() {
    let registry = Registry::new();
    let client = subscribed(&registry, ["a"]);
    let mut closed = task::spawn(client.closed());
    assert_pending!(closed.poll());
    let mut events = task::spawn(client.clone().into_events());
    assert_pending!(events.poll_next());
    publish_id(&registry, "a", "before");
    client.close();
    publish_id(&registry, "a", "after");
    assert_eq!(assert_ready!(events.poll_next()).unwrap().unwrap().data().as_deref(), Some("before"));
    assert!(assert_ready!(events.poll_next()).is_none());
    assert!(closed.is_woken());
    assert_eq!(assert_ready!(closed.poll()), CloseReason::ByServer);
    assert_eq!(registry.stats().clients, 0);
}

#[test]
fn a_reader_of_a_closed_client_ends() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
    assert_eq!(frame(&mut body), None);
    let mut body = task::spawn(body);
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    drop(client.clone().into_events());
    assert!(!body.is_woken(), "a second reader does not end the stream");
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    client.close();
    assert!(assert_ready!(body.enter(|cx, body| body.poll_frame(cx))).is_none());
    let mut events = task::spawn(client.into_events());
    assert!(assert_ready!(events.poll_next()).is_none());
}

#[test]
fn the_first_reason_to_close_counts() {
    let registry = Registry::new();
    let client = registry.connect();
    let mut events = client.clone().into_events();
    client.close_with("banned");
    client.close();
    assert!(matches!(Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
    assert_eq!(assert_ready!(task::spawn(client.closed()).poll()), CloseReason::Other("banned"));
}

#[test]
fn a_topics_retention_closure_may_call_the_registry() {
    let registry: std::sync::Arc<std::sync::OnceLock<Registry>> = Default::default();
    let asked = registry.clone();
    let by_name = move |_: &str| {
        let registry = asked.get().unwrap();
        registry
            .publish("other", Event::data("x"))
            .map_or(Retention::default(), |_| Retention::default().events(registry.stats().clients))
    };
    let config = RegistryConfig::default();
    let other = |topic: &str| if topic == "other" { Some(Retention::default()) } else { None };
    let registry = registry.get_or_init(|| {
        Registry::with_config(config.topic_retention_by(move |topic| other(topic).unwrap_or_else(|| by_name(topic))))
    });
    let client = registry.connect();
    client.subscribe("asks").unwrap();
    assert_eq!(registry.stats().published, 1);
}

#[test]
fn subscriptions_of_a_client_are_bounded_and_their_names_are_checked() {
    let registry = Registry::with_config(RegistryConfig::default().subscriptions_per_client(2));
    let client = subscribed(&registry, ["a", "b", "a"]);
    assert_eq!(client.subscribe("c"), Err(SubscribeError::TooManySubscriptions { limit: 2 }));
    assert!(matches!(client.subscribe("a/*"), Err(SubscribeError::Topic(error)) if error.name() == "a/*"));
    assert!(client.unsubscribe("a"));
    client.subscribe("c").unwrap();
    assert!(matches!(registry.publish("$client/x", Event::data("")), Err(PublishError::Topic(_))));
}

#[test]
fn an_event_that_is_too_large_is_refused_and_leaves_nothing() {
    let config = RegistryConfig::default().total_retention(Retention::default().bytes(10_000));
    let registry = Registry::with_config(config.topic_retention(Retention::default().bytes(5_000)));
    for size in [5_000, 50_000] {
        let error = registry.publish("a", Event::data("x".repeat(size))).unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { size: named, .. } if named >= size), "{error}");
    }
    assert_eq!((registry.stats().topics, registry.stats().bytes), (0, 0));
    registry.publish("a", Event::data("x".repeat(3_500))).unwrap();
}

#[test]
fn no_flood_of_events_or_topics_passes_the_budget() {
    const BUDGET: usize = 1 << 20;
    let registry = Registry::with_config(RegistryConfig::default().total_retention(Retention::default().bytes(BUDGET)));
    for number in 0..20_000 {
        publish_id(&registry, &format!("topic/{number}"), "x");
        publish_id(&registry, "one", &"x".repeat(number % 5_000));
        assert!(registry.stats().bytes <= BUDGET);
    }
    let mut events = {
        let client = registry.connect();
        client.subscribe_from("topic/19999", Start::Oldest).unwrap();
        client.into_events()
    };
    assert_eq!(data(&mut events), ["x"], "the newest events are still retained");
}

#[test]
fn retention_by_number_keeps_the_newest() {
    let config = RegistryConfig::default().total_retention(Retention::default().events(5));
    let registry = Registry::with_config(config.topic_retention(Retention::default().events(2)));
    for number in 0..4 {
        ["a", "b", "c"].iter().for_each(|topic| drop(publish_id(&registry, topic, &number.to_string())));
    }
    assert_eq!(registry.stats().events, 5, "two each, but five in all");
    let client = registry.connect();
    ["a", "b", "c"].iter().for_each(|topic| client.subscribe_from(topic, Start::Oldest).unwrap());
    assert_eq!(data(&mut client.into_events()).concat(), "22333");
}

#[tokio::test(start_paused = true)]
async fn events_that_are_too_old_are_evicted_and_not_delivered() {
    let by_name = |topic: &str| match topic {
        "short" => Retention::default().age(Duration::from_secs(10)),
        _ => Retention::default(),
    };
    let config = RegistryConfig::default().total_retention(Retention::default().age(Duration::from_secs(60)));
    let registry = Registry::with_config(config.topic_retention_by(by_name));
    let oldest = |topic: &str| {
        let client = registry.connect();
        client.subscribe_from(topic, Start::Oldest).unwrap();
        data(&mut client.into_events()).concat()
    };
    publish_id(&registry, "short", "1");
    publish_id(&registry, "long", "1");
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!((oldest("short"), oldest("long")), ("1".into(), "1".into()));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!((oldest("short"), oldest("long")), (String::new(), "1".into()));
    tokio::time::advance(Duration::from_secs(60)).await;
    publish_id(&registry, "elsewhere", "1");
    assert_eq!(
        (registry.stats().events, registry.stats().topics),
        (1, 1),
        "the registry's own bound applies without access to the topic"
    );
}

#[test]
fn clients_that_came_and_left_leave_nothing_behind() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    for round in 0..10_000 {
        let (client, mut body) = open(&layer, None, |client| {
            client.subscribe("shared").unwrap();
            client.subscribe(format!("user/{round}")).unwrap();
        });
        assert_eq!(frame(&mut body), None);
        if round % 3 == 0 {
            client.send(Event::data("x")).unwrap();
        }
        if round % 2 == 0 {
            client.subscribe("later").unwrap();
            frame(&mut body);
        }
    }
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.published), (0, 3334));
    assert_eq!(
        (stats.topics, stats.events, stats.bytes),
        (0, 0, 0),
        "events that were sent to one client are dropped too"
    );
    let unused = Registry::new();
    drop(subscribed(&unused, ["a", "b"]));
    drop(subscribed(&unused, ["a", "b"]).into_events());
    let over = open(&quiet(&unused), None, |_| {}).0;
    assert!(unused.client(&over.id()).is_none(), "an id that is used after the end finds no client");
    assert_eq!((unused.stats().clients, unused.stats().topics, unused.stats().bytes), (0, 0, 0));
}

#[test]
fn racing_publishers_make_no_client_miss_or_reorder_events() {
    const EACH: usize = 20_000;
    let topics = ["a", "b", "c", "d"];
    let config = RegistryConfig::default().topic_retention(Retention::default());
    let registry = Registry::with_config(config.total_retention(Retention::default()));
    let clients: Vec<ClientHandle> = (0..3).map(|_| subscribed(&registry, topics)).collect();
    thread::scope(|scope| {
        for topic in topics {
            let registry = &registry;
            scope.spawn(move || (0..EACH).for_each(|number| drop(publish_id(registry, topic, &number.to_string()))));
        }
        for client in clients {
            scope.spawn(move || {
                let mut events = client.into_events();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let (mut last, mut counts) = (None, [0; 4]);
                for _ in 0..EACH * topics.len() {
                    let next = std::future::poll_fn(|cx| Pin::new(&mut events).poll_next(cx));
                    let next = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), next).await });
                    let event = next.expect("no wake-up is lost").unwrap().unwrap();
                    assert!(last < Some(event.position()));
                    last = Some(event.position());
                    let count = &mut counts[topics.iter().position(|topic| *topic == event.topic()).unwrap()];
                    assert_eq!(event.data().as_deref(), Some(count.to_string().as_str()));
                    *count += 1;
                }
            });
        }
    });
}

#[test]
fn an_own_id_is_found_by_a_pattern_that_had_no_subscribers() {
    let registry = Registry::new();
    for number in 1..=3 {
        registry.publish("orders/7", Event::data(number.to_string()).id(format!("order-{number}")).unwrap()).unwrap();
    }
    let layer = quiet(&registry);
    let (client, mut body) = open(&layer, Some("order-2"), |client| {
        client.subscribe(Subscription::matching("orders/*")).unwrap();
    });
    assert_eq!((client.resume(), text(&mut body).as_str()), (Resume::Continued, "data: 3\nid: order-3\n\n"));
}

#[test]
fn an_event_to_a_client_alone_keeps_no_stream_open_after_its_topics() {
    let registry = Registry::new();
    let producer = registry.start_producer("answers/1").unwrap();
    let client = registry.connect();
    client.subscribe_from("answers/1", Start::Oldest).unwrap();
    client.send(Event::data("welcome")).unwrap();
    producer.publish(Event::data("token")).unwrap();
    producer.end();
    assert!(!client.is_complete());
    let mut events = client.into_events();
    assert_eq!(data(&mut events), ["welcome", "token"]);
    assert!(next(&mut events).is_none(), "all of its topics have ended");
}

#[test]
fn a_reader_gets_all_small_events_of_a_fast_loop() {
    let registry = Registry::new();
    let mut events = subscribed(&registry, ["t"]).into_events();
    (0..5000).for_each(|number| drop(publish_id(&registry, "t", &number.to_string())));
    assert_eq!(data(&mut events).len(), 5000);
}

#[test]
fn a_busy_topic_does_not_evict_the_events_of_others() {
    let registry = Registry::new();
    (0..500).for_each(|_| drop(publish_id(&registry, "quiet", "x")));
    (0..60_000).for_each(|_| drop(publish_id(&registry, "chatty", &"x".repeat(1000))));
    let client = registry.connect();
    client.subscribe_from("quiet", Start::Oldest).unwrap();
    assert_eq!(data(&mut client.into_events()).len(), 500);
    assert!(registry.stats().bytes < 20 << 20, "a quarter of the total budget, and the rest");
}

#[test]
fn an_event_that_is_larger_than_a_topic_retains_by_default_is_retained_alone() {
    let registry =
        Registry::with_config(RegistryConfig::default().total_retention(Retention::default().bytes(100_000)));
    let mut events = subscribed(&registry, ["t"]).into_events();
    publish_id(&registry, "t", "small");
    publish_id(&registry, "t", &"x".repeat(50_000));
    assert!(next(&mut events).unwrap().is_err());
    assert_eq!(data(&mut events).concat().len(), 50_000);
    publish_id(&registry, "t", "small");
    assert_eq!((data(&mut events).concat(), registry.stats().events), ("small".into(), 1));
    let refused = registry.publish("t", Event::data("x".repeat(100_000)));
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })));
}

#[test]
fn the_patterns_of_a_client_are_bounded() {
    let registry = Registry::new();
    let client = registry.connect();
    let subscribe = |client: &ClientHandle, number: usize| {
        let pattern = ["*/"].repeat(number).concat() + "**";
        client.subscribe(Subscription::matching(pattern))
    };
    (0..16).for_each(|number| subscribe(&client, number).unwrap());
    assert_eq!(subscribe(&client, 16), Err(SubscribeError::TooManyPatterns { limit: 16 }));
    assert_eq!(subscribe(&client, 3), Ok(()), "the client already has that pattern");
    client.subscribe("topic").unwrap();
    assert!(client.unsubscribe("**"));
    subscribe(&client, 16).unwrap();
    let more = Registry::with_config(RegistryConfig::default().patterns_per_client(20)).connect();
    (0..20).for_each(|number| subscribe(&more, number).unwrap());
    assert!(subscribe(&more, 20).unwrap_err().to_string().contains("20 patterns"));
}
