//! Clients that read nothing any more while events wait for them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    shared::Shared,
    state::{Client, Phase},
};
use crate::{stream::CloseReason, sync::lock, time::nanoseconds};

/// A client that may have stalled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect {
    /// How often it had read.
    reads: u32,
    since: Duration,
    /// It had not read when it was next looked at, either. Before that, nobody may have looked for long as the whole process stood still, and a client
    /// whose turn is about to come has not stalled.
    is_confirmed: bool,
}

impl Shared {
    /// Some time has passed, with or without anything being published.
    pub(crate) fn tick(&self) {
        let now = self.clock.elapsed();
        self.end_stalled_clients(now);
        self.sample(now);
    }

    /// Looks now and then for clients that read nothing any more while events wait for them.
    ///
    /// Nobody else would notice: when a peer reads nothing, hyper does not poll the body, so that no timer in it fires.
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
    /// Its reader takes nothing until then, in nanoseconds by the clock.
    pub(crate) fn waits_until(&self, time: u64) {
        lock(&self.state).rare().waits_until = time;
    }

    /// Ends a stream that has not read for so long although events wait for it.
    pub(crate) fn end_if_stalled(self: &Arc<Self>, now: Duration, patience: Duration) {
        let mut state = lock(&self.state);
        let waits = state.rare.as_ref().is_some_and(|rare| rare.waits_until > nanoseconds(now));
        let may_read = state.phase == Phase::Open && !waits && !self.cannot_take.load(Ordering::Relaxed);
        // Its end waits to be read, too.
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
                    // There is room again when it is told that the client is over.
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
