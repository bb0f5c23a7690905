//! A client's reading: its cursors, and what it takes next.

use std::{sync::Arc, task::Waker};

use bytes::Bytes;

use super::{
    log::Entry,
    position::{Position, Progress},
    shared::Shared,
    topic::Topic,
    waiters::Slot,
};
use crate::{Gap, event, sync::lock};

/// About how many bytes leave as one frame: what hyper queues before it writes is a few of these.
const FRAME: u64 = 64 * 1024;

/// One client's cursors, over all topics that it is subscribed to.
///
/// Events leave in position order, and never beyond the newest position that was fully published when the reading
/// began: so whatever a client has seen, it has seen everything before it.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    subscriptions: Vec<Subscription>,
    /// The newest position that was given out, or that the client came with.
    seen: Option<Position>,
    /// The `Last-Event-ID` of which the client has not been told yet that it no longer leads everywhere.
    asked: Option<String>,
}

/// How far a client has read one topic.
#[derive(Debug)]
struct Subscription {
    topic: Arc<Topic>,
    /// The index of the next event.
    next: u64,
    /// Its place among the topic's waiters, while nothing was published since.
    parked: Option<Slot>,
    /// Events after this position and before `next` are missing, and the client has not been told.
    missed: Option<Position>,
    /// It goes on where the client was cut off.
    resumes: bool,
    /// It is catching up: it started before what the client had seen, and has not reached that yet.
    catches_up: bool,
}

impl Subscription {
    /// Whether there may be something to read: more than the log's tail, which is looked up without a lock, says only
    /// the log itself.
    fn is_pending(&self) -> bool {
        self.missed.is_some() || self.topic.tail() > self.next
    }

    /// What its reader may rest on, if it waits for the next event. `rested` is what it rested on before.
    fn rest(&self, rested: Option<Rest>) -> Option<Rest> {
        self.parked?;
        let topic = match rested {
            Some(rested) if Arc::ptr_eq(&rested.topic, &self.topic) => rested.topic,
            _ => Arc::clone(&self.topic),
        };
        Some(Rest { topic, tail: self.next })
    }
}

/// What is enough to know, without a lock, that nothing was published on the only topic of a client that has read all of it and waits.
#[derive(Debug)]
pub(crate) struct Rest {
    topic: Arc<Topic>,
    tail: u64,
}

impl Rest {
    pub(crate) fn goes_on(&self) -> bool {
        self.topic.tail() == self.tail
    }
}

/// A subscription that a topic counts already.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) topic: Arc<Topic>,
    /// The index of the first event.
    pub(crate) next: u64,
    /// Events after this position and before that one are missing.
    pub(crate) missed: Option<Position>,
}

/// What is missing, and the id from which all that is still to come can be had.
pub(crate) type Missing = Box<(Gap, Option<Position>)>;

/// What a client takes in one go.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) gap: Option<Missing>,
    pub(crate) events: Vec<Picked>,
}

/// One event, as one client gets it.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) topic: Arc<Topic>,
    pub(crate) entry: Entry,
    subscription: usize,
    index: u64,
    /// What its id says instead of its own, for a client that is catching up.
    progress: Option<Arc<str>>,
}

/// The same, written for the wire.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) gap: Option<Missing>,
    /// Empty if there is only a gap.
    pub(crate) wire: Bytes,
    /// The client was waiting for just this, so that it leaves at about the time when it was published.
    pub(crate) is_live: bool,
}

impl Cursors {
    pub(crate) fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.topic.name() == topic)
    }

    /// `resumes`: a `Last-Event-ID`, if there is one, goes before where it starts.
    pub(crate) fn subscribe(&mut self, joined: Joining, resumes: bool) {
        let Joining { topic, next, missed } = joined;
        self.subscriptions.push(Subscription { topic, next, parked: None, missed, resumes, catches_up: false });
    }

    pub(crate) fn unsubscribe(&mut self, shared: &Shared, topic: &str) -> bool {
        let Some(at) = self.subscriptions.iter().position(|subscription| subscription.topic.name() == topic) else {
            return false;
        };
        let subscription = self.subscriptions.swap_remove(at);
        shared.leave(&subscription.topic, subscription.parked, subscription.next);
        true
    }

    pub(crate) fn clear(&mut self, shared: &Shared) {
        for subscription in std::mem::take(&mut self.subscriptions) {
            shared.leave(&subscription.topic, subscription.parked, subscription.next);
        }
    }

    /// Sets the cursors to where the client was cut off, and says what is no longer retained from there on.
    pub(crate) fn resume(&mut self, shared: &Shared, last_event_id: &str) -> Option<Gap> {
        let resuming = self.subscriptions.iter().filter(|subscription| subscription.resumes);
        let own = resuming.filter_map(|subscription| lock(&subscription.topic.state).log.find(last_event_id)).min();
        let progress = match own {
            Some(position) => Some(Progress::from(position)),
            None => last_event_id.parse::<Progress>().ok(),
        };
        let progress = progress.filter(|progress| progress.seen <= shared.position());
        self.seen = progress.as_ref().map(|progress| progress.seen);
        let mut topics = Vec::new();
        for subscription in self.subscriptions.iter_mut().filter(|subscription| subscription.resumes) {
            // An id that was never issued comes before everything.
            let after = progress.as_ref().map(|progress| progress.of(subscription.topic.name())).unwrap_or_default();
            (subscription.next, subscription.missed) = shared.locate(&subscription.topic, after);
            subscription.catches_up = self.seen.is_some_and(|seen| after < seen);
            if subscription.missed.is_some() {
                topics.push(subscription.topic.name().to_owned());
            }
        }
        self.asked = (!topics.is_empty()).then(|| last_event_id.to_owned());
        self.asked.clone().map(|after| Gap { topics, after })
    }

    /// Takes what is pending up to the event with the number `horizon`, as one frame. Clients that are behind by the
    /// same range of one topic get the same bytes.
    ///
    /// A client with one subscription that has taken all there is may rest until something changes.
    #[inline]
    pub(crate) fn take_frame(
        &mut self,
        waker: &Waker,
        shared: &Shared,
        horizon: u64,
        rest: &mut Option<Rest>,
    ) -> Option<Frame> {
        let only = self.subscriptions.len() == 1;
        // Whatever comes of this, what it knew of is read.
        let rested = rest.take();
        let is_live = rested.is_some();
        let mut pending = self.subscriptions.iter_mut().filter(|subscription| subscription.is_pending());
        let first = pending.next()?;
        if pending.next().is_none() {
            if let Ok(plain) = Self::take_plain(first, &mut self.seen, waker, shared, horizon) {
                if only {
                    *rest = first.rest(rested);
                }
                return plain.map(|wire| Frame { gap: None, wire, is_live });
            }
        }
        let taken = self.take_events(horizon)?;
        let mut wire = Vec::with_capacity(taken.events.iter().map(|picked| picked.entry.wire.len()).sum());
        taken.events.iter().for_each(|picked| picked.write(&mut wire));
        Some(Frame { gap: taken.gap, wire: wire.into(), is_live: false })
    }

    /// The case that has to be fast: one topic has something, nothing is missing, and all of it is newer than what the client has seen.
    #[inline]
    fn take_plain(
        subscription: &mut Subscription,
        seen: &mut Option<Position>,
        waker: &Waker,
        shared: &Shared,
        horizon: u64,
    ) -> Result<Option<Bytes>, NotPlain> {
        let mut state = lock(&subscription.topic.state);
        let log = &state.log;
        if subscription.missed.is_some() || subscription.next < log.base() {
            return Err(NotPlain);
        }
        let range = log.frame(subscription.next, horizon, FRAME);
        let (Some(first), Some(last)) = (log.get(range.start), range.clone().next_back().and_then(|at| log.get(at)))
        else {
            return Ok(None);
        };
        if seen.is_some_and(|seen| first.position <= seen) {
            return Err(NotPlain);
        }
        *seen = Some(last.position);
        subscription.next = range.end;
        let wire = shared.joined.frame(subscription.topic.id(), log, range);
        // It will wait next, if that was all; with the lock at hand, it may as well get in line now.
        let was_all = log.tail() == subscription.next;
        subscription.parked = was_all.then(|| state.waiters.insert(waker.clone()));
        Ok(Some(wire))
    }

    /// Takes what is pending up to the event with the number `horizon`, event by event, over all topics in position
    /// order; about a frame of it. What subscriptions that are catching up have to catch up on goes first.
    pub(crate) fn take_events(&mut self, mut horizon: u64) -> Option<Taken> {
        let catch_up = self.gather_late().then_some(self.seen).flatten();
        let mut events = Vec::new();
        for (at, subscription) in self.subscriptions.iter_mut().enumerate() {
            if !subscription.is_pending() {
                continue;
            }
            let state = lock(&subscription.topic.state);
            let log = &state.log;
            if log.tail() > subscription.next {
                // Something came since it waited, whether or not it is still there.
                subscription.parked = None;
            }
            if subscription.next < log.base() {
                subscription.missed = subscription.missed.or(Some(self.seen.unwrap_or_default()));
                subscription.next = log.base();
            }
            if catch_up.is_some() && !subscription.catches_up {
                continue;
            }
            let range = log.frame(subscription.next, horizon, FRAME);
            if let Some(left_out) = log.get(range.end) {
                // Nothing of another topic may go before what did not fit of this one.
                horizon = horizon.min(left_out.number - 1);
            }
            events.extend(log.range(range.clone()).zip(range).map(|(entry, index)| Picked {
                topic: Arc::clone(&subscription.topic),
                entry: entry.clone(),
                subscription: at,
                index,
                progress: None,
            }));
        }
        events.retain(|picked: &Picked| {
            picked.entry.number <= horizon && catch_up.is_none_or(|seen| picked.entry.position <= seen)
        });
        events.sort_unstable_by_key(|picked| picked.entry.number);
        let gap = self.take_gap(events.first().map(|picked| picked.entry.position));
        if let Some(seen) = catch_up {
            self.note_progress(&mut events, seen);
        }

        let mut size = 0;
        let fitting = events.iter().take_while(|picked| {
            size += picked.entry.wire.len() as u64;
            size <= FRAME
        });
        events.truncate(fitting.count().max(1));
        for picked in &events {
            self.subscriptions[picked.subscription].next = picked.index + 1;
            self.seen = self.seen.max(Some(picked.entry.position));
        }
        (gap.is_some() || !events.is_empty()).then_some(Taken { gap, events })
    }

    /// What is missing and was not told yet. `first`: where what comes next stands.
    fn take_gap(&mut self, first: Option<Position>) -> Option<Missing> {
        let beyond_horizon = first.is_none() && self.subscriptions.iter().any(|it| it.topic.tail() > it.next);
        let (mut topics, mut after, mut floor) = (Vec::new(), None, Position::default());
        for subscription in &mut self.subscriptions {
            if let Some(missed) = subscription.missed.take() {
                topics.push(subscription.topic.name().to_owned());
                after = Some(after.map_or(missed, |after: Position| after.min(missed)));
                floor = floor.max(lock(&subscription.topic.state).log.floor());
            }
        }
        let after = after?.to_string();
        let after = self.asked.take().unwrap_or(after);
        let id = first.map_or(floor, |first| floor.min(first.before()));
        let forward = !beyond_horizon && self.seen.is_none_or(|seen| seen <= id);
        Some(Box::new((Gap { topics, after }, forward.then_some(id))))
    }

    /// Events from before what the client has seen must not move it back: their ids say how far it is in the topics that
    /// are catching up.
    fn note_progress(&self, events: &mut [Picked], seen: Position) {
        let late = || self.subscriptions.iter().filter(|it| it.catches_up).map(|it| it.topic.name());
        for picked in events {
            picked.progress = Some(Progress::catching_up(seen, picked.entry.position, late()).to_string().into());
        }
    }

    /// Says which subscriptions catch up, and whether any does. One position has to tell how far all of them are, so
    /// those that come later wait until the others are through.
    fn gather_late(&mut self) -> bool {
        let Some(seen) = self.seen else { return false };
        let is_late = |it: &Subscription| {
            it.topic.tail() > it.next
                && lock(&it.topic.state).log.get(it.next).is_some_and(|next| next.position <= seen)
        };
        self.subscriptions.iter_mut().for_each(|it| it.catches_up = it.catches_up && is_late(it));
        if !self.subscriptions.iter().any(|it| it.catches_up) {
            self.subscriptions.iter_mut().for_each(|it| it.catches_up = is_late(it));
        }
        self.subscriptions.iter().any(|it| it.catches_up)
    }

    /// Takes itself off every topic's waiters: another waker is to be woken.
    pub(crate) fn unpark(&mut self) {
        for subscription in &mut self.subscriptions {
            if let Some(slot) = subscription.parked.take() {
                drop(subscription.topic.unpark(slot, subscription.next));
            }
        }
    }

    /// Registers as a waiter of every topic. `false`: something came in, so look again.
    pub(crate) fn park(&mut self, waker: &Waker) -> bool {
        self.subscriptions.iter_mut().all(|subscription| {
            if subscription.is_pending() {
                return false;
            }
            if subscription.parked.is_some() {
                return true;
            }
            let mut state = lock(&subscription.topic.state);
            let nothing_new = state.log.tail() <= subscription.next;
            if nothing_new {
                subscription.parked = Some(state.waiters.insert(waker.clone()));
            }
            nothing_new
        })
    }
}

/// It takes more than a range of one log.
struct NotPlain;

impl Picked {
    /// The id that it has for this client.
    pub(crate) fn id(&self) -> Option<&str> {
        let id = self.entry.id()?;
        Some(self.progress.as_deref().unwrap_or(id))
    }

    fn write(&self, wire: &mut Vec<u8>) {
        match &self.progress {
            Some(progress) if self.entry.id().is_some() => {
                wire.extend_from_slice(&self.entry.wire[..self.entry.id_at]);
                event::push_id(wire, progress);
                wire.push(b'\n');
            }
            _ => wire.extend_from_slice(&self.entry.wire),
        }
    }
}
