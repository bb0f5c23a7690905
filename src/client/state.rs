//! The state of one client.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use http::Extensions;
use tokio::sync::Notify;

use super::{
    client_handle::ClientHandle,
    lifetime::Lifetime,
    observer::Observer,
    shared::Shared,
    stall_check::StallCheck,
    stats::{ClientStats, Sent},
};
use crate::{
    event::{ClientId, Event},
    limit::{Admission, Hold},
    log::{Gap, Outcome},
    reading::{Cursors, Identity},
    stream::{Batching, CloseReason},
    sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, each, lock},
    topics::Bound,
};

/// The state of one client, which its reader, its handles and its topics share.
///
/// The fields that a delivery reads come first, in as few cache lines as possible: with many clients, the cache lines
/// are the cost.
#[repr(C)]
pub(crate) struct Client {
    /// Counts the changes by handles that the reader has to see.
    pub(crate) changes: AtomicU32,
    /// The stream is not at a boundary, so it cannot take events and does not count as stalled.
    pub(crate) cannot_take: AtomicBool,
    /// The reader has reached the end of the stream, or was dropped.
    pub(crate) reader_has_ended: AtomicBool,
    /// The client has a request, which can be answered with its stream.
    pub(super) is_of_request: bool,
    /// The request is a HEAD, so the response has no body and the client never has a stream.
    pub(super) is_head: bool,
    pub(super) shared: Arc<Shared>,
    pub(crate) state: Mutex<ClientState>,
    pub(crate) identity: Identity,
    /// The sent bytes that are not events of the registry. Only the reader writes.
    pub(super) other_bytes: AtomicU64,
    /// The request's share of all limits.
    pub(super) admission: Option<Arc<Admission>>,
}

#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct ClientState {
    /// How often the reader has looked.
    pub(crate) reads: u32,
    /// The stream stays open without subscriptions.
    pub(crate) is_kept_open: bool,
    /// The last of the client's topics has ended, and nothing was subscribed to since.
    pub(crate) is_complete: bool,
    pub(crate) phase: Phase,
    pub(super) had_stream: bool,
    /// Boxed, because few clients have one. A client whose stream has ended has one, unless its stream never began.
    pub(crate) closing: Option<Box<Closing>>,
    pub(crate) cursors: Cursors,
    pub(crate) sent: Sent,
    /// The reader's waker.
    pub(super) waker: Option<Waker>,
    pub(crate) style: Style,
    /// When the stream began, in nanoseconds of the clock.
    pub(super) opened: u64,
    pub(super) metadata: Option<Arc<Extensions>>,
    /// Set when the client had not read for some time.
    pub(crate) stall_check: Option<Box<StallCheck>>,
    pub(crate) rare: Option<Box<Rare>>,
}

/// ClientState that few clients have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// The gap at the client's resume. It is known when the stream begins.
    pub(super) gap: Option<Gap>,
    pub(crate) snapshot: Option<Event>,
    /// The stream begins with a snapshot, or has begun with one.
    pub(super) has_snapshot: bool,
    /// The presence key.
    pub(super) key: Option<Box<str>>,
    /// How many events the client has lost because it fell behind.
    pub(crate) missed: u64,
    pub(crate) lifetime: Option<Lifetime>,
    pub(super) resume_bound: Bound,
    /// The reader lets events wait until this time on purpose, in nanoseconds of the clock.
    pub(crate) waits_until: u64,
    /// Notifies those who wait for the end of the stream.
    pub(super) over: Option<Arc<Notify>>,
    /// The worst outcome of the client's topics, if one was not finished.
    pub(super) unfinished: Option<Outcome>,
    /// The slots of the request, until a reader begins.
    pub(super) hold: Option<Hold>,
}

/// How a client was closed. Its stream has ended, or will.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closing {
    pub(crate) reason: CloseReason,
    /// The stream ends when the client has read everything up to this number.
    pub(crate) horizon: u64,
    /// The stream ends at once, also in the middle of an event.
    pub(crate) is_cut: bool,
}

impl Closing {
    /// A close that ends the stream at once.
    pub(super) fn cut(reason: CloseReason) -> Self {
        Self { reason, horizon: 0, is_cut: true }
    }
}

/// How events are written for a client, where the handler can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Style {
    pub(crate) batching: Option<Batching>,
    pub(crate) topic_as_event_type: bool,
    /// The stream may finish when the registry is drained.
    pub(crate) finish_on_drain: bool,
    /// The stream is a recording: it has no position events, as the client can get everything again without an id, and it is whole or ends with
    /// the error of the handler's own body.
    pub(crate) is_recording: bool,
    /// Each entry of an array has its id, because the client has said hello.
    pub(crate) ids_in_arrays: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The stream has not begun. New subscriptions resume.
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
            identity: Identity::default(),
            state: Mutex::default(),
            changes: AtomicU32::new(0),
            cannot_take: AtomicBool::new(false),
            reader_has_ended: AtomicBool::new(false),
            is_head: false,
            other_bytes: AtomicU64::new(0),
            admission: None,
        }
    }

    /// Sets what the request brings.
    pub(crate) fn comes_with(
        &mut self,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) {
        self.identity.come_with(last_event_id);
        (self.admission, self.is_head) = (admission, is_head);
    }

    /// Resets an unused client, for another request. Returns `false` if the client has been used.
    pub(crate) fn make_blank(&mut self) -> bool {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_unused = self.identity.id().is_none() && state.phase == Phase::Waiting && state.cursors.is_empty();
        if is_unused {
            if self.identity.forget_last_event_id() || !state.is_blank() {
                *state = ClientState::default();
            }
            (self.admission, self.is_head) = (None, false);
        }
        is_unused
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns the client's id, and registers the client under it until the stream ends.
    pub(crate) fn id(self: &Arc<Self>) -> ClientId {
        if let Some(id) = self.known_id() {
            return id;
        }
        let id = self.identity.id_or(|| self.shared.register(self));
        if self.over().is_some() {
            // The stream has ended meanwhile, and found no id to remove.
            self.shared.unregister(&id);
        }
        id
    }

    /// Returns the client's id, if it has one already.
    pub(crate) fn known_id(&self) -> Option<ClientId> {
        self.identity.id()
    }

    pub(crate) fn admission(&self) -> Option<&Arc<Admission>> {
        self.admission.as_ref()
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.identity.last_event_id()
    }

    pub(crate) fn keep_open(&self) {
        lock(&self.state).is_kept_open = true;
    }

    pub(crate) fn change_style(&self, change: impl FnOnce(&mut Style)) {
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
            // Cloned and dropped outside the lock, because both may run user code.
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

    /// Whether the client has a subscription, other than to its own topic.
    pub(crate) fn has_public(&self) -> bool {
        lock(&self.state).cursors.has_public()
    }

    /// Whether the handler reads the client's events, or would if the request were not a HEAD.
    pub(crate) fn is_read_by_handler(&self) -> bool {
        let state = lock(&self.state);
        state.is_open() || self.is_head && self.reader_has_ended.load(Ordering::Acquire)
    }

    /// Returns the number of subscriptions and what was sent, if the stream is open.
    pub(crate) fn counts(&self) -> Option<(usize, Sent)> {
        let state = lock(&self.state);
        state.is_open().then(|| (state.cursors.len(), self.all_of(state.sent)))
    }

    /// Adds the bytes that are not events of the registry.
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

    /// Wakes the reader, because a handle has changed something.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        let waker = lock(&self.state).waker.clone();
        each(waker, Waker::wake);
    }

    /// Returns the time since then, by the clock.
    pub(super) fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.shared.clock.now().saturating_sub(then))
    }

    /// Notifies observers. No lock may be held.
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
        f.debug_struct("Client").field("id", &self.known_id()).finish_non_exhaustive()
    }
}

impl ClientState {
    /// Whether the state of an unused client is as it was at first.
    pub(super) fn is_blank(&self) -> bool {
        let has_style = self.style != Style::default();
        !(self.is_kept_open || has_style || self.closing.is_some() || self.metadata.is_some() || self.rare.is_some())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    #[inline]
    pub(crate) fn note_sent(&mut self, events: u64, bytes: usize) {
        self.sent.events += events;
        self.sent.bytes += bytes as u64;
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

    /// Records the worst outcome of topics that have ended.
    pub(crate) fn note_ended(&mut self, outcome: Option<Outcome>) {
        let unfinished = outcome.filter(|outcome| *outcome > Outcome::Finished);
        if unfinished.is_some() {
            let rare = self.rare();
            rare.unfinished = rare.unfinished.max(unfinished);
        }
    }

    /// Returns the worst outcome of the topics that have ended.
    pub(crate) fn outcome(&self) -> Outcome {
        self.rare.as_ref().and_then(|rare| rare.unfinished).unwrap_or(Outcome::Finished)
    }

    /// Sets the waker to wake from now on. `heard`: the waker so far.
    ///
    /// Returns the former waker, to be dropped outside the lock: the last drop of a waker may run user code. The
    /// topics' copies are never the last ones.
    pub(crate) fn listen(&mut self, heard: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
        if heard.as_ref().is_some_and(|heard| heard.will_wake(waker)) {
            return None;
        }
        self.cursors.unpark();
        self.waker = Some(waker.clone());
        heard.replace(waker.clone())
    }
}
