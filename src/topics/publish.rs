//! How an event comes into the log.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

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
    event::{self, Audience, Event},
    log::{Entry, Position, Progress},
    sync::lock,
    time::nanoseconds,
};

/// A checked event, encoded except for its id.
///
/// It is made before any lock is taken and dropped after the last one is released, as its audience runs the program's code when it is dropped.
pub(crate) struct Draft<'a> {
    event: &'a Event,
    wire: Vec<u8>,
    weight: Weight,
    audience: Option<Box<Audience>>,
}

/// What an event takes and claims.
pub(super) struct Weight {
    /// The bytes of memory that the retained event takes.
    cost: usize,
    /// The bytes of memory that an event of this topic may take in this registry.
    pub(super) limit: usize,
    /// The publisher's own id, if it parses as an id of a registry.
    parsed_id: Option<Progress>,
}

/// Where an event stands, and when it was taken, in milliseconds since the Unix epoch.
///
/// Without a backplane, the time is that of the position. With one it is the engine's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) position: Position,
    pub(crate) at_ms: u64,
}

impl Draft<'_> {
    /// The event's bytes on the wire at this position, and where in them its `id:` line begins.
    #[inline(always)]
    fn encode(&mut self, position: Position) -> (Bytes, usize) {
        let mut wire = mem::take(&mut self.wire);
        let id_at = wire.len();
        if self.event.has_data() {
            wire.extend_from_slice(b"id: ");
            match self.event.own_id() {
                Some(id) => wire.extend_from_slice(id.as_bytes()),
                None => position.write(&mut wire),
            }
            wire.push(b'\n');
        }
        (event::finish(wire), id_at)
    }
}

impl Weight {
    /// Why the event is refused at this position, on a topic whose events may take up to `limit` bytes of memory.
    pub(super) fn refusal(&self, position: Position, limit: usize) -> Option<PublishError> {
        let id_to_come = self.parsed_id.as_ref().filter(|id| id.seen.era() == position.era() && id.seen >= position);
        match id_to_come {
            Some(id) => Some(PublishError::IdToCome { id: id.to_string() }),
            None => (self.cost > limit).then_some(PublishError::TooLarge { size: self.cost, limit }),
        }
    }
}

impl Topics {
    /// Publishes an event: checks and encodes it, gives it the next position, and applies it.
    ///
    /// `by`: the producer that writes the event, or the caller that cancels one, if there is one.
    pub(crate) fn publish(
        &self,
        name: &str,
        event: &Event,
        by: Option<Writer<'_>>,
        elapsed: Duration,
    ) -> Result<Receipt, PublishError> {
        let mut draft = self.check(name, event)?;
        let now_ms = self.clock.ms(elapsed);
        let mut deferred = Deferred::default();
        let (mut order, topic) = self.topic(name, &mut deferred);
        let place = Stamp { position: order.last.next(now_ms), at_ms: now_ms };
        let mut to_wake = ToWake::default();
        let (subscribers, stopped) = self.append(&mut order, &topic, &mut draft, place, by, &mut to_wake)?;
        self.newest.0.last_publish.store(nanoseconds(elapsed), Ordering::Relaxed);
        order.trim_next(self.share_of_patterns());
        // But never the newest, which somebody is about to be woken for.
        self.evict(&mut order, now_ms, 1);
        drop(order);
        to_wake.wake();
        if let Some(stopped) = stopped {
            stopped.tell();
        }
        Ok(Receipt::at(place.position, subscribers))
    }

    /// Appends a checked event to its topic, if the topic takes it. The topic ends with the last event of a producer.
    ///
    /// Returns the number of subscribers, and the producer that was stopped by the end.
    #[inline(always)]
    pub(super) fn append(
        &self,
        order: &mut Order,
        topic: &Arc<SharedLog>,
        draft: &mut Draft<'_>,
        stamp: Stamp,
        by: Option<Writer<'_>>,
        to_wake: &mut ToWake,
    ) -> Result<(usize, Option<Arc<Production>>), PublishError> {
        // Before the topic is locked, which its readers wait for.
        let (wire, id_at) = draft.encode(stamp.position);
        let mut state = lock(&topic.state);
        let refusal = draft.weight.refusal(stamp.position, draft.weight.limit.min(topic.retention.largest()));
        // In a replica of an engine's log, the log has decided that.
        let ended = || if self.replica.is_none() { ended(by, topic, &state) } else { None };
        if let Some(refusal) = refusal.or_else(ended) {
            // A replica forgets it later: it has to note first that events are missing.
            if self.replica.is_none() {
                self.forget_if_unused(order, topic, &state);
            }
            return Err(refusal);
        }
        let entry = Entry {
            number: order.number + 1,
            position: stamp.position,
            at_ms: stamp.at_ms,
            topic: Arc::clone(topic.name()),
            wire,
            id_at,
            own_id: draft.event.own_id().is_some(),
            is_typed: draft.event.is_typed(),
            slow_client_policy: topic.retention.slow_client_policy,
            audience: draft.audience.take(),
            ticket: order.eviction_queue.push(Arc::clone(topic)),
        };
        let subscribers = self.apply(order, topic, &mut state, &Arc::new(entry), to_wake);
        // Before the topic is unlocked: nobody gets the event without the end.
        let outcome = by.and_then(Writer::outcome);
        let stopped = outcome.and_then(|outcome| self.mark_end(order, topic, &mut state, outcome, true, stamp.at_ms));
        self.evict_from(order, topic, &mut state, stamp.at_ms);
        Ok((subscribers, stopped))
    }

    /// Checks and encodes an event before anything is locked.
    // Not inlined, this and `encode` cost 10 of 310 ns of a publish.
    #[inline(always)]
    pub(crate) fn check<'a>(&self, name: &str, event: &'a Event) -> Result<Draft<'a>, PublishError> {
        let weight = self.weigh(name, event)?;
        Ok(Draft { event, wire: event.encode_fields(), weight, audience: event.audience().cloned().map(Box::new) })
    }

    /// Checks an event without encoding it.
    #[inline(always)]
    pub(super) fn weigh(&self, name: &str, event: &Event) -> Result<Weight, PublishError> {
        let limit = self.settings.total_retention.bytes.saturating_sub(name.len() + SharedLog::OVERHEAD);
        let id = event.own_id().map_or(Position::MAX_LENGTH, str::len);
        let size = event.fields_length() + event::ROOM_FOR_ID + id;
        let cost = Entry::cost_of(size, event.own_id(), event.audience().is_some());
        if cost > limit {
            return Err(PublishError::TooLarge { size: cost, limit });
        }
        let parsed_id = event.own_id().and_then(|id| id.parse().ok());
        Ok(Weight { cost, limit, parsed_id })
    }

    /// Appends an event to its topic's log and to the logs of the patterns that match. It becomes the registry's newest event.
    ///
    /// Returns the number of its subscribers. Adds the waiters to `to_wake`, for the caller to wake after the last lock is released.
    pub(super) fn apply(
        &self,
        order: &mut Order,
        topic: &SharedLog,
        state: &mut SharedLogState,
        entry: &Arc<Entry>,
        to_wake: &mut ToWake,
    ) -> usize {
        let number = entry.number;
        let cost = entry.cost();
        (order.last, order.number) = (entry.position, number);
        order.published += 1;
        order.cost += cost;
        state.log.push(Arc::clone(entry), cost);
        topic.reach(number);
        // All stay locked until the event may be read, so that no reader runs in circles for it.
        let mut patterns: Vec<_> = state.patterns.iter().map(|pattern| lock(&pattern.state)).collect();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            step();
            let cost = entry.cost_of_row();
            order.add_rows(cost);
            pattern.log.push(Arc::clone(entry), cost);
            let share = order.share(self.share_of_patterns());
            order.trim(at, &mut pattern.log, share);
            at.reach(number);
        }
        self.set_horizon(number);
        let subscribers = topic.readers() + state.patterns.iter().map(|pattern| pattern.readers()).sum::<usize>();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            at.take_waiters(pattern, to_wake);
        }
        drop(patterns);
        topic.take_waiters(state, to_wake);
        subscribers
    }
}

/// Returns why an event may not be published on a topic, if so.
fn ended(by: Option<Writer<'_>>, topic: &SharedLog, state: &SharedLogState) -> Option<PublishError> {
    let is_over = match by {
        Some(Writer::Producer(production) | Writer::Last(production, _)) => return production.error(topic.name()),
        Some(Writer::Canceller) => state.production.is_none(),
        None => topic.has_ended() && state.production.is_none(),
    };
    is_over.then(|| PublishError::Ended { topic: topic.name().to_string() })
}
