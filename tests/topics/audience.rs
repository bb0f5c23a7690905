//! Which clients get an event: excluded clients, and filters on what is known of the event and of the client.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use http::{Request, request::Parts};
use http_body::Body;
use tokio_test::{assert_pending, task};
use tower_sse::{ClientHandle, CloseReason, Event, Registry, Resume, Start, Subscription};

use crate::{
    answer::answer,
    bodies, open,
    open::open,
    polling,
    polling::{Polled, bounded, data, fields, frame, poll, position, publish, quiet, received, subscribed, text},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Info,
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User(String);

fn log(registry: &Registry, level: Level, data: &str) {
    registry.publish("log", Event::data(data).attribute(level)).unwrap();
}

fn errors() -> Subscription {
    Subscription::to("log").filter(|event, _| event.attribute() >= Some(&Level::Error))
}

#[test]
fn an_event_is_not_sent_to_its_excluded_client() {
    let registry = Registry::new();
    let [mut a, mut b] = [0, 1].map(|_| open(&quiet(&registry), None, |client| client.subscribe("room").unwrap()));
    let receipt = registry.publish("room", Event::data("hello").exclude_client(a.0.id())).unwrap();
    assert_eq!(receipt.subscribers(), 1);
    assert_eq!((received(&mut a.1), received(&mut b.1)), (vec![], vec!["hello".to_owned()]));
    publish(&registry, "room", "all");
    assert_eq!((received(&mut a.1), received(&mut b.1)), (vec!["all".to_owned()], vec!["all".to_owned()]));
}

#[test]
fn an_exclusion_in_a_burst_affects_no_other_event() {
    let registry = Registry::new();
    let [mut a, mut b, mut c] =
        [0, 1, 2].map(|_| open(&quiet(&registry), None, |client| client.subscribe("room").unwrap()));
    publish(&registry, "room", "1");
    registry.publish("room", Event::data("2").exclude_client(a.0.id())).unwrap();
    publish(&registry, "room", "3");
    registry.publish("room", Event::data("4").exclude_client(b.0.id())).unwrap();
    assert_eq!(received(&mut c.1).concat(), "1234");
    assert_eq!((received(&mut a.1).concat(), received(&mut b.1).concat()), ("134".into(), "123".into()));
    assert_eq!(registry.stats().delivered, 10);
    // The frames without exclusions are shared again.
    (5..8).for_each(|number| publish(&registry, "room", &number.to_string()));
    let frames = [&mut a, &mut b].map(|client| frame(&mut client.1).unwrap());
    assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
}

#[test]
fn the_receipt_subtracts_an_excluded_client_only_if_it_is_subscribed() {
    let registry = Registry::new();
    let (a, b) = (subscribed(&registry, ["room"]), subscribed(&registry, ["**"]));
    let clients = |topic, except: &ClientHandle| {
        registry.publish(topic, Event::data("").exclude_client(except.id())).unwrap().subscribers()
    };
    assert_eq!((clients("room", &a), clients("other", &b)), (0, 0), "the clients have no streams yet");
    let _streams = [&a, &b].map(|client| client.clone().into_events());
    assert_eq!((clients("room", &a), clients("room", &b), clients("other", &a)), (1, 1, 1));
    assert_eq!(clients("room", &Registry::new().connect()), 2);
    assert_eq!(
        a.send(Event::data("").exclude_client(b.id())).unwrap().subscribers(),
        1,
        "no pattern matches the client's own topic"
    );
    // Each of several subscriptions counts, and each is excluded.
    b.subscribe("room").unwrap();
    assert_eq!((clients("room", &a), clients("room", &b)), (2, 1));
}

#[test]
fn patterns_and_event_streams_exclude_a_client_too() {
    let registry = Registry::new();
    let client = subscribed(&registry, ["room/*", "room/1"]);
    registry.publish("room/1", Event::data("own").exclude_client(client.id())).unwrap();
    publish(&registry, "room/1", "other");
    assert_eq!(data(&mut client.into_events()), ["other"]);
}

#[test]
fn a_filter_sees_the_event_as_it_was_published() {
    let registry = Registry::new();
    let client = registry.connect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    let filter = move |event: &tower_sse::Delivery, client: &ClientHandle| {
        let text = (event.topic().to_owned(), event.event_type().map(str::to_owned), event.data().map(Into::into));
        let text: (String, Option<String>, Option<String>) = text;
        into.lock().unwrap().push((text, event.position(), event.attribute::<Level>().copied(), client.id()));
        event.data().as_deref() == Some("yes\nyes")
    };
    client.subscribe(Subscription::matching("**").filter(filter)).unwrap();
    let event = Event::data("yes\r\nyes").event("vote").attribute(Level::Info);
    let first = registry.publish("votes/1", event).unwrap().position().unwrap();
    let second = position(&registry, "votes/2", "no");
    let id = client.id();
    assert_eq!(data(&mut client.into_events()), ["yes\nyes"]);
    let expected = [
        (("votes/1".to_owned(), Some("vote".to_owned()), Some("yes\nyes".to_owned())), first, Some(Level::Info), id),
        (("votes/2".to_owned(), None, Some("no".to_owned())), second, None, id),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn a_filter_sees_the_clients_metadata() {
    let registry = Registry::new();
    let layer = quiet(&registry).metadata(|request: &Parts| {
        let user = request.headers.get("user")?;
        Some(User(user.to_str().ok()?.to_owned()))
    });
    let open = |user: Option<&str>| {
        let mut request = Request::builder();
        if let Some(user) = user {
            request = request.header("user", user);
        }
        answer(&layer, request.body(()).unwrap(), |client| {
            let own = |event: &tower_sse::Delivery, client: &ClientHandle| {
                client.metadata().get::<User>().is_none_or(|User(user)| event.attribute() == Some(&User(user.clone())))
            };
            client.subscribe(Subscription::to("mail").filter(own)).unwrap();
            bodies::event_stream(open::Empty::new())
        })
    };
    let (ann, ann_body) = open(Some("ann"));
    let (admin, admin_body) = open(None);
    let (mut ann_body, mut admin_body) = (ann_body.into_body(), admin_body.into_body());
    assert_eq!(ann.metadata().get(), Some(&User("ann".into())));
    assert!(admin.metadata().is_empty());
    for user in ["ann", "bob"] {
        registry.publish("mail", Event::data(user).attribute(User(user.to_owned()))).unwrap();
    }
    assert_eq!(
        (received(&mut ann_body), received(&mut admin_body)),
        (vec!["ann".into()], vec!["ann".to_owned(), "bob".into()])
    );
    admin.insert_metadata(User("bob".into()));
    ann.insert_metadata(Level::Error);
    assert_eq!((ann.metadata().get(), ann.metadata().get()), (Some(&User("ann".into())), Some(&Level::Error)));
    for user in ["ann", "bob"] {
        registry.publish("mail", Event::data(user).attribute(User(user.to_owned()))).unwrap();
    }
    assert_eq!((received(&mut ann_body), received(&mut admin_body)), (vec!["ann".to_owned()], vec!["bob".to_owned()]));
}

#[test]
fn an_event_that_a_filter_refuses_is_refused_on_resume_too() {
    let registry = Registry::new();
    let (_, mut body) = open(&quiet(&registry), None, |client| client.subscribe(errors()).unwrap());
    log(&registry, Level::Error, "1");
    log(&registry, Level::Info, "2");
    let live = text(&mut body);
    assert_eq!(fields(&live, "data"), ["1"]);
    log(&registry, Level::Info, "3");
    log(&registry, Level::Error, "4");
    let (client, mut body) =
        open(&quiet(&registry), Some(fields(&live, "id")[0]), |client| client.subscribe(errors()).unwrap());
    assert_eq!((client.resume(), received(&mut body)), (Resume::Continued, vec!["4".to_owned()]));
    let oldest = registry.connect();
    oldest.subscribe(errors().from(Start::Oldest)).unwrap();
    assert_eq!(data(&mut oldest.into_events()), ["1", "4"]);
}

#[test]
fn an_event_comes_once_if_one_of_several_filters_accepts_it() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe(errors()).unwrap());
    client.subscribe(Subscription::matching("*").filter(|event, _| event.data().as_deref() != Some("hidden"))).unwrap();
    log(&registry, Level::Info, "hidden");
    log(&registry, Level::Error, "hidden");
    log(&registry, Level::Error, "both");
    log(&registry, Level::Info, "second");
    assert_eq!(received(&mut body), ["hidden", "both", "second"]);
}

#[test]
fn an_event_that_a_filter_refused_comes_with_a_later_subscription() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe(errors()).unwrap());
    log(&registry, Level::Info, "refused");
    log(&registry, Level::Error, "given");
    assert_eq!(received(&mut body), ["given"]);
    client.subscribe(Subscription::matching("*").from(Start::Oldest)).unwrap();
    assert_eq!(received(&mut body), ["refused"]);
}

#[test]
fn a_new_filter_applies_to_all_events_that_were_not_sent() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("log").unwrap());
    log(&registry, Level::Info, "had");
    assert_eq!(received(&mut body), ["had"]);
    log(&registry, Level::Info, "refused");
    log(&registry, Level::Error, "1");
    client.subscribe(errors()).unwrap();
    assert_eq!(received(&mut body), ["1"]);
    log(&registry, Level::Info, "refused");
    client.subscribe("log").unwrap();
    assert_eq!(received(&mut body), [] as [&str; 0], "a subscription by name only changes nothing");
    client.subscribe(Subscription::to("log").filter(|_, _| true)).unwrap();
    log(&registry, Level::Info, "2");
    assert_eq!(received(&mut body), ["2"]);
    assert_eq!(client.subscriptions(), ["log"]);
    log(&registry, Level::Error, "3");
    client.subscribe(Subscription::to("log").filter(|_, _| false)).unwrap();
    client.subscribe(errors().from(Start::Last(2))).unwrap();
    assert_eq!(received(&mut body), ["3"], "the new filter sees each event again");

    let events = registry.connect();
    events.subscribe(Subscription::matching("log/*").filter(|_, _| false)).unwrap();
    let mut events = (events.clone(), events.into_events());
    events.0.subscribe(Subscription::matching("log/*").filter(|_, _| true)).unwrap();
    publish(&registry, "log/1", "4");
    assert_eq!(data(&mut events.1), ["4"]);
}

#[test]
fn an_older_event_that_a_filter_refused_comes_with_a_later_subscription() {
    let registry = Registry::new();
    let client = registry.connect();
    client.subscribe(Subscription::to("log").filter(|_, _| false)).unwrap();
    let mut events = client.clone().into_events();
    publish(&registry, "log", "1");
    assert_eq!(data(&mut events), [] as [&str; 0]);
    client.subscribe(Subscription::to("log").filter(|_, _| true)).unwrap();
    publish(&registry, "log", "2");
    assert_eq!(data(&mut events), ["2"]);
    client.subscribe(Subscription::matching("*").from(Start::Oldest)).unwrap();
    assert_eq!(data(&mut events), ["1"]);
}

#[test]
fn a_new_start_replaces_the_one_before() {
    let registry = Registry::new();
    ["1", "2", "3"].iter().for_each(|data| publish(&registry, "a", data));
    let not_2 = || Subscription::to("a").filter(|event, _| event.data().as_deref() != Some("2"));
    let (_, mut body) = open(&quiet(&registry), None, |client| {
        client.subscribe(not_2().from(Start::Last(1))).unwrap();
        client.subscribe_from("a", Start::Oldest).unwrap();
    });
    assert_eq!(received(&mut body), ["1", "3"], "the filter stays the same");

    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
    publish(&registry, "a", "4");
    client.subscribe_from("a", Start::Now).unwrap();
    assert_eq!(received(&mut body), ["4"], "the client gets new events anyway");
    client.subscribe_from("a", Start::Last(2)).unwrap();
    assert_eq!(received(&mut body), ["3", "4"]);
    publish(&registry, "a", "5");
    client.subscribe_from("a", Start::Last(2)).unwrap();
    assert_eq!(received(&mut body), ["5"], "the client already has the earlier events");
    (0..2).for_each(|_| client.subscribe_from("a", Start::Oldest).unwrap());
    assert_eq!(received(&mut body), ["1", "2", "3", "4", "5"], "once");
    let other = Registry::new().position();
    client.subscribe_from("a", Start::After(other)).unwrap();
    let gap = text(&mut body);
    assert!(gap.contains("event: gap\n"), "the client is told that events are missing: {gap}");
}

#[test]
fn a_client_cut_during_a_repeat_gets_no_event_a_third_time() {
    let registry = Registry::new();
    let topics = ["a", "b"];
    let large = |number: usize| format!("{number} {}", "x".repeat(40_000));
    (0..6).for_each(|number| publish(&registry, topics[number % 2], &large(number)));
    let numbers = |wire: &str| fields(wire, "data").iter().map(|data| data[..1].to_owned()).collect::<String>();
    let subscribe = |client: &ClientHandle| topics.iter().for_each(|topic| client.subscribe(topic).unwrap());
    let (client, mut body) = open(&quiet(&registry), None, subscribe);
    publish(&registry, "a", &large(6));
    publish(&registry, "b", &large(7));
    assert_eq!(numbers(&text(&mut body)), "67");
    client.subscribe_from("a", Start::Oldest).unwrap();
    publish(&registry, "b", &large(8));
    let again = String::from_utf8(frame(&mut body).unwrap().to_vec()).unwrap();
    assert_eq!(numbers(&again), "0");
    let id = fields(&again, "id").last().unwrap().to_string();
    drop(body);
    let (_, mut body) = open(&quiet(&registry), Some(&id), |client| {
        subscribe(client);
        assert_eq!(client.resume(), Resume::Continued);
    });
    assert_eq!(numbers(&text(&mut body)), "2468");
}

#[test]
fn a_start_at_the_last_event_id_set_twice_sends_events_once() {
    let registry = Registry::new();
    let cut = position(&registry, "a", "1").to_string();
    publish(&registry, "a", "2");
    let (client, mut body) = open(&quiet(&registry), Some(&cut), |client| client.subscribe("b").unwrap());
    assert_eq!(received(&mut body), [] as [&str; 0]);
    client.subscribe("a").unwrap();
    (0..2).for_each(|_| client.subscribe_from("a", Start::LastEventId).unwrap());
    assert_eq!(received(&mut body), ["2"]);
    client.subscribe_from("a", Start::LastEventId).unwrap();
    assert_eq!(received(&mut body), [] as [&str; 0]);
}

#[test]
fn a_filter_changed_during_reads_loses_and_repeats_no_event() {
    const EVENTS: usize = 900;
    bounded(|| {
        let registry = Registry::new();
        let client = subscribed(&registry, ["a"]);
        let mut events = client.clone().into_events();
        thread::scope(|scope| {
            let publishing =
                scope.spawn(|| (0..EVENTS).for_each(|number| publish(&registry, "a", &number.to_string())));
            let client = &client;
            scope.spawn(move || {
                while !publishing.is_finished() {
                    client.subscribe(Subscription::to("a").filter(|_, _| true)).unwrap();
                }
            });
            let mut had = Vec::new();
            while had.len() < EVENTS {
                had.extend(data(&mut events));
                thread::yield_now();
            }
            assert_eq!(had, (0..EVENTS).map(|number| number.to_string()).collect::<Vec<_>>());
        });
    });
}

#[test]
fn the_filter_applies_if_two_threads_subscribe_at_once() {
    bounded(|| {
        for _ in 0..300 {
            let registry = Registry::new();
            let client = registry.connect();
            thread::scope(|scope| {
                scope.spawn(|| client.subscribe("a").unwrap());
                scope.spawn(|| client.subscribe(Subscription::to("a").filter(|_, _| false)).unwrap());
            });
            publish(&registry, "a", "refused");
            assert_eq!(data(&mut client.into_events()), [] as [&str; 0]);
        }
    });
}

#[test]
fn a_stream_whose_events_are_all_refused_waits() {
    bounded(|| {
        let registry = Registry::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let nothing = Subscription::to("a").filter(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            false
        });
        let (_, body) = open(&quiet(&registry), None, |client| client.subscribe(nothing.clone()).unwrap());
        let mut body = task::spawn(body);
        for round in 1..4 {
            (0..10).for_each(|number| publish(&registry, "a", &number.to_string()));
            assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
            assert_eq!(asked.load(Ordering::Relaxed), round * 10);
            assert!(!body.is_woken(), "the stream waits for the next event");
            assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
            publish(&registry, "a", "refused");
            assert!(body.is_woken());
            assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
            asked.fetch_sub(1, Ordering::Relaxed);
        }
        assert_eq!(registry.stats().delivered, 0);
    });
}

#[test]
fn a_reader_that_refuses_a_flood_yields_to_other_tasks() {
    bounded(|| {
        let registry = Registry::new();
        let last = Subscription::to("a").filter(|event, _| event.data().is_some_and(|data| data == "last"));
        let (_, body) = open(&quiet(&registry), None, |client| client.subscribe(last.clone()).unwrap());
        let mut body = task::spawn(body);
        assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
        let large = "x".repeat(60_000);
        (0..100).for_each(|_| publish(&registry, "a", &large));
        publish(&registry, "a", "last");
        let mut polls = 0;
        while body.enter(|cx, body| body.poll_frame(cx)).is_pending() {
            polls += 1;
            assert!(body.is_woken(), "the body wakes itself");
        }
        assert!((1..100).contains(&polls), "{polls}");
    });
}

#[test]
fn a_filter_may_call_any_method() {
    bounded(|| {
        let registry = Registry::new();
        let other = registry.clone();
        let busy = Subscription::to("a").filter(move |event, client| {
            assert_eq!(other.stats().clients, other.clients().len());
            other.publish("b", Event::data("from a filter")).unwrap();
            client.subscribe("b").unwrap();
            client.insert_metadata(Level::Info);
            client.send(Event::data("sent")).unwrap();
            assert!(client.unsubscribe("a"));
            event.data().as_deref() == Some("1")
        });
        let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe(busy.clone()).unwrap());
        publish(&registry, "a", "1");
        assert_eq!(received(&mut body), ["1", "sent"]);
        assert_eq!(client.subscriptions(), ["b"]);
        let closing = Subscription::to("b").filter(|_, client| {
            client.close();
            true
        });
        let (_, mut body) = open(&quiet(&registry), None, |client| client.subscribe(closing.clone()).unwrap());
        publish(&registry, "b", "last");
        assert!(matches!(poll(&mut body), Polled::Frame(text) if text.starts_with("data: last\n")));
        assert_eq!(poll(&mut body), Polled::End);
    });
}

/// Calls a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_filters_values_are_dropped_without_a_lock() {
    bounded(|| {
        let registry = Registry::new();
        let filtered = |client: &ClientHandle| {
            let (registry, id) = (registry.clone(), client.id());
            let held = OnDrop(move || {
                drop(registry.client(&id).map(|client| client.subscriptions()));
                drop(registry.stats());
            });
            let filter = move |_: &tower_sse::Delivery, _: &ClientHandle| {
                let _held = &held;
                true
            };
            client.subscribe(Subscription::to("a").filter(filter)).unwrap();
        };
        let (client, body) = open(&quiet(&registry), None, filtered);
        assert!(client.unsubscribe("a"));
        filtered(&client);
        filtered(&client);
        drop(body);
        assert_eq!(registry.stats().subscriptions, 0);
    });
}

#[test]
fn an_attribute_is_dropped_without_a_lock() {
    bounded(|| {
        let registry = Registry::with_config(
            tower_sse::RegistryConfig::default().topic_retention(tower_sse::Retention::default().events(1)),
        );
        // A client that never streams ends with its last handle. Here, the log has the last handle.
        registry.publish("a", Event::data("from").attribute(subscribed(&registry, ["b"]))).unwrap();
        publish(&registry, "a", "what makes it go");
        assert_eq!(
            (registry.stats().clients, registry.stats().topics),
            (0, 1),
            "its subscriptions are removed with it"
        );
    });
}

#[test]
fn metadata_is_changed_without_a_lock() {
    bounded(|| {
        #[derive(Clone)]
        struct Held(#[allow(dead_code)] Arc<OnDrop<Box<dyn FnMut() + Send + Sync>>>);
        let registry = Registry::new();
        let client = registry.connect();
        let id = client.id();
        let on_drop: Box<dyn FnMut() + Send + Sync> = Box::new(move || {
            drop(registry.client(&id).map(|client| client.metadata()));
        });
        client.insert_metadata(Held(Arc::new(OnDrop(on_drop))));
        client.insert_metadata(Held(Arc::new(OnDrop(Box::new(|| {})))));
    });
}

#[test]
fn a_filter_that_panics_harms_only_its_own_stream() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let registry = Registry::new();
        let fails = Subscription::to("a").filter(|event, _| {
            assert_ne!(event.data().as_deref(), Some("bad"), "a filter that was meant to fail");
            true
        });
        let (client, body) = open(&quiet(&registry), None, |client| client.subscribe(fails.clone()).unwrap());
        let (_, mut other) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        let reader = tokio::spawn(async move {
            let mut body = body;
            while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
                frame.unwrap();
            }
        });
        polling::settle().await;
        ["1", "bad", "2"].iter().for_each(|data| publish(&registry, "a", data));
        assert!(reader.await.unwrap_err().is_panic());
        assert_eq!(client.closed().await, CloseReason::ClientDisconnected);
        publish(&registry, "a", "3");
        assert_eq!(received(&mut other), ["1", "bad", "2", "3"]);
        assert_eq!((registry.stats().clients, registry.stats().subscriptions), (1, 1));
    });
}
