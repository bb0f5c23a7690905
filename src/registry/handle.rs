//! The handle to the shared home of topics and clients.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{config::RegistryConfig, producer::Producer, producer_error::ProducerError, topic_state::TopicState};
use crate::{
    client::{Client, ClientHandle, ClientPool, Shared, Stats},
    event::{ClientId, Event},
    limit::{Admission, Limit},
    log::{Position, TopicError, topic_name},
    presence::Presence,
    sync::lock,
    topics::{Deferred, PublishError, Receipt},
};

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
/// let receipt = registry.publish("prices/AAPL", Event::data("187.42").event("tick"))?;
/// assert_eq!(receipt.subscribers(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    pub(crate) shared: Arc<Shared>,
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
        Self { shared: Arc::new(Shared::new(config.topics, config.clients)) }
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
    /// [`PublishError`] if the topic name is invalid, if the event is larger than what may be retained, or if the topic has ended.
    pub fn publish(&self, topic: impl AsRef<str>, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        let topic = topic.as_ref();
        topic_name::check(topic)?;
        self.shared.publish(topic, event.borrow(), None)
    }

    /// Starts a producer for a topic. The producer fills the topic and marks its end: see [`Producer`].
    ///
    /// If the topic has ended, it begins anew. What is retained of it stays in front.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if the topic name is invalid, or if the topic has a producer.
    pub fn start_producer(&self, topic: impl AsRef<str>) -> Result<Producer, ProducerError> {
        topic_name::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), false)
    }

    /// Gives a topic to a producer, and stops the producer that it has, if any: what that one writes from now on is refused.
    ///
    /// # Errors
    ///
    /// [`ProducerError::Topic`] if the topic name is invalid.
    pub fn replace_producer(&self, topic: impl AsRef<str>) -> Result<Producer, ProducerError> {
        topic_name::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), true)
    }

    /// Stops the producer of a topic, and ends the topic, which is then [cancelled](TopicState::Cancelled). Returns `false` if the topic has no producer.
    ///
    /// Its readers are told with the event that [`RegistryConfig::cancelled_event`] says, and get no 204: see [`Producer`].
    pub fn cancel_producer(&self, topic: impl AsRef<str>) -> bool {
        Producer::cancel(&self.shared, topic.as_ref())
    }

    /// The same, with an event of the program's as the last one, in one step: nobody gets it without the end, or the end without it.
    /// `false`: the topic has no producer, and nothing is published.
    ///
    /// # Errors
    ///
    /// [`PublishError::TooLarge`]: the producer goes on.
    pub fn cancel_producer_with(
        &self,
        topic: impl AsRef<str>,
        event: impl Borrow<Event>,
    ) -> Result<bool, PublishError> {
        Producer::cancel_producer_with(&self.shared, topic.as_ref(), event.borrow())
    }

    /// How a topic is filled. Returns `None` if the topic does not exist, or was forgotten.
    #[must_use]
    pub fn topic_state(&self, topic: impl AsRef<str>) -> Option<TopicState> {
        let mut deferred = Deferred::default();
        let order = self.shared.topics.order(&mut deferred);
        let topic = order.topic(topic.as_ref())?;
        let state = lock(&topic.state);
        Some(match state.production {
            Some(_) => TopicState::Producing,
            None => TopicState::of(topic.end()),
        })
    }

    /// Whose open streams are subscribed to a topic, or to a pattern, by just that name: see [`Presence`].
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the name is invalid.
    pub fn presence(&self, name: impl AsRef<str>) -> Result<Presence, TopicError> {
        topic_name::check_pattern(name.as_ref())?;
        Ok(self.shared.presence(name.as_ref()))
    }

    /// All clients whose streams are open. A client whose request is still being answered is not among them.
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
        client_pool: &ClientPool,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) -> Arc<Client> {
        client_pool.client(&self.shared, last_event_id, admission, is_head)
    }

    /// What limits all of its streams.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.shared.settings.limits
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
        self.shared.topics.position()
    }

    /// Counts clients, topics and events at this moment.
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

impl ClientHandle {
    /// The registry that the client belongs to.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry::from_shared(Arc::clone(self.client.shared()))
    }
}
