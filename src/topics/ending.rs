//! The begin and the end of a production, and ended topics that are forgotten.

use std::sync::Arc;

use super::{
    deferred::{Deferred, ToWake},
    order::{EndedTopic, Order, OrderGuard},
    production::{Over, Production},
    shared_log::{Kept, SharedLog, SharedLogState},
    steps::step,
    store::Topics,
};
use crate::{
    log::{End, Outcome, topic_name},
    sync::{MutexGuard, lock},
};

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
        Self::take_kept(order, state);
        if other.is_none() {
            state.began = Some(order.last);
        }
        topic.set_end(None);
        if let Some(other) = &other {
            other.stop(Over::Replaced);
        }
        other
    }

    /// Begins a recording: a client that has read a former one of the same name has read nothing of this one, and is told of a gap.
    ///
    /// It does nothing while events of a former one are retained, or if no former one is known whose readers could come back.
    pub(crate) fn begin_recording(&self, name: &str) {
        let now_ms = self.now_ms();
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        let Some(topic) = order.topic(name) else { return };
        let mut state = lock(&topic.state);
        if !state.log.is_empty() || !(topic_name::is_recording(name) || order.forgotten.has(name)) {
            return;
        }
        if self.replica.is_none() {
            // A position after all that were issued, so that even the newest event is one of before.
            order.last = order.last.next(now_ms);
        }
        Self::begin_log(&order, &mut state);
    }

    /// Makes all positions so far positions from before the log.
    pub(super) fn begin_log(order: &Order, state: &mut SharedLogState) {
        state.log.begin_at(order.last);
        state.began = Some(order.last);
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
        let ending = EndedTopic { topic: Arc::clone(topic), number, at_ms: now_ms, forget_at };
        Self::take_kept(order, state);
        state.kept = Some(Kept::Ending(order.ended.push(ending)));
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

    /// Whether the time of an ended topic is over.
    pub(super) fn end_is_over(order: &Order, state: &SharedLogState, now_ms: u64) -> bool {
        match state.kept {
            Some(Kept::Ending(ticket)) => order.ended.get(ticket).is_some_and(|ending| ending.forget_at <= now_ms),
            Some(Kept::Subscribers) => true,
            None => false,
        }
    }

    /// Keeps an ended topic no longer.
    fn take_kept(order: &mut Order, state: &mut SharedLogState) {
        if let Some(Kept::Ending(ticket)) = state.kept.take() {
            order.ended.remove(ticket);
        }
    }

    /// Forgets the end of a topic whose time is over, with the events before it, because the topic is used again.
    pub(super) fn forget_end(&self, order: &mut Order, topic: &SharedLog) {
        // Most topics have none, and need no lock here.
        if !topic.has_ended() {
            return;
        }
        let now_ms = self.now_ms();
        let mut state = lock(&topic.state);
        if !Self::end_is_over(order, &state, now_ms) {
            return;
        }
        while !state.log.is_empty() {
            order.evict_oldest_of(&mut state);
        }
        Self::take_kept(order, &mut state);
        topic.set_end(None);
    }

    /// Forgets a topic that has ended and has no events left. While it has subscribers, its end is kept for those that
    /// have not read it.
    pub(crate) fn forget_ended_topic(&self, order: &mut Order, topic: &SharedLog, state: &mut SharedLogState) {
        Self::take_kept(order, state);
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
