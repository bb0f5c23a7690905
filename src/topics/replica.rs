//! A log that an engine keeps, of which this registry has a replica.
//!
//! The engine decides on the order and the time. So the changes of the log come here one after the other, from the one task that reads the
//! engine's log, and every node makes the same changes.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use super::{
    deferred::{Deferred, ToWake},
    error::PublishError,
    order::Order,
    production::{Over, Production, ProductionId, Writer},
    publish::Stamp,
    shared_log::{SharedLog, SharedLogState},
    store::Topics,
};
use crate::{
    event::Event,
    log::{Entry, Forgotten, Outcome, Position, Retention, topic_name},
    sync::{AtomicBool, AtomicU64, lock},
};

/// What the registry knows of the engine's log.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    /// The engine's time when it took the newest block, in milliseconds since the Unix epoch.
    time_ms: AtomicU64,
    is_loaded: AtomicBool,
}

impl Replica {
    /// The events that are loaded at the start have numbers up to this one, and all later events have greater numbers. So a client that
    /// subscribes to new events before the load gets none of the old ones.
    const LOADED: u64 = 1 << 40;
}

/// One change of the log: what happened in a topic, where it stands, and when the engine took it.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) topic: Cow<'a, str>,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    /// An event, and how the topic ends with it, if it does. `floor`: for an event from before the oldest record, up to where its topic may
    /// have been evicted.
    Event { event: Box<Event>, by: By, outcome: Option<Outcome>, floor: Option<Position> },
    /// An event that this node cannot give to clients, and how the topic ends with it, if it does.
    Missing { by: By, outcome: Option<Outcome> },
    /// A producer begins.
    Begin(Arc<Production>),
    /// A producer has begun before the oldest record that the engine retains. `began`: the last position before it, if that is known.
    Produces { production: Arc<Production>, began: Option<Position> },
    /// The topic ends without a last event.
    End { by: By, outcome: Outcome },
    /// The topic has ended before the oldest record that the engine retains. `began`: the last position before its producer, if it had one.
    /// `has_last_word`: it has ended with an event.
    HasEnded { outcome: Outcome, at_ms: u64, began: Option<Position>, has_last_word: bool },
}

/// What is around a retained event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retained {
    /// Up to where its topic may have been evicted.
    pub(crate) floor: Position,
    /// The position of the next event of its topic. If there is none, the position of the newest event of all.
    pub(crate) next: Position,
}

/// Who changes a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Anyone,
    /// The producer, which must be the topic's current one.
    Producer(ProductionId),
    /// The caller that cancels the producer. The topic must have one, and if the caller's node knows which one, it must be that one.
    Canceller(Option<ProductionId>),
}

impl By {
    pub(crate) fn producer(self) -> Option<ProductionId> {
        match self {
            Self::Producer(id) | Self::Canceller(Some(id)) => Some(id),
            Self::Anyone | Self::Canceller(None) => None,
        }
    }
}

/// Positions that may mean an event that the engine has lost.
///
/// Each range has the last position before the loss, and the greatest position that was known when the loss was found. Between them, the same
/// position may mean a lost event or one that was published after the loss.
#[derive(Debug, Default)]
pub(super) struct LostRanges(Vec<(Position, Position)>);

impl LostRanges {
    /// With more ranges, the two oldest become one. A client may then be told of a gap where there is none.
    const MOST: usize = 16;

    fn push(&mut self, before: Position, to: Position) {
        self.0.push((before, to));
        if self.0.len() > Self::MOST {
            let (oldest, second) = (self.0.remove(0), &mut self.0[0]);
            *second = (oldest.0.min(second.0), oldest.1.max(second.1));
        }
    }

    /// Returns the last position before the loss, if this position may mean a lost event.
    pub(super) fn before(&self, position: Position) -> Option<Position> {
        let is_in =
            |(before, to): &&(Position, Position)| position.era() == to.era() && *before < position && position <= *to;
        self.0.iter().filter(is_in).map(|(before, _)| *before).min()
    }
}

impl Topics {
    /// Returns the time by which retention goes, in milliseconds since the Unix epoch: the clock's, or the engine's.
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.replica {
            None => self.clock.now_ms(),
            Some(replica) => replica.time_ms.load(Ordering::Relaxed),
        }
    }

    /// Returns the greatest number that an event may get that is not loaded yet. Usually 0.
    pub(super) fn to_be_loaded(&self) -> u64 {
        match &self.replica {
            Some(replica) if !replica.is_loaded.load(Ordering::Acquire) => Replica::LOADED,
            _ => 0,
        }
    }

    /// Begins the replica: the log is this one's, and nothing before `begin` is in it.
    pub(crate) fn begin_at(&self, begin: Position) {
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        order.last = begin;
        order.forgotten = Forgotten::new(begin);
        for topic in order.all_logs() {
            lock(&topic.state).log.begin_at(begin);
        }
    }

    /// All events that the engine had are loaded. What comes from now on is new.
    pub(crate) fn loaded(&self) {
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        order.number = order.number.max(Replica::LOADED);
        self.set_horizon(order.number);
        if let Some(replica) = &self.replica {
            replica.is_loaded.store(true, Ordering::Release);
        }
    }

    /// Makes changes in order, with one lock, and wakes each waiter once. Returns for each change why it was not made, if so.
    ///
    /// `newest`: where the last record stands, and when the engine took it. It may be a record that changes no topic.
    pub(crate) fn make(&self, changes: &[Change<'_>], newest: Stamp) -> Vec<Result<(), PublishError>> {
        let mut made = Vec::with_capacity(changes.len());
        let mut to_wake = ToWake::default();
        let mut stopped = Vec::new();
        while made.len() < changes.len() {
            let rest = &changes[made.len()..];
            let retentions = self.retentions_of_new(rest);
            let mut deferred = Deferred::default();
            let mut order = self.order(&mut deferred);
            for change in rest {
                let topic = match (order.topic(&change.topic), retentions.get(&*change.topic)) {
                    (Some(topic), _) => Some(topic),
                    // Only the node that has the client has its topic.
                    (None, _) if topic_name::is_of_one_client(&change.topic) => None,
                    (None, Some(retention)) => Some(Self::create(&mut order, &change.topic, *retention)),
                    // It was forgotten a moment ago.
                    (None, None) => break,
                };
                if let Some(replica) = &self.replica {
                    replica.time_ms.fetch_max(change.stamp.at_ms, Ordering::Relaxed);
                }
                let Some(topic) = topic else {
                    made.push(Ok(()));
                    continue;
                };
                let is_made = self.make_one(&mut order, &topic, change, &mut to_wake, &mut stopped);
                if is_made.is_err() || matches!(change.what, What::Missing { .. }) {
                    self.forget_if_unused(&mut order, &topic, &lock(&topic.state));
                }
                made.push(is_made);
            }
        }
        self.pass(newest);
        to_wake.wake();
        for production in stopped {
            production.stop_unless_over(Over::Ended);
            production.tell();
        }
        made
    }

    /// Moves the log on to a position and a time, and evicts what has become too old.
    fn pass(&self, newest: Stamp) {
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        order.last = order.last.max(newest.position);
        if let Some(replica) = &self.replica {
            replica.time_ms.fetch_max(newest.at_ms, Ordering::Relaxed);
        }
        order.trim_next(self.share_of_patterns());
        self.evict(&mut order, newest.at_ms, 1);
    }

    /// Returns the retention of each topic that does not exist. The settings may ask the program, so no lock may be held.
    fn retentions_of_new<'a>(&self, changes: &'a [Change<'_>]) -> HashMap<&'a str, Retention> {
        let mut deferred = Deferred::default();
        let order = self.order(&mut deferred);
        let mut new: Vec<&str> = changes.iter().map(|change| &*change.topic).collect();
        new.retain(|name| !topic_name::is_of_one_client(name) && order.topic(name).is_none());
        drop(order);
        new.sort_unstable();
        new.dedup();
        // A panic of the program must not end the task, which would lose what it has read.
        let retention = |name: &str| catch_unwind(AssertUnwindSafe(|| self.settings.topic_retention_of(name)));
        let default = || Retention::of_a_topic(self.settings.total_retention);
        new.into_iter().map(|name| (name, retention(name).unwrap_or_else(|_| default()))).collect()
    }

    fn make_one(
        &self,
        order: &mut Order,
        topic: &Arc<SharedLog>,
        change: &Change<'_>,
        to_wake: &mut ToWake,
        stopped: &mut Vec<Arc<Production>>,
    ) -> Result<(), PublishError> {
        // Not when this node comes to it: all nodes have to do it at the same place of the log.
        self.forget_end(order, topic);
        match &change.what {
            What::Event { event, by, outcome, floor } => {
                floor.iter().for_each(|floor| lock(&topic.state).log.begins_after(*floor));
                let production = self.current(order, topic, *by)?;
                let by = match (by, &production, outcome) {
                    (By::Canceller(_), ..) => Some(Writer::Canceller),
                    (_, Some(production), Some(outcome)) => Some(Writer::Last(production, *outcome)),
                    (_, Some(production), None) => Some(Writer::Producer(production)),
                    (_, None, _) => None,
                };
                let checked = self.check(topic.name(), event);
                let taken =
                    checked.and_then(|mut draft| self.append(order, topic, &mut draft, change.stamp, by, to_wake));
                match taken {
                    Ok((_, over)) => stopped.extend(over),
                    Err(error) => {
                        if !matches!(error, PublishError::IdToCome { .. }) {
                            // Another node may retain more. Readers here are told that they miss something.
                            self.lose_in_all(order, topic, change.stamp.position, to_wake);
                        }
                        // The topic ends all the same: who waits for that would wait for ever.
                        stopped.extend(self.end_at(order, topic, *outcome, change.stamp, to_wake));
                        return Err(error);
                    }
                }
            }
            What::Missing { by, outcome } => {
                self.current(order, topic, *by)?;
                self.lose_in_all(order, topic, change.stamp.position, to_wake);
                stopped.extend(self.end_at(order, topic, *outcome, change.stamp, to_wake));
            }
            What::Begin(production) => {
                order.last = order.last.max(change.stamp.position);
                let mut state = lock(&topic.state);
                stopped.extend(Self::begin(order, topic, &mut state, production));
                if topic_name::is_recording(topic.name()) && state.log.is_empty() {
                    Self::begin_log(order, &mut state);
                }
            }
            What::Produces { production, began } => {
                stopped.extend(Self::take_over(order, topic, &mut lock(&topic.state), production, *began));
            }
            What::End { by, outcome } => {
                self.current(order, topic, *by)?;
                stopped.extend(self.end_at(order, topic, Some(*outcome), change.stamp, to_wake));
            }
            What::HasEnded { outcome, at_ms, began, has_last_word } => {
                let mut state = lock(&topic.state);
                state.began = state.began.or(*began);
                stopped.extend(self.mark_end(order, topic, &mut state, *outcome, *has_last_word, *at_ms));
                topic.take_waiters(&mut state, to_wake);
            }
        }
        Ok(())
    }

    /// Ends a topic without an event, if it ends.
    fn end_at(
        &self,
        order: &mut Order,
        topic: &Arc<SharedLog>,
        outcome: Option<Outcome>,
        stamp: Stamp,
        to_wake: &mut ToWake,
    ) -> Option<Arc<Production>> {
        let outcome = outcome?;
        let mut state = lock(&topic.state);
        let stopped = self.mark_end(order, topic, &mut state, outcome, false, stamp.at_ms);
        topic.take_waiters(&mut state, to_wake);
        stopped
    }

    /// Checks what this process knows of an event that is to be sent to the engine. Returns the number of subscribers.
    pub(crate) fn may_publish(&self, name: &str, event: &Event, by: By) -> Result<usize, PublishError> {
        let mut deferred = Deferred::default();
        let weight = self.weigh(name, event)?;
        let order = self.order(&mut deferred);
        let next = order.last.next(0);
        let Some(topic) = order.topic(name) else {
            drop(order);
            // The settings may ask the program, so no lock may be held.
            let largest = self.settings.topic_retention_of(name).largest();
            return weight.refusal(next, weight.limit.min(largest)).map_or(Ok(0), Err);
        };
        let state = lock(&topic.state);
        let has_ended = by == By::Anyone
            && topic.end().is_some()
            && state.production.is_none()
            && !Self::end_is_over(&order, &state, self.now_ms());
        let ended = has_ended.then(|| PublishError::Ended { topic: name.to_owned() });
        let refusal = weight.refusal(next, weight.limit.min(topic.retention.largest())).or(ended);
        let subscribers = topic.readers() + state.patterns.iter().map(|pattern| pattern.readers()).sum::<usize>();
        refusal.map_or(Ok(subscribers), Err)
    }

    /// Whether a topic's current producer is this one.
    pub(crate) fn is_produced_by(&self, name: &str, id: ProductionId) -> bool {
        let mut deferred = Deferred::default();
        let topic = self.order(&mut deferred).topic(name);
        topic.is_some_and(|topic| lock(&topic.state).production.as_ref().is_some_and(|current| current.id == id))
    }

    /// Returns the position of the oldest retained event.
    pub(crate) fn oldest(&self) -> Option<Position> {
        let mut deferred = Deferred::default();
        let order = self.order(&mut deferred);
        let topic = order.eviction_queue.oldest()?;
        lock(&topic.state).log.oldest().map(|entry| entry.position)
    }

    /// Returns for each event, which has a topic and a position, what is around it. `None`: it is not retained.
    pub(crate) fn retained(&self, events: &[(&str, Position)]) -> Vec<Option<Retained>> {
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        let now_ms = self.now_ms();
        let around = |(name, position): &(&str, Position)| {
            let topic = order.topic(name)?;
            let mut state = lock(&topic.state);
            self.evict_from(&mut order, &topic, &mut state, now_ms);
            self.forget_if_unused(&mut order, &topic, &state);
            let next = state.log.next_of(*position)?.unwrap_or(order.last);
            Some(Retained { floor: state.log.floor(), next })
        };
        events.iter().map(around).collect()
    }

    /// Returns how much memory the retained events take.
    pub(crate) fn retained_bytes(&self) -> usize {
        let mut deferred = Deferred::default();
        self.order(&mut deferred).cost
    }

    /// Returns the topic's current production, if it is the one that is meant. A producer that was replaced or has ended changes nothing any
    /// more, on any node. What a producer was told in its own process does not count: the log says what came before that.
    ///
    /// If nothing is known of the topic's producers, this one, or the one that is cancelled, has begun before the oldest record that the engine
    /// retains.
    fn current(&self, order: &mut Order, topic: &SharedLog, by: By) -> Result<Option<Arc<Production>>, PublishError> {
        let mut state = lock(&topic.state);
        match (by, state.production.clone()) {
            (By::Anyone, None) if topic.has_ended() => Err(PublishError::Ended { topic: topic.name().to_string() }),
            (By::Anyone, _) => Ok(None),
            (_, Some(production)) if by.producer().is_none_or(|id| production.id == id) => Ok(Some(production)),
            (_, Some(_)) => Err(PublishError::Replaced { topic: topic.name().to_string() }),
            (_, None) if !topic.has_ended() => {
                let production = Arc::new(Production::new(by.producer().unwrap_or_default()));
                Self::take_over(order, topic, &mut state, &production, None);
                Ok(Some(production))
            }
            (_, None) => Err(PublishError::Ended { topic: topic.name().to_string() }),
        }
    }

    /// Takes it that a producer has begun after a position, if that is known.
    fn take_over(
        order: &mut Order,
        topic: &SharedLog,
        state: &mut SharedLogState,
        production: &Arc<Production>,
        began: Option<Position>,
    ) -> Option<Arc<Production>> {
        let other = Self::begin(order, topic, state, production);
        // If it is not known, the first events are gone, and a reader that asks for them is told.
        state.began = Some(began.unwrap_or_default());
        other
    }

    /// Tells the readers of all topics that events are missing before a position.
    pub(crate) fn lose(&self, before: Position) {
        let mut to_wake = ToWake::default();
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        order.last = order.last.max(before);
        order.forgotten = Forgotten::new(before);
        for log in order.all_logs() {
            self.lose_in(&mut order, &log, before, &mut to_wake);
        }
        drop(order);
        to_wake.wake();
    }

    /// Tells the readers of a topic, and of the patterns that match it, that events are missing.
    fn lose_in_all(&self, order: &mut Order, topic: &SharedLog, before: Position, to_wake: &mut ToWake) {
        let patterns = lock(&topic.state).patterns.clone();
        self.lose_in(order, topic, before, to_wake);
        patterns.iter().for_each(|pattern| self.lose_in(order, pattern, before, to_wake));
    }

    fn lose_in(&self, order: &mut Order, log: &SharedLog, before: Position, to_wake: &mut ToWake) {
        order.number += 1;
        let mut state = lock(&log.state);
        state.log.lose(order.number, before);
        log.reach(order.number);
        self.set_horizon(order.number);
        log.take_waiters(&mut state, to_wake);
    }

    /// Removes the events that the engine does not have: those for which `is_kept` is `false`.
    ///
    /// `lost`: a client that comes back with a position after the first one, up to the second one, is told of a gap, and continues after the
    /// first one.
    pub(crate) fn cut(&self, lost: Option<(Position, Position)>, is_kept: &dyn Fn(Position) -> bool) {
        let mut deferred = Deferred::default();
        let mut order = self.order(&mut deferred);
        lost.into_iter().for_each(|(before, to)| order.lost_ranges.push(before, to));
        for log in order.all_logs() {
            if log.is_pattern() {
                continue;
            }
            let gone: Vec<Arc<Entry>> = {
                let state = lock(&log.state);
                state.log.entries().filter(|entry| !is_kept(entry.position)).cloned().collect()
            };
            for entry in gone.into_iter().rev() {
                let mut state = lock(&log.state);
                order.cost -= entry.cost();
                state.log.take_out(&entry);
                for pattern in &state.patterns {
                    let cost = lock(&pattern.state).log.remove(&entry);
                    order.free_rows(cost);
                }
                drop(state);
                order.left_out(&entry, &entry.topic);
                order.eviction_queue.remove(entry.ticket);
                order.gone.push(entry);
            }
            self.forget_if_unused(&mut order, &log, &lock(&log.state));
        }
    }
}

impl Order {
    /// Returns all topics and patterns.
    fn all_logs(&self) -> Vec<Arc<SharedLog>> {
        self.by_name.iter().map(|topic| Arc::clone(&topic.0)).chain(self.pattern_list.iter().cloned()).collect()
    }
}
