//! The configuration of a registry: retention, limits, producers, observers and presence.

use std::{sync::Arc, time::Duration};

use crate::{
    backplane::Backplane,
    client::{ClientHandle, ClientSettings, Observer, PresenceKey},
    event::{AttributeTypes, Event},
    limit::Limit,
    log::Retention,
    topics::{LastWord, TopicSettings},
};

/// The configuration of a [`Registry`](crate::Registry).
///
/// Every setting has a default. The setters take and return the configuration by value.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Registry, RegistryConfig, Retention};
///
/// let registry = Registry::with_config(
///     RegistryConfig::default()
///         .total_retention(Retention::default().bytes(256 << 20))
///         .topic_retention_by(|topic| match topic.starts_with("state/") {
///             true => Retention::default().events(1),
///             false => Retention::default().events(10_000).age(Duration::from_secs(3600)),
///         }),
/// );
/// # let _ = registry;
/// ```
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    pub(crate) topics: TopicSettings,
    pub(crate) clients: ClientSettings,
    pub(crate) backplane: Option<Arc<dyn Backplane>>,
    pub(crate) attributes: AttributeTypes,
}

impl RegistryConfig {
    /// Sets how much all topics together retain.
    ///
    /// Default: 64 MiB, no bound on events or age.
    ///
    /// The bound in bytes is the bound of the registry's memory. It covers the retained events and the names of topics
    /// that nobody uses. It does not cover:
    ///
    /// - joined frames: about 2 MiB, and 512 KiB for each core (at most 16) once topics have 32 subscribers or more;
    /// - the clients;
    /// - the names of topics that have subscribers or a live [`Producer`](crate::Producer);
    /// - the memory of what was evicted: the names of 8,192 topics, and 16,384 ids that publishers chose, each with
    ///   the name of its topic.
    ///
    /// The registry evicts the oldest first: an event, or an ended topic that has no events left. The logs of patterns
    /// take at most about a quarter of the bound: see [`patterns_per_client`](Self::patterns_per_client).
    #[must_use]
    pub fn total_retention(mut self, retention: Retention) -> Self {
        self.topics.total_retention = retention;
        self
    }

    /// Sets how much each topic retains.
    ///
    /// Default: 16 MiB, or a quarter of the [total](Self::total_retention) if that is less; no bound on events or age.
    ///
    /// It replaces [`topic_retention_by`](Self::topic_retention_by), and the other way round: the last call counts.
    ///
    /// With the default, an answer of 20,000 tokens stays complete if its events have 450 bytes each. A topic that is
    /// published on without end leaves three quarters of the memory to the other topics.
    ///
    /// The default accepts an event that is larger than its bound. The topic then retains only that event. A bound that
    /// you set refuses such an event with [`PublishError::TooLarge`](crate::PublishError::TooLarge).
    #[must_use]
    pub fn topic_retention(mut self, retention: Retention) -> Self {
        (self.topics.topic_retention, self.topics.topic_retention_by) = (Some(retention), None);
        self
    }

    /// Sets how much each topic retains, by its name. Default: as [`topic_retention`](Self::topic_retention).
    ///
    /// The registry calls the function outside all locks when it creates a topic. A topic that gets
    /// [`Retention::default`] has no bound of its own, so its events can evict the events of all other topics.
    #[must_use]
    pub fn topic_retention_by(mut self, retention: impl Fn(&str) -> Retention + Send + Sync + 'static) -> Self {
        self.topics.topic_retention_by = Some(Arc::new(retention));
        self
    }

    /// Keeps the registry's events in an engine outside of the process: see [`backplane`](crate::backplane).
    ///
    /// Default: no backplane. The events are in the memory of this process.
    ///
    /// The registry connects by itself, in a task that it starts in the tokio runtime of the first call that needs it. While the engine is
    /// away, open streams go on, and up to 10,000 events or 4 MiB wait for it. After that, [`publish`](crate::Registry::publish) returns
    /// [`PublishError::Busy`](crate::PublishError::Busy).
    ///
    /// Events, their ends and their attributes cross to every node, and a client can resume at any of them. For each process alone are
    /// [presence](Self::presence_key), [limits](Self::limit), the closing of clients, and
    /// [`ProducerError::Busy`](crate::ProducerError::Busy): a producer that another node starts for the same topic replaces this one.
    ///
    /// The last call counts.
    #[must_use]
    pub fn backplane(mut self, engine: impl Backplane) -> Self {
        self.backplane = Some(Arc::new(engine));
        self
    }

    /// Lets [attributes](crate::Event::attribute) of this type cross to other nodes of the [backplane](Self::backplane), as JSON under a name.
    ///
    /// Default: no type. With a backplane, an event with an attribute of another type is refused with
    /// [`PublishError::Attribute`](crate::PublishError::Attribute), because a filter on another node would not see it. A node that does not
    /// know an attribute of an event gives the event to no client, and tells them of a gap.
    ///
    /// The name is what is stored. Use the same one on all nodes, and do not change it.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    #[must_use]
    pub fn attribute<T>(mut self, name: impl AsRef<str>) -> Self
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.attributes.add::<T>(name.as_ref());
        self
    }

    /// Limits the streams of all layers that share this registry: see [`Limit`].
    ///
    /// Default: no limit.
    ///
    /// You can call it several times. A stream then needs a slot of each limit.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.clients.limits.push(limit);
        self
    }

    /// Sets how many subscriptions one client may have, patterns included.
    ///
    /// Default: 1,000.
    ///
    /// One more is refused with [`SubscribeError::TooManySubscriptions`](crate::SubscribeError::TooManySubscriptions).
    #[must_use]
    pub fn subscriptions_per_client(mut self, limit: usize) -> Self {
        self.clients.subscriptions_per_client = limit;
        self
    }

    /// Sets how many patterns one client may subscribe to. Default: 16.
    ///
    /// Patterns count as [subscriptions](Self::subscriptions_per_client) too. One more is refused with
    /// [`SubscribeError::TooManyPatterns`](crate::SubscribeError::TooManyPatterns).
    ///
    /// Cost: a publisher spends time on every subscribed pattern that matches the topic. Each event takes about 60
    /// bytes in the log of each such pattern. Clients with the same pattern share one log.
    ///
    /// The logs of all patterns together take at most a quarter of the [total retention](Self::total_retention). If
    /// they need more, the logs that are larger than an equal share lose their oldest entries. The events stay in their
    /// topics, and a client that reads such a pattern from there is notified of a gap.
    #[must_use]
    pub fn patterns_per_client(mut self, limit: usize) -> Self {
        self.clients.patterns_per_client = limit;
        self
    }

    /// Sets how long a client may read nothing while events wait for it.
    ///
    /// Default: one minute. `None`: no timeout.
    ///
    /// A client is stalled if its peer takes no bytes for that long. The registry removes the client from its topics
    /// and closes it with [`CloseReason::Stalled`](crate::CloseReason::Stalled). Its slots of [limits](crate::Limit)
    /// become free. The stream itself ends when its body is next polled. A client that was closed and does not read its
    /// end is stalled too.
    ///
    /// The registry finds a stalled client within one and a half times the timeout, as long as somebody publishes or
    /// any stream has a heartbeat. The registry cannot close the socket. Let the server do that, with
    /// `TCP_USER_TIMEOUT` or HTTP/2 keep-alive, as in `examples/support/sockets.rs`.
    ///
    /// Cost: four times in each timeout, one publisher or heartbeat checks all clients, about 50 ns each.
    #[must_use]
    pub fn stalled_client_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.clients.stalled_client_timeout = timeout.into();
        self
    }

    /// Sets how long a topic stays readable after its [`Producer`](crate::Producer) has ended it.
    ///
    /// Default: five minutes.
    ///
    /// After that time, the next calls that publish or subscribe forget the topic. Each call does a bounded part of
    /// that work. A client that is still subscribed to the topic reads it to its end.
    ///
    /// The topic is evicted earlier if the [total retention](Self::total_retention) is exceeded and the topic is the
    /// oldest.
    #[must_use]
    pub fn ended_topic_ttl(mut self, time: Duration) -> Self {
        self.topics.ended_topic_ttl = time;
        self
    }

    /// Sets the last event of a topic whose [`Producer`](crate::Producer) fails without an event of its own.
    ///
    /// A producer fails so if it is dropped without an end, if its task panics or is aborted, or if its stream returns
    /// an error. `None`: no last event; a reader learns of the failure only by the status 410 when it reconnects.
    ///
    /// Default: an event of the type `failed`, with JSON data that names the topic:
    ///
    /// ```text
    /// event: failed
    /// data: {"topic":"answers/42"}
    /// ```
    ///
    /// The event gets an id of its topic; an id that you set is ignored. If the event is larger than the retention
    /// allows, the topic has no last event.
    ///
    /// ```
    /// use tower_sse::{Event, RegistryConfig};
    ///
    /// let config = RegistryConfig::default().failed_event(Event::data("failed").event("end"));
    /// # let _ = config.failed_event(None);
    /// ```
    #[must_use]
    pub fn failed_event(mut self, event: impl Into<Option<Event>>) -> Self {
        self.topics.failed_event = LastWord::own(event.into());
        self
    }

    /// Sets the last event of a topic whose producer is [cancelled](crate::Registry::cancel_producer).
    ///
    /// Default: an event of the type `cancelled`, with JSON data that names the topic. Otherwise as
    /// [`failed_event`](Self::failed_event).
    #[must_use]
    pub fn cancelled_event(mut self, event: impl Into<Option<Event>>) -> Self {
        self.topics.cancelled_event = LastWord::own(event.into());
        self
    }

    /// Adds an [`Observer`] that is notified of what happens. Default: no observer.
    ///
    /// You can call it several times. The observers are notified in the order in which they were added.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.clients.observers.push(observer);
        self
    }

    /// Sets how clients are grouped into members, for [`Presence`](crate::Presence).
    ///
    /// Default: each client is a member of its own.
    ///
    /// Clients with the same key are one member. A client whose key is `None` is a member of its own.
    ///
    /// The registry calls the function once for each client, outside all locks: when the client's stream begins, or at
    /// its first subscription if that is later. The metadata that the function reads must be set by then. The registry
    /// does not call it for a client that has no stream.
    #[must_use]
    pub fn presence_key(mut self, key: impl Fn(&ClientHandle) -> Option<String> + Send + Sync + 'static) -> Self {
        self.clients.presence_key = Some(PresenceKey::new(key));
        self
    }

    /// Sets how long a member stays present after its last client has disconnected.
    ///
    /// Default: ten seconds.
    ///
    /// A member that reconnects within that time neither leaves nor joins. Browsers reconnect after three to five
    /// seconds.
    #[must_use]
    pub fn presence_grace(mut self, grace: Duration) -> Self {
        self.clients.presence_grace = grace;
        self
    }
}
