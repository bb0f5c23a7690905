//! One open stream, as the registry knows it.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::Waker,
};

use tokio::sync::Notify;

use super::{ClientId, PublishError, Receipt, Start, SubscribeError, cursor::Cursors, shared::Shared, topic};
use crate::{Event, Gap, sync::lock};

/// Why a stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler's own body ended and nothing held the stream open.
    Ended,
    /// The body was dropped before its end: the peer left, or the server gave the connection up.
    Gone,
    /// [`ClientHandle::close`](crate::ClientHandle::close) was called.
    Closed,
    /// [`ClientHandle::close_with`](crate::ClientHandle::close_with) was called, with a reason of the program's own.
    Other(&'static str),
    /// The handler's own body failed.
    BodyError,
    /// The request was answered with something that is no event stream.
    NoStream,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other(reason) => reason,
            Self::Ended => "the handler's stream ended",
            Self::Gone => "the client is gone",
            Self::Closed => "the client was closed",
            Self::BodyError => "the handler's stream failed",
            Self::NoStream => "the answer was no event stream",
        })
    }
}

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
pub(crate) struct Client {
    shared: Arc<Shared>,
    id: OnceLock<ClientId>,
    last_event_id: Option<Box<str>>,
    pub(super) state: Mutex<State>,
    /// Goes up with whatever a handle changes that its reader has to see.
    pub(super) changes: AtomicU32,
    over: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) cursors: Cursors,
    pub(super) phase: Phase,
    /// The reader's.
    waker: Option<Waker>,
    /// It stays open without subscriptions.
    pub(super) held: bool,
    /// It ends when everything up to this event has been read.
    pub(super) closing: Option<(CloseReason, u64)>,
    resume: Option<Resume>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been read yet: what is subscribed now resumes.
    #[default]
    Waiting,
    Open,
    Over(CloseReason),
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, last_event_id: Option<Box<str>>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            id: OnceLock::new(),
            last_event_id,
            state: Mutex::default(),
            changes: AtomicU32::new(0),
            over: Notify::new(),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its id. It can be found by it from now on, until it is over.
    pub(crate) fn id(self: &Arc<Self>) -> ClientId {
        if let Some(id) = self.id.get() {
            return *id;
        }
        let id = *self.id.get_or_init(|| {
            let id = ClientId::random();
            self.shared.register(id, self);
            id
        });
        if self.over().is_some() {
            // Its end has passed, or found no id.
            self.shared.unregister(&id);
        }
        id
    }

    /// The topic that only this client is subscribed to.
    fn own_topic(self: &Arc<Self>) -> String {
        format!("$client/{}", self.id())
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    pub(crate) fn subscribe(self: &Arc<Self>, topic: &str, start: Start) -> Result<(), SubscribeError> {
        topic::check(topic)?;
        self.id();
        self.join(topic, start, true)
    }

    /// Subscribes, unless it is subscribed already. `resumes`: if the stream has not begun, a `Last-Event-ID` goes
    /// before `start`.
    fn join(&self, topic: &str, start: Start, resumes: bool) -> Result<(), SubscribeError> {
        if !lock(&self.state).may_subscribe(topic, &self.shared)? {
            return Ok(());
        }
        // Outside the lock, as it may ask the user how much the topic retains.
        let joined = self.shared.join(topic, start);
        let mut state = lock(&self.state);
        let may = state.may_subscribe(topic, &self.shared);
        match may {
            Ok(true) => {
                let resumes = resumes && state.phase == Phase::Waiting;
                state.cursors.subscribe(joined, resumes);
            }
            _ => self.shared.leave(&joined.topic, None, joined.next),
        }
        drop(state);
        self.changed();
        may.map(drop)
    }

    pub(crate) fn unsubscribe(&self, topic: &str) -> bool {
        let was_subscribed = lock(&self.state).cursors.unsubscribe(&self.shared, topic);
        self.changed();
        was_subscribed
    }

    /// Publishes to the client's own topic, which it gets subscribed to.
    pub(crate) fn send(self: &Arc<Self>, event: &Event) -> Result<Receipt, PublishError> {
        let topic = self.own_topic();
        match self.join(&topic, Start::Now, false) {
            Err(SubscribeError::Over { reason }) => Err(PublishError::Over { reason }),
            // Without a place for it among its subscriptions, it would not get the event.
            Err(SubscribeError::TooMany { limit }) => Err(PublishError::TooManySubscriptions { limit }),
            Err(SubscribeError::Topic(error)) => Err(PublishError::Topic(error)),
            Ok(()) => self.shared.publish(&topic, event),
        }
    }

    pub(crate) fn resume(&self) -> Resume {
        lock(&self.state).resume(&self.shared, self.last_event_id())
    }

    pub(crate) fn hold(&self) {
        lock(&self.state).held = true;
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        let mut state = lock(&self.state);
        let horizon = self.shared.horizon();
        state.closing.get_or_insert((reason, horizon));
        drop(state);
        self.changed();
    }

    /// The stream begins.
    pub(super) fn open(self: &Arc<Self>) {
        self.id();
        lock(&self.state).open(&self.shared, self.last_event_id());
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).phase == Phase::Open
    }

    /// What its reader has to look at again: a handle has changed something.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        let waker = lock(&self.state).waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The stream is over, and the registry forgets the client. Only the first reason counts.
    pub(crate) fn end(&self, reason: CloseReason) {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        let reason = state.closing.map_or(reason, |(asked, _)| asked);
        state.phase = Phase::Over(reason);
        state.cursors.clear(&self.shared);
        let waker = state.waker.take();
        drop(state);
        // There may be another reader than the one that ended.
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(id) = self.id.get() {
            self.shared.unregister(id);
        }
        self.over.notify_waiters();
    }

    fn over(&self) -> Option<CloseReason> {
        match lock(&self.state).phase {
            Phase::Over(reason) => Some(reason),
            Phase::Waiting | Phase::Open => None,
        }
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        loop {
            let mut notified = pin!(self.over.notified());
            notified.as_mut().enable();
            if let Some(reason) = self.over() {
                return reason;
            }
            notified.await;
        }
    }
}

impl Drop for Client {
    /// For a client whose stream never began. All others have ended before.
    fn drop(&mut self) {
        self.end(CloseReason::NoStream);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id.get()).finish_non_exhaustive()
    }
}

impl State {
    /// Whether a subscription to this topic would be a new one.
    fn may_subscribe(&self, topic: &str, shared: &Shared) -> Result<bool, SubscribeError> {
        let limit = shared.config.subscriptions_per_client;
        match self.phase {
            Phase::Over(reason) => Err(SubscribeError::Over { reason }),
            _ if self.cursors.contains(topic) => Ok(false),
            _ if self.cursors.len() >= limit => Err(SubscribeError::TooMany { limit }),
            _ => Ok(true),
        }
    }

    /// Whom to wake, from now on; `heard` is who is woken so far. That one is given back, to be dropped outside the lock:
    /// the last drop of a waker may run anybody's code. Those that topics have are never the last.
    pub(super) fn listen(&mut self, heard: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
        if heard.as_ref().is_some_and(|heard| heard.will_wake(waker)) {
            return None;
        }
        self.cursors.unpark();
        self.waker = Some(waker.clone());
        heard.replace(waker.clone())
    }

    fn open(&mut self, shared: &Shared, last_event_id: Option<&str>) {
        if self.phase == Phase::Waiting {
            self.resume = Some(self.resume(shared, last_event_id));
            self.phase = Phase::Open;
        }
    }

    fn resume(&mut self, shared: &Shared, last_event_id: Option<&str>) -> Resume {
        match (&self.resume, last_event_id) {
            (Some(resume), _) => resume.clone(),
            (None, None) => Resume::Fresh,
            (None, Some(id)) => self.cursors.resume(shared, id).map_or(Resume::Continued, Resume::Gap),
        }
    }
}
