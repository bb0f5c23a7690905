//! Finds and closes stalled clients.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    shared::Shared,
    stall_check::StallCheck,
    state::{Client, Phase},
};
use crate::{stream::CloseReason, sync::lock, time::nanoseconds};

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
            state.stall_check = None;
            return;
        }
        let reads = state.reads;
        match &mut state.stall_check {
            Some(check) if check.reads == reads => {
                let is_stalled = check.is_confirmed && now.saturating_sub(check.since) >= patience;
                check.is_confirmed = true;
                drop(state);
                if is_stalled {
                    // The slots are free before anybody learns of the end.
                    if let Some(admission) = self.admission() {
                        admission.release();
                    }
                    self.end(CloseReason::Stalled);
                }
            }
            check => *check = Some(Box::new(StallCheck { reads, since: now, is_confirmed: false })),
        }
    }
}
