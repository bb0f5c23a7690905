//! Statistics: what a registry holds now, and what it has counted so far.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::{shared::Shared, state::Sent};
use crate::{
    stream::CloseReason,
    sync::{AtomicU64, Mutex, lock},
    time::nanoseconds,
    topics::Deferred,
};

/// The statistics of a registry.
///
/// They say what the registry holds now, and what it has counted since it was made.
///
/// With the `json` feature it implements `Serialize`. Cost: a few nanoseconds for each open stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The open streams: responses, and readers of [`into_events`](crate::ClientHandle::into_events).
    pub clients: usize,
    /// The subscriptions of all open streams.
    pub subscriptions: usize,
    /// The topics that have events, subscribers or a producer, or an end.
    pub topics: usize,
    /// The retained events.
    pub events: usize,
    /// The memory of the retained events and of the unused topics, in bytes.
    ///
    /// The bookkeeping is included. An unused topic has no subscribers and no producer.
    ///
    /// The registry counts it itself; it is not measured by the allocator.
    pub bytes: usize,
    /// The events that were published.
    pub published: u64,
    /// The events that are on their way to the [backplane](crate::backplane). Without one, it is 0.
    pub waiting: usize,
    /// The events that were delivered to clients.
    ///
    /// An event that ten clients get counts ten times.
    pub delivered: u64,
    /// The bytes of all streams' bodies, with the bytes of handlers' own bodies.
    ///
    /// Events that are read one by one count 0 bytes.
    pub sent_bytes: u64,
    /// How often a client fell behind the retained events of a topic.
    pub lagged: u64,
    /// How many events such clients lost.
    pub missed: u64,
    /// How often a client was notified of a gap.
    ///
    /// A gap means that the client fell behind or resumed too late.
    pub gaps: u64,
    /// The subscriptions that were refused.
    pub refused_subscriptions: u64,
    /// The streams that were refused: see [`RefusedReason`](crate::RefusedReason).
    pub refused_streams: u64,
    /// The heartbeats that were due but not sent.
    ///
    /// The stream had stalled in the middle of an event.
    pub withheld_heartbeats: u64,
    /// The streams that have ended, by close reason.
    pub closed_streams: BTreeMap<CloseReason, u64>,
}

/// The statistics of one client's stream.
///
/// With the `json` feature it implements `Serialize`, with the age in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// The time since the stream began. `None` if it has not begun.
    pub age: Option<Duration>,
    /// The events of the registry that were delivered to the client.
    pub events: u64,
    /// All bytes of the stream's body. Events that are read one by one count 0 bytes.
    pub bytes: u64,
    /// How many events the client lost because it fell behind.
    pub missed: u64,
}

/// Counters since the registry was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Events that were delivered on streams that have ended.
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
        // Read before the open streams, so that a stream that ends meanwhile is counted a little later and not twice.
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
            waiting: self.cluster.as_ref().map_or(0, |cluster| cluster.waiting()),
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

/// The last sample that observers got, and when the next one is due.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// In nanoseconds of the clock. `u64::MAX` while a thread takes a sample.
    due: AtomicU64,
    last: Mutex<Stats>,
}

/// At least as often as metrics are usually read.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// With at most this many streams, a sample costs no more than the other work at the end of a stream.
const FEW_CLIENTS: usize = 64;

/// A thread's turn to take a sample. When it is dropped, the next sample becomes due.
struct Turn<'a>(&'a Samples, u64);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.due.store(self.1, Ordering::Release);
    }
}

impl Shared {
    /// Takes a sample and notifies observers, if one is due. No lock may be held.
    pub(crate) fn sample(&self, now: Duration) {
        if !self.settings.observers.is_empty() {
            let due = self.samples.due.load(Ordering::Relaxed);
            if nanoseconds(now) >= due {
                self.take_sample(due, now);
            }
        }
    }

    /// Takes a sample when a stream has ended, because the next chance may come much later.
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
        // One thread at a time: observers get samples in order, and an observer that publishes does not get a sample
        // within its own call.
        if due == u64::MAX || next.compare_exchange(due, u64::MAX, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        let _turn = Turn(&self.samples, nanoseconds(now + SAMPLE_EVERY));
        self.tell_sample(self.stats(), last);
    }

    fn tell_sample(&self, mut now: Stats, last: &Mutex<Stats>) {
        let mut last = lock(last);
        // A stream that ends at this moment may be missing from the counts.
        now.delivered = now.delivered.max(last.delivered);
        now.sent_bytes = now.sent_bytes.max(last.sent_bytes);
        let before = std::mem::replace(&mut *last, now.clone());
        drop(last);
        self.settings.observers.notify(|observer| observer.sampled(&before, &now));
    }

    /// Takes the last sample when the registry is dropped: nothing is left in it.
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
