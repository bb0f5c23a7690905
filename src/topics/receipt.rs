//! What a publisher gets back.

use crate::log::Position;

/// What became of a published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) position: Position,
    pub(crate) subscribers: usize,
}

impl Receipt {
    /// Where the event stands in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many clients it is for: those with an open stream that were subscribed to the topic, or to a pattern that
    /// matches it, when it was published.
    ///
    /// A client that has several such subscriptions counts for each, and what their filters say is not known yet. A
    /// client whose request is still being answered is not counted, as its answer may turn out to be no stream. If it is one,
    /// the client gets the event all the same.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers
    }
}
