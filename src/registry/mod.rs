//! The shared home of topics and clients.

mod client;
mod close;
mod config;
mod cursor;
mod drain;
mod error;
mod evicted_ids;
mod feed;
mod forgotten;
mod hooks;
mod id;
mod joined;
mod lanes;
mod ledger;
mod lifetime;
mod log;
mod members;
mod position;
mod presence;
mod produce;
mod reader;
mod shared;
mod spare;
mod stats;
mod steps;
mod stuck;
mod topic;
mod waiters;

use std::{borrow::Borrow, fmt, sync::Arc};

use self::waiters::Later;
pub use self::{
    client::Resume,
    close::CloseReason,
    config::{Lag, RegistryConfig, Retention},
    drain::{Drain, Drained},
    error::{PublishError, ResumeError, SubscribeError},
    id::{ClientId, InvalidClientId},
    position::{InvalidPosition, Position},
    presence::{Member, Presence, PresenceChange, PresenceChanges},
    produce::{PipeError, ProduceError, Producer, TopicState},
    stats::{ClientStats, Stats},
    topic::{MAX_TOPIC, TopicError, segment},
};
pub(crate) use self::{
    client::{Client, Style},
    cursor::Picked,
    feed::Outcome,
    log::{Audience, Entry, spacious},
    reader::{Besides, Glance, Reader},
    shared::Shared,
    spare::Spare,
    waiters::{Slot, Waiters},
};
use crate::{ClientHandle, Event, Limit, limit::Admission, subscription::Filter, sync::lock};

/// The shared home of topics and clients: publish on a topic, and every client that is subscribed to it gets the event.
///
/// It is a handle: clones share the same home, and it can be published to from any thread and any task, without await.
///
/// Published events go into one bounded log; a client is a set of cursors into it. So a slow client holds no memory
/// and holds nobody up, a client that comes back with a `Last-Event-ID` reads on where it was, and a topic that
/// retains one event is a last-value cache. What a client should have had and is no longer retained is a [gap](crate::Gap), which it is told of.
///
/// All memory for topics without subscribers and for events is bounded by [`RegistryConfig::retention`]: the oldest events of all go first.
/// A topic comes into being when it is first published or subscribed to, and is forgotten when it has no events and no subscribers.
///
/// ```
/// use tower_sse::{Event, Registry};
///
/// let registry = Registry::new();
/// let receipt = registry.publish("prices/AAPL", Event::data("187.42").event("tick")?)?;
/// assert_eq!(receipt.clients(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

impl Registry {
    /// A registry with the defaults of [`RegistryConfig`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(RegistryConfig::default())
    }

    /// A registry with this configuration.
    #[must_use]
    pub fn with_config(config: RegistryConfig) -> Self {
        Self { shared: Arc::new(Shared::new(config)) }
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Publishes an event on a topic, for every client that is subscribed to it now or resumes from before it.
    ///
    /// Cost: the event is encoded once and copied once, however many clients there are, and those that wait are woken.
    /// No client's slowness delays it.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the topic's name is none, or if the event is larger than what may be retained.
    pub fn publish(&self, topic: impl AsRef<str>, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        let topic = topic.as_ref();
        topic::check(topic)?;
        self.shared.publish(topic, event.borrow(), None)
    }

    /// Gives a topic to a producer, who fills it and marks its end: see [`Producer`].
    ///
    /// A topic that has ended begins anew, behind what is retained of it.
    ///
    /// # Errors
    ///
    /// [`ProduceError`] if the topic's name is none, or if it has a producer already.
    pub fn produce(&self, topic: impl AsRef<str>) -> Result<Producer, ProduceError> {
        topic::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), false)
    }

    /// The same, but if the topic has a producer already, that one is stopped: what it writes from now on is refused.
    ///
    /// # Errors
    ///
    /// [`ProduceError::Topic`] if the topic's name is none.
    pub fn take_over(&self, topic: impl AsRef<str>) -> Result<Producer, ProduceError> {
        topic::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), true)
    }

    /// Stops the producer of a topic, and ends the topic, which is then [cancelled](TopicState::Cancelled). `false`: it has none.
    ///
    /// Its readers are told with the event that [`RegistryConfig::cancelled_event`] says, and get no 204: see [`Producer`].
    pub fn cancel(&self, topic: impl AsRef<str>) -> bool {
        Producer::cancel(&self.shared, topic.as_ref())
    }

    /// The same, with an event of the program's as the last one, in one step: nobody gets it without the end, or the end without it.
    /// `false`: the topic has no producer, and nothing is published.
    ///
    /// # Errors
    ///
    /// [`PublishError::TooLarge`]: the producer goes on.
    pub fn cancel_with(&self, topic: impl AsRef<str>, event: impl Borrow<Event>) -> Result<bool, PublishError> {
        Producer::cancel_with(&self.shared, topic.as_ref(), event.borrow())
    }

    /// How a topic is filled. `None`: there is no such topic, or it was forgotten.
    #[must_use]
    pub fn topic_state(&self, topic: impl AsRef<str>) -> Option<TopicState> {
        let mut later = Later::default();
        let order = self.shared.order(&mut later);
        let topic = order.topic(topic.as_ref())?;
        let state = lock(&topic.state);
        Some(match state.production {
            Some(_) => TopicState::Produced,
            None => TopicState::of(topic.end()),
        })
    }

    /// Whose open streams are subscribed to a topic, or to a pattern, by just that name: see [`Presence`].
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the name is none.
    pub fn presence(&self, name: impl AsRef<str>) -> Result<Presence, TopicError> {
        topic::check_pattern(name.as_ref())?;
        Ok(Presence::of(&self.shared, name.as_ref()))
    }

    /// All clients whose streams are open. One whose request is still being answered is not among them.
    ///
    /// Cost: a few nanoseconds for each.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientHandle> {
        let clients = self.shared.known_clients().into_iter();
        clients.filter(|client| client.is_open()).map(ClientHandle::new).collect()
    }

    /// A client that came with no request: a reader of [`into_events`](ClientHandle::into_events) in this process, behind a WebSocket, say.
    #[must_use]
    pub fn connect(&self) -> ClientHandle {
        ClientHandle::new(Arc::new(Client::new(Arc::clone(&self.shared), false)))
    }

    pub(crate) fn connect_with(
        &self,
        spare: &Spare,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) -> Arc<Client> {
        spare.client(&self.shared, last_event_id, admission, is_head)
    }

    /// What limits all of its streams.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.shared.config.limits
    }

    /// The client with this id, if its stream is open or its request is still being answered.
    #[must_use]
    pub fn client(&self, id: &ClientId) -> Option<ClientHandle> {
        self.shared.client(id).map(ClientHandle::new)
    }

    /// Where the newest event stands; before the first, where the registry begins.
    ///
    /// With it as its id, a handler's own first event (a welcome, a snapshot) gives a fresh client a position to resume
    /// from before anything was published. Take it before subscribing.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.position()
    }

    /// How much there is at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What became of a published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    position: Position,
    clients: usize,
}

impl Receipt {
    /// Where the event stands in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many clients it is for: those with an open stream that were subscribed to the topic, or to a pattern that
    /// matches it, when it was published.
    ///
    /// A client that has several such subscriptions counts for each, and what their filters say is not known yet. A
    /// client whose request is still being answered is not counted, as its answer may turn out to be no stream. If it is one,
    /// the client gets the event all the same.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients
    }
}

/// Where a subscription starts, for a client that does not resume.
///
/// A client that came with a `Last-Event-ID` goes on after it in every topic that is subscribed to before its stream
/// begins, wherever that subscription would have started. A subscription that is made later starts as it says: with
/// [`LastEventId`](Self::LastEventId) where the client was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Now,
    /// With the oldest retained event.
    Oldest,
    /// With the last so many events, as far as they are retained.
    Last(usize),
    /// After this position. If not everything after it is retained, or if it is one of another registry or of the time before a restart, the client
    /// is told of a gap.
    After(Position),
    /// Where the client was cut off, by the `Last-Event-ID` that it came with, also for a subscription that is made when the stream is
    /// open: for topics that a page adds again after each reconnect. If not everything after it is retained, the client is told of a gap.
    /// A client that brought no `Last-Event-ID` starts with what is published from now on.
    LastEventId,
}
