//! How much there is, and what has been.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::{shared::Shared, state::Sent};
use crate::{
    stream::CloseReason,
    sync::{AtomicU64, Mutex, lock},
    time::nanoseconds,
    topics::Deferred,
};

/// How much there is in a registry at one moment, and what has been since it was made.
///
/// With the `json` feature it can be serialised. Cost: a few nanoseconds for each open stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Open streams: responses, and what [`into_events`](crate::ClientHandle::into_events) gave.
    pub clients: usize,
    /// The subscriptions of all open streams.
    pub subscriptions: usize,
    /// Topics that have events, subscribers or a producer.
    pub topics: usize,
    /// Retained events.
    pub events: usize,
    /// The memory that they take, and the topics without subscribers and producers, bookkeeping included, by the registry's own counting.
    pub bytes: usize,
    /// Events that were published.
    pub published: u64,
    /// Events that clients were given: one that goes to ten clients counts ten times.
    pub delivered: u64,
    /// The bytes of the bodies of all streams, those of handlers' own bodies included. Events that are read one by one count none.
    pub sent_bytes: u64,
    /// How often a client fell behind what a topic retains.
    pub lagged: u64,
    /// How many events such clients lost.
    pub missed: u64,
    /// How often a client was told of a gap: as it had fallen behind, or came back too late.
    pub gaps: u64,
    /// Subscriptions that were refused.
    pub refused_subscriptions: u64,
    /// Streams that were refused: see [`RefusedReason`](crate::RefusedReason).
    pub refused_streams: u64,
    /// Heartbeats that were due and not sent, as the stream had stalled in the middle of an event.
    pub withheld_heartbeats: u64,
    /// Streams that are over, by why.
    pub closed_streams: BTreeMap<CloseReason, u64>,
}

/// How one client's stream goes.
///
/// With the `json` feature it can be serialised, the age in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// How long its stream has been open. None if it is not open yet.
    pub age: Option<Duration>,
    /// Events of the registry that it was given.
    pub events: u64,
    /// The bytes of its stream, all of them. Events that are read one by one count none.
    pub bytes: u64,
    /// How many events it has lost as it fell behind what topics retain.
    pub missed: u64,
}

/// What is counted since the registry was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// To clients that are over.
    pub(crate) delivered: AtomicU64,
    sent_bytes: AtomicU64,
    pub(crate) lagged: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) refused_subscriptions: AtomicU64,
    pub(crate) refused_streams: AtomicU64,
    pub(crate) withheld_heartbeats: AtomicU64,
    closed_streams: Mutex<BTreeMap<CloseReason, u64>>,
}

impl Counters {
    pub(crate) fn note_closed(&self, reason: CloseReason, sent: Sent) {
        self.delivered.fetch_add(sent.events, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent.bytes, Ordering::Relaxed);
        *lock(&self.closed_streams).entry(reason).or_default() += 1;
    }
}

impl Shared {
    pub(crate) fn stats(&self) -> Stats {
        let mut deferred = Deferred::default();
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Before the open ones are looked at, so that one that ends meanwhile is counted a little later and not twice.
        let over = Sent { events: count(&counters.delivered), bytes: count(&counters.sent_bytes) };
        let (mut clients, mut subscriptions, mut all) = (0, 0, over);
        for (names, sent) in self.known_clients().iter().filter_map(|client| client.counts()) {
            clients += 1;
            subscriptions += names;
            all = Sent { events: all.events + sent.events, bytes: all.bytes + sent.bytes };
        }
        let order = self.topics.order(&mut deferred);
        Stats {
            clients,
            subscriptions,
            topics: order.topics.len(),
            events: order.eviction_queue.len(),
            bytes: order.cost,
            published: order.published,
            delivered: all.events,
            sent_bytes: all.bytes,
            lagged: count(&counters.lagged),
            missed: count(&counters.missed),
            gaps: count(&counters.gaps),
            refused_subscriptions: count(&counters.refused_subscriptions),
            refused_streams: count(&counters.refused_streams),
            withheld_heartbeats: count(&counters.withheld_heartbeats),
            closed_streams: lock(&counters.closed_streams).clone(),
        }
    }
}

/// What observers were last told of how much there is, and when they are to be told again.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// In nanoseconds by the clock. While somebody takes a sample, never.
    due: AtomicU64,
    last: Mutex<Stats>,
}

/// As often as anybody looks at metrics, or more often.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// With so few streams, a sample costs no more than what else is done when one ends.
const FEW_CLIENTS: usize = 64;

/// Whose turn it is to take a sample. When it goes, the next one is due at that time.
struct Turn<'a>(&'a Samples, u64);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.due.store(self.1, Ordering::Release);
    }
}

impl Shared {
    /// Tells observers how much there is, if that is due. No lock may be held.
    pub(crate) fn sample(&self, now: Duration) {
        if !self.settings.observers.is_empty() {
            let due = self.samples.due.load(Ordering::Relaxed);
            if nanoseconds(now) >= due {
                self.take_sample(due, now);
            }
        }
    }

    /// The same when a stream has ended, of which there may not be another for long.
    pub(crate) fn sample_at_an_end(&self) {
        if !self.settings.observers.is_empty() {
            let due = self.samples.due.load(Ordering::Relaxed);
            let now = self.clock.elapsed();
            if nanoseconds(now) >= due || (due < u64::MAX && lock(&self.clients).len() <= FEW_CLIENTS) {
                self.take_sample(due, now);
            }
        }
    }

    #[cold]
    fn take_sample(&self, due: u64, now: Duration) {
        let Samples { due: next, last } = &self.samples;
        // One at a time: samples are told in their order, and a hook that does something is not told of that within itself.
        if due == u64::MAX || next.compare_exchange(due, u64::MAX, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        let _turn = Turn(&self.samples, nanoseconds(now + SAMPLE_EVERY));
        self.tell_sample(self.stats(), last);
    }

    fn tell_sample(&self, mut now: Stats, last: &Mutex<Stats>) {
        let mut last = lock(last);
        // A stream that ends just now may not have been counted.
        now.delivered = now.delivered.max(last.delivered);
        now.sent_bytes = now.sent_bytes.max(last.sent_bytes);
        let before = std::mem::replace(&mut *last, now.clone());
        drop(last);
        self.settings.observers.notify(|observer| observer.sampled(&before, &now));
    }

    /// Nobody can publish or subscribe any more: nothing is left, and that is the last that observers are told.
    pub(crate) fn sample_at_the_end(&self) {
        if !self.settings.observers.is_empty() {
            let nothing = Stats { subscriptions: 0, topics: 0, events: 0, bytes: 0, ..self.stats() };
            self.tell_sample(nothing, &self.samples.last);
        }
    }
}

#[cfg(feature = "json")]
impl serde::Serialize for Stats {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut closed: BTreeMap<&str, u64> = BTreeMap::new();
        self.closed_streams.iter().for_each(|(reason, streams)| *closed.entry(reason.as_str()).or_default() += streams);
        let mut fields = serializer.serialize_struct("Stats", 15)?;
        fields.serialize_field("clients", &self.clients)?;
        fields.serialize_field("subscriptions", &self.subscriptions)?;
        fields.serialize_field("topics", &self.topics)?;
        fields.serialize_field("events", &self.events)?;
        fields.serialize_field("bytes", &self.bytes)?;
        fields.serialize_field("published", &self.published)?;
        fields.serialize_field("delivered", &self.delivered)?;
        fields.serialize_field("sent_bytes", &self.sent_bytes)?;
        fields.serialize_field("lagged", &self.lagged)?;
        fields.serialize_field("missed", &self.missed)?;
        fields.serialize_field("gaps", &self.gaps)?;
        fields.serialize_field("refused_subscriptions", &self.refused_subscriptions)?;
        fields.serialize_field("refused_streams", &self.refused_streams)?;
        fields.serialize_field("withheld_heartbeats", &self.withheld_heartbeats)?;
        fields.serialize_field("closed_streams", &closed)?;
        fields.end()
    }
}

#[cfg(feature = "json")]
impl serde::Serialize for ClientStats {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("ClientStats", 4)?;
        fields.serialize_field("age", &self.age.map(|age| age.as_secs_f64()))?;
        fields.serialize_field("events", &self.events)?;
        fields.serialize_field("bytes", &self.bytes)?;
        fields.serialize_field("missed", &self.missed)?;
        fields.end()
    }
}
