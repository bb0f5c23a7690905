//! The observers of a registry: the program's hooks for what happens to its streams.

use std::sync::Arc;

use super::{
    client_handle::ClientHandle,
    error::SubscribeError,
    stats::{Stats, StreamSummary},
};
use crate::{cluster::Health, limit::RefusedReason, log::Gap, topics::Receipt};

/// Hooks that are called when something happens in a registry or in its streams.
///
/// [`RegistryConfig::observer`](crate::RegistryConfig::observer) adds an observer. Several calls add several observers.
/// A closure over an [`Observation`] is an observer; write out the type of its argument:
///
/// ```
/// use std::sync::{
///     Arc,
///     atomic::{AtomicUsize, Ordering},
/// };
/// use tower_sse::{Event, Observation, Registry, RegistryConfig};
///
/// let published = Arc::new(AtomicUsize::new(0));
/// let count = Arc::clone(&published);
/// let registry = Registry::with_config(RegistryConfig::default().observer(move |observation: &Observation<'_>| {
///     if let Observation::Published { topic, .. } = observation {
///         if topic.starts_with("orders/") {
///             count.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }));
///
/// registry.publish("orders/17", Event::data("paid"))?;
/// registry.publish("prices/AAPL", Event::data("187.42"))?;
/// assert_eq!(published.load(Ordering::Relaxed), 1);
/// # Ok::<(), tower_sse::PublishError>(())
/// ```
///
/// A type of your own implements only the methods that it needs. All other methods call [`observe`](Self::observe),
/// which does nothing by default:
///
/// ```
/// use tower_sse::{ClientHandle, StreamSummary, Observer, Registry, RegistryConfig};
///
/// struct Audit;
///
/// impl Observer for Audit {
///     fn closed(&self, _client: &ClientHandle, summary: &StreamSummary) {
///         println!("a stream of {:?} and {} events: {}", summary.duration, summary.events, summary.reason);
///     }
/// }
///
/// let registry = Registry::with_config(RegistryConfig::default().observer(Audit));
/// # let _ = registry;
/// ```
///
/// `MetricsObserver` and `TracingObserver` are observers too, with the `metrics` and `tracing` features. `()` is an
/// observer that does nothing. An [`Arc`] of an observer is an observer.
///
/// # How hooks are called
///
/// A hook runs on the thread on which the thing happens: a thread that publishes, or a thread that polls a stream. If a
/// hook blocks, it blocks that thread. Send slow work to a channel.
///
/// No lock is held, so a hook may call every method of the registry. If a hook publishes, it is called for that event
/// too, and must prevent an endless loop.
///
/// Observers are called in the order in which they were added, one after the other. Between threads there is no order:
/// an event can be observed before an earlier event of the same topic.
///
/// # Hooks that come in pairs
///
/// `opened` and `closed` are called once for each stream. Between them, `subscribed` and `unsubscribed` are called once
/// for each subscription of the stream:
///
/// - A stream begins when the layer gets the handler's response, or when [`into_events`](ClientHandle::into_events) is
///   called. `opened` is called then. After it, `subscribed` is called for each topic and pattern that the client is
///   already subscribed to.
/// - While the stream is open, `subscribed` and `unsubscribed` are called as it happens. `unsubscribed` is also called
///   when the client has read a topic that has [ended](crate::Producer) to its end.
/// - When the stream ends, `unsubscribed` is called for each subscription that is left, and then `closed`.
///
/// So an observer can count the open streams with `opened` and `closed`, and their subscriptions with `subscribed` and
/// `unsubscribed`.
///
/// These four hooks are called in the order in which things happened to the client, even if several threads change it
/// at the same time. One of these threads then calls the hooks for all of them. If a hook changes its own client, the
/// hooks for that change are called after the hook has returned.
///
/// A client without a stream causes none of these four calls. It has no stream if the request was a HEAD, the response
/// was not an event stream, a limit refused the response, or the handler failed. `stream_refused` and
/// `subscription_refused` are called at once, with or without a stream.
///
/// If a hook panics, the panic is caught after the panic hook has printed it. The caller and the other observers go on.
/// This needs a build in which panics unwind.
///
/// # What not to log
///
/// Whoever knows a client's id may be able to act for the client: see [`ClientId`](crate::ClientId). The name of a
/// client's own topic, which [`ClientHandle::send`] publishes to, also contains the id: `$client/` and the id.
///
/// # Cost
///
/// Without observers, each call costs the check of a length. With observers, it costs one virtual call for each
/// observer, and the work of the hook.
///
/// No hook is called for each delivery. Deliveries are counted, and [`sampled`](Self::sampled) reports the count every
/// few seconds. [`StreamSummary`] has the count of one stream. Only [`published`](Self::published) can be called very
/// often.
pub trait Observer: Send + Sync + 'static {
    /// Gets each observation whose own method is not implemented. Default: does nothing.
    fn observe(&self, observation: &Observation<'_>) {
        let _ = observation;
    }

    /// A stream was opened.
    ///
    /// Called once for each stream. One [`closed`](Self::closed) follows.
    fn opened(&self, client: &ClientHandle) {
        self.observe(&Observation::Opened { client });
    }

    /// A stream was refused before it was opened. Called for each attempt.
    fn stream_refused(&self, client: &ClientHandle, reason: &RefusedReason) {
        self.observe(&Observation::StreamRefused { client, reason });
    }

    /// A subscription was refused. Called for each attempt.
    ///
    /// The name of the topic may come from a client. The error's message quotes and escapes it.
    fn subscription_refused(&self, client: &ClientHandle, error: &SubscribeError) {
        self.observe(&Observation::SubscriptionRefused { client, error });
    }

    /// The client of an open stream was subscribed to a topic or pattern.
    ///
    /// Called once for each new subscription. One [`unsubscribed`](Self::unsubscribed) follows. For subscriptions that
    /// were made before the stream began, it is called when the stream begins.
    ///
    /// It is not called for the client's own topic, which [`ClientHandle::send`] publishes to.
    fn subscribed(&self, client: &ClientHandle, topic: &str) {
        self.observe(&Observation::Subscribed { client, topic });
    }

    /// A subscription ended for which [`subscribed`](Self::subscribed) was called.
    ///
    /// The client was unsubscribed, its topic ended, or its stream ended. In the last case,
    /// [`closed`](Self::closed) follows.
    fn unsubscribed(&self, client: &ClientHandle, topic: &str) {
        self.observe(&Observation::Unsubscribed { client, topic });
    }

    /// A client fell behind what a topic retains, and lost `missed` events of the topic.
    ///
    /// Called for each topic, each time that the client falls behind.
    fn fell_behind(&self, client: &ClientHandle, topic: &str, missed: u64) {
        self.observe(&Observation::FellBehind { client, topic, missed });
    }

    /// Events that a client should have had are no longer retained.
    ///
    /// Called once for each gap, also if the client is not told of the gap.
    fn gap(&self, client: &ClientHandle, gap: &Gap) {
        self.observe(&Observation::Gap { client, gap });
    }

    /// A heartbeat was sent in a stream.
    fn heartbeat(&self, client: &ClientHandle) {
        self.observe(&Observation::Heartbeat { client });
    }

    /// A stream that was opened has ended.
    ///
    /// Called once for each stream. It is the last hook of the stream.
    fn closed(&self, client: &ClientHandle, summary: &StreamSummary) {
        self.observe(&Observation::Closed { client, summary });
    }

    /// An event was published.
    ///
    /// Called once for each event, no matter how many clients get it.
    fn published(&self, topic: &str, receipt: &Receipt) {
        self.observe(&Observation::Published { topic, receipt });
    }

    /// Reports the registry's numbers now, and at the last call.
    ///
    /// At the first call, all numbers in `before` are zero. The deliveries between two calls are the difference of
    /// [`Stats::delivered`].
    ///
    /// A publish or a due heartbeat calls it, at most every five seconds. With at most 64 open streams, it is also
    /// called when a stream ends. If none of this happens, it is not called. The last call is when the registry is
    /// dropped; `now` then has no topics and no events.
    ///
    /// Only one thread calls it at a time. It is not called for what this hook does itself.
    ///
    /// Cost: that of [`Registry::stats`](crate::Registry::stats), which visits each open stream, however many observers
    /// there are.
    fn sampled(&self, before: &Stats, now: &Stats) {
        self.observe(&Observation::Sampled { before, now });
    }

    /// The registry's [`Health`] has changed.
    ///
    /// Called when the kind of health changes, such as from [`Health::Following`] to [`Health::Away`]; not for each reason. The last call is
    /// when the registry is dropped; `now` then is [`Health::Loading`]. Without a [backplane](crate::backplane) it is never called.
    fn health_changed(&self, before: &Health, now: &Health) {
        self.observe(&Observation::HealthChanged { before, now });
    }
}

/// Does nothing.
impl Observer for () {}

impl<F> Observer for F
where
    F: Fn(&Observation<'_>) + Send + Sync + 'static,
{
    fn observe(&self, observation: &Observation<'_>) {
        self(observation);
    }
}

/// Use an `Arc` to keep access to an observer after it was added to a registry.
impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn observe(&self, observation: &Observation<'_>) {
        O::observe(self, observation);
    }

    fn opened(&self, client: &ClientHandle) {
        O::opened(self, client);
    }

    fn stream_refused(&self, client: &ClientHandle, reason: &RefusedReason) {
        O::stream_refused(self, client, reason);
    }

    fn subscription_refused(&self, client: &ClientHandle, error: &SubscribeError) {
        O::subscription_refused(self, client, error);
    }

    fn subscribed(&self, client: &ClientHandle, topic: &str) {
        O::subscribed(self, client, topic);
    }

    fn unsubscribed(&self, client: &ClientHandle, topic: &str) {
        O::unsubscribed(self, client, topic);
    }

    fn fell_behind(&self, client: &ClientHandle, topic: &str, missed: u64) {
        O::fell_behind(self, client, topic, missed);
    }

    fn gap(&self, client: &ClientHandle, gap: &Gap) {
        O::gap(self, client, gap);
    }

    fn heartbeat(&self, client: &ClientHandle) {
        O::heartbeat(self, client);
    }

    fn closed(&self, client: &ClientHandle, summary: &StreamSummary) {
        O::closed(self, client, summary);
    }

    fn published(&self, topic: &str, receipt: &Receipt) {
        O::published(self, topic, receipt);
    }

    fn sampled(&self, before: &Stats, now: &Stats) {
        O::sampled(self, before, now);
    }

    fn health_changed(&self, before: &Health, now: &Health) {
        O::health_changed(self, before, now);
    }
}

/// What happened, as one value, for [`Observer::observe`].
///
/// Each variant is described at the method of its name.
///
/// The `Debug` output contains the client's whole id, which [does not belong in a log](Observer#what-not-to-log).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Observation<'a> {
    /// [`Observer::opened`].
    Opened {
        /// The client of the stream.
        client: &'a ClientHandle,
    },
    /// [`Observer::stream_refused`].
    StreamRefused {
        /// The client that would have had the stream.
        client: &'a ClientHandle,
        /// Why the stream was refused.
        reason: &'a RefusedReason,
    },
    /// [`Observer::subscription_refused`].
    SubscriptionRefused {
        /// The client that was not subscribed.
        client: &'a ClientHandle,
        /// Why the subscription was refused.
        error: &'a SubscribeError,
    },
    /// [`Observer::subscribed`].
    Subscribed {
        /// The client of the subscription.
        client: &'a ClientHandle,
        /// The topic or pattern.
        topic: &'a str,
    },
    /// [`Observer::unsubscribed`].
    Unsubscribed {
        /// The client of the subscription.
        client: &'a ClientHandle,
        /// The topic or pattern.
        topic: &'a str,
    },
    /// [`Observer::fell_behind`].
    FellBehind {
        /// The client that fell behind.
        client: &'a ClientHandle,
        /// The topic that the client fell behind on.
        topic: &'a str,
        /// How many events of the topic the client lost.
        missed: u64,
    },
    /// [`Observer::gap`].
    Gap {
        /// The client that did not get the events.
        client: &'a ClientHandle,
        /// The events, by topic and position.
        gap: &'a Gap,
    },
    /// [`Observer::heartbeat`].
    Heartbeat {
        /// The client of the stream.
        client: &'a ClientHandle,
    },
    /// [`Observer::closed`].
    Closed {
        /// The client of the stream.
        client: &'a ClientHandle,
        /// Why the stream ended, and what was sent in it.
        summary: &'a StreamSummary,
    },
    /// [`Observer::published`].
    Published {
        /// The topic of the event.
        topic: &'a str,
        /// The position of the event, and its number of subscribers.
        receipt: &'a Receipt,
    },
    /// [`Observer::sampled`].
    Sampled {
        /// The numbers at the last call.
        before: &'a Stats,
        /// The numbers now.
        now: &'a Stats,
    },
    /// [`Observer::health_changed`].
    HealthChanged {
        /// The health until now.
        before: &'a Health,
        /// The health from now on.
        now: &'a Health,
    },
}

/// A sample of each argument, for the tests of all observers.
#[cfg(test)]
pub(crate) mod samples {
    use std::time::Duration;

    use super::*;
    use crate::{CloseReason, Event, Registry};

    pub(crate) struct Samples {
        pub(crate) client: ClientHandle,
        pub(crate) error: SubscribeError,
        pub(crate) gap: Gap,
        pub(crate) summary: StreamSummary,
        pub(crate) receipt: Receipt,
        pub(crate) before: Stats,
        pub(crate) now: Stats,
    }

    impl Samples {
        pub(crate) fn new() -> Self {
            let registry = Registry::new();
            Self {
                client: registry.connect(),
                error: SubscribeError::TooManySubscriptions { limit: 3 },
                gap: Gap { topics: vec!["a/1".to_owned(), "b".to_owned()], after: "1-0\n".to_owned(), position: None },
                summary: StreamSummary {
                    reason: CloseReason::ClientDisconnected,
                    duration: Duration::from_millis(1500),
                    events: 7,
                    bytes: 900,
                },
                receipt: registry.publish("a/1", Event::data("x")).unwrap(),
                before: Stats { topics: 5, events: 4, delivered: 10, sent_bytes: 100, ..Stats::default() },
                now: Stats {
                    topics: 3,
                    subscriptions: 2,
                    events: 9,
                    bytes: 80,
                    delivered: 17,
                    waiting: 3,
                    sent_bytes: 1000,
                    ..Stats::default()
                },
            }
        }

        /// Calls each method once, in the order of [`Observation`].
        pub(crate) fn tell(&self, observer: &dyn Observer) {
            observer.opened(&self.client);
            observer.stream_refused(&self.client, &RefusedReason::Draining);
            observer.subscription_refused(&self.client, &self.error);
            observer.subscribed(&self.client, "a/1");
            observer.unsubscribed(&self.client, "a/1");
            observer.fell_behind(&self.client, "a/1", 5);
            observer.gap(&self.client, &self.gap);
            observer.heartbeat(&self.client);
            observer.closed(&self.client, &self.summary);
            observer.published("a/1", &self.receipt);
            observer.sampled(&self.before, &self.now);
            observer.health_changed(&Health::Following, &Health::Full { reason: "no room".to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{samples::Samples, *};
    use crate::sync::lock;

    fn name(observation: &Observation<'_>) -> &'static str {
        match observation {
            Observation::Opened { .. } => "opened",
            Observation::StreamRefused { .. } => "stream_refused",
            Observation::SubscriptionRefused { .. } => "subscription_refused",
            Observation::Subscribed { .. } => "subscribed",
            Observation::Unsubscribed { .. } => "unsubscribed",
            Observation::FellBehind { .. } => "fell_behind",
            Observation::Gap { .. } => "gap",
            Observation::Heartbeat { .. } => "heartbeat",
            Observation::Closed { .. } => "closed",
            Observation::Published { .. } => "published",
            Observation::Sampled { .. } => "sampled",
            Observation::HealthChanged { .. } => "health_changed",
        }
    }

    const ALL: [&str; 12] = [
        "opened",
        "stream_refused",
        "subscription_refused",
        "subscribed",
        "unsubscribed",
        "fell_behind",
        "gap",
        "heartbeat",
        "closed",
        "published",
        "sampled",
        "health_changed",
    ];

    /// Implements `closed` only.
    #[derive(Default)]
    struct Partial {
        observed: Mutex<Vec<&'static str>>,
        closed: AtomicUsize,
    }

    impl Observer for Partial {
        fn observe(&self, observation: &Observation<'_>) {
            lock(&self.observed).push(name(observation));
        }

        fn closed(&self, _client: &ClientHandle, _summary: &StreamSummary) {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_closure_gets_every_observation() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let observer = move |observation: &Observation<'_>| lock(&into).push(name(observation));
        Samples::new().tell(&observer);
        assert_eq!(*lock(&seen), ALL);
    }

    #[test]
    fn an_observation_has_the_methods_arguments() {
        let samples = Samples::new();
        let (id, gap, closed, receipt) =
            (samples.client.id(), samples.gap.clone(), samples.summary.clone(), samples.receipt.clone());
        let (earlier, deferred) = (samples.before.clone(), samples.now.clone());
        samples.tell(&move |observation: &Observation<'_>| match *observation {
            Observation::Opened { client } | Observation::Heartbeat { client } => assert_eq!(client.id(), id),
            Observation::StreamRefused { client, reason } => {
                assert_eq!((client.id(), reason), (id, &RefusedReason::Draining));
            }
            Observation::SubscriptionRefused { client, error } => {
                assert_eq!((client.id(), error), (id, &SubscribeError::TooManySubscriptions { limit: 3 }));
            }
            Observation::Subscribed { client, topic } | Observation::Unsubscribed { client, topic } => {
                assert_eq!((client.id(), topic), (id, "a/1"));
            }
            Observation::FellBehind { client, topic, missed } => {
                assert_eq!((client.id(), topic, missed), (id, "a/1", 5));
            }
            Observation::Gap { client, gap: got } => assert_eq!((client.id(), got), (id, &gap)),
            Observation::Closed { client, summary: got } => assert_eq!((client.id(), got), (id, &closed)),
            Observation::Published { topic, receipt: got } => assert_eq!((topic, got), ("a/1", &receipt)),
            Observation::Sampled { before, now } => assert_eq!((before, now), (&earlier, &deferred)),
            Observation::HealthChanged { before, now } => assert!(before.is_following() && !now.is_following()),
        });
    }

    #[test]
    fn an_implemented_method_is_not_observed_too() {
        let observer = Partial::default();
        Samples::new().tell(&observer);
        assert_eq!(observer.closed.load(Ordering::Relaxed), 1);
        let others: Vec<_> = ALL.into_iter().filter(|name| *name != "closed").collect();
        assert_eq!(*lock(&observer.observed), others);
    }

    /// Implements every method.
    #[derive(Default)]
    struct Full(Mutex<Vec<&'static str>>);

    impl Observer for Full {
        fn observe(&self, observation: &Observation<'_>) {
            panic!("{} has a method of its own", name(observation));
        }

        fn opened(&self, _client: &ClientHandle) {
            lock(&self.0).push("opened");
        }

        fn stream_refused(&self, _client: &ClientHandle, _reason: &RefusedReason) {
            lock(&self.0).push("stream_refused");
        }

        fn subscription_refused(&self, _client: &ClientHandle, _error: &SubscribeError) {
            lock(&self.0).push("subscription_refused");
        }

        fn subscribed(&self, _client: &ClientHandle, _topic: &str) {
            lock(&self.0).push("subscribed");
        }

        fn unsubscribed(&self, _client: &ClientHandle, _topic: &str) {
            lock(&self.0).push("unsubscribed");
        }

        fn fell_behind(&self, _client: &ClientHandle, _topic: &str, _missed: u64) {
            lock(&self.0).push("fell_behind");
        }

        fn gap(&self, _client: &ClientHandle, _gap: &Gap) {
            lock(&self.0).push("gap");
        }

        fn heartbeat(&self, _client: &ClientHandle) {
            lock(&self.0).push("heartbeat");
        }

        fn closed(&self, _client: &ClientHandle, _summary: &StreamSummary) {
            lock(&self.0).push("closed");
        }

        fn published(&self, _topic: &str, _receipt: &Receipt) {
            lock(&self.0).push("published");
        }

        fn sampled(&self, _before: &Stats, _now: &Stats) {
            lock(&self.0).push("sampled");
        }

        fn health_changed(&self, _before: &Health, _now: &Health) {
            lock(&self.0).push("health_changed");
        }
    }

    #[test]
    fn an_observer_behind_an_arc_keeps_its_own_methods() {
        let full = Arc::new(Full::default());
        Samples::new().tell(&Arc::clone(&full));
        assert_eq!(*lock(&full.0), ALL);
        let partial = Arc::new(Partial::default());
        Samples::new().tell(&(Arc::clone(&partial) as Arc<dyn Observer>));
        assert_eq!(lock(&partial.observed).len(), ALL.len() - 1);
    }
}
