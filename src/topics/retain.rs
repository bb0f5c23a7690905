//! Eviction: keeps the retained events and topics within their bounds.

use super::{
    ending::AT_A_TIME,
    order::Order,
    shared_log::{SharedLog, SharedLogState},
    steps::step,
    store::Topics,
};
use crate::{collections::shrunk_capacity, log::Retention, sync::lock};

impl Topics {
    /// Evicts the events of a topic that exceed its own retention.
    pub(super) fn evict_from(&self, order: &mut Order, topic: &SharedLog, state: &mut SharedLogState, now_ms: u64) {
        let Retention { events, bytes, .. } = topic.retention;
        let horizon = topic.retention.horizon(now_ms).max(self.settings.total_retention.horizon(now_ms)).unwrap_or(0);
        while state.log.len() > events
            || state.log.cost() > bytes && state.log.len() > 1
            || state.log.oldest().is_some_and(|entry| entry.at_ms < horizon)
        {
            step();
            order.evict_oldest_of(state);
        }
    }

    /// Evicts the oldest events and ended topics while the total retention is exceeded. `keep`: the newest events,
    /// which stay.
    ///
    /// Each turn removes an item for good and frees its memory, except for a bounded number of turns. So there are no
    /// more turns than needed to make room for what was added.
    pub(crate) fn evict(&self, order: &mut Order, now_ms: u64, keep: usize) {
        let Retention { events, bytes, .. } = self.settings.total_retention;
        let horizon = self.settings.total_retention.horizon(now_ms);
        let mut for_nothing = 0;
        loop {
            let too_many = order.eviction_queue.len() > events || order.eviction_queue.is_full();
            let too_much = order.cost > bytes;
            if !too_many && !too_much && horizon.is_none() {
                return;
            }
            step();
            if too_much && for_nothing < AT_A_TIME {
                if let Some(topic) = order.oldest_is_an_end(keep) {
                    let mut state = lock(&topic.state);
                    // Its subscribers hold the topic, so no memory is freed.
                    for_nothing += usize::from(state.is_held());
                    self.forget_ended_topic(order, &topic, &mut state);
                    continue;
                }
            }
            if order.eviction_queue.len() <= keep {
                return;
            }
            let is_recent =
                |topic: &SharedLog| lock(&topic.state).log.oldest().is_some_and(|entry| Some(entry.at_ms) >= horizon);
            if !too_many && !too_much && order.eviction_queue.oldest().is_some_and(|topic| is_recent(topic)) {
                return;
            }
            let Some(topic) = order.eviction_queue.pop() else { return };
            let mut state = lock(&topic.state);
            order.drop_oldest_of(&mut state);
            self.forget_if_unused(order, &topic, &state);
        }
    }

    /// Evicts events that are too old from the topics that have the oldest events of a pattern.
    pub(super) fn evict_too_old(&self, order: &mut Order, pattern: &SharedLog, now_ms: u64) {
        loop {
            let Some(oldest) = lock(&pattern.state).log.oldest().cloned() else { return };
            let Some(topic) = order.topic(&oldest.topic) else { return };
            let mut state = lock(&topic.state);
            self.evict_from(order, &topic, &mut state, now_ms);
            self.forget_if_unused(order, &topic, &state);
            drop(state);
            if lock(&pattern.state).log.oldest().is_some_and(|entry| entry.number == oldest.number) {
                return;
            }
        }
    }

    /// Returns the part of the total retention that the logs of all patterns may take, so that they do not push out the
    /// events.
    pub(super) fn share_of_patterns(&self) -> usize {
        self.settings.total_retention.bytes / 4
    }

    pub(crate) fn forget_if_unused(&self, order: &mut Order, topic: &SharedLog, state: &SharedLogState) {
        let is_used = state.subscribers > 0 || state.production.is_some() || topic.has_ended();
        if is_used || !state.log.is_empty() || !order.topics.remove(&**topic.name()) {
            return;
        }
        order.by_name.remove(&**topic.name());
        order.cost -= topic.cost();
        order.forgotten.insert(topic.name(), state.log.floor());
        if let Some(enough) = shrunk_capacity(order.topics.len(), order.topics.capacity()) {
            order.topics.shrink_to(enough);
        }
    }
}
