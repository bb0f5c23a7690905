//! The registry drops the program's values and wakes tasks only without a lock. If one of these panics, the others
//! still happen.

use std::{
    cell::Cell,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_core::Stream;
use http::Request;
use tokio::time::advance;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, service_fn};
use tower_sse::{
    ClientHandle, Drain, Event, Heartbeat, Presence, Registry, RegistryConfig, Retention, SlowClientPolicy, SseLayer,
    Start, Subscription,
};

use crate::{
    open::{Empty, open},
    polling::{bounded, bounded_in_time, data, poll, quiet, text},
};

thread_local! {
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Calls every method when it is dropped. If a lock were held then, it would deadlock.
#[derive(Clone)]
struct Nosy {
    registry: Registry,
    client: ClientHandle,
    presence: Presence,
    dropped: Arc<AtomicUsize>,
}

impl Nosy {
    fn new(registry: &Registry, client: &ClientHandle) -> Self {
        let presence = registry.presence("room").unwrap();
        Self { registry: registry.clone(), client: client.clone(), presence, dropped: Arc::default() }
    }

    fn event(&self, text: &str) -> Event {
        Event::data(text).attribute(self.clone())
    }

    fn publish(&self, topic: &str) {
        self.registry.publish(topic, self.event("x")).unwrap();
    }

    /// Checks that `act` drops one of the program's values.
    fn drops<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = self.dropped.load(Ordering::Relaxed);
        let result = act();
        assert!(self.dropped.load(Ordering::Relaxed) > before, "nothing was dropped");
        result
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if IS_ASKING.replace(true) {
            return;
        }
        drop((self.client.subscriptions(), self.client.stats(), self.client.metadata()));
        self.client.subscribe("side").ok();
        self.client.unsubscribe("side");
        drop((self.presence.count(), self.presence.members(), self.registry.presence("room")));
        drop((self.registry.stats(), self.registry.topic_state("t"), self.registry.clients()));
        self.registry.publish("side", Event::data("x")).ok();
        IS_ASKING.set(false);
    }
}

fn with_retention(retention: Retention) -> Registry {
    Registry::with_config(RegistryConfig::default().topic_retention(retention).stalled_client_timeout(None))
}

/// A registry with an answer and events that are due to be forgotten now. The next caller drops them.
async fn with_due_events() -> (Registry, Nosy) {
    let registry = with_retention(Retention::default().age(Duration::from_secs(600)));
    let nosy = Nosy::new(&registry, &registry.connect());
    make_due(&registry, &nosy).await;
    (registry, nosy)
}

async fn make_due(registry: &Registry, nosy: &Nosy) {
    let producer = registry.start_producer("answer").unwrap();
    producer.publish(nosy.event("x")).unwrap();
    drop(producer);
    advance(Duration::from_secs(301)).await;
}

#[test]
fn attributes_of_evicted_events_are_dropped_without_a_lock() {
    bounded_in_time(|| async {
        let (registry, nosy) = with_due_events().await;
        nosy.drops(|| registry.stats());
        let (client, mut body) = open(&quiet(&registry), Some("0-0"), |client| {
            client.subscribe("t").unwrap();
            client.subscribe("u").unwrap();
        });
        make_due(&registry, &nosy).await;
        nosy.drops(|| client.unsubscribe("u"));
        make_due(&registry, &nosy).await;
        nosy.drops(|| client.subscribe_from("u", Start::Oldest).unwrap());
        make_due(&registry, &nosy).await;
        nosy.drops(|| client.send(Event::data("x")).unwrap());
        make_due(&registry, &nosy).await;
        nosy.drops(|| registry.cancel_producer("nothing"));
        let _ = text(&mut body);
        make_due(&registry, &nosy).await;
        nosy.drops(|| drop(body));
        make_due(&registry, &nosy).await;
        nosy.drops(|| drop(registry.start_producer("other").unwrap()));
    });
}

#[test]
fn attributes_of_events_found_too_old_are_dropped_without_a_lock() {
    bounded_in_time(|| async {
        let (registry, nosy) = with_due_events().await;
        for pattern in ["t", "*"] {
            let id = registry.publish("t", Event::data("x")).unwrap().position().unwrap();
            let mut service = quiet(&registry).layer(service_fn(|request: Request<()>| {
                let (client, nosy) = (request.extensions().get::<ClientHandle>().unwrap().clone(), nosy.clone());
                async move {
                    client.subscribe(Subscription::matching(pattern)).unwrap();
                    nosy.publish("t");
                    advance(Duration::from_secs(601)).await;
                    nosy.drops(|| client.resume());
                    nosy.publish("t");
                    advance(Duration::from_secs(601)).await;
                    nosy.drops(|| client.is_complete());
                    nosy.publish("t");
                    advance(Duration::from_secs(601)).await;
                    nosy.drops(|| client.subscribe(Subscription::matching("**").from(Start::Oldest)).unwrap());
                    Ok::<_, Infallible>(client.into_stream().into_response::<Empty>())
                }
            }));
            let request = Request::builder().header("last-event-id", id.to_string()).body(()).unwrap();
            nosy.publish("t");
            drop(service.call(request).await.unwrap());
        }
        for pattern in ["t", "*"] {
            let client = registry.connect();
            client.subscribe(Subscription::matching(pattern)).unwrap();
            nosy.publish("t");
            advance(Duration::from_secs(601)).await;
            let first = client.into_stream().snapshot(nosy.event("first"), registry.position());
            nosy.drops(|| drop(first.snapshot(Event::data("second"), registry.position())));
        }
    });
}

#[test]
fn the_last_subscriber_of_a_pattern_drops_no_value_under_a_lock() {
    bounded(|| {
        let registry = with_retention(Retention::default().events(1));
        let nosy = Nosy::new(&registry, &registry.connect());
        let client = registry.connect();
        for pattern in ["a/*", "**"] {
            client.subscribe(Subscription::matching(pattern)).unwrap();
        }
        (0..10).for_each(|_| nosy.publish("a/1"));
        nosy.drops(|| {
            client.unsubscribe("a/*");
            nosy.publish("a/1");
        });
    });
}

#[test]
fn a_filters_values_are_dropped_without_a_lock() {
    bounded(|| {
        let registry = Registry::new();
        let nosy = Nosy::new(&registry, &registry.connect());
        let filtered = |topic: &str| {
            let nosy = nosy.clone();
            Subscription::to(topic).filter(move |_, client| {
                // A filter may call every method, too.
                drop((client.subscriptions(), client.stats(), nosy.registry.stats(), nosy.presence.count()));
                true
            })
        };
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["t", "u", "answer"].iter().for_each(|topic| client.subscribe(filtered(topic)).unwrap());
        });
        nosy.drops(|| drop(client.subscribe(filtered("t"))));
        nosy.drops(|| client.unsubscribe("t"));
        registry.publish("u", Event::data("x")).unwrap();
        assert!(text(&mut body).contains("data: x"));
        drop(registry.start_producer("answer").unwrap());
        nosy.drops(|| text(&mut body));
        nosy.drops(|| drop(body));
        nosy.drops(|| drop(client.subscribe(filtered("t"))));
    });
}

#[test]
fn metadata_of_members_is_dropped_without_a_lock() {
    bounded_in_time(|| async {
        let by_room = |client: &ClientHandle| Some(client.metadata().get::<usize>()?.to_string());
        let registry = Registry::with_config(RegistryConfig::default().presence_key(by_room));
        let nosy = Nosy::new(&registry, &registry.connect());
        let come = |key: usize| {
            open(&quiet(&registry), None, |client| {
                client.insert_metadata(key);
                client.insert_metadata(nosy.clone());
                client.subscribe("room").unwrap();
            })
        };
        let room = registry.presence("room").unwrap();
        let mut changes = task::spawn(room.changes());
        for _ in 0..3 {
            // Another client of the same member takes the first one's place. Both leave, and the member leaves after
            // its grace time.
            let (first, body) = come(1);
            let (second, other) = come(1);
            while changes.poll_next().is_ready() {}
            nosy.drops(|| drop((first, body)));
            drop((second, other));
            advance(Duration::from_secs(11)).await;
            nosy.drops(|| assert_eq!(room.count(), 0));
            let (third, body) = come(2);
            third.unsubscribe("room");
            drop((third, body));
            advance(Duration::from_secs(11)).await;
            nosy.drops(|| come(3));
            advance(Duration::from_secs(11)).await;
            nosy.drops(|| while changes.poll_next().is_ready() {});
        }
        let (last, body) = come(4);
        drop((changes, room));
        nosy.drops(|| last.insert_metadata(nosy.clone()));
        nosy.drops(|| drop((last, body)));
    });
}

#[test]
fn the_farewell_of_a_drain_is_dropped_without_a_lock() {
    bounded(|| {
        let registry = Registry::new();
        let nosy = Nosy::new(&registry, &registry.connect());
        let drain = |words| drop(registry.drain(Drain::within(Duration::ZERO).farewell(words)));
        drain(nosy.event("first"));
        nosy.drops(|| drain(Event::data("second")));
    });
}

/// A reader holds the events that it reads while other threads evict them.
#[test]
fn an_event_evicted_while_it_is_read_is_dropped_without_a_lock() {
    bounded(|| {
        let registry =
            with_retention(Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently));
        let is_over = Arc::new(AtomicBool::new(false));
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["a", "b", "c"].iter().for_each(|topic| client.subscribe(*topic).unwrap());
        });
        let filtered = registry.connect();
        filtered.subscribe(Subscription::matching("*").filter(|_, _| true)).unwrap();
        filtered.subscribe("a").unwrap();
        let mut events = filtered.into_events();
        let publisher = thread::spawn({
            let (is_over, nosy) = (Arc::clone(&is_over), Nosy::new(&registry, &client));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    ["a", "b", "c"].iter().for_each(|topic| nosy.publish(topic));
                }
            }
        });
        while registry.stats().published < 30_000 {
            poll(&mut body);
            let _ = Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop()));
        }
        is_over.store(true, Ordering::Relaxed);
        publisher.join().unwrap();
    });
}

/// Panics when it is dropped, once its flag is set.
#[derive(Clone)]
struct Bomb(Arc<AtomicBool>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0.load(Ordering::Relaxed) {
            panic!("an attribute");
        }
    }
}

#[test]
fn a_waiting_task_is_woken_if_an_evicted_attribute_panics() {
    bounded(|| {
        let registry = with_retention(Retention::default().events(3));
        let explodes = Arc::new(AtomicBool::new(false));
        let mut waiting: Vec<_> = ["t", "t", "*"]
            .map(|name| {
                let client = registry.connect();
                client.subscribe(Subscription::matching(name)).unwrap();
                task::spawn(client.into_events())
            })
            .into();
        for number in 0..3 {
            let event = Event::data(number.to_string()).attribute(Bomb(Arc::clone(&explodes)));
            registry.publish("t", &event).unwrap();
            drop(event);
        }
        for events in &mut waiting {
            while events.poll_next().is_ready() {}
            assert_pending!(events.poll_next());
        }
        explodes.store(true, Ordering::Relaxed);
        let receipt = registry.publish("t", Event::data("3")).unwrap();
        assert_eq!(receipt.subscribers(), 3, "a publisher does not get the panic of another one's attribute");
        assert!(waiting.iter().all(|events| events.is_woken()));
        // Two panics at the same time do not abort the process.
        let shorter = with_retention(Retention::default().bytes(5000));
        explodes.store(false, Ordering::Relaxed);
        for _ in 0..4 {
            shorter.publish("t", Event::data("x").attribute(Bomb(Arc::clone(&explodes)))).unwrap();
        }
        explodes.store(true, Ordering::Relaxed);
        shorter.publish("t", Event::data("x".repeat(3000))).unwrap();
        assert_eq!((registry.stats().events, shorter.stats().events), (3, 2));
        for events in &mut waiting {
            assert_eq!(data(events), ["3"]);
        }
    });
}

struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        panic!("a waker");
    }
}

#[test]
fn a_waiting_task_is_woken_if_another_waker_panics() {
    bounded(|| {
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        let (before, mut first) = open(&layer, None, |client| client.subscribe("t").unwrap());
        // The position event comes first.
        text(&mut first);
        let broken = Waker::from(Arc::new(Broken));
        let waits = |body: &mut _| {
            let body = Pin::new(body);
            assert!(http_body::Body::poll_frame(body, &mut Context::from_waker(&broken)).is_pending());
        };
        waits(&mut first);
        let (after, last) = open(&layer, None, |client| client.subscribe("t").unwrap());
        let mut last = last;
        text(&mut last);
        let mut last = task::spawn(last);
        assert!(last.enter(|cx, body| http_body::Body::poll_frame(body, cx)).is_pending());
        assert_eq!(registry.publish("t", Event::data("1")).unwrap().subscribers(), 2);
        assert!(last.is_woken());
        assert!(matches!(last.enter(|cx, body| http_body::Body::poll_frame(body, cx)), Poll::Ready(Some(Ok(_)))));
        before.close();
        after.close();
        drop(first);
        assert_eq!(registry.stats().clients, 1);
    });
}
