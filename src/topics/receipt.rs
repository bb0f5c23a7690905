//! The receipt of a published event.

use crate::log::Position;

/// The receipt of a published event: its position and its subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) position: Position,
    pub(crate) subscribers: usize,
}

impl Receipt {
    /// Returns the event's position in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns how many open subscriptions get the event.
    ///
    /// It counts the clients with an open stream that were subscribed to the topic, or to a matching pattern, when the
    /// event was published.
    ///
    /// A client with several such subscriptions is counted several times. Filters are not applied yet. A client whose
    /// request is still being handled is not counted, because its response may not be a stream; if it is one, the
    /// client gets the event all the same. A client that the event [excludes](crate::Event::exclude_client) is not
    /// counted.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers
    }
}
