//! Fewer frames for topics that change faster than a person can read.

use std::{fmt, num::NonZeroU32, time::Duration};

/// The shortest time between two frames of the registry's events in one stream.
///
/// Events that are published in this time stay in the log, not in a queue. When the time is over, they are sent as one
/// frame. Events beyond about 64 KiB follow at once in further frames. Heartbeats and the bytes of the handler's own
/// body do not wait.
///
/// Default: no batching. See [`SseLayer::batching`](crate::SseLayer::batching).
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
    /// The array flag, and the milliseconds plus one.
    ///
    /// The largest number of milliseconds means for ever. Every stream keeps this value, so it is packed into four
    /// bytes.
    packed: NonZeroU32,
}

/// The bit of the array flag.
const ARRAY: u32 = 1 << 31;
const FOR_EVER: u32 = ARRAY - 1;

impl Batching {
    /// Sends at most one frame in this time.
    ///
    /// Unit: whole milliseconds, rounded up. Zero means no batching. About 24.8 days or more means for ever: only the
    /// first frame is sent.
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

    /// Sends all events of a frame as one event of type `batch`.
    ///
    /// Its data is a JSON array of the events, in the order in which they were published:
    ///
    /// ```text
    /// event: batch
    /// data: [{"topic":"prices/AAPL","event":"tick","data":187.42},{"topic":"prices/MSFT","data":"no JSON"}]
    /// id: 1763612345678-4-7k3m9p2xr
    /// ```
    ///
    /// Data that is JSON is copied into the array unchanged. Other data becomes a JSON string. The id is the id of the
    /// last event in the array, so a client that resumes from it misses nothing. A reconnection time is sent as a
    /// `retry:` field before the array.
    ///
    /// For a client that asks for a [`HelloEvent`](crate::HelloEvent), each entry also has its own id, so that the client
    /// knows exactly which events it has:
    ///
    /// ```text
    /// data: [{"topic":"prices/AAPL","id":"1763612345678-3-7k3m9p2xr","data":187.42}]
    /// ```
    ///
    /// Cost: each client's array is built separately. An id of the registry takes 33 bytes in an entry. While topics of the
    /// client are catching up, it also names these topics, up to eight, which takes 33 to 152 bytes more.
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
