//! Fewer frames for topics that change faster than anyone can look.

use std::{fmt, num::NonZeroU32, time::Duration};

/// The shortest time between two frames of the registry's events in one stream.
///
/// What is published in between waits, in the log and not in a queue, and goes out as one frame when the time is over. What is
/// more than about 64 KiB follows at once. Heartbeats and the handler's own bytes do not wait.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Batching, Registry, SseLayer};
///
/// let registry = Registry::new();
/// // No more than 20 frames a second.
/// let layer = SseLayer::new(&registry).batching(Batching::every(Duration::from_millis(50)));
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// In few bytes, as every stream keeps it: whether it is an array, and the milliseconds and one, of which the most are for ever.
    packed: NonZeroU32,
}

/// The bit that says that it is an array.
const ARRAY: u32 = 1 << 31;
const FOR_EVER: u32 = ARRAY - 1;

impl Batching {
    /// At least so long between two frames. Millisecond resolution; zero is no batching, and more than 24 days are for ever.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        let ms = u32::try_from(interval.as_nanos().div_ceil(1_000_000)).unwrap_or(FOR_EVER);
        Self { packed: NonZeroU32::MIN.saturating_add(ms.min(FOR_EVER - 1)) }
    }

    pub(crate) fn interval(self) -> Duration {
        match self.packed.get() & !ARRAY {
            FOR_EVER => Duration::MAX,
            ms_and_one => Duration::from_millis(u64::from(ms_and_one) - 1),
        }
    }

    pub(crate) fn is_array(self) -> bool {
        self.packed.get() & ARRAY != 0
    }

    /// Sends all events of a frame as one, of the type `batch`, whose data is a JSON array in the order of publishing:
    ///
    /// ```text
    /// event: batch
    /// data: [{"topic":"prices/AAPL","event":"tick","data":187.42},{"topic":"prices/MSFT","data":"no JSON"}]
    /// id: 1763612345678-4-7k3m9p2xr
    /// ```
    ///
    /// Data that is JSON is put in as it is, other data as a string. The id is that of the last one: a client that
    /// resumes with it misses nothing. What has no data (a reconnection time) goes out before it.
    ///
    /// Cost: it is put together for each client.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    #[must_use]
    pub fn as_array(self) -> Self {
        Self { packed: self.packed | ARRAY }
    }
}

impl fmt::Debug for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batching").field("interval", &self.interval()).field("is_array", &self.is_array()).finish()
    }
}
