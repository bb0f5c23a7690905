//! Time that never goes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The wall clock when it was made, and the time since then: it never goes back and never jumps.
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

    /// The time since it was made, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        nanoseconds(self.elapsed())
    }

    /// So long from now. What is too long to be counted is never.
    pub(crate) fn after(&self, time: Duration) -> u64 {
        self.now().saturating_add(nanoseconds(time))
    }

    /// When it has gone for so many nanoseconds. `None`: not in the time that this machine can count.
    pub(crate) fn instant(&self, nanoseconds: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(nanoseconds)).filter(|_| nanoseconds < u64::MAX)
    }

    pub(crate) fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms(self.elapsed())
    }

    /// The same, so long after it was made.
    pub(crate) fn ms(&self, elapsed: Duration) -> u64 {
        self.start_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What is more than 584 years counts as that.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
