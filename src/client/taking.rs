//! What a client takes next, over all of its cursors, in position order.

use std::{mem, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;

use super::{
    cursor::{Cursor, IdleMark},
    cursors::Cursors,
    missing::{Loss, Lost, Missing},
    state::Client,
    subscription::Filter,
};
use crate::{
    event::ClientId,
    log::{Entry, Position, Progress},
    sync::lock,
    topics::{Deferred, FRAME, Latest},
};

/// What a client takes in one go.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) gap: Option<Missing>,
    /// The logs on which it fell behind while it read them, and how many events it lost there.
    pub(crate) lags: Vec<(Arc<str>, u64)>,
    /// It fell behind on a topic that ends streams for that, and is to wait about so long before it comes back.
    pub(crate) ends: Option<Duration>,
    pub(crate) events: Vec<Picked>,
    /// Up to where it has read with that.
    pub(crate) seen: Position,
    /// There was more to take than makes a frame.
    pub(crate) has_more: bool,
}

/// One event, as one client gets it.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) entry: Arc<Entry>,
    /// What its id says instead of its own, for a client that is catching up.
    pub(crate) progress: Option<Arc<str>>,
    /// It goes out if one of them lets it through, or if there is none.
    pub(crate) filters: Vec<Filter>,
    /// But not if one of these has let it through before.
    pub(crate) unless: Vec<Filter>,
}

impl Picked {
    /// One for which nobody has to be asked.
    pub(super) fn of(entry: &Arc<Entry>) -> Self {
        Self { entry: Arc::clone(entry), progress: None, filters: Vec::new(), unless: Vec::new() }
    }
}

/// A range of one log, for which nobody has to be asked.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// The last of them has one on the wire.
    pub(crate) has_id: bool,
    /// The client was waiting for just this, so that it leaves at about the time when it was published.
    pub(crate) is_live: bool,
    /// There was more to take than makes a frame.
    pub(crate) has_more: bool,
}

/// What one look gives.
#[derive(Debug)]
pub(crate) enum Taking {
    Plain(Plain),
    Events(Box<Taken>),
}

/// Whom the events are taken for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker<'a> {
    pub(crate) client: &'a Client,
    pub(crate) waker: &'a Waker,
    pub(crate) topic_as_event_type: bool,
}

impl Cursors {
    /// Takes what was sent to the client alone so far: it goes out before everything else. Of events that it left out itself, `excluded` is the client.
    pub(crate) fn take_own(&mut self, excluded: Option<ClientId>) -> Vec<Picked> {
        let mut own = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.is_public() && cursor.is_pending()) {
            let state = lock(&cursor.shared_log.state);
            let log = &state.log;
            if cursor.has_lost(log) {
                // It is told of that first.
                continue;
            }
            let slots = log.frame(cursor.next, u64::MAX, u64::MAX);
            own.extend(
                log.range(slots)
                    .filter(|entry| excluded.is_none() || entry.excluded_client() != excluded)
                    .map(Picked::of),
            );
            (cursor.next, cursor.read) = (log.newest() + 1, log.ordinal_before(log.newest() + 1));
        }
        own
    }

    /// Takes what is pending up to the event with the number `horizon`. Clients that are behind by the same range of
    /// one log get the same bytes.
    ///
    /// A client with one subscription that has taken all there is may rest until something changes.
    #[inline]
    pub(crate) fn take(
        &mut self,
        taker: Taker<'_>,
        horizon: u64,
        idle_mark: &mut Option<IdleMark>,
        deferred: &mut Deferred,
    ) -> Option<Taking> {
        let only = self.cursors.len() == 1;
        // Whatever comes of this, what it knew of is read.
        let was_idle_on = idle_mark.take();
        let is_live = was_idle_on.is_some();
        let mut pending = self.cursors.iter_mut().filter(|cursor| cursor.is_pending());
        let first = pending.next()?;
        if pending.next().is_none() {
            if let Ok(plain) = Self::take_plain(first, &mut self.seen, taker, horizon) {
                if only {
                    *idle_mark = first.idle_mark(was_idle_on);
                }
                return plain.map(|plain| Taking::Plain(Plain { is_live, ..plain }));
            }
        } else if let Some(plain) = self.take_merged(taker, horizon, deferred) {
            return Some(Taking::Plain(plain));
        }
        self.take_events(taker.client, horizon, deferred).map(|taken| Taking::Events(Box::new(taken)))
    }

    /// The same for a client that rested, if it has what it rested on, and nothing else.
    // As a call it costs 15 of 145 ns a delivery to 1,000 idle clients: what it gives comes back in memory, and is read before it is written out.
    #[inline(always)]
    pub(crate) fn take_rested(
        &mut self,
        taker: Taker<'_>,
        horizon: u64,
        idle_mark: &mut Option<IdleMark>,
    ) -> Option<Plain> {
        let ([cursor], Some(IdleMark { shared_log, next })) = (&mut self.cursors[..], &mut *idle_mark) else {
            return None;
        };
        if !Arc::ptr_eq(shared_log, &cursor.shared_log) {
            return None;
        }
        let plain = Self::take_plain(cursor, &mut self.seen, taker, horizon).ok()??;
        match cursor.parked {
            Some(_) => *next = cursor.next,
            None => *idle_mark = None,
        }
        Some(plain)
    }

    /// The case that has to be fast: one log has something, nothing is missing, all of it is newer than what the
    /// client has seen, and all of it is for everybody.
    #[inline]
    pub(super) fn take_plain(
        cursor: &mut Cursor,
        seen: &mut Position,
        taker: Taker<'_>,
        horizon: u64,
    ) -> Result<Option<Plain>, NotPlain> {
        if cursor.missed.is_some() || cursor.filter.is_some() {
            return Err(NotPlain);
        }
        let frames = &taker.client.shared().topics.frames;
        let has_lanes = cursor.shared_log.has_lanes() && !taker.topic_as_event_type;
        if has_lanes {
            let latest =
                frames.latest(cursor.shared_log.id(), cursor.next, |latest| cursor.take_latest(latest, seen, horizon));
            if latest.is_some() {
                cursor.parked = cursor.shared_log.park(cursor.next, taker.waker);
                return Ok(latest);
            }
        }
        let mut state = lock(&cursor.shared_log.state);
        let log = &state.log;
        if cursor.has_lost(log) {
            return Err(NotPlain);
        }
        let is_plain = |it: &&Arc<Entry>| it.number <= horizon && it.excluded_client().is_none() && *seen < it.position;
        let (first, last, events, wire, end) = match log.only(cursor.next).filter(is_plain) {
            Some(only) if !taker.topic_as_event_type => (only, only, 1, only.wire.clone(), log.end()),
            _ => {
                let slots = log.frame(cursor.next, horizon, FRAME);
                if slots.is_empty() {
                    // Beyond the horizon, or nothing but an end, or holes.
                    return if log.newest() > horizon { Ok(None) } else { Err(NotPlain) };
                }
                let (Some(first), Some(last)) = (log.get(slots.start), log.get(slots.end - 1)) else {
                    return Err(NotPlain);
                };
                if first.position <= *seen {
                    return Err(NotPlain);
                }
                if log.has_exceptions() && log.range(slots.clone()).any(|entry| entry.excluded_client().is_some()) {
                    return Err(NotPlain);
                }
                let events = log.count(slots.clone()) as u64;
                let wire = match events {
                    1 if !taker.topic_as_event_type => first.wire.clone(),
                    _ => frames.frame(&cursor.shared_log, log, slots.clone(), taker.topic_as_event_type),
                };
                (first, last, events, wire, slots.end)
            }
        };
        let from = mem::replace(&mut cursor.next, last.number + 1);
        (cursor.read, *seen) = (log.ordinal(end), last.position);
        let (has_more, has_id) = (log.number_at(end).is_some_and(|next| next <= horizon), last.has_id());
        // It will wait next, if that was all; with the lock at hand, it may as well get in line now.
        let was_all = log.newest() == last.number;
        if was_all && has_lanes {
            let latest = Latest {
                from,
                newest: last.number,
                told: log.none_lost_since(from),
                first: first.position,
                last: last.position,
                events,
                read: cursor.read,
                has_id,
                wire: wire.clone(),
            };
            frames.keep_latest(cursor.shared_log.id(), latest);
        }
        cursor.parked = was_all.then(|| cursor.shared_log.park_locked(&mut state, taker.waker));
        Ok(Some(Plain { wire, events, has_id, has_more, is_live: false }))
    }

    /// Takes what is pending up to the event with the number `horizon`, event by event, over all logs in position
    /// order; about a frame of it. What cursors that are catching up have to catch up on goes first.
    pub(crate) fn take_events(&mut self, client: &Client, mut horizon: u64, deferred: &mut Deferred) -> Option<Taken> {
        let catch_up = self.gather_late().then_some(self.seen);
        let mut taken = Taken::default();
        let (readable, mut is_all) = (horizon, true);
        let (mut missing, mut lost) = (Vec::new(), Vec::new());
        let mut events: Vec<(usize, Arc<Entry>)> = Vec::new();
        let mut moves = false;
        for (at, cursor) in self.cursors.iter_mut().enumerate() {
            if !cursor.is_pending() {
                continue;
            }
            let state = lock(&cursor.shared_log.state);
            let log = &state.log;
            if log.newest() >= cursor.next {
                // Something came since it waited, whether or not it is still there.
                cursor.parked = None;
            }
            if cursor.has_lost(log) {
                let left = log.numbers_from(cursor.next);
                let unread = left.len() as u64;
                let number = log.pushed().wrapping_sub(cursor.read).saturating_sub(unread);
                let ends = log.ends(cursor.next, cursor.told);
                let greatest = log.greatest_lost(cursor.told);
                let is_told = cursor.missed.is_some();
                lost.push(Lost {
                    at,
                    from: cursor.next,
                    greatest,
                    number,
                    left,
                    ends,
                    floor: log.before(cursor.next),
                    is_told,
                });
                cursor.read = log.pushed().wrapping_sub(unread);
            }
            cursor.told = log.lost();
            if let Some(missed) = cursor.missed.take() {
                let asked = mem::take(&mut cursor.asked);
                let name = Arc::clone(cursor.shared_log.name());
                missing.push(Loss { name, after: *missed, asked, floor: log.before(cursor.next) });
            }
            if catch_up.is_some() && !cursor.catches_up {
                (taken.has_more, is_all) = (true, false);
                continue;
            }
            moves |= cursor.next <= horizon && cursor.shared_log.reaches(cursor.next);
            let slots = log.frame(cursor.next, horizon, FRAME);
            if let Some(left_out) = log.number_at(slots.end) {
                // Nothing of another log may go before what did not fit of this one.
                horizon = horizon.min(left_out - 1);
                taken.has_more |= left_out <= readable;
                is_all = false;
            }
            events.extend(log.range(slots).inspect(|entry| deferred.keep(entry)).map(|entry| (at, Arc::clone(entry))));
        }
        for lost in lost {
            let is_had = |cursor: &&Cursor| self.has_by_others(cursor, &lost, &events);
            let Some(cursor) = self.cursors.get(lost.at).filter(|cursor| !is_had(cursor)) else { continue };
            let name = cursor.shared_log.name();
            taken.lags.push((Arc::clone(name), lost.number));
            taken.ends = lost.ends.or(taken.ends);
            if !lost.is_told {
                missing.push(Loss { name: Arc::clone(name), after: self.seen, asked: false, floor: lost.floor });
            }
        }
        events.retain(|(_, entry)| entry.number <= horizon && catch_up.is_none_or(|seen| entry.position <= seen));
        events.sort_unstable_by_key(|(at, entry)| (entry.number, *at));
        let first = events.first().map(|(_, entry)| entry.position);
        taken.gap = self.gap(&missing, client.last_event_id(), first, is_all);
        if taken.ends.is_none() {
            self.pick(&mut taken, events, client, catch_up, horizon);
        }
        taken.seen = self.seen;
        (taken.gap.is_some() || taken.ends.is_some() || moves).then_some(taken)
    }

    /// Picks what goes out of the events, about a frame of it, and moves the cursors on.
    pub(super) fn pick(
        &mut self,
        taken: &mut Taken,
        events: Vec<(usize, Arc<Entry>)>,
        client: &Client,
        catch_up: Option<Position>,
        mut horizon: u64,
    ) {
        let (mut size, mut last) = (0, None);
        let mut events = events.into_iter().peekable();
        while let Some((at, entry)) = events.next() {
            size += entry.wire.len() as u64;
            if let Some((number, _)) = last.filter(|_| size > FRAME) {
                horizon = number;
                taken.has_more = true;
                break;
            }
            last = Some((entry.number, entry.position));
            self.cursors[at].read = self.cursors[at].read.wrapping_add(1);
            let mut subscriptions = vec![at];
            while let Some((at, _)) = events.next_if(|(_, same)| same.number == entry.number) {
                self.cursors[at].read = self.cursors[at].read.wrapping_add(1);
                subscriptions.push(at);
            }
            if let Some(picked) = self.picked(entry, &subscriptions, client, catch_up) {
                taken.events.push(picked);
            }
        }
        for cursor in &mut *self.cursors {
            // Of what catches up, only so much is known to be read; of all others, everything up to the horizon.
            let read_to = match (catch_up, last) {
                (None, _) => horizon,
                (Some(_), Some((number, _))) if cursor.catches_up => number,
                _ => continue,
            };
            cursor.next = cursor.next.max(read_to + 1);
        }
        self.seen = self.seen.max(last.map(|(_, position)| position).unwrap_or_default());
    }

    /// An event that several subscriptions may have: it goes out once, if at all.
    pub(super) fn picked(
        &self,
        entry: Arc<Entry>,
        subscriptions: &[usize],
        client: &Client,
        catch_up: Option<Position>,
    ) -> Option<Picked> {
        if entry.excluded_client().is_some_and(|excluded| client.known_id() == Some(excluded)) {
            return None;
        }
        let cursors = subscriptions.iter().filter_map(|at| self.cursors.get(*at));
        let filters: Option<Vec<Filter>> = cursors.map(|cursor| cursor.filter.clone()).collect();
        let mut picked = Picked { entry, progress: None, filters: filters.unwrap_or_default(), unless: Vec::new() };
        if let Some(seen) = catch_up {
            // What it had by another subscription does not come again. And its id must not move the client back: it says
            // how far the client is in the logs that are catching up.
            let gave = self.cursors.iter().filter(|cursor| cursor.has_given(&picked.entry));
            picked.unless = gave.map(|cursor| cursor.filter.clone()).collect::<Option<_>>()?;
            // What is sent to the client alone is not there for who comes back, and its name is nobody else's to know.
            let late =
                self.cursors.iter().filter(|it| it.catches_up && it.is_public()).map(|it| &**it.shared_log.name());
            picked.progress = Some(Progress::catching_up(seen, picked.entry.position, late).to_string().into());
        }
        Some(picked)
    }
}

/// It takes more than a range of one log.
pub(super) struct NotPlain;
