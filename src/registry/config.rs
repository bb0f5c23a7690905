//! How a registry is set up: what it retains, and for how many.

use std::{fmt, sync::Arc, time::Duration};

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
    topic_retention: Retention,
    topic_retention_by: Option<RetentionBy>,
    pub(super) subscriptions_per_client: usize,
}

type RetentionBy = Arc<dyn Fn(&str) -> Retention + Send + Sync>;

impl RegistryConfig {
    /// How much all topics together retain. Default: 64 MiB, no bound on events or age.
    ///
    /// This is what bounds the registry's memory: no number of topics or events makes it take more, save for some 2 MiB
    /// of joined frames, and for the clients and the topics that they are subscribed to.
    #[must_use]
    pub fn retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// How much each topic retains. Default: 1,000 events, no bound on bytes or age.
    #[must_use]
    pub fn topic_retention(self, retention: Retention) -> Self {
        Self { topic_retention: retention, topic_retention_by: None, ..self }
    }

    /// How much a topic retains, by its name. It is asked when a topic comes into being.
    #[must_use]
    pub fn topic_retention_by(self, retention: impl Fn(&str) -> Retention + Send + Sync + 'static) -> Self {
        Self { topic_retention_by: Some(Arc::new(retention)), ..self }
    }

    /// How many topics one client can be subscribed to. Default: 1,000.
    #[must_use]
    pub fn subscriptions_per_client(self, limit: usize) -> Self {
        Self { subscriptions_per_client: limit, ..self }
    }

    pub(super) fn topic_retention_of(&self, topic: &str) -> Retention {
        self.topic_retention_by.as_ref().map_or(self.topic_retention, |by| by(topic))
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            retention: Retention::default().bytes(64 << 20),
            topic_retention: Retention::default().events(1000),
            topic_retention_by: None,
            subscriptions_per_client: 1000,
        }
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("retention", &self.retention)
            .field("topic_retention", &self.topic_retention)
            .field("topic_retention_by", &self.topic_retention_by.is_some())
            .field("subscriptions_per_client", &self.subscriptions_per_client)
            .finish()
    }
}

/// How much is retained: the oldest events go as soon as one of the bounds is passed.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::Retention;
///
/// let last_value = Retention::default().events(1);
/// let an_hour = Retention::default().age(Duration::from_secs(3600)).bytes(8 << 20);
/// # let _ = (last_value, an_hour);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) age: Option<Duration>,
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

    /// The time before which events are too old.
    pub(super) fn horizon(&self, now_ms: u64) -> Option<u64> {
        let age = u64::try_from(self.age?.as_millis()).unwrap_or(u64::MAX);
        now_ms.checked_sub(age)
    }
}

impl Default for Retention {
    /// No bound on events, bytes or age.
    fn default() -> Self {
        Self { events: usize::MAX, bytes: usize::MAX, age: None }
    }
}
