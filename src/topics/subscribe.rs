//! Subscribers join and leave topics and patterns.

use std::sync::Arc;

use super::{
    deferred::Deferred,
    order::{Order, OrderGuard, Share},
    resume::Joining,
    shared_log::{ByName, Kept, SharedLog, WaiterSlot},
    start::Start,
    store::Topics,
};
use crate::{
    log::{Entry, Log, Position, Retention, topic_name},
    sync::{lock, nothing_is_locked},
};

impl Topics {
    /// Returns the topic with this name and the locked order. Creates the topic if there is none.
    pub(crate) fn topic<'a>(&'a self, name: &str, deferred: &'a mut Deferred) -> (OrderGuard<'a>, Arc<SharedLog>) {
        let order = self.lock_order();
        if let Some(topic) = order.topic(name) {
            return (OrderGuard { guard: order, deferred }, topic);
        }
        drop(order);
        nothing_is_locked();
        let retention = self.settings.topic_retention_of(name);
        let mut order = OrderGuard { guard: lock(&self.order.0), deferred };
        let topic = order.topic(name).unwrap_or_else(|| Self::create(&mut order, name, retention));
        (order, topic)
    }

    /// Creates a topic that does not exist.
    pub(super) fn create(order: &mut Order, name: &str, retention: Retention) -> Arc<SharedLog> {
        let topic = SharedLog::new(order.next_id(), name, retention, order.forgotten.floor(name));
        if topic_name::is_public(name) {
            lock(&topic.state).patterns = order.patterns.matching(name).into_iter().cloned().collect();
        }
        let topic = Arc::new(topic);
        order.cost += topic.cost();
        order.topics.insert(ByName(Arc::clone(&topic)));
        order.by_name.insert(ByName(Arc::clone(&topic)));
        topic
    }

    /// Returns the pattern with this name and the locked order. Creates the pattern if it has no subscribers.
    ///
    /// Earlier events are added to its log when a client asks for them.
    pub(super) fn pattern<'a>(&'a self, name: &str, deferred: &'a mut Deferred) -> (OrderGuard<'a>, Arc<SharedLog>) {
        let mut order = self.order(deferred);
        if let Some(pattern) = order.patterns.get(name).cloned() {
            return (order, pattern);
        }
        let pattern = SharedLog::new(order.next_id(), name, Retention::default(), order.last);
        let mut state = lock(&pattern.state);
        state.lacks = order.number;
        // A client that starts now starts after them. `complete` adds them for a client that asks later.
        state.log.end_at(order.number);
        pattern.reach(order.number);
        drop(state);
        let pattern = Arc::new(pattern);
        for topic in order.matching(name) {
            lock(&topic.state).patterns.push(Arc::clone(&pattern));
        }
        order.patterns.insert(name, Arc::clone(&pattern));
        order.pattern_list.push(Arc::clone(&pattern));
        // Counted as a topic without subscribers, because it is about to have one.
        order.cost += pattern.cost();
        (order, pattern)
    }

    /// Adds the events that were published before a pattern had subscribers to its log.
    pub(super) fn complete(&self, order: &mut Order, pattern: &SharedLog) {
        let lacks = std::mem::take(&mut lock(&pattern.state).lacks);
        if lacks == 0 {
            return;
        }
        let mut floor = order.forgotten.floor_of_matching(pattern.name());
        let mut entries = Vec::new();
        for topic in order.matching(pattern.name()) {
            let state = lock(&topic.state);
            floor = floor.max(state.log.floor());
            entries.extend(state.log.entries().take_while(|entry| entry.number <= lacks).cloned());
        }
        entries.sort_unstable_by_key(|entry| entry.number);
        let share = order.share(self.share_of_patterns());
        let wanted: usize = entries.iter().map(|entry| entry.cost_of_row()).sum();
        if order.rows + wanted > share.all {
            // As many as there are now, which is no more than was looked at.
            let most = Share { all: share.all.saturating_sub(wanted), ..share };
            for other in order.pattern_list.clone() {
                let mut log = lock(&other.state);
                while order.trim(&other, &mut log.log, most) {}
            }
        }
        let mut room = share.all.saturating_sub(order.rows);
        let has_room = |entry: &&Arc<Entry>| {
            let left = room.checked_sub(entry.cost_of_row());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let fitting = entries.iter().rev().take_while(has_room).count();
        for left_out in entries.drain(..entries.len() - fitting) {
            let position = order.left_out(&left_out, pattern.name());
            floor = position.map_or(floor, |position| floor.max(position));
        }
        order.add_rows(entries.iter().map(|entry| entry.cost_of_row()).sum());
        let mut state = lock(&pattern.state);
        state.log.prepend(entries, floor);
        pattern.reach(state.log.newest());
        drop(state);
        self.evict(order, self.now_ms(), 0);
    }

    /// Returns the topic with this name, if it exists, or the pattern, if a topic exists that matches it.
    pub(super) fn existing<'a>(
        &'a self,
        name: &str,
        deferred: &'a mut Deferred,
    ) -> Option<(OrderGuard<'a>, Arc<SharedLog>)> {
        let now_ms = self.now_ms();
        let exists = |topic: &SharedLog| {
            let horizon = topic.retention.horizon(now_ms).max(self.settings.total_retention.horizon(now_ms));
            topic.exists(horizon.unwrap_or(0))
        };
        let order = self.lock_order();
        if topic_name::is_pattern(name) {
            let exists = order.matching(name).any(|topic| exists(topic));
            drop(order);
            return exists.then(|| self.pattern(name, deferred));
        }
        let topic = order.topic(name).filter(|topic| exists(topic))?;
        Some((OrderGuard { guard: order, deferred }, topic))
    }

    /// Adds a subscriber to a topic or a pattern. `None`: it must exist and does not.
    pub(crate) fn join(&self, name: &str, start: Start, must_exist: bool, deferred: &mut Deferred) -> Option<Joining> {
        let (mut order, shared_log) = match topic_name::is_pattern(name) {
            _ if must_exist => self.existing(name, deferred)?,
            true => self.pattern(name, deferred),
            false => self.topic(name, deferred),
        };
        let mut state = lock(&shared_log.state);
        order.update_holders(&shared_log, &mut state, |state| state.subscribers += 1);
        shared_log.prepare_for(state.subscribers);
        drop(state);
        let start = self.cursor_start(&mut order, &shared_log, start);
        drop(order);
        Some(Joining { shared_log, start })
    }

    /// Removes a subscriber from a topic or a pattern, and its waker from the waiters.
    pub(crate) fn leave(&self, shared_log: &SharedLog, parked: Option<WaiterSlot>, deferred: &mut Deferred) {
        let mut order = self.order(deferred);
        let mut state = lock(&shared_log.state);
        let waiter = parked.and_then(|parked| shared_log.unpark_locked(&mut state, parked));
        if !shared_log.is_pattern() {
            order.update_holders(shared_log, &mut state, |state| state.subscribers -= 1);
            if state.subscribers == 0 {
                // Events that were sent to one client alone are for no other client.
                while topic_name::is_of_one_client(shared_log.name()) && !state.log.is_empty() {
                    order.evict_oldest_of(&mut state);
                }
                if state.kept == Some(Kept::Subscribers) {
                    self.forget_ended_topic(&mut order, shared_log, &mut state);
                } else {
                    self.forget_if_unused(&mut order, shared_log, &state);
                }
                drop(state);
                if order.cost > self.settings.total_retention.bytes {
                    self.evict(&mut order, self.now_ms(), 0);
                }
            } else {
                drop(state);
            }
        } else if state.subscribers == 1 {
            state.subscribers = 0;
            order.free_rows(state.log.cost());
            let log = std::mem::replace(&mut state.log, Log::new(Position::default()));
            log.entries().filter(|entry| entry.audience.is_some()).for_each(|entry| order.gone.push(Arc::clone(entry)));
            drop(state);
            order.patterns.remove(shared_log.name());
            order.pattern_list.retain(|pattern| pattern.id() != shared_log.id());
            for topic in order.matching(shared_log.name()) {
                lock(&topic.state).patterns.retain(|pattern| pattern.id() != shared_log.id());
            }
        } else {
            state.subscribers -= 1;
            drop(state);
        }
        drop(order);
        drop(waiter);
    }
}
