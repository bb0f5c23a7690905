//! One retained event.

use std::sync::Arc;

use bytes::Bytes;

use super::{position::Position, retention::SlowClientPolicy, topic_log::Row};
use crate::{
    collections::Ticket,
    event::{self, Audience, ClientId},
    log::topic_name,
};

/// One retained event.
#[derive(Debug)]
pub(crate) struct Entry {
    /// When it was published, counted over the whole registry: 1 for the first.
    pub(crate) number: u64,
    pub(crate) position: Position,
    /// The name of its topic.
    pub(crate) topic: Arc<str>,
    pub(crate) wire: Bytes,
    /// Where in `wire` the `id:` line is, or would be.
    pub(crate) id_at: usize,
    /// Whether the id is the publisher's own.
    pub(crate) own_id: bool,
    /// Whether it has an event type.
    pub(crate) is_typed: bool,
    /// What becomes of a client that should have had it, when it is evicted.
    pub(crate) slow_client_policy: SlowClientPolicy,
    /// What only few events have.
    pub(crate) audience: Option<Box<Audience>>,
    /// Its place in the ledger.
    pub(crate) ticket: Ticket,
}

impl Entry {
    /// What an entry takes in memory besides its bytes: itself, its rows in the topic's log and the ledger with their
    /// slack, and what the allocator adds to each allocation. Measured with a million events of 1 byte, by the resident
    /// size of the process (x86-64, glibc): 228 bytes on one topic, 232 on a thousand.
    const OVERHEAD: usize = 256;

    /// What an id of its own takes besides its bytes, in the index of its topic: about 130 bytes on a thousand topics, measured as above, and
    /// a part of what is remembered of such ids when they are gone.
    const OWN_ID_OVERHEAD: usize = 192;

    /// What an exception or attributes take, as far as that can be known: a map with one small value in it.
    const AUDIENCE: usize = 320;

    /// What an entry with so many bytes takes. A quarter is for what the allocator cannot use between pieces that
    /// several threads ask for and give back: with it, a million events of 1 KiB on a thousand topics, published over
    /// HTTP on a multi-threaded runtime, took 97 % of a budget of 64 MiB, connections included (x86-64, glibc).
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

    /// What it takes more for each pattern that matches its topic: a row with its slack.
    pub(crate) fn cost_of_row(&self) -> usize {
        5 * size_of::<Row>() / 2 + self.own_id().map_or(0, Self::cost_of_id)
    }

    /// The id, if it is the publisher's own.
    pub(crate) fn own_id(&self) -> Option<&str> {
        if self.own_id { self.id() } else { None }
    }

    /// Whether it has an id on the wire: it has none without data.
    #[inline]
    pub(crate) fn has_id(&self) -> bool {
        self.id_at + 1 < self.wire.len()
    }

    /// The id that it has on the wire.
    pub(crate) fn id(&self) -> Option<&str> {
        let line = self.wire.get(self.id_at..)?.strip_prefix(b"id: ")?;
        std::str::from_utf8(line.strip_suffix(b"\n\n")?).ok()
    }

    /// The name of its topic; but not that of one client's own, which has the client's id in it: that is a capability.
    pub(crate) fn public_topic(&self) -> Option<&str> {
        topic_name::is_public(&self.topic).then_some(&*self.topic)
    }

    /// Appends what goes out for it. `topic_as_event_type`: with its topic as the event type, if it has none. `id`: instead of its own.
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

    /// The client that it is not for.
    pub(crate) fn excluded_client(&self) -> Option<ClientId> {
        self.audience.as_ref()?.excluded_client
    }
}
