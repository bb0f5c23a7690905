//! A retained event.

use std::sync::Arc;

use bytes::Bytes;

use super::{position::Position, retention::SlowClientPolicy, topic_log::Row};
use crate::{
    collections::Ticket,
    event::{self, Audience, ClientId},
    log::topic_name,
};

/// A retained event.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The number of the event in the whole registry: 1 for the first.
    pub(crate) number: u64,
    pub(crate) position: Position,
    /// When the event was taken, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The name of its topic.
    pub(crate) topic: Arc<str>,
    pub(crate) wire: Bytes,
    /// The offset of the `id:` line in `wire`, or where it would be.
    pub(crate) id_at: usize,
    /// Whether the id is the publisher's own.
    pub(crate) own_id: bool,
    /// Whether it has an event type.
    pub(crate) is_typed: bool,
    /// What happens to a client that has not read the event when it is evicted.
    pub(crate) slow_client_policy: SlowClientPolicy,
    /// Boxed, because few events have one.
    pub(crate) audience: Option<Box<Audience>>,
    /// The event's ticket in the eviction queue.
    pub(crate) ticket: Ticket,
}

impl Entry {
    /// The memory of an entry without its bytes: the entry, its rows in the topic's log and the eviction queue with
    /// their slack, and the allocator's overhead. Measured with a million events of 1 byte, by the resident size of the
    /// process (x86-64, glibc): 228 bytes on one topic, 232 on a thousand.
    const OVERHEAD: usize = 256;

    /// The memory of a publisher's own id without its bytes: about 130 bytes in the topic's index, on a thousand
    /// topics, measured as above. The rest is for the ids of evicted events.
    const OWN_ID_OVERHEAD: usize = 192;

    /// The memory of an audience, as far as it can be known: a map with one small value.
    const AUDIENCE: usize = 320;

    /// Returns the memory of an entry with so many bytes.
    ///
    /// It adds a quarter for memory that the allocator cannot use between blocks of several threads. With that, a
    /// million events of 1 KiB on a thousand topics, published over HTTP on a multi-threaded runtime, took 97 % of a
    /// budget of 64 MiB, connections included (x86-64, glibc).
    pub(crate) fn cost_of(bytes: usize, own_id: Option<&str>, has_audience: bool) -> usize {
        let audience = if has_audience { Self::AUDIENCE } else { 0 };
        bytes + bytes / 4 + Self::OVERHEAD + own_id.map_or(0, Self::cost_of_id) + audience
    }

    fn cost_of_id(own_id: &str) -> usize {
        own_id.len() + Self::OWN_ID_OVERHEAD
    }

    pub(crate) fn cost(&self) -> usize {
        Self::cost_of(self.wire.len(), self.own_id(), self.audience.is_some())
    }

    /// Returns the memory that the entry takes in the log of each matching pattern: a row with its slack.
    pub(crate) fn cost_of_row(&self) -> usize {
        5 * size_of::<Row>() / 2 + self.own_id().map_or(0, Self::cost_of_id)
    }

    /// Returns the id, if the publisher chose it.
    pub(crate) fn own_id(&self) -> Option<&str> {
        if self.own_id { self.id() } else { None }
    }

    /// Whether the event has an id on the wire. An event without data has none.
    #[inline]
    pub(crate) fn has_id(&self) -> bool {
        self.id_at + 1 < self.wire.len()
    }

    /// Returns the id on the wire.
    pub(crate) fn id(&self) -> Option<&str> {
        let line = self.wire.get(self.id_at..)?.strip_prefix(b"id: ")?;
        std::str::from_utf8(line.strip_suffix(b"\n\n")?).ok()
    }

    /// Returns the topic's name, or `None` for a client's own topic, whose name contains the client's secret id.
    pub(crate) fn public_topic(&self) -> Option<&str> {
        topic_name::is_public(&self.topic).then_some(&*self.topic)
    }

    /// Appends the encoded event. `topic_as_event_type`: with the topic as the event type, if it has none. `id`:
    /// instead of its own id.
    pub(crate) fn write(&self, wire: &mut Vec<u8>, topic_as_event_type: bool, id: Option<&str>) {
        let own_id = self.id();
        if let Some(topic) = self.public_topic().filter(|_| topic_as_event_type && !self.is_typed && own_id.is_some()) {
            event::push_field(wire, "event", topic);
        }
        match id.filter(|_| own_id.is_some()) {
            Some(id) => {
                wire.extend_from_slice(&self.wire[..self.id_at]);
                event::push_field(wire, "id", id);
                wire.push(b'\n');
            }
            None => wire.extend_from_slice(&self.wire),
        }
    }

    /// Returns the client that does not get the event.
    pub(crate) fn excluded_client(&self) -> Option<ClientId> {
        self.audience.as_ref()?.excluded_client
    }
}
