//! One open stream, as the registry knows it.

use std::{
    fmt, mem,
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use http::Extensions;
use tokio::sync::Notify;

use super::{
    cursor::{Cursors, Picked},
    error::{ResumeError, SubscribeError},
    handle::ClientHandle,
    hooks::{Hook, TellLater},
    lifetime::Lifetime,
    observer::{Closed, Observer},
    shared::Shared,
    stats::ClientStats,
    stuck::Suspect,
    subscription::{Filter, Subscription},
};
use crate::{
    event::{ClientId, Event},
    limit::{Admission, Hold, Refused},
    log::{Gap, Outcome, Position, topic_name},
    stream::{Batching, CloseReason},
    sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, each, lock},
    topics::{Bound, Later, PublishError, Receipt, Start, once},
};

/// How the resume of a client went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// The client brought no `Last-Event-ID`: there was nothing to resume.
    Fresh,
    /// Everything after the client's `Last-Event-ID` is retained, on all topics that it is subscribed to: it misses nothing.
    Continued,
    /// Some of it is not. The client is told with a [`GapEvent`](crate::GapEvent) and goes on at the oldest retained event.
    Gap(Gap),
}

/// The state of one stream that its reader, its handles and its topics share.
///
/// What a delivery touches comes first, in as few cache lines as possible: with many clients, they are what it costs.
#[repr(C)]
pub(crate) struct Client {
    /// Goes up with whatever a handle changes that its reader has to see.
    pub(crate) changes: AtomicU32,
    /// The stream stands where no event can be put in: that it reads none is not its fault.
    pub(crate) cannot_take: AtomicBool,
    /// Its reader was told of its end, or is gone.
    pub(crate) is_told: AtomicBool,
    /// It is of a request, which can be answered with its stream.
    is_of_request: bool,
    /// Its request is a HEAD, whose answer has no body: it never has a stream.
    is_head: bool,
    shared: Arc<Shared>,
    pub(crate) state: Mutex<State>,
    id: OnceLock<ClientId>,
    /// Thin, as each client has room for it.
    last_event_id: OnceLock<Box<Box<str>>>,
    /// The bytes that went out besides events of the registry. Only its reader writes.
    other_bytes: AtomicU64,
    /// What its request takes of all limits.
    admission: Option<Arc<Admission>>,
}

/// The events of the registry that went out, and their bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct State {
    /// How often its reader has looked.
    pub(crate) reads: u32,
    /// It stays open without subscriptions.
    pub(crate) held: bool,
    /// The last of its topics has ended, and nothing was subscribed to since.
    pub(crate) is_complete: bool,
    pub(crate) phase: Phase,
    had_stream: bool,
    /// Boxed, as few ever are. One that is over has one, unless it never had a stream.
    pub(crate) closing: Option<Box<Closing>>,
    pub(crate) cursors: Cursors,
    pub(crate) sent: Sent,
    /// The reader's.
    waker: Option<Waker>,
    pub(crate) style: Style,
    /// When its stream began, in nanoseconds by the clock.
    opened: u64,
    metadata: Option<Arc<Extensions>>,
    /// It had not read for some time when this was noted.
    pub(crate) suspect: Option<Box<Suspect>>,
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few clients have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// What it missed when it came back. It is known when the stream begins.
    gap: Option<Gap>,
    pub(crate) snapshot: Option<Event>,
    /// It has begun with one, or will.
    has_snapshot: bool,
    /// Whose client it is, for presence.
    key: Option<Box<str>>,
    /// How many events it has lost as it fell behind.
    pub(crate) missed: u64,
    pub(crate) lifetime: Option<Lifetime>,
    resume_bound: Bound,
    /// Until then, in nanoseconds by the clock, it lets events wait of its own accord.
    pub(crate) waits_until: u64,
    /// Somebody waits for its end.
    over: Option<Arc<Notify>>,
    /// The worst of how its topics ended, if one was not finished.
    unfinished: Option<Outcome>,
    /// The places of its request, until somebody reads its events.
    hold: Option<Hold>,
}

/// A client that was closed: it is over, or will be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closing {
    pub(crate) reason: CloseReason,
    /// It ends when everything up to this event has been read.
    pub(crate) horizon: u64,
    /// It ends at once, wherever it stands.
    pub(crate) is_cut: bool,
}

impl Closing {
    /// One that ends at once.
    fn cut(reason: CloseReason) -> Self {
        Self { reason, horizon: 0, is_cut: true }
    }
}

/// How events are written for a client, as far as its handler has a say in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Style {
    pub(crate) batching: Option<Batching>,
    pub(crate) labelled: bool,
    /// It may go on for some time when the registry ends its streams.
    pub(crate) may_finish: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has been read yet: what is subscribed now resumes.
    #[default]
    Waiting,
    Open,
    Over,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, is_of_request: bool) -> Self {
        Self {
            shared,
            is_of_request,
            id: OnceLock::new(),
            last_event_id: OnceLock::new(),
            state: Mutex::default(),
            changes: AtomicU32::new(0),
            cannot_take: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            is_head: false,
            other_bytes: AtomicU64::new(0),
            admission: None,
        }
    }

    /// What its request brings.
    pub(crate) fn comes_with(
        &mut self,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) {
        self.last_event_id = last_event_id.map(Box::new).map(OnceLock::from).unwrap_or_default();
        (self.admission, self.is_head) = (admission, is_head);
    }

    /// Makes one that nobody knows as good as new. `false`: it has been used.
    pub(crate) fn make_blank(&mut self) -> bool {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_unused = self.id.get().is_none() && state.phase == Phase::Waiting && state.cursors.is_empty();
        if is_unused {
            if self.last_event_id.take().is_some() || !state.is_blank() {
                *state = State::default();
            }
            (self.admission, self.is_head) = (None, false);
        }
        is_unused
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its id. It can be found by it from now on, until it is over.
    pub(crate) fn id(self: &Arc<Self>) -> ClientId {
        if let Some(id) = self.id.get() {
            return *id;
        }
        let id = *self.id.get_or_init(|| self.shared.register(self));
        if self.over().is_some() {
            // Its end has passed, or found no id.
            self.shared.unregister(&id);
        }
        id
    }

    /// Its id, if anybody has asked for it.
    pub(crate) fn known_id(&self) -> Option<ClientId> {
        self.id.get().copied()
    }

    /// The topic that only this client is subscribed to.
    fn own_topic(self: &Arc<Self>) -> String {
        format!("$client/{}", self.id())
    }

    pub(crate) fn admission(&self) -> Option<&Arc<Admission>> {
        self.admission.as_ref()
    }

    /// Whether anything could keep it from having a stream.
    pub(crate) fn may_be_refused(&self) -> bool {
        self.admission.is_some() || self.shared.draining.has_begun()
    }

    /// Takes its places among what is limited, if it has not got them.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<(), Refused> {
        let result = match self.shared.draining.has_begun() {
            true => Err(Refused::Draining),
            false => self.admission.as_ref().map_or(Ok(()), |admission| admission.admit()),
        };
        if let Err(refused) = &result {
            self.note_refused(refused);
        }
        result
    }

    pub(crate) fn note_refused(self: &Arc<Self>, refused: &Refused) {
        self.shared.counters.refused_streams.fetch_add(1, Ordering::Relaxed);
        self.observe(|observer, client| observer.stream_refused(client, refused));
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.get().map(|id| &***id)
    }

    /// What it had last, by what it says elsewhere than in its request.
    pub(crate) fn resume_from(&self, id: &str) -> Result<(), ResumeError> {
        let state = lock(&self.state);
        match state.phase {
            Phase::Waiting => self
                .last_event_id
                .set(Box::new(id.into()))
                .map_err(|_| ResumeError::Known { last_event_id: self.last_event_id().unwrap_or_default().to_owned() }),
            Phase::Open | Phase::Over => Err(ResumeError::Late),
        }
    }

    pub(crate) fn subscribe(self: &Arc<Self>, subscription: Subscription) -> Result<(), SubscribeError> {
        let Subscription { name, may_be_pattern, start, filter, must_exist } = subscription;
        let check = if may_be_pattern { topic_name::check_pattern } else { topic_name::check };
        let result = check(&name).map_err(SubscribeError::from);
        let result = result.and_then(|()| self.join(&name, start, filter.as_ref(), true, must_exist));
        if let Err(error) = &result {
            self.shared.counters.refused_subscriptions.fetch_add(1, Ordering::Relaxed);
            self.observe(|observer, client| observer.subscription_refused(client, error));
        }
        result
    }

    /// Subscribes, or changes the subscription that there is. `resumes`: if the stream has not begun, a
    /// `Last-Event-ID` goes before `start`. `must_exist`: only if there is such a topic.
    fn join(
        self: &Arc<Self>,
        name: &str,
        start: Start,
        filter: Option<&Filter>,
        resumes: bool,
        must_exist: bool,
    ) -> Result<(), SubscribeError> {
        // Again, if somebody else has subscribed or unsubscribed meanwhile.
        loop {
            let is_new = lock(&self.state).may_subscribe(name, &self.shared)?;
            let is_done = match is_new {
                true => self.join_anew(name, start, filter, resumes, must_exist)?,
                false => self.change(name, start, filter),
            };
            if is_done {
                return Ok(());
            }
        }
    }

    /// Subscribes. `false`: it is subscribed by now.
    fn join_anew(
        self: &Arc<Self>,
        name: &str,
        start: Start,
        filter: Option<&Filter>,
        resumes: bool,
        must_exist: bool,
    ) -> Result<bool, SubscribeError> {
        // Outside the lock, as it may ask the user how much the topic retains.
        let mut later = Later::default();
        let joined = self.shared.topics.join(name, start, must_exist, &mut later);
        let joined = joined.ok_or_else(|| SubscribeError::NoTopic { topic: name.to_owned() })?;
        let mut telling = TellLater::of(self);
        let mut state = self.lock_with_key(State::is_open);
        let may = state.may_subscribe(name, &self.shared);
        match may {
            Ok(true) => {
                let is_waiting = state.phase == Phase::Waiting;
                state.cursors.subscribe(joined, filter.cloned(), resumes && is_waiting);
                if let Some(id) = self.last_event_id().filter(|_| start == Start::LastEventId && !is_waiting) {
                    let bound = state.resume_bound();
                    state.cursors.resume_newest(&self.shared.topics, id, bound, &mut later);
                }
                state.is_complete = false;
                if state.is_open() {
                    self.reads(&mut state, &mut later, &mut telling);
                }
            }
            _ => self.shared.topics.leave(&joined.feed, None, &mut later),
        }
        drop(state);
        drop(later);
        drop(telling);
        self.changed();
        may
    }

    /// Its stream, which is open, reads all that it is subscribed to: it is counted there, presence lists have it, and observers are told.
    fn reads(self: &Arc<Self>, state: &mut State, later: &mut Later, telling: &mut TellLater<'_>) {
        let has_presences = self.shared.presences.is_used();
        let somebody_asks = has_presences || !self.shared.settings.observers.is_empty();
        for name in state.cursors.count_as_read(|name| somebody_asks && topic_name::is_public(name)) {
            if has_presences {
                let metadata = state.metadata();
                let key = state.key_or(|| self.key_of_its_own());
                self.shared.presences.join(&name, key, self.id(), metadata, later);
            }
            telling.note(|| Hook::Subscribed(name));
        }
    }

    /// Changes a subscription as far as something else is asked for than before. `false`: there is none.
    fn change(&self, name: &str, start: Start, filter: Option<&Filter>) -> bool {
        if start == Start::Now && filter.is_none() {
            return true;
        }
        let state = lock(&self.state);
        let (feed, is_waiting, bound) = (state.cursors.feed(name), state.phase == Phase::Waiting, state.resume_bound());
        let all = state.cursors.feeds();
        drop(state);
        let Some(feed) = feed else { return false };
        let start = match start {
            // What is published from now on comes already.
            Start::Now => None,
            // So it does before the stream begins, too.
            Start::LastEventId if is_waiting => None,
            Start::LastEventId => self.last_event_id().map(|id| self.shared.topics.place_of_id(&feed, &all, id, bound)),
            start => Some(self.shared.topics.place_of(&feed, start)),
        };
        let mut state = lock(&self.state);
        let had_nothing = state.phase == Phase::Waiting;
        let before = state.cursors.change(&feed, start, filter.cloned(), had_nothing);
        drop(state);
        self.changed();
        // With its filter, which may run anybody's code when it is dropped.
        before.is_ok()
    }

    pub(crate) fn unsubscribe(self: &Arc<Self>, name: &str) -> bool {
        let mut telling = TellLater::of(self);
        let mut later = Later::default();
        let mut state = lock(&self.state);
        let was_subscribed = state.cursors.unsubscribe(&self.shared.topics, name, &mut later);
        if was_subscribed {
            self.left(&state, [name], Some(&mut telling), &mut later);
        }
        drop(state);
        drop(later);
        drop(telling);
        self.changed();
        was_subscribed
    }

    /// Locks its state. If that is such that whose client it is `is_needed`, and the program says that, it is known by
    /// then: the program is asked while nothing is locked.
    pub(crate) fn lock_with_key(self: &Arc<Self>, is_needed: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        loop {
            let mut state = lock(&self.state);
            let Some(key_of) = &self.shared.settings.presence_key else { return state };
            if state.key().is_some() || !is_needed(&state) {
                return state;
            }
            drop(state);
            let key = key_of.of(&ClientHandle::new(Arc::clone(self)));
            let key = key.map_or_else(|| self.key_of_its_own(), String::into_boxed_str);
            state = lock(&self.state);
            // Who asked at the same time may have been first.
            state.key_or(|| key);
        }
    }

    /// Not the id, which lets whoever reads it act for the client.
    pub(crate) fn key_of_its_own(self: &Arc<Self>) -> Box<str> {
        format!("{:016x}", topic_name::stable_hash(&self.id().to_string())).into()
    }

    /// Its stream, if it has begun, is no longer subscribed to these: presence lists and observers are told.
    pub(crate) fn left<'a>(
        &self,
        state: &State,
        names: impl IntoIterator<Item = &'a str>,
        mut telling: Option<&mut TellLater<'_>>,
        later: &mut Later,
    ) {
        if !state.had_stream {
            return;
        }
        let presences = Some(&self.shared.presences).filter(|presences| presences.is_used());
        for name in names.into_iter().filter(|name| topic_name::is_public(name)) {
            if let (Some(presences), Some(key), Some(id)) = (presences, state.key(), self.id.get()) {
                presences.leave(name, key, *id, later);
            }
            if let Some(telling) = &mut telling {
                telling.note(|| Hook::Unsubscribed(name.into()));
            }
        }
    }

    /// How many subscriptions of its open stream give it the events of this topic.
    pub(crate) fn having(&self, topic: &str) -> usize {
        let state = lock(&self.state);
        if state.is_open() { state.cursors.having(topic) } else { 0 }
    }

    pub(crate) fn subscriptions(&self) -> Vec<String> {
        let state = lock(&self.state);
        state.cursors.names().filter(|name| topic_name::is_public(name)).map(|name| name.to_string()).collect()
    }

    /// Publishes to the client's own topic, which it gets subscribed to.
    pub(crate) fn send(self: &Arc<Self>, event: &Event) -> Result<Receipt, PublishError> {
        let topic = self.own_topic();
        match self.join(&topic, Start::Now, None, false, false) {
            Err(SubscribeError::Over { reason }) => Err(PublishError::Over { reason }),
            // Without a place for it among its subscriptions, it would not get the event.
            Err(SubscribeError::TooMany { limit } | SubscribeError::TooManyPatterns { limit }) => {
                Err(PublishError::TooManySubscriptions { limit })
            }
            Err(SubscribeError::Topic(error)) => Err(PublishError::Topic(error)),
            // It was not asked whether there is one.
            Err(SubscribeError::NoTopic { topic }) => Err(PublishError::Ended { topic }),
            Ok(()) => self.shared.publish(&topic, event, None),
        }
    }

    pub(crate) fn resume(&self) -> Resume {
        let mut later = Later::default();
        lock(&self.state).resume(&self.shared, self.last_event_id(), &mut later)
    }

    /// Begins with this event, which says how everything is at a position, and goes on after that.
    pub(crate) fn snapshot(&self, event: Event, position: Position) {
        let mut later = Later::default();
        let mut state = lock(&self.state);
        if state.phase == Phase::Waiting {
            state.cursors.skip_to(&self.shared.topics, position, &mut later);
            let rare = state.rare();
            rare.has_snapshot = true;
            later.drop(rare.snapshot.replace(event));
        }
    }

    /// How its topics have ended, if there is nothing to come on any of them: all have ended, and it had all of them.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut later = Later::default();
        let mut state = lock(&self.state);
        state.resume(&self.shared, self.last_event_id(), &mut later);
        let is_to_begin_with_one = state.rare.as_ref().is_some_and(|rare| rare.snapshot.is_some());
        if is_to_begin_with_one { None } else { state.cursors.outcome() }
    }

    /// Why its request cannot be answered with its stream, if it cannot. Whoever watches is told.
    pub(crate) fn refuse_answer(self: &Arc<Self>) -> Option<Refused> {
        let refused = match self.is_of_request {
            true => lock(&self.state).may_begin().err(),
            false => Some(Refused::OtherClient),
        };
        refused.inspect(|refused| self.note_refused(refused))
    }

    /// Keeps the places of its request for whoever reads its events later.
    pub(crate) fn keep_places(&self, hold: Option<Hold>) {
        let mut state = lock(&self.state);
        // Dropped when nothing is locked.
        let _old = match state.phase {
            Phase::Waiting if hold.is_some() => mem::replace(&mut state.rare().hold, hold),
            _ => hold,
        };
        drop(state);
    }

    /// The places of its request, for its reader.
    pub(crate) fn take_places(&self) -> Option<Hold> {
        let kept = lock(&self.state).rare.as_mut().and_then(|rare| rare.hold.take());
        kept.or_else(|| self.admission().map(Admission::hold))
    }

    pub(crate) fn hold(&self) {
        lock(&self.state).held = true;
    }

    pub(crate) fn restyle(&self, change: impl FnOnce(&mut Style)) {
        let mut state = lock(&self.state);
        change(&mut state.style);
        let is_open = state.phase == Phase::Open;
        drop(state);
        if is_open {
            self.changed();
        }
    }

    /// How many events of a topic it gets at most that it has missed.
    pub(crate) fn bound_resume(&self, events: u32) {
        lock(&self.state).rare().resume_bound = Bound::of(events);
    }

    pub(crate) fn style(&self) -> Style {
        lock(&self.state).style
    }

    pub(crate) fn metadata(&self) -> Arc<Extensions> {
        lock(&self.state).metadata()
    }

    pub(crate) fn insert_metadata(&self, metadata: &Extensions) {
        let mut known = self.metadata();
        loop {
            // Cloned and dropped when no lock is held, as both may run anybody's code.
            let mut all = Extensions::clone(&known);
            all.extend(metadata.clone());
            let mut state = lock(&self.state);
            let now = state.metadata();
            if state.metadata.is_none() || Arc::ptr_eq(&now, &known) {
                state.metadata = Some(Arc::new(all));
                return;
            }
            drop(state);
            known = now;
        }
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_after(reason, self.shared.topics.horizon());
    }

    /// Ends the stream when it has what there was up to this number.
    pub(crate) fn close_after(&self, reason: CloseReason, horizon: u64) {
        lock(&self.state).close(Closing { reason, horizon, is_cut: false });
        self.changed();
    }

    /// Ends the stream wherever it stands.
    pub(crate) fn cut(&self, reason: CloseReason) {
        lock(&self.state).close(Closing::cut(reason));
        self.changed();
    }

    /// The stream begins; unless it has begun before, or is over. Gives what goes out before all else: what was sent to the client alone until now.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Vec<Picked>, Refused> {
        let (spread, now) = (self.id().spread(), self.shared.clock.now());
        let mut telling = TellLater::of(self);
        let mut later = Later::default();
        // All that is known of it by now counts.
        let mut state = self.lock_with_key(|state| state.phase == Phase::Waiting && !state.cursors.is_empty());
        state.may_begin()?;
        match state.resume(&self.shared, self.last_event_id(), &mut later) {
            Resume::Gap(gap) => state.rare().gap = Some(gap),
            Resume::Fresh if state.cursors.has_public() => {
                if let Some(standing) = state.cursors.standing(&self.shared.topics) {
                    state.cursors.begin(&standing);
                }
            }
            Resume::Fresh | Resume::Continued => {}
        }
        let mut own = state.cursors.take_own(self.known_id());
        if !own.is_empty() && state.cursors.has_public() {
            // Their own ids would say that all that is older was had.
            let id: Arc<str> = self.stands_at(&state).into();
            own.iter_mut().for_each(|picked| picked.progress = Some(Arc::clone(&id)));
        }
        state.phase = Phase::Open;
        (state.had_stream, state.opened) = (true, now);
        state.begin_lifetime(now, spread);
        self.shared.draining.add();
        telling.note(|| Hook::Opened);
        self.reads(&mut state, &mut later, &mut telling);
        drop(state);
        drop(later);
        drop(telling);
        if self.shared.draining.has_begun() {
            // It was admitted just before.
            self.close(CloseReason::Drained);
        }
        Ok(own)
    }

    /// Where a client with subscriptions stands whose stream begins, as an id from which it can go on.
    fn stands_at(&self, state: &State) -> String {
        match self.last_event_id() {
            _ if state.rare.as_ref().is_some_and(|rare| rare.has_snapshot) => state.cursors.seen().to_string(),
            Some(id) if Event::data("").id(id).is_ok() => id.to_owned(),
            // Who comes back with what nobody knows is told of what is missing.
            Some(_) => Position::default().to_string(),
            None => {
                let standing = state.cursors.standing(&self.shared.topics);
                standing.unwrap_or_else(|| Position::default().into()).to_string()
            }
        }
    }

    /// The id that its stream begins with, which says where the client stands: so that it can come back before it had an event.
    ///
    /// None if it has no subscriptions, or if a gap has one, or will. An id that nobody knows may be the handler's own business, so
    /// it stays what the client has, too, where gaps are not told.
    pub(crate) fn standing(&self) -> Option<String> {
        let state = lock(&self.state);
        let (gap, has_snapshot) = state.rare.as_ref().map_or((None, false), |it| (it.gap.as_ref(), it.has_snapshot));
        match self.last_event_id() {
            _ if !state.cursors.has_public() => None,
            _ if has_snapshot => Some(state.cursors.seen().to_string()),
            Some(_) if gap.is_some() => None,
            // It comes from whoever sent the request.
            Some(id) => Event::data("").id(id).is_ok().then(|| id.to_owned()),
            None => state.cursors.standing(&self.shared.topics).map(|standing| standing.to_string()),
        }
    }

    /// Whether its stream begins with a gap that it asked for.
    pub(crate) fn begins_with_gap(&self) -> bool {
        lock(&self.state).rare.as_ref().is_some_and(|rare| rare.gap.is_some())
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).is_open()
    }

    /// Whether its handler reads its events, or would if the request were no HEAD.
    pub(crate) fn is_read_by_handler(&self) -> bool {
        let state = lock(&self.state);
        state.is_open() || self.is_head && self.is_told.load(Ordering::Acquire)
    }

    /// Of an open stream, how many subscriptions it has, and what has gone out so far.
    pub(crate) fn counts(&self) -> Option<(usize, Sent)> {
        let state = lock(&self.state);
        state.is_open().then(|| (state.cursors.len(), self.all_of(state.sent)))
    }

    /// With the bytes that are none of the registry's events.
    fn all_of(&self, sent: Sent) -> Sent {
        Sent { bytes: sent.bytes + self.other_bytes.load(Ordering::Relaxed), ..sent }
    }

    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.other_bytes.store(self.other_bytes.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> ClientStats {
        let state = lock(&self.state);
        ClientStats {
            age: state.had_stream.then(|| self.since(state.opened)),
            events: state.sent.events,
            bytes: state.sent.bytes + self.other_bytes.load(Ordering::Relaxed),
            missed: state.rare.as_ref().map_or(0, |rare| rare.missed),
        }
    }

    /// What its reader has to look at again: a handle has changed something.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        let waker = lock(&self.state).waker.clone();
        each(waker, Waker::wake);
    }

    /// The stream is over, and the registry forgets the client. Only the first reason counts.
    pub(crate) fn end(self: &Arc<Self>, reason: CloseReason) {
        let mut telling = TellLater::of(self);
        let had_stream = self.finish(reason, Some(&mut telling));
        drop(telling);
        if had_stream {
            self.shared.sample_at_an_end();
        }
    }

    /// How long ago that was, by the clock.
    fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.shared.clock.now().saturating_sub(then))
    }

    /// The same. `telling`: who tells observers, if there can be anything to tell. Says whether a stream is over with it.
    fn finish(&self, reason: CloseReason, mut telling: Option<&mut TellLater<'_>>) -> bool {
        if lock(&self.state).phase == Phase::Over {
            return false;
        }
        let mut later = Later::default();
        let mut state = lock(&self.state);
        if state.phase == Phase::Over {
            return false;
        }
        state.phase = Phase::Over;
        let reason = state.closing.as_ref().map_or(reason, |closing| closing.reason);
        if reason != CloseReason::NoStream {
            state.closing.get_or_insert_with(|| Box::new(Closing::cut(reason)));
        }
        self.left(&state, state.cursors.names().map(|name| &**name), telling.as_deref_mut(), &mut later);
        state.cursors.clear(&self.shared.topics, &mut later);
        // There may be another reader than the one that ended.
        later.wake(state.waker.take());
        let (had_stream, opened, sent) = (state.had_stream, state.opened, self.all_of(state.sent));
        if let Some(telling) = telling.filter(|_| had_stream) {
            let (duration, Sent { events, bytes }) = (self.since(opened), sent);
            telling.note(|| Hook::Closed(Box::new(Closed { reason, duration, events, bytes })));
        }
        let over = state.waits_for_its_end();
        let places = state.rare.as_mut().and_then(|rare| rare.hold.take());
        self.changes.fetch_add(1, Ordering::Release);
        drop(state);
        drop(later);
        // Before it is told that it is over, as there is room again then.
        drop(places);
        if let Some(id) = self.id.get() {
            self.shared.unregister(id);
        }
        if had_stream {
            self.shared.counters.closed(reason, sent);
        }
        if let Some(over) = over {
            over.notify_waiters();
        }
        had_stream
    }

    pub(crate) fn over(&self) -> Option<CloseReason> {
        lock(&self.state).over()
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        once(&self.notifies_of_its_end(), || self.over()).await
    }

    /// Its reader is told of its end.
    pub(crate) fn tell(&self) {
        self.is_told.store(true, Ordering::Release);
        let over = lock(&self.state).waits_for_its_end();
        if let Some(over) = over {
            over.notify_waiters();
        }
    }

    /// Waits until its reader was told of its end.
    pub(crate) async fn told(&self) {
        once(&self.notifies_of_its_end(), || self.is_told.load(Ordering::Acquire).then_some(())).await;
    }

    fn notifies_of_its_end(&self) -> Arc<Notify> {
        Arc::clone(lock(&self.state).rare().over.get_or_insert_default())
    }

    /// Tells those who watch. No lock may be held.
    #[inline]
    pub(crate) fn observe(self: &Arc<Self>, tell: impl Fn(&dyn Observer, &ClientHandle)) {
        let observers = &self.shared.settings.observers;
        if !observers.is_empty() {
            let client = ClientHandle::new(Arc::clone(self));
            observers.notify(|observer| tell(observer, &client));
        }
    }
}

impl Drop for Client {
    /// For a client whose stream never began. All others have ended before.
    fn drop(&mut self) {
        self.finish(CloseReason::NoStream, None);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id.get()).finish_non_exhaustive()
    }
}

impl State {
    /// Whether a client that has not had a stream or a subscription is as good as new.
    fn is_blank(&self) -> bool {
        let has_style = self.style != Style::default();
        !(self.held || has_style || self.closing.is_some() || self.metadata.is_some() || self.rare.is_some())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Who waits for its end, if anybody does.
    fn waits_for_its_end(&self) -> Option<Arc<Notify>> {
        self.rare.as_ref()?.over.clone()
    }

    fn resume_bound(&self) -> Bound {
        self.rare.as_ref().map(|rare| rare.resume_bound).unwrap_or_default()
    }

    fn key(&self) -> Option<&str> {
        self.rare.as_ref()?.key.as_deref()
    }

    pub(crate) fn key_or(&mut self, key: impl FnOnce() -> Box<str>) -> &str {
        self.rare().key.get_or_insert_with(key)
    }

    pub(crate) fn metadata(&self) -> Arc<Extensions> {
        self.metadata.clone().unwrap_or_default()
    }

    /// Topics of its have ended: this is the worst of how.
    pub(crate) fn note_ended(&mut self, outcome: Option<Outcome>) {
        let unfinished = outcome.filter(|outcome| *outcome > Outcome::Whole);
        if unfinished.is_some() {
            let rare = self.rare();
            rare.unfinished = rare.unfinished.max(unfinished);
        }
    }

    /// The worst of how its topics ended that have.
    pub(crate) fn outcome(&self) -> Outcome {
        self.rare.as_ref().and_then(|rare| rare.unfinished).unwrap_or(Outcome::Whole)
    }

    /// Whether a subscription to this topic would be a new one.
    fn may_subscribe(&self, topic: &str, shared: &Shared) -> Result<bool, SubscribeError> {
        let (limit, patterns) = (shared.settings.subscriptions_per_client, shared.settings.patterns_per_client);
        match self.over() {
            Some(reason) => Err(SubscribeError::Over { reason }),
            None if self.cursors.contains(topic) => Ok(false),
            None if self.cursors.len() >= limit => Err(SubscribeError::TooMany { limit }),
            None if topic_name::is_pattern(topic) && self.cursors.patterns() >= patterns => {
                Err(SubscribeError::TooManyPatterns { limit: patterns })
            }
            None => Ok(true),
        }
    }

    /// Whom to wake, from now on; `heard` is who is woken so far. That one is given back, to be dropped outside the lock:
    /// the last drop of a waker may run anybody's code. Those that topics have are never the last.
    pub(crate) fn listen(&mut self, heard: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
        if heard.as_ref().is_some_and(|heard| heard.will_wake(waker)) {
            return None;
        }
        self.cursors.unpark();
        self.waker = Some(waker.clone());
        heard.replace(waker.clone())
    }

    /// Whether its stream can begin.
    fn may_begin(&self) -> Result<(), Refused> {
        match (self.phase, self.over()) {
            (_, Some(reason)) => Err(Refused::Over { reason }),
            (Phase::Waiting, _) => Ok(()),
            _ => Err(Refused::Open),
        }
    }

    /// The first reason counts, and what is over stays so for the reason that it has.
    fn close(&mut self, closing: Closing) {
        if self.phase != Phase::Over {
            self.closing.get_or_insert_with(|| Box::new(closing)).is_cut |= closing.is_cut;
        }
    }

    /// Why it is over, if it is.
    pub(crate) fn over(&self) -> Option<CloseReason> {
        let reason = || self.closing.as_ref().map_or(CloseReason::NoStream, |closing| closing.reason);
        (self.phase == Phase::Over).then(reason)
    }

    /// How the resume went, or goes as far as can be known: what is subscribed to from now on may add to it until the stream begins.
    fn resume(&mut self, shared: &Shared, last_event_id: Option<&str>, later: &mut Later) -> Resume {
        let known = self.rare.as_ref().map(|rare| (&rare.gap, rare.has_snapshot));
        match (known, last_event_id) {
            (Some((Some(gap), _)), _) => Resume::Gap(gap.clone()),
            (Some((_, true)), _) => Resume::Continued,
            (_, None) => Resume::Fresh,
            (_, Some(id)) if self.phase == Phase::Waiting => self
                .cursors
                .resume(&shared.topics, id, self.resume_bound(), later)
                .map_or(Resume::Continued, Resume::Gap),
            (_, Some(_)) => Resume::Continued,
        }
    }
}
