//! A client's reading: its cursors, and what it takes next.

use std::{mem, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;

use super::{state::Client, subscription::Filter};
use crate::{
    collections::Few,
    event::ClientId,
    log::{Entry, Gap, Log, Outcome, Position, Progress, topic_name},
    sync::lock,
    topics::{Bound, FRAME, Feed, Joining, Later, Latest, Merged, Of, Parked, Place, Topics},
};

/// One client's cursors, over all topics and patterns that it is subscribed to.
///
/// Events leave in position order, and never beyond the newest position that was fully published when the reading
/// began: so whatever a client has seen, it has seen everything before it.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Cursors {
    /// Most clients have one.
    cursors: Few<Cursor>,
    /// The newest position that was given out, or that the client came with: the very first if there is none.
    seen: Position,
}

/// How far a client has read one topic or pattern.
#[derive(Debug)]
pub(crate) struct Cursor {
    feed: Arc<Feed>,
    /// The number of the next event.
    next: u64,
    /// How many events there ever were before that one.
    read: u64,
    /// How many of the events that the feed has lost the client knows of, or do not concern it.
    told: u64,
    /// The number from which on the client gets everything that the filter lets through.
    since: u64,
    /// Its place among the feed's waiters, while nothing was published since.
    parked: Option<Parked>,
    /// Events after this position are missing from before the client came, and it has not been told. Few ever have one.
    missed: Option<Box<Position>>,
    filter: Option<Filter>,
    /// The client asked for what is missing, with its `Last-Event-ID`.
    asked: bool,
    /// It goes on where the client was cut off.
    resumes: bool,
    /// It is catching up: it started before what the client had seen, and has not reached that yet.
    catches_up: bool,
    /// Its stream has begun, and its feed counts it among those that are read.
    is_read: bool,
}

/// What is missing, and the id from which all that is still to come can be had.
pub(crate) type Missing = Box<Gap>;

/// What one cursor misses.
struct Loss {
    name: Arc<str>,
    /// After this position,
    after: Position,
    /// which the client has asked for,
    asked: bool,
    /// and up to here.
    floor: Position,
}

/// What one cursor finds evicted that it was to have.
struct Lost {
    /// Which cursor that is.
    at: usize,
    /// From this number on,
    from: u64,
    /// The last one that was.
    greatest: u64,
    /// so many events,
    number: u64,
    /// all but those with these numbers.
    left: Vec<u64>,
    /// The topic ends streams for it.
    ends: Option<Duration>,
    floor: Position,
    /// Its client is told that events are missing anyway.
    is_told: bool,
}

/// What a client takes in one go.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) gap: Option<Missing>,
    /// The feeds on which it fell behind while it read them, and how many events it lost there.
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
    fn of(entry: &Arc<Entry>) -> Self {
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
    pub(crate) labelled: bool,
}

/// What is enough to know, without a lock, that there is nothing new for a client that has read everything and waits.
///
/// It is its only topic, or the registry's feed of nothing if it has none.
#[derive(Debug)]
pub(crate) struct Rest {
    feed: Arc<Feed>,
    next: u64,
}

impl Rest {
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        !self.feed.reaches(self.next)
    }
}

impl Cursor {
    pub(crate) fn name(&self) -> &str {
        self.feed.name()
    }

    fn is_public(&self) -> bool {
        topic_name::is_public(self.name())
    }

    /// Its client leaves. What it holds of the program's is dropped later.
    fn leave(self, topics: &Topics, later: &mut Later) {
        if self.is_read {
            self.feed.remove_reader();
        }
        topics.leave(&self.feed, self.parked, later);
        later.drop(self);
    }

    /// Whether there may be something to read: more than the feed's newest number, which is looked up without a lock,
    /// says only the log itself.
    fn is_pending(&self) -> bool {
        self.missed.is_some() || self.feed.reaches(self.next)
    }

    /// How its topic ended, if it has come to the end.
    fn outcome(&self) -> Option<Outcome> {
        let end = self.feed.end().filter(|end| self.missed.is_none() && end.number < self.next)?;
        Some(end.outcome)
    }

    /// What its reader may rest on, if it waits for the next event. `rested` is what it rested on before.
    fn rest(&self, rested: Option<Rest>) -> Option<Rest> {
        self.parked?;
        let feed = match rested {
            Some(Rest { feed, .. }) if Arc::ptr_eq(&feed, &self.feed) => feed,
            _ => Arc::clone(&self.feed),
        };
        Some(Rest { feed, next: self.next })
    }

    /// Whether it was to have something that is gone, and its client does not know.
    #[inline]
    fn has_lost(&self, log: &Log) -> bool {
        log.has_lost(self.next, self.told)
    }

    /// The first event that it is to have, if nothing is missing and nobody has to be asked for any.
    fn plain_from<'a>(&self, log: &'a Log) -> Option<&'a Arc<Entry>> {
        let is_plain = self.missed.is_none() && self.filter.is_none() && !self.has_lost(log) && !log.has_exceptions();
        log.next_from(self.next).filter(|_| is_plain)
    }

    /// Takes what another cursor took from the same number on, if that is all that there is, and it is for this one too.
    #[inline]
    fn take_latest(&mut self, latest: &Latest, seen: &mut Position, horizon: u64) -> Option<Plain> {
        let is_all = latest.newest == self.feed.newest() && latest.newest <= horizon;
        if !is_all || self.told < latest.told || *seen >= latest.first {
            return None;
        }
        (self.next, self.read, *seen) = (latest.newest + 1, latest.read, latest.last);
        let Latest { events, has_id, .. } = *latest;
        Some(Plain { wire: latest.wire.clone(), events, has_id, has_more: false, is_live: false })
    }

    fn set(&mut self, place: Place) {
        (self.next, self.read, self.told, self.missed) =
            (place.next, place.read, place.told, place.missed.map(Box::new));
    }

    /// Goes on where its client was cut off, as far as anybody knows, and says whether something is missing.
    fn resume(
        &mut self,
        topics: &Topics,
        progress: Option<&Progress>,
        seen: Position,
        bound: Bound,
        later: &mut Later,
    ) -> bool {
        // What nobody knows comes before everything.
        let after = progress.map(|progress| progress.of(self.feed.name())).unwrap_or_default();
        self.set(topics.locate(&self.feed, after, bound, later));
        self.catches_up = after < seen;
        // Since when it had been subscribed, nobody knows any more: rather something twice than not at all.
        self.since = self.next;
        self.asked = self.missed.is_some();
        self.asked
    }

    /// Whether an event that came before is one that this cursor had its client see, if the filter agrees.
    fn has_given(&self, entry: &Entry) -> bool {
        !self.catches_up && (self.since..self.next).contains(&entry.number) && self.feed.has(&entry.topic)
    }
}

impl Cursors {
    pub(crate) fn len(&self) -> usize {
        self.cursors.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names().any(|known| &**known == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.cursors.iter().map(|cursor| cursor.feed.name())
    }

    /// How many of them are on patterns.
    pub(crate) fn patterns(&self) -> usize {
        self.names().filter(|name| topic_name::is_pattern(name)).count()
    }

    /// How many of them have the events of this topic.
    pub(crate) fn having(&self, topic: &str) -> usize {
        self.cursors.iter().filter(|cursor| cursor.feed.has(topic)).count()
    }

    /// Whether something waits to be read.
    pub(crate) fn is_pending(&self) -> bool {
        self.cursors.iter().any(Cursor::is_pending)
    }

    /// `resumes`: a `Last-Event-ID`, if there is one, goes before where it starts.
    pub(crate) fn subscribe(&mut self, joined: Joining, filter: Option<Filter>, resumes: bool) {
        let Joining { feed, place } = joined;
        let mut cursor = Cursor {
            feed,
            next: 0,
            read: 0,
            told: 0,
            since: place.next,
            parked: None,
            missed: None,
            filter,
            asked: false,
            resumes,
            catches_up: false,
            is_read: false,
        };
        cursor.set(place);
        self.cursors.push(cursor);
    }

    /// Takes what was sent to the client alone so far: it goes out before everything else. Of events that it left out itself, `except` is the client.
    pub(crate) fn take_own(&mut self, except: Option<ClientId>) -> Vec<Picked> {
        let mut own = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.is_public() && cursor.is_pending()) {
            let state = lock(&cursor.feed.state);
            let log = &state.log;
            if cursor.has_lost(log) {
                // It is told of that first.
                continue;
            }
            let slots = log.frame(cursor.next, u64::MAX, u64::MAX);
            own.extend(log.range(slots).filter(|entry| except.is_none() || entry.except() != except).map(Picked::of));
            (cursor.next, cursor.read) = (log.newest() + 1, log.ordinal_before(log.newest() + 1));
        }
        own
    }

    /// What all subscriptions read.
    pub(crate) fn feeds(&self) -> Vec<Arc<Feed>> {
        self.cursors.iter().map(|cursor| Arc::clone(&cursor.feed)).collect()
    }

    /// What the subscription with this name reads.
    pub(crate) fn feed(&self, name: &str) -> Option<Arc<Feed>> {
        self.cursors.iter().map(|cursor| &cursor.feed).find(|feed| &**feed.name() == name).cloned()
    }

    /// Gives a subscription another start or another filter, if it is asked for one. The filter that it had is given back, to be dropped when no lock is
    /// held. `Err`: there is no such subscription. `had_nothing`: the stream has not begun.
    pub(crate) fn change(
        &mut self,
        feed: &Arc<Feed>,
        start: Option<Place>,
        filter: Option<Filter>,
        had_nothing: bool,
    ) -> Result<Option<Filter>, NotSubscribed> {
        let cursor = self.cursors.iter_mut().find(|cursor| Arc::ptr_eq(&cursor.feed, feed)).ok_or(NotSubscribed)?;
        match start {
            Some(place) if had_nothing || place.next < cursor.since => {
                if let Some(parked) = cursor.parked.take() {
                    drop(cursor.feed.unpark(parked));
                }
                cursor.set(place);
                (cursor.since, cursor.catches_up, cursor.asked) = (place.next, false, false);
            }
            // It has had everything from there on that there is, and is told of what is not.
            Some(Place { missed: Some(missed), .. }) => cursor.missed = Some(Box::new(missed)),
            _ => {}
        }
        if filter.is_some() {
            // What the one before let through, nobody knows any more: rather something twice than not at all.
            cursor.since = cursor.next;
        }
        Ok(filter.and_then(|filter| cursor.filter.replace(filter)))
    }

    /// The stream has begun: all that it is subscribed to is read from now on. Gives the names of those that were not
    /// read before and that somebody `asks_for`.
    pub(crate) fn count_as_read(&mut self, asks_for: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.is_read) {
            cursor.is_read = true;
            cursor.feed.add_reader();
            names.extend(Some(cursor.feed.name()).filter(|name| asks_for(name)).cloned());
        }
        names
    }

    /// Takes a subscription off. `false`: there is none.
    pub(crate) fn unsubscribe(&mut self, topics: &Topics, name: &str, later: &mut Later) -> bool {
        let at = self.cursors.iter().position(|cursor| &**cursor.feed.name() == name);
        if let Some(at) = at {
            self.cursors.swap_remove(at).leave(topics, later);
        }
        at.is_some()
    }

    /// The same for all.
    pub(crate) fn clear(&mut self, topics: &Topics, later: &mut Later) {
        mem::take(&mut self.cursors).into_vec().into_iter().for_each(|cursor| cursor.leave(topics, later));
    }

    /// The same for those that have come to the end of their topics. Gives their names, and the worst of how those ended.
    pub(crate) fn take_ended(&mut self, topics: &Topics, later: &mut Later) -> (Vec<Arc<str>>, Option<Outcome>) {
        let (mut ended, mut worst) = (Vec::new(), None);
        let next = |(at, cursor): (usize, &Cursor)| Some((at, cursor.outcome()?));
        while let Some((at, outcome)) = self.cursors.iter().enumerate().find_map(next) {
            worst = worst.max(Some(outcome));
            let cursor = self.cursors.swap_remove(at);
            ended.push(Arc::clone(cursor.feed.name()));
            cursor.leave(topics, later);
        }
        (ended, worst)
    }

    /// Whether any has come to the end of its topic.
    pub(crate) fn has_ended(&self) -> bool {
        self.cursors.iter().any(|it| it.outcome().is_some())
    }

    /// The worst of how their topics ended, if all have come to the end, and nothing waits that was sent to the client alone.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut worst = None;
        for cursor in &*self.cursors {
            match cursor.is_public() {
                true => worst = worst.max(Some(cursor.outcome()?)),
                false if cursor.is_pending() => return None,
                false => {}
            }
        }
        worst
    }

    /// Whether any is on something else than the client's own topic, which has no end.
    pub(crate) fn has_public(&self) -> bool {
        self.cursors.iter().any(Cursor::is_public)
    }

    /// Sets the cursors to where the client was cut off, and says what is no longer retained from there on, or is more
    /// than it may have.
    pub(crate) fn resume(
        &mut self,
        topics: &Topics,
        last_event_id: &str,
        bound: Bound,
        later: &mut Later,
    ) -> Option<Gap> {
        let resuming = self.cursors.iter().filter(|cursor| cursor.resumes);
        let progress = topics.progress(resuming.map(|cursor| &*cursor.feed), last_event_id, later);
        self.seen = progress.as_ref().map(|progress| progress.seen).unwrap_or_default();
        let mut names = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.resumes) {
            if cursor.resume(topics, progress.as_ref(), self.seen, bound, later) {
                names.push(cursor.feed.name().to_string());
            }
        }
        (!names.is_empty()).then(|| Gap { topics: names, after: last_event_id.into(), position: None })
    }

    /// The same for a subscription that was just made while the stream is open.
    pub(crate) fn resume_newest(&mut self, topics: &Topics, last_event_id: &str, bound: Bound, later: &mut Later) {
        // Any of them may have given that id.
        let progress = topics.progress(self.cursors.iter().map(|cursor| &*cursor.feed), last_event_id, later);
        let Some(cursor) = self.cursors.last_mut() else { return };
        cursor.resume(topics, progress.as_ref(), self.seen, bound, later);
    }

    /// Where a client stands whose stream begins and that brought no id: what it is to have comes after that.
    ///
    /// So that this is one position, who has several subscriptions that start at different points may get more on coming back, and
    /// never less: where some wait for what comes and others begin with what is there, those that do are named.
    ///
    /// `None` if something is missing already: it is to be told of that first, and no id may pass over it.
    pub(crate) fn standing(&self, topics: &Topics) -> Option<Progress> {
        let newest = topics.position();
        let (mut late, mut has_waiting) = (Vec::new(), false);
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_public()) {
            let log = &lock(&cursor.feed.state).log;
            if cursor.missed.is_some() || cursor.has_lost(log) {
                return None;
            }
            match log.next_from(cursor.next).map(|entry| entry.position).filter(|first| *first <= newest) {
                Some(first) => late.push((first.before(), &**cursor.feed.name())),
                None => has_waiting |= !log.is_empty(),
            }
        }
        Some(match late.iter().map(|(before, _)| *before).min() {
            None => newest.into(),
            Some(before) if has_waiting => {
                Progress::catching_up(newest, before, late.into_iter().map(|(_, name)| name))
            }
            Some(before) => before.into(),
        })
    }

    /// The stream begins, and with that the client stands where it stands.
    pub(crate) fn begin(&mut self, standing: &Progress) {
        self.seen = standing.only().unwrap_or_default();
    }

    /// The newest position that was given out, or that the client came with.
    pub(crate) fn seen(&self) -> Position {
        self.seen
    }

    /// Where a client stands that has read everything.
    pub(crate) fn seen_all(&self) -> Option<Position> {
        let is_through = !self.cursors.iter().any(|it| it.is_pending() || it.catches_up);
        (is_through && self.seen != Position::default()).then_some(self.seen)
    }

    /// Sets all cursors to after a position, up to which the client gets to know everything by other means. What was
    /// sent to it alone is in no snapshot.
    pub(crate) fn skip_to(&mut self, topics: &Topics, position: Position, later: &mut Later) {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_public()) {
            cursor.set(topics.locate(&cursor.feed, position, Bound::default(), later));
            (cursor.since, cursor.resumes, cursor.catches_up, cursor.asked) = (cursor.next, false, false, false);
        }
        self.seen = Some(position).filter(|position| topics.has_issued(*position)).unwrap_or_default();
    }

    /// Takes what is pending up to the event with the number `horizon`. Clients that are behind by the same range of
    /// one feed get the same bytes.
    ///
    /// A client with one subscription that has taken all there is may rest until something changes.
    #[inline]
    pub(crate) fn take(
        &mut self,
        taker: Taker<'_>,
        horizon: u64,
        rest: &mut Option<Rest>,
        later: &mut Later,
    ) -> Option<Taking> {
        let only = self.cursors.len() == 1;
        // Whatever comes of this, what it knew of is read.
        let rested = rest.take();
        let is_live = rested.is_some();
        let mut pending = self.cursors.iter_mut().filter(|cursor| cursor.is_pending());
        let first = pending.next()?;
        if pending.next().is_none() {
            if let Ok(plain) = Self::take_plain(first, &mut self.seen, taker, horizon) {
                if only {
                    *rest = first.rest(rested);
                }
                return plain.map(|plain| Taking::Plain(Plain { is_live, ..plain }));
            }
        } else if let Some(plain) = self.take_merged(taker, horizon, later) {
            return Some(Taking::Plain(plain));
        }
        self.take_events(taker.client, horizon, later).map(|taken| Taking::Events(Box::new(taken)))
    }

    /// The same for a client that rested, if it has what it rested on, and nothing else.
    #[inline]
    pub(crate) fn take_rested(&mut self, taker: Taker<'_>, horizon: u64, rest: &mut Option<Rest>) -> Option<Plain> {
        let ([cursor], Some(Rest { feed, next })) = (&mut self.cursors[..], &mut *rest) else { return None };
        if !Arc::ptr_eq(feed, &cursor.feed) {
            return None;
        }
        let plain = Self::take_plain(cursor, &mut self.seen, taker, horizon).ok()??;
        match cursor.parked {
            Some(_) => *next = cursor.next,
            None => *rest = None,
        }
        Some(plain)
    }

    /// The case that has to be fast: one feed has something, nothing is missing, all of it is newer than what the
    /// client has seen, and all of it is for everybody.
    #[inline]
    fn take_plain(
        cursor: &mut Cursor,
        seen: &mut Position,
        taker: Taker<'_>,
        horizon: u64,
    ) -> Result<Option<Plain>, NotPlain> {
        if cursor.missed.is_some() || cursor.filter.is_some() {
            return Err(NotPlain);
        }
        let joined = &taker.client.shared().topics.joined;
        let has_lanes = cursor.feed.has_lanes() && !taker.labelled;
        if has_lanes {
            let latest =
                joined.latest(cursor.feed.id(), cursor.next, |latest| cursor.take_latest(latest, seen, horizon));
            if latest.is_some() {
                cursor.parked = cursor.feed.park(cursor.next, taker.waker);
                return Ok(latest);
            }
        }
        let mut state = lock(&cursor.feed.state);
        let log = &state.log;
        if cursor.has_lost(log) {
            return Err(NotPlain);
        }
        let is_plain = |it: &&Arc<Entry>| it.number <= horizon && it.except().is_none() && *seen < it.position;
        let (first, last, events, wire, end) = match log.only(cursor.next).filter(is_plain) {
            Some(only) if !taker.labelled => (only, only, 1, only.wire.clone(), log.end()),
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
                if log.has_exceptions() && log.range(slots.clone()).any(|entry| entry.except().is_some()) {
                    return Err(NotPlain);
                }
                let events = log.count(slots.clone()) as u64;
                let wire = match events {
                    1 if !taker.labelled => first.wire.clone(),
                    _ => joined.frame(&cursor.feed, log, slots.clone(), taker.labelled),
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
            joined.keep_latest(cursor.feed.id(), latest);
        }
        cursor.parked = was_all.then(|| cursor.feed.park_locked(&mut state, taker.waker));
        Ok(Some(Plain { wire, events, has_id, has_more, is_live: false }))
    }

    /// The same of several feeds, in position order. Clients that are behind on the same feeds by the same events get the
    /// same bytes.
    fn take_merged(&mut self, taker: Taker<'_>, horizon: u64, later: &mut Later) -> Option<Plain> {
        let mut of = Of { feeds: Vec::with_capacity(self.cursors.len()), labelled: taker.labelled };
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_pending()) {
            let state = lock(&cursor.feed.state);
            let first = cursor.plain_from(&state.log)?;
            if first.position <= self.seen {
                return None;
            }
            of.feeds.push((cursor.feed.id(), first.number));
        }
        of.feeds.sort_unstable();
        let joined = &taker.client.shared().topics.joined;
        let merged = match joined.merged(&of, horizon) {
            Some(merged) => merged,
            None => joined.keep(of, self.merge(taker.labelled, horizon, later)?),
        };
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_pending()) {
            // Something came since it waited.
            (cursor.parked, cursor.catches_up) = (None, false);
            if cursor.next <= merged.read_to {
                let state = lock(&cursor.feed.state);
                // What was evicted since it was read cannot be told from what is lost: rather too many are told as lost than too few.
                if !cursor.has_lost(&state.log) {
                    cursor.read = state.log.ordinal_before(merged.read_to + 1);
                }
                drop(state);
                cursor.next = merged.read_to + 1;
            }
        }
        self.seen = merged.seen;
        let Merged { wire, events, has_id, has_more, .. } = merged;
        Some(Plain { wire, events, has_id, has_more, is_live: false })
    }

    /// Joins what is pending, about a frame of it.
    fn merge(&self, labelled: bool, mut horizon: u64, later: &mut Later) -> Option<Merged> {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut has_more = false;
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_pending()) {
            let state = lock(&cursor.feed.state);
            // Again, as it was not locked meanwhile.
            cursor.plain_from(&state.log)?;
            let slots = state.log.frame(cursor.next, horizon, FRAME);
            if let Some(left_out) = state.log.number_at(slots.end).filter(|left_out| *left_out <= horizon) {
                (horizon, has_more) = (left_out - 1, true);
            }
            entries.extend(state.log.range(slots).inspect(|entry| later.keep(entry)).cloned());
        }
        entries.retain(|entry| entry.number <= horizon);
        // Each is a run of its own, in order.
        entries.sort_by_key(|entry| entry.number);
        entries.dedup_by_key(|entry| entry.number);
        let mut size = 0;
        let mut fits = |entry: &Arc<Entry>| {
            size += entry.wire.len() as u64;
            size <= FRAME
        };
        let fitting = entries.iter().take_while(|entry| fits(entry)).count().max(1);
        if fitting < entries.len() {
            entries.truncate(fitting);
            (horizon, has_more) = (entries.last()?.number, true);
        }
        let mut wire = Vec::with_capacity(entries.iter().map(|entry| entry.wire.len()).sum());
        entries.iter().for_each(|entry| entry.write(&mut wire, labelled, None));
        let (events, last) = (entries.len() as u64, entries.last()?);
        let (seen, has_id) = (last.position, last.has_id());
        Some(Merged { wire: wire.into(), events, seen, has_id, read_to: horizon, has_more })
    }

    /// Takes what is pending up to the event with the number `horizon`, event by event, over all feeds in position
    /// order; about a frame of it. What cursors that are catching up have to catch up on goes first.
    pub(crate) fn take_events(&mut self, client: &Client, mut horizon: u64, later: &mut Later) -> Option<Taken> {
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
            let state = lock(&cursor.feed.state);
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
                let name = Arc::clone(cursor.feed.name());
                missing.push(Loss { name, after: *missed, asked, floor: log.before(cursor.next) });
            }
            if catch_up.is_some() && !cursor.catches_up {
                (taken.has_more, is_all) = (true, false);
                continue;
            }
            moves |= cursor.next <= horizon && cursor.feed.reaches(cursor.next);
            let slots = log.frame(cursor.next, horizon, FRAME);
            if let Some(left_out) = log.number_at(slots.end) {
                // Nothing of another feed may go before what did not fit of this one.
                horizon = horizon.min(left_out - 1);
                taken.has_more |= left_out <= readable;
                is_all = false;
            }
            events.extend(log.range(slots).inspect(|entry| later.keep(entry)).map(|entry| (at, Arc::clone(entry))));
        }
        for lost in lost {
            let is_had = |cursor: &&Cursor| self.has_by_others(cursor, &lost, &events);
            let Some(cursor) = self.cursors.get(lost.at).filter(|cursor| !is_had(cursor)) else { continue };
            let name = cursor.feed.name();
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

    /// Whether the client has what one cursor has lost by its other ones, which took it before it was evicted, or was told of it by
    /// those. `events`: what all have taken in this look.
    fn has_by_others(&self, cursor: &Cursor, lost: &Lost, events: &[(usize, Arc<Entry>)]) -> bool {
        // A filter may have refused it.
        let gives_all = |other: &Cursor| other.filter.is_none() && !other.catches_up;
        let covers = |other: &Cursor| gives_all(other) && other.feed.covers(cursor.name());
        let has_read = |other: &Cursor| (other.since..other.next).contains(&lost.greatest) && other.since <= lost.from;
        if self.cursors.iter().any(|other| covers(other) && has_read(other)) {
            return true;
        }
        // What was evicted after one of them had taken it and before this one looked.
        let others = events.iter().filter(|(at, _)| *at != lost.at && self.cursors.get(*at).is_some_and(gives_all));
        let was_lost = |entry: &Entry| {
            entry.number >= lost.from
                && lost.left.binary_search(&entry.number).is_err()
                && cursor.feed.has(&entry.topic)
        };
        let mut numbers: Vec<u64> =
            others.filter(|(_, entry)| was_lost(entry)).map(|(_, entry)| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() as u64 >= lost.number
    }

    /// Picks what goes out of the events, about a frame of it, and moves the cursors on.
    fn pick(
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
    fn picked(
        &self,
        entry: Arc<Entry>,
        subscriptions: &[usize],
        client: &Client,
        catch_up: Option<Position>,
    ) -> Option<Picked> {
        if entry.except().is_some_and(|except| client.known_id() == Some(except)) {
            return None;
        }
        let cursors = subscriptions.iter().filter_map(|at| self.cursors.get(*at));
        let filters: Option<Vec<Filter>> = cursors.map(|cursor| cursor.filter.clone()).collect();
        let mut picked = Picked { entry, progress: None, filters: filters.unwrap_or_default(), unless: Vec::new() };
        if let Some(seen) = catch_up {
            // What it had by another subscription does not come again. And its id must not move the client back: it says
            // how far the client is in the feeds that are catching up.
            let gave = self.cursors.iter().filter(|cursor| cursor.has_given(&picked.entry));
            picked.unless = gave.map(|cursor| cursor.filter.clone()).collect::<Option<_>>()?;
            // What is sent to the client alone is not there for who comes back, and its name is nobody else's to know.
            let late = self.cursors.iter().filter(|it| it.catches_up && it.is_public()).map(|it| &**it.feed.name());
            picked.progress = Some(Progress::catching_up(seen, picked.entry.position, late).to_string().into());
        }
        Some(picked)
    }

    /// What is missing and was not told yet. `first`: where what comes next stands.
    /// `is_all`: nothing more than that is there.
    fn gap(
        &mut self,
        missing: &[Loss],
        last_event_id: Option<&str>,
        first: Option<Position>,
        is_all: bool,
    ) -> Option<Missing> {
        let after = missing.iter().map(|loss| loss.after).min()?;
        let asked = last_event_id.filter(|_| missing.iter().any(|loss| loss.asked));
        let floor = missing.iter().map(|loss| loss.floor).max().unwrap_or_default();
        // That of what is sent to the client alone is its id, which is a capability.
        let topics = missing.iter().map(|loss| &*loss.name).filter(|name| topic_name::is_public(name));
        let topics = topics.map(str::to_owned).collect();
        let after = match asked {
            Some(asked) => asked.to_owned(),
            // It has had nothing so far.
            None if after == Position::default() => String::new(),
            None => after.to_string(),
        };
        let id = first.map_or(floor, |first| floor.min(first.before()));
        let forward = (first.is_some() || is_all) && self.seen <= id;
        let id = forward.then_some(id);
        self.seen = id.unwrap_or(self.seen);
        Some(Box::new(Gap { topics, after, position: id }))
    }

    /// Says which cursors catch up, and whether any does. One position has to tell how far all of them are, so
    /// those that come later wait until the others are through.
    fn gather_late(&mut self) -> bool {
        let seen = self.seen;
        let is_late = |it: &Cursor| {
            it.feed.reaches(it.next)
                && lock(&it.feed.state).log.next_from(it.next).is_some_and(|next| next.position <= seen)
        };
        self.cursors.iter_mut().for_each(|it| it.catches_up = it.catches_up && is_late(it));
        if !self.cursors.iter().any(|it| it.catches_up) {
            self.cursors.iter_mut().for_each(|it| it.catches_up = is_late(it));
        }
        self.cursors.iter().any(|it| it.catches_up)
    }

    /// Takes itself off every feed's waiters: another waker is to be woken.
    pub(crate) fn unpark(&mut self) {
        for cursor in &mut *self.cursors {
            if let Some(parked) = cursor.parked.take() {
                drop(cursor.feed.unpark(parked));
            }
        }
    }

    /// What a reader may rest on that waits for the next event on all feeds.
    pub(crate) fn rest(&self, topics: &Topics) -> Option<Rest> {
        match &self.cursors[..] {
            [] => Some(Rest { feed: Arc::clone(&topics.nothing), next: u64::MAX }),
            [only] => only.rest(None),
            _ => None,
        }
    }

    /// Registers as a waiter of every feed. `false`: something came in, so look again.
    pub(crate) fn park(&mut self, waker: &Waker) -> bool {
        self.cursors.iter_mut().all(|cursor| {
            if cursor.is_pending() {
                return false;
            }
            if cursor.parked.is_some() {
                return true;
            }
            cursor.parked = cursor.feed.park(cursor.next, waker);
            cursor.parked.is_some()
        })
    }
}

/// There is no such subscription any more.
pub(crate) struct NotSubscribed;

/// It takes more than a range of one log.
struct NotPlain;
