//! One open stream, as the registry knows it.

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use http::Extensions;
use tokio::sync::Notify;

use super::{
    cursors::Cursors, handle::ClientHandle, lifetime::Lifetime, observer::Observer, shared::Shared, stalled::Suspect,
    stats::ClientStats,
};
use crate::{
    event::{ClientId, Event},
    limit::{Admission, Hold},
    log::{Gap, Outcome},
    stream::{Batching, CloseReason},
    sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, each, lock},
    topics::Bound,
};

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
    pub(super) is_of_request: bool,
    /// Its request is a HEAD, whose answer has no body: it never has a stream.
    pub(super) is_head: bool,
    pub(super) shared: Arc<Shared>,
    pub(crate) state: Mutex<State>,
    pub(super) id: OnceLock<ClientId>,
    /// Thin, as each client has room for it.
    pub(super) last_event_id: OnceLock<Box<Box<str>>>,
    /// The bytes that went out besides events of the registry. Only its reader writes.
    pub(super) other_bytes: AtomicU64,
    /// What its request takes of all limits.
    pub(super) admission: Option<Arc<Admission>>,
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
    pub(super) had_stream: bool,
    /// Boxed, as few ever are. One that is over has one, unless it never had a stream.
    pub(crate) closing: Option<Box<Closing>>,
    pub(crate) cursors: Cursors,
    pub(crate) sent: Sent,
    /// The reader's.
    pub(super) waker: Option<Waker>,
    pub(crate) style: Style,
    /// When its stream began, in nanoseconds by the clock.
    pub(super) opened: u64,
    pub(super) metadata: Option<Arc<Extensions>>,
    /// It had not read for some time when this was noted.
    pub(crate) suspect: Option<Box<Suspect>>,
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few clients have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// What it missed when it came back. It is known when the stream begins.
    pub(super) gap: Option<Gap>,
    pub(crate) snapshot: Option<Event>,
    /// It has begun with one, or will.
    pub(super) has_snapshot: bool,
    /// Whose client it is, for presence.
    pub(super) key: Option<Box<str>>,
    /// How many events it has lost as it fell behind.
    pub(crate) missed: u64,
    pub(crate) lifetime: Option<Lifetime>,
    pub(super) resume_bound: Bound,
    /// Until then, in nanoseconds by the clock, it lets events wait of its own accord.
    pub(crate) waits_until: u64,
    /// Somebody waits for its end.
    pub(super) over: Option<Arc<Notify>>,
    /// The worst of how its topics ended, if one was not finished.
    pub(super) unfinished: Option<Outcome>,
    /// The slots of its request, until somebody reads its events.
    pub(super) hold: Option<Hold>,
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
    pub(super) fn cut(reason: CloseReason) -> Self {
        Self { reason, horizon: 0, is_cut: true }
    }
}

/// How events are written for a client, as far as its handler has a say in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Style {
    pub(crate) batching: Option<Batching>,
    pub(crate) topic_as_event_type: bool,
    /// It may go on for some time when the registry ends its streams.
    pub(crate) finish_on_drain: bool,
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

    pub(crate) fn admission(&self) -> Option<&Arc<Admission>> {
        self.admission.as_ref()
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.get().map(|id| &***id)
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
    pub(super) fn all_of(&self, sent: Sent) -> Sent {
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

    /// How long ago that was, by the clock.
    pub(super) fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.shared.clock.now().saturating_sub(then))
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

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id.get()).finish_non_exhaustive()
    }
}

impl State {
    /// Whether a client that has not had a stream or a subscription is as good as new.
    pub(super) fn is_blank(&self) -> bool {
        let has_style = self.style != Style::default();
        !(self.held || has_style || self.closing.is_some() || self.metadata.is_some() || self.rare.is_some())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(super) fn key(&self) -> Option<&str> {
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
}
