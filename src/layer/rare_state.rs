//! What few streams have, or not for long.

use bytes::Bytes;
use http::HeaderMap;

use crate::{stream::Batching, time::Timer};

/// What few streams have, or not for long: so an idle stream has no room for it.
#[derive(Default)]
pub(super) struct RareState {
    /// A complete block that is sent next, at a boundary, before anything is polled.
    pub(super) next: Option<Bytes>,
    /// The registry's events wait until this window ends.
    pub(super) window: Option<Window>,
    pub(super) trailers: Option<HeaderMap>,
}

/// The time until the next frame, and the batching that set it.
pub(super) struct Window {
    pub(super) end: Timer,
    pub(super) by: Option<Batching>,
}

impl RareState {
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_none() && self.window.is_none() && self.trailers.is_none()
    }
}
