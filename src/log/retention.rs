//! How much a topic or a registry retains, and what happens to slow clients.

use std::time::Duration;

/// How much a topic or a registry retains.
///
/// The oldest events are evicted when one of the bounds is exceeded.
///
/// Default: no bound on events, bytes or age, and [`SlowClientPolicy::NotifyGap`].
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{SlowClientPolicy, Retention};
///
/// let last_value = Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently);
/// let an_hour = Retention::default().age(Duration::from_secs(3600)).bytes(8 << 20);
/// # let _ = (last_value, an_hour);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Option<Duration>,
    pub(crate) slow_client_policy: SlowClientPolicy,
    /// An event that is larger than the bound is retained alone.
    takes_large: bool,
}

/// What happens to a client that falls behind the retained events and misses some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlowClientPolicy {
    /// The client is notified of a [gap](crate::Gap), and continues at the oldest retained event.
    #[default]
    NotifyGap,
    /// The client's stream ends with [`CloseReason::FellBehind`](crate::CloseReason::FellBehind).
    ///
    /// When the client reconnects, it is notified of the gap, and its handler can send a snapshot.
    Disconnect {
        /// The average time that the client is asked to wait before it reconnects.
        ///
        /// Each client gets a random value between half of it and one and a half times it, so that the clients do not
        /// all reconnect at once.
        reconnect_delay: Duration,
    },
    /// The client continues at the oldest retained event, without a notification.
    ///
    /// With one retained event, the topic is a last-value cache.
    SkipSilently,
}

impl Retention {
    /// Retains at most this many events. Default: no bound.
    ///
    /// At least one event is always retained, so 0 means 1.
    #[must_use]
    pub fn events(self, events: usize) -> Self {
        Self { events: events.max(1), ..self }
    }

    /// Retains at most this many bytes of memory, with the bookkeeping.
    ///
    /// Default: no bound.
    ///
    /// A larger event is refused with [`PublishError::TooLarge`](crate::PublishError::TooLarge).
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Retains events for at most this long. Default: no bound.
    ///
    /// The resolution is one millisecond, and the clock is monotonic.
    ///
    /// Older events are not delivered to a client that starts or resumes. A topic's own bound frees their memory at the
    /// next publish on that topic. The registry's bound frees it at the next publish on any topic.
    #[must_use]
    pub fn age(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// Sets what happens to clients that fall behind.
    ///
    /// Default: [`SlowClientPolicy::NotifyGap`].
    ///
    /// It has no effect in [`RegistryConfig::total_retention`](crate::RegistryConfig::total_retention): the setting of
    /// each topic counts.
    #[must_use]
    pub fn slow_client_policy(self, policy: SlowClientPolicy) -> Self {
        Self { slow_client_policy: policy, ..self }
    }

    /// Returns the default retention of a topic, for this total retention.
    pub(crate) fn of_a_topic(all: Self) -> Self {
        Self { takes_large: true, ..Self::default() }.bytes((all.bytes / 4).min(16 << 20))
    }

    /// Returns how many bytes an event may take.
    pub(crate) fn largest(&self) -> usize {
        if self.takes_large { usize::MAX } else { self.bytes }
    }

    /// Returns the time before which events are too old, in milliseconds since the Unix epoch.
    pub(crate) fn horizon(&self, now_ms: u64) -> Option<u64> {
        let age = u64::try_from(self.age?.as_millis()).unwrap_or(u64::MAX);
        now_ms.checked_sub(age)
    }
}

impl Default for Retention {
    /// No bound on events, bytes or age.
    fn default() -> Self {
        Self {
            events: usize::MAX,
            bytes: usize::MAX,
            age: None,
            slow_client_policy: SlowClientPolicy::NotifyGap,
            takes_large: false,
        }
    }
}
