//! The state that a topic and its producer share.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::Notify;

use super::error::PublishError;
use crate::{
    log::Outcome,
    sync::{AtomicBool, Mutex, lock},
};

/// Who publishes on a topic that has a producer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writer<'a> {
    /// The producer.
    Producer(&'a Arc<Production>),
    /// The producer, with the last event: the topic ends with it.
    Last(&'a Arc<Production>, Outcome),
    /// The caller that cancels the producer: the topic ends with the event.
    Canceller,
}

impl Writer<'_> {
    /// Returns how the topic ends with the event, if it does.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Producer(_) => None,
            Self::Last(_, outcome) => Some(outcome),
            Self::Canceller => Some(Outcome::Cancelled),
        }
    }
}

/// The state that a producer and its topic share.
#[derive(Debug)]
pub(crate) struct Production {
    pub(crate) id: ProductionId,
    has_ended: AtomicBool,
    /// The record that cancels it is on its way.
    is_cancelled: AtomicBool,
    over: Mutex<Option<Over>>,
    pub(crate) changed: Notify,
}

/// Why a producer was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Replaced,
    Cancelled,
    /// Another node has ended the topic, because the producer's node did not answer.
    Ended,
}

/// Which of the producers that a topic has had.
///
/// With a backplane it is the key of the record that began the production, so that every node knows it by the same id.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProductionId {
    pub(crate) session: u64,
    pub(crate) number: u64,
}

impl Production {
    pub(crate) fn new(id: ProductionId) -> Self {
        Self {
            id,
            has_ended: AtomicBool::new(false),
            is_cancelled: AtomicBool::new(false),
            over: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn error(&self, topic: &str) -> Option<PublishError> {
        let over = *lock(&self.over);
        let topic = || topic.to_owned();
        over.map(|over| match over {
            Over::Replaced => PublishError::Replaced { topic: topic() },
            Over::Cancelled => PublishError::Cancelled { topic: topic() },
            Over::Ended => PublishError::Ended { topic: topic() },
        })
    }

    /// Whether the producer was stopped or has ended the topic.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed) || lock(&self.over).is_some()
    }

    /// The producer has ended the topic. With a backplane, the end is on its way.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Notes that a record which cancels the producer is on its way. Returns `false` if one was before.
    pub(crate) fn note_cancel(&self) -> bool {
        !self.is_cancelled.swap(true, Ordering::Relaxed)
    }

    /// Stops the producer, if it has not ended the topic itself. Call `tell` afterwards, when no lock is held.
    pub(crate) fn stop_unless_over(&self, why: Over) {
        if !self.is_over() {
            self.stop(why);
        }
    }

    /// Stops the producer. Call `tell` afterwards, when no lock is held.
    pub(crate) fn stop(&self, why: Over) {
        lock(&self.over).get_or_insert(why);
    }

    /// Notifies those who wait until the producer is stopped. No lock may be held.
    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
    }
}
