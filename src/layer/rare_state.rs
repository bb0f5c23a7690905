//! What few streams have, or not for long.

use bytes::Bytes;
use http::HeaderMap;

use super::polling::Polling;
use crate::{stream::Batching, time::Timer};

/// What few streams have, or not for long: so an idle stream has no room for it.
#[derive(Default)]
pub(super) struct RareState {
    /// A complete block that is sent next, at a boundary, before anything is polled.
    pub(super) next: Option<Bytes>,
    /// The registry's events wait until this window ends.
    pub(super) window: Option<Window>,
    pub(super) trailers: Option<HeaderMap>,
    /// The client gets the event `live` when it has read everything up to this number.
    pub(super) live_after: Option<u64>,
    /// The stream is the response to a long poll.
    pub(super) polling: Option<Polling>,
}

/// The time until the next frame, and the batching that set it.
pub(super) struct Window {
    pub(super) end: Timer,
    pub(super) by: Option<Batching>,
}

impl RareState {
    /// Unsets the timers, because another task polls the stream now.
    pub(super) fn unset_timers(&mut self) {
        if let Some(window) = &mut self.window {
            window.end.unset();
        }
        if let Some(polling) = &mut self.polling {
            polling.time.unset();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { next, window, trailers, live_after, polling } = self;
        next.is_none() && window.is_none() && trailers.is_none() && live_after.is_none() && polling.is_none()
    }
}
