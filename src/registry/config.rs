//! How a registry is set up: what it retains, and for how many.

use std::{fmt, sync::Arc, time::Duration};

use super::{presence, produce::LastWord};
use crate::{ClientHandle, Event, Limit, Observer, observe::Observers};

/// How a [`Registry`](crate::Registry) is set up.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Registry, RegistryConfig, Retention};
///
/// let registry = Registry::with_config(
///     RegistryConfig::default()
///         .retention(Retention::default().bytes(256 << 20))
///         .topic_retention_by(|topic| match topic.starts_with("state/") {
///             true => Retention::default().events(1),
///             false => Retention::default().events(10_000).age(Duration::from_secs(3600)),
///         }),
/// );
/// # let _ = registry;
/// ```
#[derive(Clone)]
pub struct RegistryConfig {
    pub(super) retention: Retention,
    topic_retention: Option<Retention>,
    topic_retention_by: Option<RetentionBy>,
    pub(super) limits: Vec<Limit>,
    pub(super) subscriptions_per_client: usize,
    pub(super) patterns_per_client: usize,
    pub(super) stuck_after: Option<Duration>,
    pub(super) forget_ended_after: Duration,
    pub(super) failed_event: LastWord,
    pub(super) cancelled_event: LastWord,
    pub(super) observers: Observers,
    pub(super) presence_key: Option<PresenceKey>,
    pub(super) presence_grace: Duration,
}

/// Says whose a client is.
#[derive(Clone)]
pub(super) struct PresenceKey(Arc<KeyOf>);

type KeyOf = dyn Fn(&ClientHandle) -> Option<String> + Send + Sync;

impl PresenceKey {
    pub(super) fn of(&self, client: &ClientHandle) -> Option<String> {
        (self.0)(client)
    }
}

type RetentionBy = Arc<dyn Fn(&str) -> Retention + Send + Sync>;

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
    pub fn retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// How much each topic retains. Default: 16 MiB, or a quarter of what [all topics together](Self::retention) retain if
    /// that is less; no bound on events or age.
    ///
    /// With the default, 20,000 tokens of an answer stay whole if their events have 450 bytes each, and a topic
    /// that is published on without end leaves three quarters of the memory to the others. An event that is larger than the
    /// default bound is published all the same, and is the only one of its topic then; a bound that is set refuses it.
    #[must_use]
    pub fn topic_retention(self, retention: Retention) -> Self {
        Self { topic_retention: Some(retention), topic_retention_by: None, ..self }
    }

    /// How much a topic retains, by its name. It is asked when a topic comes into being. A topic that gets
    /// [`Retention::default`] has no bound of its own, and can push out the events of all others.
    #[must_use]
    pub fn topic_retention_by(self, retention: impl Fn(&str) -> Retention + Send + Sync + 'static) -> Self {
        Self { topic_retention_by: Some(Arc::new(retention)), ..self }
    }

    /// Limits the streams of all layers together that have this registry: see [`Limit`]. Default: no limit. With more than one, there has to be room in
    /// each.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// How many topics one client can be subscribed to. Default: 1,000.
    #[must_use]
    pub fn subscriptions_per_client(self, limit: usize) -> Self {
        Self { subscriptions_per_client: limit, ..self }
    }

    /// How many patterns one client can be subscribed to, as a part of its
    /// [subscriptions](Self::subscriptions_per_client). Default: 16. One more is refused, with
    /// [`SubscribeError::TooManyPatterns`](crate::SubscribeError::TooManyPatterns).
    ///
    /// Each event costs its publisher some time for every pattern that matches its topic and has subscribers, and a row of about
    /// 60 bytes in the log of that pattern, which those with the same pattern share. All those logs together take at most a quarter of
    /// what is [retained](Self::retention). Where that is not enough, those that have more than an equal share lose their oldest rows:
    /// the events stay in their topics, and whoever reads the pattern from there is told of a gap.
    #[must_use]
    pub fn patterns_per_client(self, limit: usize) -> Self {
        Self { patterns_per_client: limit, ..self }
    }

    /// Ends streams that read nothing for so long although events wait for them, as the peer takes no bytes. `None`:
    /// never. Default: one minute.
    ///
    /// Such a client leaves its topics and is over, as [`CloseReason::Stuck`](crate::CloseReason::Stuck); its stream ends when its body is next polled.
    /// Its places in [limits](crate::Limit) are free for others. A client that was closed, and does not take its end, is found in the same way.
    /// It is found within one and a half of that time, as long as anything is published or any stream has a heartbeat. Its socket is
    /// the server's to close: `TCP_USER_TIMEOUT`, or HTTP/2 keep-alive, as in `examples/support/sockets.rs`.
    ///
    /// Cost: a look at each client four times in that time, some 50 ns each, by whoever publishes then.
    #[must_use]
    pub fn stuck_after(self, patience: impl Into<Option<Duration>>) -> Self {
        Self { stuck_after: patience.into(), ..self }
    }

    /// How long what a [`Producer`](crate::Producer) wrote can be read after its end. Default: five minutes.
    ///
    /// After that, the topic is forgotten when next something is published or subscribed to: a bounded piece of that work with
    /// each call. Whoever is subscribed to it then still comes to its end. It goes earlier if it is the oldest of all that
    /// is [retained](Self::retention), and that is more than may be.
    #[must_use]
    pub fn forget_ended_after(self, time: Duration) -> Self {
        Self { forget_ended_after: time, ..self }
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
    /// let config = RegistryConfig::default().failed_event(Event::data("failed").event("end")?);
    /// # let _ = config.failed_event(None);
    /// # Ok::<(), tower_sse::EventError>(())
    /// ```
    #[must_use]
    pub fn failed_event(self, event: impl Into<Option<Event>>) -> Self {
        Self { failed_event: LastWord::own(event.into()), ..self }
    }

    /// The last event of a topic whose producer is [cancelled](crate::Registry::cancel) without one of the program's: as [`failed_event`](Self::failed_event).
    /// Default: an event of the type `cancelled` with JSON data that names the topic.
    #[must_use]
    pub fn cancelled_event(self, event: impl Into<Option<Event>>) -> Self {
        Self { cancelled_event: LastWord::own(event.into()), ..self }
    }

    /// Tells an [`Observer`] of what happens. Default: nobody. With more than one, each is told, in this order.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(observer);
        self
    }

    /// Whose a client is, for [`Presence`](crate::Presence): clients with the same key are one member. Default, and where
    /// it gives `None`: each client is a member of its own.
    ///
    /// It is asked once for each client, outside all locks: when its stream begins, or when it first subscribes if that is later.
    /// What it looks at has to be known by then. A client that has no stream is not asked for.
    #[must_use]
    pub fn presence_key(self, key: impl Fn(&ClientHandle) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { presence_key: Some(PresenceKey(Arc::new(key))), ..self }
    }

    /// How long a member stays present when its last client has gone, so that one who reconnects neither leaves nor joins. Default: ten
    /// seconds, as browsers come back after three to five.
    #[must_use]
    pub fn presence_grace(self, grace: Duration) -> Self {
        Self { presence_grace: grace, ..self }
    }

    pub(super) fn topic_retention_of(&self, topic: &str) -> Retention {
        match &self.topic_retention_by {
            Some(by) => by(topic),
            None => self.topic_retention.unwrap_or_else(|| Retention::of_a_topic(self.retention)),
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            retention: Retention::default().bytes(64 << 20),
            topic_retention: None,
            topic_retention_by: None,
            limits: Vec::new(),
            subscriptions_per_client: 1000,
            patterns_per_client: 16,
            stuck_after: Some(Duration::from_secs(60)),
            forget_ended_after: Duration::from_secs(300),
            failed_event: LastWord::FAILED,
            cancelled_event: LastWord::CANCELLED,
            observers: Observers::default(),
            presence_key: None,
            presence_grace: presence::GRACE,
        }
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("retention", &self.retention)
            .field("topic_retention", &self.topic_retention)
            .field("topic_retention_by", &self.topic_retention_by.is_some())
            .field("limits", &self.limits)
            .field("subscriptions_per_client", &self.subscriptions_per_client)
            .field("patterns_per_client", &self.patterns_per_client)
            .field("stuck_after", &self.stuck_after)
            .field("forget_ended_after", &self.forget_ended_after)
            .field("failed_event", &self.failed_event)
            .field("cancelled_event", &self.cancelled_event)
            .field("observers", &self.observers)
            .field("presence_key", &self.presence_key.is_some())
            .field("presence_grace", &self.presence_grace)
            .finish()
    }
}

/// How much is retained: the oldest events go as soon as one of the bounds is passed.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Lag, Retention};
///
/// let last_value = Retention::default().events(1).on_lag(Lag::Skip);
/// let an_hour = Retention::default().age(Duration::from_secs(3600)).bytes(8 << 20);
/// # let _ = (last_value, an_hour);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) age: Option<Duration>,
    pub(super) lag: Lag,
    /// An event that does not fit in alone is retained alone.
    takes_large: bool,
}

/// What becomes of a client that has fallen behind what a topic retains: events that it should have had are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Lag {
    /// It is told of a [gap](crate::Gap), and goes on at the oldest retained event.
    #[default]
    Tell,
    /// Its stream ends, and [closes](crate::CloseReason::Lagged): it comes back and resumes, is then told of the gap, and has its
    /// handler send what it needs.
    End {
        /// How long it is asked to wait before it comes back, on average: each one between half of that and one and a
        /// half, so that not all come at once.
        retry: Duration,
    },
    /// It goes on at the oldest retained event and is told nothing: with a retention of one event, a last-value cache.
    Skip,
}

impl Retention {
    /// At most so many events. At least one is always retained: 0 means 1.
    #[must_use]
    pub fn events(self, events: usize) -> Self {
        Self { events: events.max(1), ..self }
    }

    /// At most so many bytes of memory, what the bookkeeping takes included. An event that does not fit in alone is refused.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Events only for so long, by a clock that does not jump. Millisecond resolution.
    ///
    /// What is older is not delivered to a client that starts or resumes. Its memory is given back when next something
    /// is published on the topic, or anywhere if it is the registry's own age bound.
    #[must_use]
    pub fn age(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// What becomes of clients that fall behind. Default: [`Lag::Tell`]. It means nothing for all topics together:
    /// each topic's own counts.
    #[must_use]
    pub fn on_lag(self, lag: Lag) -> Self {
        Self { lag, ..self }
    }

    /// What a topic retains if nothing is said, of so much in all.
    fn of_a_topic(all: Self) -> Self {
        Self { takes_large: true, ..Self::default() }.bytes((all.bytes / 4).min(16 << 20))
    }

    /// How large an event may be.
    pub(super) fn largest(&self) -> usize {
        if self.takes_large { usize::MAX } else { self.bytes }
    }

    /// The time before which events are too old.
    pub(super) fn horizon(&self, now_ms: u64) -> Option<u64> {
        let age = u64::try_from(self.age?.as_millis()).unwrap_or(u64::MAX);
        now_ms.checked_sub(age)
    }
}

impl Default for Retention {
    /// No bound on events, bytes or age.
    fn default() -> Self {
        Self { events: usize::MAX, bytes: usize::MAX, age: None, lag: Lag::Tell, takes_large: false }
    }
}
