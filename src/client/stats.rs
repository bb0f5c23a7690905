//! Statistics: what a registry holds now, and what it has counted so far.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use crate::{
    stream::CloseReason,
    sync::{AtomicU64, Mutex, lock},
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
    /// The events that were published. With a [backplane](crate::backplane): those of all nodes that this one has read, since it was made
    /// and when it loaded.
    pub published: u64,
    /// The records that are on their way to the [backplane](crate::backplane): events, ends of topics, and the node's own beat every two
    /// seconds. Without a backplane, it is 0.
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
    pub fell_behind: u64,
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

/// Why a stream ended, how long it was open, and what was sent in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Why the stream ended.
    pub reason: CloseReason,
    /// How long the stream was open.
    pub duration: Duration,
    /// How many events of the registry were sent. Events of the handler's own body do not count.
    pub events: u64,
    /// How many bytes the response body had, with those of the handler's own body.
    ///
    /// 0 for a client that was read with [`into_events`](crate::ClientHandle::into_events), which has no response body.
    pub bytes: u64,
}

/// The events of the registry that were sent, and their bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// Counters since the registry was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Events that were delivered on streams that have ended.
    pub(crate) delivered: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(crate) fell_behind: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) refused_subscriptions: AtomicU64,
    pub(crate) refused_streams: AtomicU64,
    pub(crate) withheld_heartbeats: AtomicU64,
    pub(super) closed_streams: Mutex<BTreeMap<CloseReason, u64>>,
}

impl Counters {
    pub(crate) fn note_closed(&self, reason: CloseReason, sent: Sent) {
        self.delivered.fetch_add(sent.events, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent.bytes, Ordering::Relaxed);
        *lock(&self.closed_streams).entry(reason).or_default() += 1;
    }
}

/// The last sample that observers got, and when the next one is due.
#[derive(Debug, Default)]
pub(crate) struct LastSample {
    /// In nanoseconds of the clock. `u64::MAX` while a thread takes a sample.
    pub(super) due: AtomicU64,
    pub(super) stats: Mutex<Stats>,
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
        fields.serialize_field("fell_behind", &self.fell_behind)?;
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
