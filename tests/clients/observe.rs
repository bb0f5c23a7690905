//! What observers are told, and what the registry counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use serde_json::json;
use tower_sse::{
    ClientId, CloseReason, Event, Heartbeat, Observation, Registry, RegistryConfig, Retention, SseLayer, Stats,
    SubscribeError, Subscription,
};

use crate::{
    answer::answer,
    bodies,
    observer::{Observed, Recorder},
    open::{Empty, open},
    polling::{bounded, data, plain, poll, publish, quiet, rest, subscribed, text},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn observers_are_told_each_step_of_a_stream_once_in_order() {
    let (recorder, config) = Recorder::new();
    let registry = Registry::with_config(config.subscriptions_per_client(2));
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(10 * SECOND));
    let (client, mut body) = open(&layer, None, |client| {
        client.subscribe("a").unwrap();
        client.subscribe("a").unwrap();
        client.subscribe(Subscription::matching("b*")).unwrap_err();
    });
    let id = client.id();
    let told = recorder.take();
    assert_eq!(told.len(), 3);
    assert!(
        matches!(&told[0], Observed::SubscriptionRefused(refused, SubscribeError::Topic(error)) if *refused == id && error.name() == "b*"),
        "before the layer knows whether the response is a stream"
    );
    assert_eq!(told[1..], [Observed::Opened(id), Observed::Subscribed(id, "a".into())]);

    let mut bytes = text(&mut body).len();
    client.subscribe(Subscription::matching("b/*")).unwrap();
    assert_eq!(client.subscribe("c"), Err(SubscribeError::TooManySubscriptions { limit: 2 }));
    assert!(client.unsubscribe("b/*") && !client.unsubscribe("b/*"));
    let receipt = registry.publish("a", Event::data("1")).unwrap();
    bytes += text(&mut body).len();
    let expected = [
        Observed::Subscribed(id, "b/*".into()),
        Observed::SubscriptionRefused(id, SubscribeError::TooManySubscriptions { limit: 2 }),
        Observed::Unsubscribed(id, "b/*".into()),
        Observed::Published("a".into(), receipt),
    ];
    assert_eq!(recorder.take(), expected);

    for _ in 0..3 {
        tokio::time::advance(10 * SECOND).await;
        bytes += text(&mut body).len();
        assert_eq!(recorder.take(), [Observed::Heartbeat(id)]);
    }
    client.close();
    client.close();
    bytes += rest(&mut body).0.len();
    drop(body);
    let told = recorder.take();
    let [Observed::Unsubscribed(gone_id, gone), Observed::Closed(closed_id, closed)] = &told[..] else {
        panic!("the stream is not closed exactly once: {told:?}")
    };
    assert_eq!((*gone_id, gone.as_str()), (id, "a"));
    assert_eq!((*closed_id, closed.reason, closed.duration), (id, CloseReason::ByServer, 30 * SECOND));
    assert_eq!((closed.events, closed.bytes), (1, bytes as u64));
    assert!(matches!(client.subscribe("late"), Err(SubscribeError::StreamEnded { .. })));
    assert!(
        matches!(&recorder.take()[..], [Observed::SubscriptionRefused(refused, SubscribeError::StreamEnded { .. })] if *refused == id)
    );
}

#[test]
fn a_summary_counts_all_bytes_and_the_registrys_events() {
    let (recorder, config) = Recorder::new();
    let registry = Registry::with_config(config);
    let (frames, own) = bodies::channel();
    let layer = quiet(&registry).opening_comment("welcome").reconnect_delay(SECOND);
    let (_, response) = answer(&layer, Request::new(()), |client| {
        client.subscribe("a").unwrap();
        bodies::event_stream(own)
    });
    let mut body = response.into_body();
    frames.try_send(Ok(Frame::data(Bytes::from_static(b"data: own\n\n")))).unwrap();
    ["1", "2"].iter().for_each(|data| publish(&registry, "a", data));
    let all = text(&mut body);
    drop(body);
    let [closed] = &recorder.closed()[..] else { panic!("the stream is not closed exactly once") };
    assert_eq!((closed.reason, closed.events, closed.bytes), (CloseReason::ClientDisconnected, 2, all.len() as u64));
}

#[test]
fn observers_are_not_told_of_requests_without_a_stream() {
    let (recorder, config) = Recorder::new();
    let registry = Registry::with_config(config);
    for method in ["GET", "HEAD"] {
        let request = Request::builder().method(method).body(()).unwrap();
        answer(&quiet(&registry), request, |client| {
            client.subscribe("a").unwrap();
            client.subscribe("b").unwrap();
            client.unsubscribe("b");
            http::Response::new(Empty::new())
        });
    }
    drop(subscribed(&registry, ["a"]));
    assert_eq!(recorder.take(), []);
    assert_eq!(registry.stats().closed_streams, Default::default());
}

/// Checks the order of what one client's observer was told. Hooks come in pairs, and each pair lies within the stream's
/// life.
fn assert_paired(told: &[Observed]) {
    let mut open: BTreeMap<ClientId, BTreeSet<&str>> = BTreeMap::new();
    let mut closed = BTreeSet::new();
    for observed in told {
        let is_right = match observed {
            Observed::Opened(client) => !closed.contains(client) && open.insert(*client, BTreeSet::new()).is_none(),
            Observed::Subscribed(client, topic) => open.get_mut(client).is_some_and(|topics| topics.insert(topic)),
            Observed::Unsubscribed(client, topic) => {
                open.get_mut(client).is_some_and(|topics| topics.remove(topic.as_str()))
            }
            Observed::Closed(client, _) => {
                closed.insert(*client) && open.remove(client).is_some_and(|topics| topics.is_empty())
            }
            _ => true,
        };
        assert!(is_right, "{observed:?} in {told:?}");
    }
    assert!(open.is_empty(), "not closed: {open:?} in {told:?}");
}

#[test]
fn observers_are_told_the_start_and_end_of_each_subscription() {
    let (recorder, config) = Recorder::new();
    let registry = Registry::with_config(config);
    let producer = registry.start_producer("answer").unwrap();
    let layer = quiet(&registry);
    let (client, mut body) = open(&layer, None, |client| {
        client.send(Event::data("welcome")).unwrap();
        ["answer", "a", "b", "early"].iter().for_each(|name| client.subscribe(*name).unwrap());
        client.unsubscribe("early");
    });
    let id = client.id();
    let names = |told: &[Observed]| {
        let name = |told: &Observed| match told {
            Observed::Opened(_) => "opened".to_owned(),
            Observed::Subscribed(_, topic) => format!("+{topic}"),
            Observed::Unsubscribed(_, topic) => format!("-{topic}"),
            Observed::Closed(..) => "closed".to_owned(),
            other => panic!("{other:?}"),
        };
        told.iter().map(name).collect::<Vec<_>>()
    };
    let mut all = recorder.of_clients();
    assert_eq!(
        names(&all),
        ["opened", "+answer", "+a", "+b"],
        "neither the client's own topic nor a subscription that was removed before"
    );
    assert!(client.unsubscribe(format!("$client/{id}")));
    client.unsubscribe("b");
    producer.end();
    text(&mut body);
    let told = recorder.of_clients();
    assert_eq!(names(&told), ["-b", "-answer"]);
    all.extend(told);
    drop(body);
    let told = recorder.of_clients();
    assert_eq!(names(&told), ["-a", "closed"]);
    all.extend(told);
    assert_paired(&all);
    drop(subscribed(&registry, ["a", "*"]).into_events());
    assert_paired(&recorder.of_clients());
}

#[test]
fn hooks_come_in_pairs_and_in_order_if_many_threads_change_a_client() {
    for round in 0..200 {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let client = subscribed(&registry, ["a", "b"]);
        let (changing, closing) = (client.clone(), client.clone());
        let change = |topic: &'static str| {
            let client = changing.clone();
            move || {
                for _ in 0..20 {
                    let _ = client.subscribe(topic);
                    client.unsubscribe(topic);
                }
                let _ = client.subscribe(topic);
            }
        };
        let changers = [change("a"), change("b"), change("c")].map(std::thread::spawn);
        let reader = std::thread::spawn(move || {
            let mut events = client.into_events();
            for _ in 0..round {
                data(&mut events);
            }
        });
        closing.close();
        changers.into_iter().for_each(|thread| thread.join().unwrap());
        reader.join().unwrap();
        assert_paired(&recorder.of_clients());
    }
}

#[test]
fn an_observer_is_told_of_its_own_change_after_its_hook_returns() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&told);
    let observer = move |observation: &Observation<'_>| {
        let name = match observation {
            Observation::Opened { client } => {
                client.subscribe("b").unwrap();
                client.unsubscribe("a");
                "opened".to_owned()
            }
            Observation::Subscribed { topic, .. } => format!("+{topic}"),
            Observation::Unsubscribed { topic, .. } => format!("-{topic}"),
            Observation::Closed { .. } => "closed".to_owned(),
            _ => return,
        };
        into.lock().unwrap().push(name);
    };
    let registry = Registry::with_config(RegistryConfig::default().observer(observer));
    drop(subscribed(&registry, ["a"]).into_events());
    assert_eq!(*told.lock().unwrap(), ["opened", "+a", "+b", "-a", "-b", "closed"]);
}

#[test]
fn observers_are_told_of_each_published_event_once() {
    let (recorder, config) = Recorder::new();
    let registry = Registry::with_config(config);
    let client = subscribed(&registry, ["a", "*"]);
    recorder.take();
    let plain = registry.publish("a", Event::data("")).unwrap();
    let sent = client.send(Event::data("")).unwrap();
    let producer = registry.start_producer("p").unwrap();
    let produced = producer.publish(Event::data("")).unwrap();
    producer.end();
    registry.publish("p", Event::data("refused")).unwrap_err();
    registry.publish("", Event::data("refused")).unwrap_err();
    let published = |topic: &str, receipt| Observed::Published(topic.to_owned(), receipt);
    let own = format!("$client/{}", client.id());
    assert_eq!(recorder.take(), [published("a", plain), published(&own, sent), published("p", produced)]);
    assert_eq!(registry.stats().published, 3);
}

#[test]
fn observers_are_told_of_a_gap_once_even_if_the_client_is_not() {
    for gap_event in [tower_sse::GapEvent::default(), tower_sse::GapEvent::off()] {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config);
        let layer = quiet(&registry).gap_event(gap_event);
        let (client, mut body) = open(&layer, Some("1-0"), |client| client.subscribe("a").unwrap());
        text(&mut body);
        text(&mut body);
        let gaps: Vec<_> = recorder.take().into_iter().filter(|it| matches!(it, Observed::Gap(..))).collect();
        assert!(
            matches!(&gaps[..], [Observed::Gap(id, gap)] if *id == client.id() && gap.after() == "1-0" && gap.topics() == ["a"])
        );
        assert_eq!((registry.stats().gaps, registry.stats().fell_behind, registry.stats().missed), (1, 0, 0));
    }
}

#[test]
fn an_observer_may_call_any_method() {
    bounded(|| {
        let shared: Arc<OnceLock<Registry>> = Arc::default();
        let (inner, calls) = (Arc::clone(&shared), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&calls);
        let observer = move |observation: &Observation<'_>| {
            let Some(registry) = inner.get() else { return };
            assert!(registry.clients().len() <= registry.stats().clients);
            count.fetch_add(1, Ordering::Relaxed);
            let client = match observation {
                Observation::Published { topic: "hook", .. } => return,
                Observation::Published { .. } => None,
                Observation::Opened { client } | Observation::Subscribed { client, topic: "a" } => Some(*client),
                Observation::Unsubscribed { client, .. } | Observation::FellBehind { client, .. } => Some(*client),
                Observation::Gap { client, .. } | Observation::Closed { client, .. } => Some(*client),
                _ => return,
            };
            if let Some(client) = client {
                drop((client.subscriptions(), client.metadata(), client.stats(), client.resume()));
                let _ = client.subscribe("from a hook");
                let _ = client.send(Event::data("from a hook"));
            }
            registry.publish("hook", Event::data("")).unwrap();
            registry.start_producer("made by a hook").unwrap().end();
        };
        let config = RegistryConfig::default().topic_retention(Retention::default().events(2)).observer(observer);
        let registry = shared.get_or_init(|| Registry::with_config(config));
        let (client, mut body) = open(&quiet(registry), None, |client| client.subscribe("a").unwrap());
        (0..5).for_each(|number| publish(registry, "a", &number.to_string()));
        assert!(text(&mut body).contains("event: gap\n"));
        client.unsubscribe("a");
        text(&mut body);
        drop(body);
        assert!(calls.load(Ordering::Relaxed) > 10);
        assert_eq!((registry.stats().clients, registry.stats().subscriptions), (0, 0));
        shared.get().unwrap().publish("end", Event::data("")).unwrap();
    });
}

#[test]
fn an_observer_may_close_clients() {
    bounded(|| {
        let observer = |observation: &Observation<'_>| {
            if let Observation::Opened { client } | Observation::Gap { client, .. } = observation {
                client.registry().clients().iter().for_each(|client| client.close_with("by a hook"));
            }
        };
        let registry = Registry::with_config(RegistryConfig::default().observer(observer));
        let (_, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        assert_eq!(rest(&mut body), (String::new(), true));
        assert_eq!(registry.stats().closed_streams, [(CloseReason::Other("by a hook"), 1)].into());
    });
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_observer_affects_nothing_else() {
    let before = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&before);
    let config = RegistryConfig::default().topic_retention(Retention::default().events(1)).observer(
        |_: &Observation<'_>| -> () {
            std::panic::resume_unwind(Box::new("an observer that was meant to fail"));
        },
    );
    let registry = Registry::with_config(config.observer(move |observation: &Observation<'_>| {
        if !matches!(observation, Observation::Sampled { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let layer = plain(&registry).heartbeat(Heartbeat::every(SECOND));
    let (client, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
    text(&mut body);
    tokio::time::advance(SECOND).await;
    assert_eq!(text(&mut body), ":\n\n");
    ["1", "2"].iter().for_each(|data| publish(&registry, "a", data));
    assert!(text(&mut body).ends_with(&format!("data: 2\nid: {}\n\n", registry.position())));
    client.subscribe("").unwrap_err();
    client.unsubscribe("a");
    drop(body);
    assert_eq!(registry.stats().clients, 0);
    // Opened, subscribed, a heartbeat, two published, fell behind, a gap, refused, unsubscribed, closed.
    assert_eq!(before.load(Ordering::Relaxed), 10, "the next observer is told all the same");
}

type Samples = Arc<Mutex<Vec<(Stats, Stats)>>>;

fn sampling() -> (Samples, RegistryConfig) {
    let samples = Samples::default();
    let kept = Arc::clone(&samples);
    let config = RegistryConfig::default().observer(move |observation: &Observation<'_>| {
        if let Observation::Sampled { before, now } = *observation {
            kept.lock().unwrap().push((before.clone(), now.clone()));
        }
    });
    (samples, config)
}

/// Polls a stream for an hour. Nobody publishes; its own body always has a frame.
#[tokio::test(start_paused = true)]
async fn samples_come_every_few_seconds_while_streams_are_open() {
    let (samples, config) = sampling();
    let registry = Registry::with_config(config);
    let (frames, own) = bodies::channel();
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(10 * SECOND));
    let (_, response) = answer(&layer, Request::new(()), |_| bodies::event_stream(own));
    let mut body = response.into_body();
    let mut sent = 0;
    for _ in 0..3600 {
        tokio::time::advance(SECOND).await;
        frames.try_send(Ok(Frame::data(Bytes::from_static(b"data: own\n\n")))).unwrap();
        sent += text(&mut body).len() as u64;
    }
    let told = std::mem::take(&mut *samples.lock().unwrap());
    assert!((180..=720).contains(&told.len()), "{}", told.len());
    assert_eq!(told[0].0, Stats::default());
    assert!(told.windows(2).all(|two| two[0].1 == two[1].0), "each sample begins where the last one ended");
    assert!(told.windows(2).all(|two| two[0].1.sent_bytes < two[1].1.sent_bytes));
    assert!(told.last().unwrap().1.sent_bytes + 20 * 11 >= sent);
    drop(body);
    let told = std::mem::take(&mut *samples.lock().unwrap());
    assert_eq!(told.len(), 1, "the rest comes when the last stream ends");
    assert_eq!((told[0].1.sent_bytes, told[0].1.clients), (sent, 0));
}

#[tokio::test(start_paused = true)]
async fn samples_of_publishing_come_every_few_seconds_and_at_the_registrys_end() {
    let (samples, config) = sampling();
    let registry = Registry::with_config(config);
    (0..1000).for_each(|_| publish(&registry, "a", "1"));
    assert_eq!(samples.lock().unwrap().len(), 1);
    tokio::time::advance(5 * SECOND).await;
    (0..1000).for_each(|_| publish(&registry, "a", "1"));
    assert_eq!(samples.lock().unwrap().len(), 2);
    let retained = samples.lock().unwrap()[1].1.events;
    assert!(retained > 0);
    drop(registry);
    let (before, now) = samples.lock().unwrap().pop().unwrap();
    assert_eq!((before.events, now.events, now.bytes, now.topics, now.published), (retained, 0, 0, 0, 2000));
}

#[test]
fn the_counts_of_the_stats_add_up() {
    let config = RegistryConfig::default().topic_retention(Retention::default().events(2));
    let registry = Registry::with_config(config);
    let [(closing, mut a), (_, mut b), (_, mut c)] =
        [0, 1, 2].map(|_| open(&quiet(&registry), None, |client| client.subscribe("a").unwrap()));
    publish(&registry, "a", "1");
    [&mut a, &mut b, &mut c].into_iter().for_each(|body| drop(text(body)));
    (0..5).for_each(|number| publish(&registry, "a", &number.to_string()));
    text(&mut a);
    closing.close_with("maintenance");
    poll(&mut a);
    drop((b, c));
    let events = subscribed(&registry, ["a", "b"]);
    events.subscribe("").unwrap_err();
    let mut events = events.into_events();
    publish(&registry, "b", "1");
    assert_eq!(data(&mut events), ["1"]);
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions, stats.topics, stats.events), (1, 2, 2, 3));
    assert_eq!((stats.published, stats.delivered), (7, 3 + 2 + 1));
    assert_eq!((stats.fell_behind, stats.missed, stats.gaps, stats.refused_subscriptions), (1, 3, 1, 1));
    assert_eq!(
        stats.closed_streams,
        [(CloseReason::ClientDisconnected, 2), (CloseReason::Other("maintenance"), 1)].into()
    );
    let expected = json!({
        "clients": 1, "subscriptions": 2, "topics": 2, "events": 3, "bytes": stats.bytes, "published": 7,
        "delivered": 6, "sent_bytes": stats.sent_bytes, "fell_behind": 1, "missed": 3, "gaps": 1, "refused_subscriptions": 1, "refused_streams": 0, "withheld_heartbeats": 0,
        "closed_streams": { "client_disconnected": 2, "maintenance": 1 },
    });
    assert_eq!(serde_json::to_value(&stats).unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_list_of_clients_has_their_metadata_and_subscriptions() {
    #[derive(Debug, Clone, PartialEq)]
    struct Seat(u32);
    let registry = Registry::new();
    let mut streams: Vec<_> = (0..3)
        .map(|seat| {
            open(&quiet(&registry), None, |client| {
                client.insert_metadata(Seat(seat));
                client.subscribe(format!("seat/{seat}")).unwrap();
                client.send(Event::data("welcome")).unwrap();
            })
        })
        .collect();
    let waiting = subscribed(&registry, ["waiting"]);
    tokio::time::advance(SECOND).await;
    let clients = registry.clients();
    assert_eq!(clients.len(), 3, "a client without a stream is not listed, but can be found by its id");
    for (seat, (client, _)) in (0..).zip(&streams) {
        let listed = clients.iter().find(|listed| listed.id() == client.id()).unwrap();
        assert_eq!((listed.metadata().get(), listed.stats().age), (Some(&Seat(seat)), Some(SECOND)));
        assert_eq!(listed.subscriptions(), [format!("seat/{seat}")], "the client's own topic is not listed");
    }
    assert_eq!(registry.client(&waiting.id()).unwrap().stats().age, None);
    let (kicked, mut body) = streams.remove(1);
    registry.client(&kicked.id()).unwrap().close_with("kicked");
    assert!(rest(&mut body).1);
    assert_eq!(kicked.closed().await, CloseReason::Other("kicked"));
    drop((waiting, clients));
    assert_eq!((registry.clients().len(), registry.stats().closed_streams.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_stats_of_a_client_are_those_of_its_stream() {
    let config = RegistryConfig::default().topic_retention(Retention::default().events(2));
    let registry = Registry::with_config(config);
    let (client, mut body) =
        open(&quiet(&registry).opening_comment("welcome"), None, |client| client.subscribe("a").unwrap());
    (0..5).for_each(|number| publish(&registry, "a", &number.to_string()));
    let all = text(&mut body);
    tokio::time::advance(SECOND).await;
    let stats = client.stats();
    assert_eq!((stats.age, stats.events, stats.bytes, stats.missed), (Some(SECOND), 2, all.len() as u64, 3));
    drop(body);
    assert_eq!((client.stats().events, registry.stats().delivered), (2, 2), "each event is counted once");
}

#[test]
fn a_reader_goes_on_after_a_second_reader_was_refused_and_dropped() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
    publish(&registry, "a", "1");
    assert!(text(&mut body).starts_with("data: 1\n"));
    drop(client.into_events());
    publish(&registry, "a", "2");
    let (wire, has_ended) = rest(&mut body);
    assert!(wire.starts_with("data: 2\n") && !has_ended, "{wire}");
}
