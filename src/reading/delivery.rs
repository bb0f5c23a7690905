//! One event, as one client receives it.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    event,
    log::{Entry, Position},
};

/// One event, as one client receives it.
///
/// It shares the bytes of the retained event. The accessors decode them at each call.
#[derive(Clone)]
pub struct Delivery {
    entry: Arc<Entry>,
    progress: Option<Arc<str>>,
}

impl Delivery {
    pub(super) fn new(entry: Arc<Entry>, progress: Option<Arc<str>>) -> Self {
        Self { entry, progress }
    }

    /// Returns the topic of the event, or `$client` if it was [sent](crate::ClientHandle::send) to this client alone.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.entry.public_topic().unwrap_or("$client")
    }

    /// Returns the event's position in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.entry.position
    }

    /// Returns the id that this client resumes from after the event.
    ///
    /// `None` if the event has no data.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let id = self.entry.id()?;
        Some(self.progress.as_deref().unwrap_or(id))
    }

    /// Returns the event type, or `None` if the event has none.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        event::decode_type(&self.entry.wire)
    }

    /// Returns the data, with LF as line ends, or `None` if the event has no data.
    ///
    /// Cost: one line of data is not copied. An event without data is a comment or a reconnection time only.
    #[must_use]
    pub fn data(&self) -> Option<Cow<'_, str>> {
        event::decode_data(&self.entry.wire)
    }

    /// Returns the event's attribute of this type: see [`Event::attribute`](crate::Event::attribute).
    #[must_use]
    pub fn attribute<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.entry.audience.as_ref()?.attributes.get()
    }

    /// Returns the encoded event, with the id that it got when it was published.
    ///
    /// The bytes are shared, not copied.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.entry.wire
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Delivery");
        debug.field("topic", &self.topic()).field("position", &self.position()).field("id", &self.id());
        debug.field("encoded", self.encoded()).finish()
    }
}
