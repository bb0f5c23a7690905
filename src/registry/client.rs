//! One open stream, as the registry knows it.

use std::{
    fmt,
    pin::pin,
    str::FromStr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::Notify;

use super::{
    PublishError, Receipt, Start, SubscribeError,
    cursor::{Cursors, Frame, Rest, Taken},
    shared::Shared,
    topic,
};
use crate::{Event, Gap, event::Quoted, sync::lock};

/// The name of one client: 128 random bits from the operating system, written as 32 hexadecimal digits.
///
/// Whoever knows it can be allowed to act for the client (add a topic to its open stream, say), so it is as hard to
/// guess as a session token and should be treated as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(u128);

impl ClientId {
    fn random() -> Self {
        let mut bits = [0; 16];
        match getrandom::fill(&mut bits) {
            Ok(()) => Self(u128::from_ne_bytes(bits)),
            // An id that can be guessed would be worse; std's `HashMap` does the same.
            Err(error) => panic!("the operating system has no randomness to give: {error}"),
        }
    }

    /// A number that is different for most clients.
    pub(crate) fn spread(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        bits.map(Self).ok_or_else(|| InvalidClientId { value: text.to_owned() })
    }
}

/// A text that is no [`ClientId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidClientId {
    value: String,
}

impl fmt::Display for InvalidClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no client id: expected 32 hexadecimal digits", Quoted(&self.value))
    }
}

impl std::error::Error for InvalidClientId {}

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
    state: Mutex<State>,
    /// Goes up with whatever a handle changes that its reader has to see.
    changes: AtomicU32,
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    cursors: Cursors,
    phase: Phase,
    /// The reader's.
    waker: Option<Waker>,
    /// It stays open without subscriptions.
    held: bool,
    /// It ends when everything up to this event has been read.
    closing: Option<(CloseReason, u64)>,
    resume: Option<Resume>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    fn open(self: &Arc<Self>) {
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
    fn listen(&mut self, heard: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
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

/// Whoever reads a client's events: the body of its response, or [`Events`](crate::Events). When it goes, the client is over.
#[derive(Debug)]
pub(crate) struct Reader {
    client: Arc<Client>,
    waker: Option<Waker>,
    rest: Option<Rest>,
    /// The client's changes that were seen.
    changes: u32,
}

impl Reader {
    /// The stream of this client begins.
    pub(crate) fn open(client: &Arc<Client>) -> Self {
        client.open();
        Self { client: Arc::clone(client), waker: None, rest: None, changes: 0 }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The next frame. `Err` when there is no more: the client was closed and has all that was published until then,
    /// or nothing of its own is to come (`own_ended`) and nothing holds it open.
    #[inline]
    pub(crate) fn poll_frame(&mut self, cx: &Context<'_>, own_ended: bool) -> Poll<Result<Frame, CloseReason>> {
        let waker = cx.waker();
        if self.is_at_rest(waker) {
            return Poll::Pending;
        }
        let mut rest = self.rest.take();
        let result = self.poll_take(waker, own_ended, |cursors, shared, horizon| {
            cursors.take_frame(waker, shared, horizon, &mut rest)
        });
        self.rest = rest;
        result
    }

    /// The same, event by event.
    pub(crate) fn poll_events(&mut self, cx: &Context<'_>) -> Poll<Result<Taken, CloseReason>> {
        self.poll_take(cx.waker(), false, |cursors, _, horizon| cursors.take_events(horizon))
    }

    /// Whether the client was closed, for a reader that cannot give it anything.
    pub(crate) fn poll_closing(&mut self, cx: &Context<'_>) -> Poll<CloseReason> {
        let Self { client, waker: heard, .. } = self;
        let _old;
        let mut state = lock(&client.state);
        _old = state.listen(heard, cx.waker());
        match (state.phase, state.closing) {
            (Phase::Over(reason), _) | (_, Some((reason, _))) => Poll::Ready(reason),
            _ => Poll::Pending,
        }
    }

    /// Whether nothing can have come since it last looked.
    fn is_at_rest(&self, waker: &Waker) -> bool {
        self.rest.as_ref().is_some_and(Rest::goes_on)
            && self.client.changes.load(Ordering::Acquire) == self.changes
            && self.waker.as_ref().is_some_and(|heard| heard.will_wake(waker))
    }

    #[inline]
    fn poll_take<T>(
        &mut self,
        waker: &Waker,
        own_ended: bool,
        mut take: impl FnMut(&mut Cursors, &Shared, u64) -> Option<T>,
    ) -> Poll<Result<T, CloseReason>> {
        let Self { client, waker: heard, changes, .. } = self;
        let seen = client.changes.load(Ordering::Acquire);
        let _old;
        let mut state = lock(&client.state);
        if let Phase::Over(reason) = state.phase {
            return Poll::Ready(Err(reason));
        }
        // A client that was closed does not rest: after what it takes now comes its end.
        if state.closing.is_none() {
            *changes = seen;
        }
        _old = state.listen(heard, waker);
        loop {
            let horizon = state.closing.map_or_else(|| client.shared.horizon(), |(_, horizon)| horizon);
            if let Some(taken) = take(&mut state.cursors, &client.shared, horizon) {
                return Poll::Ready(Ok(taken));
            }
            if let Some((reason, _)) = state.closing {
                return Poll::Ready(Err(reason));
            }
            if own_ended && !state.held && state.cursors.is_empty() {
                return Poll::Ready(Err(CloseReason::Ended));
            }
            if state.cursors.park(waker) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.client.end(CloseReason::Gone);
    }
}

/// Holds a client whose request is being answered: when it goes and no stream has begun, the client is over.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) Arc<Client>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.0.is_open() {
            self.0.end(CloseReason::NoStream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = ClientId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, ClientId::random());
        for text in ["", "1", &"f".repeat(33), &"F".repeat(32), &"+".repeat(32), &format!("{}g", "0".repeat(31))] {
            assert!(text.parse::<ClientId>().is_err(), "{text:?}");
        }
    }
}
