//! The hooks: what a registry and its streams do, told to whoever wants to know.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{error::SubscribeError, handle::ClientHandle, stats::Stats};
use crate::{limit::RefusedReason, log::Gap, stream::CloseReason, sync::nothing_is_locked, topics::Receipt};

/// Hooks: what a registry and its streams do, told as it happens.
///
/// [`RegistryConfig::observer`](crate::RegistryConfig::observer) takes one, and may be called several times. A closure over
/// an [`Observation`] is one, with the type of its argument written out:
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
/// A type of one's own implements the methods that it is about. What it does not implement goes to
/// [`observe`](Self::observe), which does nothing by default:
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
/// With the features of the same names, `MetricsObserver` and `TracingObserver` are two more. `()` is one that does nothing,
/// and an [`Arc`] of one is one.
///
/// # How they are called
///
/// On the thread that does it, which is one that publishes or one that polls a stream: a hook that blocks holds that
/// up. What takes long belongs on a channel. No lock is held, so a hook may call anything of the registry's; if it
/// publishes, it is told of that too, and has to see that this ends.
///
/// In the order in which they were given, each to its end before the next. Between threads there is no order: the next
/// event on a topic can be observed before the one that went before it.
///
/// # Which come in pairs
///
/// `opened` and `closed`, once for each stream, and between them `subscribed` and `unsubscribed`, once for each
/// subscription that the stream had:
///
/// - A stream begins when the layer gets the handler's answer, or when [`into_events`](ClientHandle::into_events) is called. `opened` is told
///   then, and after it one `subscribed` for each topic and pattern that was subscribed to before.
/// - While the stream is open, `subscribed` and `unsubscribed` are told as it happens. A topic that has
///   [ended](crate::Producer) and was read to its end is unsubscribed.
/// - When the stream is over, `unsubscribed` is told for each subscription that is left, and then `closed`.
///
/// So an observer that adds one at the first and takes one off at the second always has the number of open streams, or
/// of their subscriptions. These four are told in the order in which they happened to the client, even if several threads
/// change it at once: one of these threads then tells for all. A hook that changes the client of which it is told
/// is told of that when it has returned.
///
/// A client without a stream is in none of the four: the request was a HEAD, was answered with something else, had a
/// limit refuse its answer, or its handler failed. `stream_refused` and `subscription_refused` are told at once,
/// whether or not there is or will be a stream, as they are about what did not come to be.
///
/// A hook that panics harms neither the one who called nor the other hooks, where panics unwind: the panic ends there,
/// when the panic hook has printed it.
///
/// # What not to log
///
/// A client's id may let whoever knows it act for the client: see [`ClientId`](crate::ClientId). It is in the name of the
/// topic of what is [sent](ClientHandle::send) to the client alone, too: `$client/` and the id.
///
/// # What they cost
///
/// Without observers, the check of a length. With them, one virtual call for each and what it does itself. Nothing is called for
/// each delivered event: deliveries are counted, and told every few seconds with all else that there is
/// ([`sampled`](Self::sampled)), and of one stream in [`StreamSummary`]. [`published`](Self::published) is the one that can be called very often.
pub trait Observer: Send + Sync + 'static {
    /// Gets all that the other methods do not take over. Default: does nothing.
    fn observe(&self, observation: &Observation<'_>) {
        let _ = observation;
    }

    /// A stream was opened: its response begins. Once for each, with one [`closed`](Self::closed).
    fn opened(&self, client: &ClientHandle) {
        self.observe(&Observation::Opened { client });
    }

    /// A stream was refused, before it was opened. As often as it is tried.
    fn stream_refused(&self, client: &ClientHandle, reason: &RefusedReason) {
        self.observe(&Observation::StreamRefused { client, reason });
    }

    /// A subscription was not made. As often as it is tried.
    ///
    /// The name of the topic may be whatever somebody sent. The error's message quotes it.
    fn subscription_refused(&self, client: &ClientHandle, error: &SubscribeError) {
        self.observe(&Observation::SubscriptionRefused { client, error });
    }

    /// An open stream is subscribed to a topic or pattern that it was not subscribed to. Once for each, with one
    /// [`unsubscribed`](Self::unsubscribed). What was subscribed to before the stream began is told when it begins.
    ///
    /// What is [sent](ClientHandle::send) to the client alone needs no subscription that is told of.
    fn subscribed(&self, client: &ClientHandle, topic: &str) {
        self.observe(&Observation::Subscribed { client, topic });
    }

    /// A subscription of which [`subscribed`](Self::subscribed) was told is over: it was taken back, its topic has ended,
    /// or its stream is over, before [`closed`](Self::closed).
    fn unsubscribed(&self, client: &ClientHandle, topic: &str) {
        self.observe(&Observation::Unsubscribed { client, topic });
    }

    /// A client fell off what a topic retains, and lost `missed` events of it. Once for each topic and each fall.
    fn lagged(&self, client: &ClientHandle, topic: &str, missed: u64) {
        self.observe(&Observation::Lagged { client, topic, missed });
    }

    /// Events that a client should have had are no longer retained. Once for each gap, whether or not the client is told of it.
    fn gap(&self, client: &ClientHandle, gap: &Gap) {
        self.observe(&Observation::Gap { client, gap });
    }

    /// A heartbeat was put into a stream.
    fn heartbeat(&self, client: &ClientHandle) {
        self.observe(&Observation::Heartbeat { client });
    }

    /// A stream that was opened is over. Once for each: the last that is told of it.
    fn closed(&self, client: &ClientHandle, summary: &StreamSummary) {
        self.observe(&Observation::Closed { client, summary });
    }

    /// An event was published. Once for each, however many clients get it.
    fn published(&self, topic: &str, receipt: &Receipt) {
        self.observe(&Observation::Published { topic, receipt });
    }

    /// How much there is now, and how much there was when this was last called, before the first time nothing. So what
    /// was delivered meanwhile is the difference of [`Stats::delivered`].
    ///
    /// Called every five seconds at most, by whoever then publishes or has a heartbeat to send, and when a stream ends while no more than 64 are open; where
    /// nothing of that happens, there is nothing to tell. The last time is when the registry is dropped: then `now` has no topics and no events.
    /// It is called by one thread at a time, and not for what this hook does itself.
    ///
    /// Cost: that of [`Registry::stats`](crate::Registry::stats), whatever the observers are: a look at each open stream.
    fn sampled(&self, before: &Stats, now: &Stats) {
        self.observe(&Observation::Sampled { before, now });
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

/// For an observer that is asked for what it has seen.
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

    fn lagged(&self, client: &ClientHandle, topic: &str, missed: u64) {
        O::lagged(self, client, topic, missed);
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
}

/// What an [`Observer`] is told, as one value. Each is described at the method of its name.
///
/// Its `Debug` shows the client's whole id, which [does not belong into a log](Observer#what-not-to-log).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Observation<'a> {
    /// [`Observer::opened`].
    Opened {
        /// Whose stream it is.
        client: &'a ClientHandle,
    },
    /// [`Observer::stream_refused`].
    StreamRefused {
        /// Whose stream it would have been.
        client: &'a ClientHandle,
        /// Why not.
        reason: &'a RefusedReason,
    },
    /// [`Observer::subscription_refused`].
    SubscriptionRefused {
        /// Who was not subscribed.
        client: &'a ClientHandle,
        /// Why not.
        error: &'a SubscribeError,
    },
    /// [`Observer::subscribed`].
    Subscribed {
        /// Who was subscribed.
        client: &'a ClientHandle,
        /// To what.
        topic: &'a str,
    },
    /// [`Observer::unsubscribed`].
    Unsubscribed {
        /// Who was subscribed.
        client: &'a ClientHandle,
        /// To what.
        topic: &'a str,
    },
    /// [`Observer::lagged`].
    Lagged {
        /// Who was too slow.
        client: &'a ClientHandle,
        /// On which topic.
        topic: &'a str,
        /// How many events it lost there.
        missed: u64,
    },
    /// [`Observer::gap`].
    Gap {
        /// Who did not get the events.
        client: &'a ClientHandle,
        /// Which they are.
        gap: &'a Gap,
    },
    /// [`Observer::heartbeat`].
    Heartbeat {
        /// Whose stream it went into.
        client: &'a ClientHandle,
    },
    /// [`Observer::closed`].
    Closed {
        /// Whose stream it was.
        client: &'a ClientHandle,
        /// What became of it.
        summary: &'a StreamSummary,
    },
    /// [`Observer::published`].
    Published {
        /// On which topic.
        topic: &'a str,
        /// What became of the event.
        receipt: &'a Receipt,
    },
    /// [`Observer::sampled`].
    Sampled {
        /// How much there was the last time.
        before: &'a Stats,
        /// How much there is.
        now: &'a Stats,
    },
}

/// What became of a stream that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Why it is over.
    pub reason: CloseReason,
    /// How long it was open.
    pub duration: Duration,
    /// How many events of the registry it got. Those of the handler's own body are not counted.
    pub events: u64,
    /// How many bytes its body had, with those of the handler's own. 0 for a client that was read with
    /// [`into_events`](ClientHandle::into_events), which has none.
    pub bytes: u64,
}

/// The observers of one registry.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    pub(crate) fn push(&mut self, observer: impl Observer) {
        self.0.push(Arc::new(observer));
    }

    /// Whether what only observers need can be left undone.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells each of them. To be called outside all locks.
    #[inline]
    pub(crate) fn notify(&self, tell: impl Fn(&dyn Observer)) {
        if !self.is_empty() {
            self.notify_each(&tell);
        }
    }

    fn notify_each(&self, tell: &dyn Fn(&dyn Observer)) {
        nothing_is_locked();
        for observer in &self.0 {
            // Whoever publishes or polls must not pay for what a hook does wrong. The panic hook has printed it already.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(&**observer))) {
                // To drop it may panic as well.
                mem::forget(panic);
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

/// One of everything, for the tests of all observers.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::{Event, Registry};

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
                error: SubscribeError::TooMany { limit: 3 },
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
            observer.lagged(&self.client, "a/1", 5);
            observer.gap(&self.client, &self.gap);
            observer.heartbeat(&self.client);
            observer.closed(&self.client, &self.summary);
            observer.published("a/1", &self.receipt);
            observer.sampled(&self.before, &self.now);
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
            Observation::Lagged { .. } => "lagged",
            Observation::Gap { .. } => "gap",
            Observation::Heartbeat { .. } => "heartbeat",
            Observation::Closed { .. } => "closed",
            Observation::Published { .. } => "published",
            Observation::Sampled { .. } => "sampled",
        }
    }

    const ALL: [&str; 11] = [
        "opened",
        "stream_refused",
        "subscription_refused",
        "subscribed",
        "unsubscribed",
        "lagged",
        "gap",
        "heartbeat",
        "closed",
        "published",
        "sampled",
    ];

    /// Takes over `closed` alone.
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
    fn an_observation_has_what_the_method_got() {
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
                assert_eq!((client.id(), error), (id, &SubscribeError::TooMany { limit: 3 }));
            }
            Observation::Subscribed { client, topic } | Observation::Unsubscribed { client, topic } => {
                assert_eq!((client.id(), topic), (id, "a/1"));
            }
            Observation::Lagged { client, topic, missed } => assert_eq!((client.id(), topic, missed), (id, "a/1", 5)),
            Observation::Gap { client, gap: got } => assert_eq!((client.id(), got), (id, &gap)),
            Observation::Closed { client, summary: got } => assert_eq!((client.id(), got), (id, &closed)),
            Observation::Published { topic, receipt: got } => assert_eq!((topic, got), ("a/1", &receipt)),
            Observation::Sampled { before, now } => assert_eq!((before, now), (&earlier, &deferred)),
        });
    }

    #[test]
    fn a_method_that_is_implemented_is_not_observed_twice() {
        let observer = Partial::default();
        Samples::new().tell(&observer);
        assert_eq!(observer.closed.load(Ordering::Relaxed), 1);
        let others: Vec<_> = ALL.into_iter().filter(|name| *name != "closed").collect();
        assert_eq!(*lock(&observer.observed), others);
    }

    /// Takes over everything.
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

        fn lagged(&self, _client: &ClientHandle, _topic: &str, _missed: u64) {
            lock(&self.0).push("lagged");
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

    #[test]
    fn observers_are_told_in_the_order_in_which_they_were_given() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut observers = Observers::default();
        for number in 0..3 {
            let order = Arc::clone(&order);
            observers.push(move |_: &Observation<'_>| lock(&order).push(number));
        }
        observers.push(());
        let samples = Samples::new();
        observers.clone().notify(|observer| observer.opened(&samples.client));
        assert_eq!(*lock(&order), [0, 1, 2]);
    }

    #[test]
    fn without_observers_nothing_is_called() {
        let observers = Observers::default();
        assert!(observers.is_empty());
        observers.notify(|_| panic!("there is none"));
    }

    fn a_panicking_one_and_a_counter() -> (Observers, Arc<AtomicUsize>) {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let mut observers = Observers::default();
        observers.push(|_: &Observation<'_>| panic!("this panic is meant to be"));
        observers.push(move |_: &Observation<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (observers, told)
    }

    #[test]
    fn a_panic_in_one_hook_reaches_neither_the_caller_nor_the_next_hook() {
        let (observers, told) = a_panicking_one_and_a_counter();
        let samples = Samples::new();
        observers.notify(|observer| observer.opened(&samples.client));
        observers.notify(|observer| observer.heartbeat(&samples.client));
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    /// `closed` is told where a body is dropped, and that may be because its handler panics.
    #[test]
    fn a_panic_in_a_hook_while_another_panic_unwinds_does_not_abort() {
        struct TellsOnDrop(Observers, Samples);

        impl Drop for TellsOnDrop {
            fn drop(&mut self) {
                self.0.notify(|observer| observer.closed(&self.1.client, &self.1.summary));
            }
        }

        let (observers, told) = a_panicking_one_and_a_counter();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _body = TellsOnDrop(observers, Samples::new());
            panic!("this panic is meant to be, too");
        }));
        assert!(unwound.is_err());
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
