//! What a client takes in one read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{delivery::Delivery, filter::Filter};
use crate::log::{Entry, Gap, Position};

/// The missing events, and the id from which the client can resume after them.
pub(crate) type Missing = Box<Gap>;

/// The events that a client takes in one read.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) gap: Option<Missing>,
    /// The logs on which the client fell behind, and how many events it lost there.
    pub(crate) fell_behind: Vec<(Arc<str>, u64)>,
    /// Set if a topic's policy disconnects the client: the average reconnect delay.
    pub(crate) ends: Option<Duration>,
    pub(crate) events: Vec<Picked>,
    /// The position that the client has read up to.
    pub(crate) seen: Position,
    /// More events are pending than fit into one frame.
    pub(crate) has_more: bool,
}

/// One event for one client.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) entry: Arc<Entry>,
    /// The id to send instead of the event's own, for a client that is catching up.
    pub(crate) progress: Option<Arc<str>>,
    /// The event is sent if one of these filters returns `true`, or if there is no filter.
    pub(crate) filters: Vec<Filter>,
    /// The event is not sent if one of these filters returns `true`: the client got it before by another subscription.
    pub(crate) unless: Vec<Filter>,
}

impl Picked {
    /// An event without a filter.
    pub(super) fn of(entry: &Arc<Entry>) -> Self {
        Self { entry: Arc::clone(entry), progress: None, filters: Vec::new(), unless: Vec::new() }
    }

    /// The event as the client receives it.
    pub(crate) fn delivery(&self) -> Delivery {
        Delivery::new(Arc::clone(&self.entry), self.progress.clone())
    }
}

/// The encoded bytes of a range of events without a filter.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// The last event has an id on the wire.
    pub(crate) has_id: bool,
    /// The client was waiting for these events, so they are sent about when they were published.
    pub(crate) is_live: bool,
    /// More events are pending than fit into one frame.
    pub(crate) has_more: bool,
}

/// The result of one read.
#[derive(Debug)]
pub(crate) enum Taking {
    Plain(Plain),
    Events(Box<Taken>),
}
