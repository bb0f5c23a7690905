//! The handle to a registry: publish, start producers, and find clients.

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, Weak},
};

use super::{config::RegistryConfig, producer::Producer, producer_error::ProducerError, topic_state::TopicState};
use crate::{
    client::{Client, ClientHandle, ClientPool, Shared, Stats},
    cluster::{BackplaneRefused, Cluster, Health},
    event::{ClientId, Event},
    limit::{Admission, Limit},
    log::{Position, TopicError, topic_name},
    presence::Presence,
    topics::{Deferred, PublishError, Receipt},
};

/// The shared home of topics and clients.
///
/// Publish an event on a topic, and every client that is subscribed to the topic gets the event.
///
/// A `Registry` is a handle: clones share the same topics and clients. You can publish from any thread and any task,
/// without `await`.
///
/// Published events go into one bounded log, and a client is a set of cursors into that log. So a slow client holds no
/// memory and delays nobody. A client that reconnects with a `Last-Event-ID` continues where it was. A topic that
/// retains one event is a last-value cache. If a client should get an event that is no longer retained, the client is
/// notified of a [gap](crate::Gap).
///
/// [`RegistryConfig::total_retention`] bounds the memory of all events and of all topics without subscribers. The
/// oldest events of all topics are evicted first. The first publish or subscribe creates a topic. The registry forgets
/// a topic that has no events and no subscribers.
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
    /// Creates a registry with the defaults of [`RegistryConfig`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(RegistryConfig::default())
    }

    /// Creates a registry with this configuration.
    #[must_use]
    pub fn with_config(config: RegistryConfig) -> Self {
        let RegistryConfig { topics, clients, backplane, attributes } = config;
        let cluster = backplane.map(|engine| Cluster::new(engine, attributes));
        let shared = Arc::new(Shared::new(topics, clients, cluster));
        if let Some(cluster) = &shared.cluster {
            let node: Weak<Shared> = Arc::downgrade(&shared);
            cluster.is_of(node);
            cluster.start();
        }
        Self { shared }
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits until everything that the [backplane](RegistryConfig::backplane) retains is loaded.
    ///
    /// Without a backplane it is ready at once. Await it before the server accepts requests: a client that resumes earlier may be told of a
    /// gap. A request through the layer waits for it, at most 30 seconds.
    ///
    /// # Errors
    ///
    /// [`BackplaneRefused`] if the engine refuses the registry, for example because of a wrong password. While the engine is away, it waits.
    pub async fn ready(&self) -> Result<(), BackplaneRefused> {
        match self.shared.following() {
            Some(cluster) => cluster.ready().await,
            None => Ok(()),
        }
    }

    /// Waits until every event that was published here is stored by the [backplane](RegistryConfig::backplane), and was read back.
    ///
    /// Await it, with a timeout of your own, before the process ends. Without a backplane it is ready at once.
    pub async fn flushed(&self) {
        if let Some(cluster) = self.shared.following() {
            cluster.flushed().await;
        }
    }

    /// Returns how the registry stands with its [backplane](RegistryConfig::backplane).
    ///
    /// Without a backplane it is always [`Health::Following`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.following().map_or(Health::Following, |cluster| cluster.health())
    }

    /// Sends an event to one client, which may be connected to any node of the [backplane](RegistryConfig::backplane).
    ///
    /// It is [`ClientHandle::send`] for a client of which you know only the id. A client that no node has is not an error: nobody gets the
    /// event. A client of another node that has reached its limit of subscriptions does not get it.
    ///
    /// # Errors
    ///
    /// [`PublishError`] as [`ClientHandle::send`].
    pub fn send_to(&self, client: &ClientId, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        match self.shared.client(client) {
            Some(client) => client.send(event.borrow()),
            None if self.shared.cluster.is_none() => Ok(Receipt::at(self.position(), 0)),
            None => self.shared.publish(&format!("$client/{client}"), event.borrow(), None),
        }
    }

    /// Publishes an event on a topic.
    ///
    /// Every client that is subscribed to the topic gets the event. So does a client that later resumes from before the
    /// event.
    ///
    /// Cost: the event is encoded and copied once, for any number of clients. The clients that wait for an event are
    /// woken. A slow client does not delay the call.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the topic name is invalid, if the event is larger than the retention allows, if the event's
    /// own id may become the id of a later event, or if the topic has ended. With a [backplane](RegistryConfig::backplane) also
    /// [`PublishError::Busy`] and [`PublishError::Attribute`].
    pub fn publish(&self, topic: impl AsRef<str>, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        let topic = topic.as_ref();
        topic_name::check(topic)?;
        self.shared.publish(topic, event.borrow(), None)
    }

    /// Starts a producer, which fills a topic and marks its end: see [`Producer`].
    ///
    /// If the topic has ended, it begins again. The events that it retains stay in front of the new ones.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if the topic name is invalid, if the topic has a producer, or if the outbox to the
    /// [backplane](RegistryConfig::backplane) is full.
    pub fn start_producer(&self, topic: impl AsRef<str>) -> Result<Producer, ProducerError> {
        topic_name::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), false)
    }

    /// Starts the producer of a recording, whose topic may have any name.
    pub(crate) fn start_recording(&self, topic: &str) -> Result<Producer, ProducerError> {
        let producer = Producer::begin(&self.shared, topic, false)?;
        self.shared.topics.begin_recording(topic);
        Ok(producer)
    }

    /// Waits for a moment, or until nothing is on its way to the backplane.
    pub(crate) async fn outbox_may_have_room(&self) {
        self.shared.outbox_may_have_room().await;
    }

    /// Returns how many bytes an event of this topic may have at most.
    pub(crate) fn largest_event(&self, topic: &str) -> usize {
        self.shared.topics.largest_event(topic)
    }

    /// Whether an id is one that this registry gives to events.
    pub(crate) fn is_position(&self, id: &str) -> bool {
        self.shared.topics.is_position(id)
    }

    /// Returns the last position before the current or last producer of a topic, if it had one.
    pub(crate) fn began(&self, topic: &str) -> Option<Position> {
        self.shared.topics.began(topic)
    }

    /// Whether any client is subscribed to this topic by its name.
    pub(crate) fn has_subscribers(&self, topic: &str) -> bool {
        self.shared.topics.has_subscribers(topic)
    }

    /// Starts a producer for a topic, and stops the topic's current producer.
    ///
    /// Events that the stopped producer publishes from now on are refused with [`PublishError::Replaced`].
    ///
    /// # Errors
    ///
    /// [`ProducerError::Topic`] if the topic name is invalid, [`ProducerError::OutboxFull`] if the outbox to the
    /// [backplane](RegistryConfig::backplane) is full.
    pub fn replace_producer(&self, topic: impl AsRef<str>) -> Result<Producer, ProducerError> {
        topic_name::check(topic.as_ref())?;
        Producer::begin(&self.shared, topic.as_ref(), true)
    }

    /// Stops the producer of a topic, and ends the topic as [cancelled](TopicState::Cancelled).
    ///
    /// Returns `false` if the topic has no producer, also if the topic name is invalid. The readers of the topic get the event that
    /// [`RegistryConfig::cancelled_event`] sets as the last one. A client that reconnects after the end gets a 410: see
    /// [`Producer`].
    pub fn cancel_producer(&self, topic: impl AsRef<str>) -> bool {
        Producer::cancel(&self.shared, topic.as_ref())
    }

    /// Stops the producer of a topic as [`cancel_producer`](Self::cancel_producer), with your own last event.
    ///
    /// The event and the end are one step: no reader gets one without the other. Returns `false` and publishes nothing
    /// if the topic has no producer.
    ///
    /// # Errors
    ///
    /// [`PublishError`] as [`publish`](Self::publish), such as [`PublishError::TooLarge`]. The producer then continues.
    pub fn cancel_producer_with(
        &self,
        topic: impl AsRef<str>,
        event: impl Borrow<Event>,
    ) -> Result<bool, PublishError> {
        Producer::cancel_producer_with(&self.shared, topic.as_ref(), event.borrow())
    }

    /// Returns how a topic is filled.
    ///
    /// `None` if the topic does not exist or was forgotten.
    #[must_use]
    pub fn topic_state(&self, topic: impl AsRef<str>) -> Option<TopicState> {
        if self.shared.is_produced(topic.as_ref()) {
            return Some(TopicState::Producing);
        }
        let mut deferred = Deferred::default();
        let order = self.shared.topics.order(&mut deferred);
        let topic = order.topic(topic.as_ref())?;
        Some(TopicState::of(topic.end()))
    }

    /// Returns the members that are subscribed to a topic or a pattern: see [`Presence`].
    ///
    /// The list has the clients that are subscribed by exactly this name. Cost: the first handle for a name looks at
    /// all clients.
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the name is invalid.
    pub fn presence(&self, name: impl AsRef<str>) -> Result<Presence, TopicError> {
        topic_name::check_pattern(name.as_ref())?;
        Ok(self.shared.presence(name.as_ref()))
    }

    /// Returns all clients whose streams are open.
    ///
    /// A client whose request is still being handled is not among them.
    ///
    /// Cost: a few nanoseconds for each client.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientHandle> {
        let clients = self.shared.known_clients().into_iter();
        clients.filter(|client| client.is_open()).map(ClientHandle::new).collect()
    }

    /// Creates a client without a request.
    ///
    /// It reads events in this process with [`into_events`](ClientHandle::into_events).
    ///
    /// Use it behind a WebSocket, for example.
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

    /// The limits of all streams of the registry.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.shared.settings.limits
    }

    /// Returns the client with this id.
    ///
    /// `None` if there is no such client, or if its stream has ended.
    #[must_use]
    pub fn client(&self, id: &ClientId) -> Option<ClientHandle> {
        self.shared.client(id).map(ClientHandle::new)
    }

    /// Returns the position of the newest event.
    ///
    /// If nothing was published, it is the registry's first position.
    ///
    /// Use it as the id of a handler's own first event, such as a welcome or a snapshot. A new client can then resume
    /// from that event before anything else was published. Take the position before you subscribe.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.topics.position()
    }

    /// Counts clients, topics and events at this moment.
    ///
    /// Cost: a few nanoseconds for each open stream.
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
    pub(crate) fn is_of(&self, registry: &Registry) -> bool {
        Arc::ptr_eq(self.client.shared(), &registry.shared)
    }

    /// Returns the registry that the client belongs to.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry::from_shared(Arc::clone(self.client.shared()))
    }
}
