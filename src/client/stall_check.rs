//! What a check for stalled clients has seen of one client.

use std::time::Duration;

/// What was seen of a client that may have stalled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StallCheck {
    /// How often the client had read at that time.
    pub(super) reads: u32,
    pub(super) since: Duration,
    /// The client had not read at the next check either. Without this second check, a client would look stalled after
    /// the whole process was paused for long, although its turn to read is about to come.
    pub(super) is_confirmed: bool,
}
