//! How an event comes into the log.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    deferred::{Deferred, ToWake},
    error::PublishError,
    order::Order,
    production::{Production, Writer},
    receipt::Receipt,
    shared_log::{SharedLog, SharedLogState},
    steps::step,
    store::Topics,
};
use crate::{
    event::{self, Event},
    log::{Entry, Position, Progress},
    sync::lock,
    time::nanoseconds,
};

impl Topics {
    /// Publishes. `by`: whom the event comes from, if that is a producer or who stops one.
    pub(crate) fn publish(
        &self,
        name: &str,
        event: &Event,
        by: Option<Writer<'_>>,
        elapsed: Duration,
    ) -> Result<Receipt, PublishError> {
        let fields = event.encode_fields();
        let id = event.own_id().map_or(Position::MAX_LENGTH, str::len);
        let size = fields.len() + event::ROOM_FOR_ID + id;
        let size = Entry::cost_of(size, event.own_id(), event.audience().is_some());
        let limit = self.settings.total_retention.bytes.saturating_sub(name.len() + SharedLog::OVERHEAD);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let audience = event.audience().cloned().map(Box::new);
        let like_ours = event.own_id().and_then(|id| id.parse::<Progress>().ok());
        let now_ms = self.clock.ms(elapsed);
        let mut deferred = Deferred::default();
        let (mut order, topic) = self.topic(name, &mut deferred);
        let limit = limit.min(topic.retention.largest());
        // Before the topic is locked, which its readers wait for.
        let position = order.last.next(now_ms);
        let mut wire = fields;
        let id_at = wire.len();
        if event.has_data() {
            wire.extend_from_slice(b"id: ");
            match event.own_id() {
                Some(id) => wire.extend_from_slice(id.as_bytes()),
                None => position.write(&mut wire),
            }
            wire.push(b'\n');
        }
        let wire = event::finish(wire);
        let mut state = lock(&topic.state);
        let refusal = match like_ours.filter(|id| id.seen.era() == position.era() && id.seen >= position) {
            Some(id) => Some(PublishError::IdToCome { id: id.to_string() }),
            None if size > limit => Some(PublishError::TooLarge { size, limit }),
            None => Production::refusal(by, &topic, &state),
        };
        if let Some(refusal) = refusal {
            self.forget_if_unused(&mut order, &topic, &state);
            return Err(refusal);
        }
        self.newest.0.last_publish.store(nanoseconds(elapsed), Ordering::Relaxed);
        let entry = Entry {
            number: order.number + 1,
            position,
            topic: Arc::clone(topic.name()),
            wire,
            id_at,
            own_id: event.own_id().is_some(),
            is_typed: event.is_typed(),
            slow_client_policy: topic.retention.slow_client_policy,
            audience,
            ticket: order.eviction_queue.push(Arc::clone(&topic)),
        };
        order.last = position;
        order.number = entry.number;
        order.published += 1;
        let (subscribers, to_wake) = self.append(&mut order, &topic, &mut state, &Arc::new(entry));
        // Before the topic is unlocked: nobody gets the event without the end.
        let outcome = by.and_then(Writer::outcome);
        let stopped = outcome.and_then(|outcome| self.mark_end(&mut order, &topic, &mut state, outcome, true));
        self.evict_from(&mut order, &topic, &mut state, now_ms);
        drop(state);
        order.trim_next(self.share_of_patterns());
        // But never the newest, which somebody is about to be woken for.
        self.evict(&mut order, now_ms, 1);
        drop(order);
        to_wake.wake();
        if let Some(stopped) = stopped {
            stopped.tell();
        }
        Ok(Receipt { position, subscribers })
    }

    /// Puts an event into its topic's log, and into those of the patterns that match. Gives how many subscribers it is
    /// for, and whom to wake.
    pub(super) fn append(
        &self,
        order: &mut Order,
        topic: &SharedLog,
        state: &mut SharedLogState,
        entry: &Arc<Entry>,
    ) -> (usize, ToWake) {
        let number = entry.number;
        let cost = entry.cost();
        order.cost += cost;
        state.log.push(Arc::clone(entry), cost);
        topic.reach(number);
        let share = order.share(self.share_of_patterns());
        // All stay locked until the event may be read, so that no reader runs in circles for it.
        let mut patterns: Vec<_> = state.patterns.iter().map(|pattern| lock(&pattern.state)).collect();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            step();
            let cost = entry.cost_of_row();
            order.add_rows(cost);
            pattern.log.push(Arc::clone(entry), cost);
            order.trim(at, &mut pattern.log, share);
            at.reach(number);
        }
        self.set_horizon(number);
        let subscribers = topic.readers() + state.patterns.iter().map(|pattern| pattern.readers()).sum::<usize>();
        let mut to_wake = ToWake::default();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            at.take_waiters(pattern, &mut to_wake);
        }
        drop(patterns);
        topic.take_waiters(state, &mut to_wake);
        (subscribers, to_wake)
    }
}
