//! The state that a topic and its producer share, and the end of a topic.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::Notify;

use super::{
    deferred::ToWake,
    error::PublishError,
    order::{Order, OrderGuard},
    shared_log::{Kept, SharedLog, SharedLogState},
    steps::step,
    store::Topics,
};
use crate::{
    log::{End, Outcome},
    sync::{AtomicBool, Mutex, MutexGuard, lock},
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
    over: Mutex<Option<Over>>,
    pub(crate) changed: Notify,
}

/// A topic that has ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) topic: Arc<SharedLog>,
    /// The number of the end, in the order of events.
    pub(crate) number: u64,
    /// When the topic ended, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// When the topic is forgotten, in milliseconds since the Unix epoch.
    forget_at: u64,
}

/// Why a producer was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Replaced,
    Cancelled,
}

/// Which of the producers that a topic has had.
///
/// With a backplane it is the key of the record that began the production, so that every node knows it by the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProductionId {
    pub(crate) session: u64,
    pub(crate) number: u64,
}

impl Production {
    pub(crate) fn new(id: ProductionId) -> Self {
        Self { id, has_ended: AtomicBool::new(false), over: Mutex::default(), changed: Notify::new() }
    }

    /// Returns why an event may not be published on a topic, if so.
    pub(crate) fn refusal(by: Option<Writer<'_>>, topic: &SharedLog, state: &SharedLogState) -> Option<PublishError> {
        let is_over = match by {
            Some(Writer::Producer(production) | Writer::Last(production, _)) => return production.error(topic.name()),
            Some(Writer::Canceller) => state.production.is_none(),
            None => topic.has_ended() && state.production.is_none(),
        };
        is_over.then(|| PublishError::Ended { topic: topic.name().to_string() })
    }

    pub(crate) fn error(&self, topic: &str) -> Option<PublishError> {
        let topic = topic.to_owned();
        lock(&self.over).map(|over| match over {
            Over::Replaced => PublishError::Replaced { topic },
            Over::Cancelled => PublishError::Cancelled { topic },
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

    /// Stops the producer. Call `tell` afterwards, when no lock is held.
    pub(crate) fn stop(&self, why: Over) {
        lock(&self.over).get_or_insert(why);
    }

    /// Notifies those who wait until the producer is stopped. No lock may be held.
    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
    }
}

impl Topics {
    /// Makes a production the current one of its topic. Returns the one that it replaces, to be notified when no lock is held.
    pub(crate) fn begin(
        order: &mut Order,
        topic: &SharedLog,
        state: &mut SharedLogState,
        production: &Arc<Production>,
    ) -> Option<Arc<Production>> {
        let mut other = None;
        order.update_holders(topic, state, |state| other = state.production.replace(Arc::clone(production)));
        if let Some(Kept::Ending(ticket)) = state.kept.take() {
            order.ended.remove(ticket);
        }
        if other.is_none() {
            state.began = Some(order.last);
        }
        topic.set_end(None);
        if let Some(other) = &other {
            other.stop(Over::Replaced);
        }
        other
    }

    /// Ends a topic that has a producer, and unlocks the topic.
    pub(crate) fn end(
        &self,
        mut order: OrderGuard<'_>,
        topic: &Arc<SharedLog>,
        mut state: MutexGuard<'_, SharedLogState>,
        outcome: Outcome,
    ) {
        let stopped = self.mark_end(&mut order, topic, &mut state, outcome, false, self.now_ms());
        let mut to_wake = ToWake::default();
        topic.take_waiters(&mut state, &mut to_wake);
        drop(state);
        if order.cost > self.settings.total_retention.bytes {
            self.evict(&mut order, self.now_ms(), 0);
        }
        drop(order);
        to_wake.wake();
        if let Some(stopped) = stopped {
            stopped.tell();
        }
    }

    /// Marks the end of a topic. Returns the producer, to be notified when no lock is held.
    ///
    /// `has_last_word`: the newest event is the topic's last event, which is published with the end.
    pub(crate) fn mark_end(
        &self,
        order: &mut Order,
        topic: &Arc<SharedLog>,
        state: &mut SharedLogState,
        outcome: Outcome,
        has_last_word: bool,
        now_ms: u64,
    ) -> Option<Arc<Production>> {
        order.number += 1;
        let number = order.number;
        state.log.end_at(number);
        topic.set_end(Some(End { number, outcome, has_last_word }));
        topic.reach(number);
        self.set_horizon(number);
        let after = u64::try_from(self.settings.ended_topic_ttl.as_millis()).unwrap_or(u64::MAX);
        // At least one millisecond later.
        let forget_at = now_ms.saturating_add(after.max(1));
        let ending = Ending { topic: Arc::clone(topic), number, at_ms: now_ms, forget_at };
        if let Some(Kept::Ending(ticket)) = state.kept.replace(Kept::Ending(order.ended.push(ending))) {
            order.ended.remove(ticket);
        }
        let mut production = None;
        order.update_holders(topic, state, |state| production = state.production.take());
        let production = production?;
        if outcome == Outcome::Cancelled {
            production.stop(Over::Cancelled);
        }
        Some(production)
    }

    /// Forgets ended topics whose time is over. Each call does a bounded part of the work.
    pub(crate) fn forget_ended(&self, order: &mut Order) {
        if order.ended.oldest().is_none() {
            return;
        }
        let now_ms = self.now_ms();
        for _ in 0..AT_A_TIME {
            let Some(ending) = order.ended.oldest().filter(|ending| ending.forget_at <= now_ms) else { return };
            step();
            let topic = Arc::clone(&ending.topic);
            let mut state = lock(&topic.state);
            match state.log.is_empty() {
                true => self.forget_ended_topic(order, &topic, &mut state),
                false => order.evict_oldest_of(&mut state),
            }
        }
    }

    /// Forgets a topic that has ended and has no events left. While it has subscribers, its end is kept for those that
    /// have not read it.
    pub(crate) fn forget_ended_topic(&self, order: &mut Order, topic: &SharedLog, state: &mut SharedLogState) {
        if let Some(Kept::Ending(ticket)) = state.kept.take() {
            order.ended.remove(ticket);
        }
        if state.subscribers > 0 {
            state.kept = Some(Kept::Subscribers);
            return;
        }
        topic.set_end(None);
        self.forget_if_unused(order, topic, state);
    }
}

/// How many events and topics one call forgets at most. It is more than one call can add.
pub(crate) const AT_A_TIME: usize = 32;
