//! The receipt of a published event.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, OnceLock},
};

use tokio::sync::Notify;

use super::{deferred::once, error::PublishError};
use crate::log::Position;

/// The receipt of a published event: its position and its subscribers.
///
/// Without a [backplane](crate::backplane), the event is in the log when you have the receipt. With one, the event is on its way to the engine.
/// Await the receipt to know that the engine has it, and that this node has read it back:
///
/// ```
/// use tower_sse::{Event, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_sse::PublishError> {
/// let registry = Registry::new();
/// let position = registry.publish("orders/17", Event::data("paid"))?.await?;
/// assert!(registry.position() >= position);
/// # Ok(())
/// # }
/// ```
///
/// You need not await it: the event is published all the same.
#[derive(Debug, Clone)]
pub struct Receipt {
    stored: Stored,
    pub(crate) subscribers: usize,
}

/// Two receipts are equal if they are of the same event.
impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.stored, &other.stored) {
            (Stored::Pending(one), Stored::Pending(other)) => Arc::ptr_eq(one, other),
            _ => self.position() == other.position(),
        };
        is_same && self.subscribers == other.subscribers
    }
}

impl Eq for Receipt {}

#[derive(Debug, Clone)]
enum Stored {
    At(Position),
    Pending(Arc<Pending>),
}

/// An event that is on its way to the engine.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    outcome: OnceLock<Result<Position, PublishError>>,
    changed: Notify,
}

impl Pending {
    /// Says where the event stands, or why it does not. No lock may be held.
    pub(crate) fn resolve(&self, outcome: Result<Position, PublishError>) {
        if self.outcome.set(outcome).is_ok() {
            self.changed.notify_waiters();
        }
    }
}

impl Receipt {
    pub(crate) fn at(position: Position, subscribers: usize) -> Self {
        Self { stored: Stored::At(position), subscribers }
    }

    pub(crate) fn pending(pending: Arc<Pending>, subscribers: usize) -> Self {
        Self { stored: Stored::Pending(pending), subscribers }
    }

    /// Returns the event's position in the registry's order, if it is known.
    ///
    /// Without a [backplane](crate::backplane) it always is. With one it is `None` until the engine has the event and this node has read it
    /// back, and stays `None` if the event was refused. To wait for it, await the receipt.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.stored {
            Stored::At(position) => Some(*position),
            Stored::Pending(pending) => pending.outcome.get().and_then(|outcome| outcome.as_ref().ok().copied()),
        }
    }

    /// Returns how many open subscriptions of this process get the event.
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

/// Waits until the event is stored and this node has read it.
///
/// The position is then not greater than [`Registry::position`](crate::Registry::position). Without a [backplane](crate::backplane) it is
/// ready at once. Any number of tasks may wait for clones of the receipt.
///
/// The error is the reason why no node has the event: for example [`PublishError::Ended`], if the topic has ended before the event. While the
/// engine is away, the receipt waits.
impl IntoFuture for Receipt {
    type Output = Result<Position, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.stored {
                Stored::At(position) => Ok(position),
                Stored::Pending(pending) => once(&pending.changed, || pending.outcome.get().cloned()).await,
            }
        })
    }
}
