//! A clock that never goes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The wall-clock time at which it was made, and the monotonic time since then. It never goes back and never jumps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start_ms: u64,
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        Self { start_ms, start: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the time since the clock was made, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        nanoseconds(self.elapsed())
    }

    /// Returns the time after this duration, in nanoseconds. A duration that is too long gives `u64::MAX`, which is
    /// never.
    pub(crate) fn after(&self, time: Duration) -> u64 {
        self.now().saturating_add(nanoseconds(time))
    }

    /// Returns the instant at so many nanoseconds of the clock. `None`: the instant cannot be represented.
    pub(crate) fn instant(&self, nanoseconds: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(nanoseconds)).filter(|_| nanoseconds < u64::MAX)
    }

    pub(crate) fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// Returns the milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms(self.elapsed())
    }

    /// Returns the milliseconds since the Unix epoch, so long after the clock was made.
    pub(crate) fn ms(&self, elapsed: Duration) -> u64 {
        self.start_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Returns the duration in nanoseconds, at most 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
