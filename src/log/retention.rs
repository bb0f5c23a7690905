//! How much is retained.

use std::time::Duration;

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
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Option<Duration>,
    pub(crate) lag: Lag,
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
        Self { events: usize::MAX, bytes: usize::MAX, age: None, lag: Lag::Tell, takes_large: false }
    }
}
