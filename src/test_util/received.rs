//! What a client receives.

use std::time::Duration;

/// An item of an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// An event that a client dispatches.
    Event(ReceivedEvent),
    /// A comment line, without its colon and the space after the colon.
    ///
    /// A default [`Heartbeat`](crate::Heartbeat) is an empty comment.
    Comment(String),
    /// A reconnection time.
    Retry(Duration),
}

/// An event as a client dispatches it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedEvent {
    /// The event type; `message` if the event has none.
    pub event_type: String,
    /// The data, with LF between its lines.
    pub data: String,
    /// The id of the event.
    ///
    /// If the event has no id, the id of the last event that had one. Empty if no event had an id.
    pub last_event_id: String,
}

impl ReceivedEvent {
    /// Parses the data as JSON.
    ///
    /// # Errors
    ///
    /// If the data is not JSON, or not a `T`.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(&self.data)
    }
}
