//! How a registry is set up: what it retains, and for how many.

use std::{sync::Arc, time::Duration};

use crate::{
    client::{ClientHandle, ClientSettings, Observer, PresenceKey},
    event::Event,
    limit::Limit,
    log::Retention,
    topics::{LastWord, TopicSettings},
};

/// How a [`Registry`](crate::Registry) is set up.
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
}

impl RegistryConfig {
    /// How much all topics together retain. Default: 64 MiB, no bound on events or age.
    ///
    /// This bounds the registry's memory: no number of topics or events makes it take more, except for about 2 MiB of joined
    /// frames, for the clients, for the names of topics that have subscribers or a live [`Producer`](crate::Producer), and for what is remembered
    /// of what is gone: the names of 8,192 topics, and 16,384 ids of events' own with the names of their topics.
    ///
    /// The oldest goes first, be it an event, or a topic of which nothing is left but that its producer has ended it. The logs of
    /// patterns take at most about a quarter of it: see [`patterns_per_client`](Self::patterns_per_client).
    #[must_use]
    pub fn total_retention(mut self, retention: Retention) -> Self {
        self.topics.total_retention = retention;
        self
    }

    /// How much each topic retains. Default: 16 MiB, or a quarter of what [all topics together](Self::total_retention) retain if
    /// that is less; no bound on events or age.
    ///
    /// With the default, 20,000 tokens of an answer stay whole if their events have 450 bytes each, and a topic
    /// that is published on without end leaves three quarters of the memory to the others. An event that is larger than the
    /// default bound is published all the same, and is the only one of its topic then; a bound that is set refuses it.
    #[must_use]
    pub fn topic_retention(mut self, retention: Retention) -> Self {
        (self.topics.topic_retention, self.topics.topic_retention_by) = (Some(retention), None);
        self
    }

    /// How much a topic retains, by its name. It is asked when a topic comes into being. A topic that gets
    /// [`Retention::default`] has no bound of its own, and can push out the events of all others.
    #[must_use]
    pub fn topic_retention_by(mut self, retention: impl Fn(&str) -> Retention + Send + Sync + 'static) -> Self {
        self.topics.topic_retention_by = Some(Arc::new(retention));
        self
    }

    /// Limits the streams of all layers together that have this registry: see [`Limit`]. Default: no limit. With more than one, there has to be room in
    /// each.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.clients.limits.push(limit);
        self
    }

    /// How many topics one client can be subscribed to. Default: 1,000.
    #[must_use]
    pub fn subscriptions_per_client(mut self, limit: usize) -> Self {
        self.clients.subscriptions_per_client = limit;
        self
    }

    /// How many patterns one client can be subscribed to, as a part of its
    /// [subscriptions](Self::subscriptions_per_client). Default: 16. One more is refused, with
    /// [`SubscribeError::TooManyPatterns`](crate::SubscribeError::TooManyPatterns).
    ///
    /// Each event costs its publisher some time for every pattern that matches its topic and has subscribers, and a row of about
    /// 60 bytes in the log of that pattern, which those with the same pattern share. All those logs together take at most a quarter of
    /// what is [retained](Self::total_retention). Where that is not enough, those that have more than an equal share lose their oldest rows:
    /// the events stay in their topics, and whoever reads the pattern from there is told of a gap.
    #[must_use]
    pub fn patterns_per_client(mut self, limit: usize) -> Self {
        self.clients.patterns_per_client = limit;
        self
    }

    /// Ends streams that read nothing for so long although events wait for them, as the peer takes no bytes. `None`:
    /// never. Default: one minute.
    ///
    /// Such a client leaves its topics and is over, as [`CloseReason::Stalled`](crate::CloseReason::Stalled); its stream ends when its body is next polled.
    /// Its slots of [limits](crate::Limit) are free for others. A client that was closed, and does not take its end, is found in the same way.
    /// It is found within one and a half of that time, as long as anything is published or any stream has a heartbeat. Its socket is
    /// the server's to close: `TCP_USER_TIMEOUT`, or HTTP/2 keep-alive, as in `examples/support/sockets.rs`.
    ///
    /// Cost: a look at each client four times in that time, some 50 ns each, by whoever publishes then.
    #[must_use]
    pub fn stalled_client_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.clients.stalled_client_timeout = timeout.into();
        self
    }

    /// How long what a [`Producer`](crate::Producer) wrote can be read after its end. Default: five minutes.
    ///
    /// After that, the topic is forgotten when next something is published or subscribed to: a bounded piece of that work with
    /// each call. Whoever is subscribed to it then still comes to its end. It goes earlier if it is the oldest of all that
    /// is [retained](Self::total_retention), and that is more than may be.
    #[must_use]
    pub fn ended_topic_ttl(mut self, time: Duration) -> Self {
        self.topics.ended_topic_ttl = time;
        self
    }

    /// The last event of a topic whose [`Producer`](crate::Producer) fails without one of the program's: it is dropped without an end, its task panics or is
    /// aborted, its stream gives an error. `None`: there is none, and readers are told only by the status that they get when they come back.
    ///
    /// Default: an event of the type `failed` with JSON data that names the topic:
    ///
    /// ```text
    /// event: failed
    /// data: {"topic":"answers/42"}
    /// ```
    ///
    /// An id of the event's own is not sent: it has that of its topic's events. Where the event is larger than what may be retained, there is none.
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

    /// The last event of a topic whose producer is [cancelled](crate::Registry::cancel_producer) without one of the program's: as [`failed_event`](Self::failed_event).
    /// Default: an event of the type `cancelled` with JSON data that names the topic.
    #[must_use]
    pub fn cancelled_event(mut self, event: impl Into<Option<Event>>) -> Self {
        self.topics.cancelled_event = LastWord::own(event.into());
        self
    }

    /// Tells an [`Observer`] of what happens. Default: nobody. With more than one, each is told, in this order.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.clients.observers.push(observer);
        self
    }

    /// Whose a client is, for [`Presence`](crate::Presence): clients with the same key are one member. Default, and where
    /// it gives `None`: each client is a member of its own.
    ///
    /// It is asked once for each client, outside all locks: when its stream begins, or when it first subscribes if that is later.
    /// What it looks at has to be known by then. A client that has no stream is not asked for.
    #[must_use]
    pub fn presence_key(mut self, key: impl Fn(&ClientHandle) -> Option<String> + Send + Sync + 'static) -> Self {
        self.clients.presence_key = Some(PresenceKey::new(key));
        self
    }

    /// How long a member stays present when its last client has gone, so that one who reconnects neither leaves nor joins. Default: ten
    /// seconds, as browsers come back after three to five.
    #[must_use]
    pub fn presence_grace(mut self, grace: Duration) -> Self {
        self.clients.presence_grace = grace;
        self
    }
}
