//! Finds and closes stalled clients.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    shared::Shared,
    state::{Client, Phase},
};
use crate::{stream::CloseReason, sync::lock, time::nanoseconds};

/// What was seen of a client that may have stalled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect {
    /// How often the client had read at that time.
    reads: u32,
    since: Duration,
    /// The client had not read at the next check either. Without this second check, a client would look stalled after
    /// the whole process was paused for long, although its turn to read is about to come.
    is_confirmed: bool,
}

impl Shared {
    /// Does the periodic work: closes stalled clients and takes a sample.
    pub(crate) fn tick(&self) {
        let now = self.clock.elapsed();
        self.end_stalled_clients(now);
        self.sample(now);
    }

    /// Checks all clients for stalled ones, four times in each timeout.
    ///
    /// The clients' own tasks cannot do this. If a peer reads nothing, hyper does not poll the body, so no timer in the
    /// body fires.
    pub(crate) fn end_stalled_clients(&self, now: Duration) {
        let Some(patience) = self.settings.stalled_client_timeout else { return };
        let due = self.next_look.load(Ordering::Relaxed);
        if nanoseconds(now) < due {
            return;
        }
        let next = nanoseconds(now + patience / 4);
        if self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.known_clients().iter().for_each(|client| client.end_if_stalled(now, patience));
        }
    }
}

impl Client {
    /// Records that the reader waits until this time of the clock, in nanoseconds.
    pub(crate) fn waits_until(&self, time: u64) {
        lock(&self.state).rare().waits_until = time;
    }

    /// Closes the client if it has not read for that long although events wait for it.
    pub(crate) fn end_if_stalled(self: &Arc<Self>, now: Duration, patience: Duration) {
        let mut state = lock(&self.state);
        let waits = state.rare.as_ref().is_some_and(|rare| rare.waits_until > nanoseconds(now));
        let may_read = state.phase == Phase::Open && !waits && !self.cannot_take.load(Ordering::Relaxed);
        // The end of a closed stream waits to be read too.
        if !may_read || !state.cursors.is_pending() && state.closing.is_none() {
            state.suspect = None;
            return;
        }
        let reads = state.reads;
        match &mut state.suspect {
            Some(suspect) if suspect.reads == reads => {
                let is_stalled = suspect.is_confirmed && now.saturating_sub(suspect.since) >= patience;
                suspect.is_confirmed = true;
                drop(state);
                if is_stalled {
                    // The slots are free before anybody learns of the end.
                    if let Some(admission) = self.admission() {
                        admission.release();
                    }
                    self.end(CloseReason::Stalled);
                }
            }
            suspect => *suspect = Some(Box::new(Suspect { reads, since: now, is_confirmed: false })),
        }
    }
}
