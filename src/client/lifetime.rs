//! The lifetime of a stream: its maximum age and its expiry.

use std::time::Duration;

use crate::{
    stream::CloseReason,
    time::{jitter, nanoseconds},
};

/// When a client's lifetime ends, in nanoseconds of the registry's clock.
#[derive(Debug, Default)]
pub(crate) struct Lifetime {
    pub(super) max_age: Option<Duration>,
    aged_at: Option<u64>,
    pub(super) expires_at: Option<u64>,
}

impl Lifetime {
    /// Starts the age of the stream. `spread`: a random number, so that streams that began together do not end
    /// together.
    pub(super) fn begin(&mut self, now: u64, spread: u32) {
        let max_age = self.max_age.map(|age| jitter::shortened(age, spread));
        self.aged_at = max_age.map(|age| now.saturating_add(nanoseconds(age)));
    }

    pub(super) fn end(&self) -> Option<(u64, CloseReason)> {
        let aged = self.aged_at.map(|at| (at, CloseReason::MaxAge));
        let expired = self.expires_at.map(|at| (at, CloseReason::AuthorizationExpired));
        [aged, expired].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
