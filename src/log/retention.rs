//! How much is retained.

use std::time::Duration;

/// How much is retained. The oldest events are evicted as soon as one of the bounds is exceeded.
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
    /// An event that does not fit in alone is retained alone.
    takes_large: bool,
}

/// What happens to a client that falls behind what a topic retains, so that it misses events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlowClientPolicy {
    /// The client is told of a [gap](crate::Gap), and goes on at the oldest retained event.
    #[default]
    NotifyGap,
    /// The client's stream ends, with [`CloseReason::Lagged`](crate::CloseReason::Lagged). The client reconnects, is told of the gap,
    /// and its handler can send what it needs.
    Disconnect {
        /// How long it is asked to wait before it comes back, on average: each one between half of that and one and a
        /// half, so that not all come at once.
        reconnect_delay: Duration,
    },
    /// The client goes on at the oldest retained event, and is told nothing. With one retained event, the topic is a last-value
    /// cache.
    SkipSilently,
}

impl Retention {
    /// Retains at most this many events. Default: no bound. 0 means 1, as at least one event is always retained.
    #[must_use]
    pub fn events(self, events: usize) -> Self {
        Self { events: events.max(1), ..self }
    }

    /// Retains at most this many bytes of memory, bookkeeping included. Default: no bound. An event that is larger is refused.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Retains events for at most this long, with a resolution of a millisecond. Default: no bound. The clock is monotonic.
    ///
    /// What is older is not delivered to a client that starts or resumes. Its memory is given back when next something
    /// is published on the topic, or anywhere if it is the registry's own age bound.
    #[must_use]
    pub fn age(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// What happens to clients that fall behind. Default: [`SlowClientPolicy::NotifyGap`]. It has no effect in
    /// [`RegistryConfig::retention`](crate::RegistryConfig::retention): each topic's own setting counts.
    #[must_use]
    pub fn slow_client_policy(self, policy: SlowClientPolicy) -> Self {
        Self { slow_client_policy: policy, ..self }
    }

    /// What a topic retains if nothing is said, of so much in all.
    pub(crate) fn of_a_topic(all: Self) -> Self {
        Self { takes_large: true, ..Self::default() }.bytes((all.bytes / 4).min(16 << 20))
    }

    /// How large an event may be.
    pub(crate) fn largest(&self) -> usize {
        if self.takes_large { usize::MAX } else { self.bytes }
    }

    /// The time before which events are too old.
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
