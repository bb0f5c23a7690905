//! How long a stream may be open.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Context,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    CloseReason,
    client::{Client, State},
};
use crate::{alarm::Alarm, jitter, sync::lock};

/// When a client's time is over.
#[derive(Debug, Default)]
pub(super) struct Lifetime {
    max_age: Option<Duration>,
    aged_at: Option<Instant>,
    expires_at: Option<Instant>,
}

impl Lifetime {
    fn end(&self) -> Option<(Instant, CloseReason)> {
        let aged = self.aged_at.map(|at| (at, CloseReason::Aged));
        let expired = self.expires_at.map(|at| (at, CloseReason::Expired));
        [aged, expired].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl State {
    /// The stream begins, and with it its age. `spread`: a random number, so that streams that began together do not end together.
    pub(super) fn begin_lifetime(&mut self, now: Instant, spread: u32) {
        if let Some(lifetime) = &mut self.lifetime {
            let max_age = lifetime.max_age.map(|age| jitter::shortened(age, spread));
            lifetime.aged_at = max_age.and_then(|age| now.checked_add(age));
        }
    }

    fn end_of_life(&self) -> Option<(Instant, CloseReason)> {
        self.lifetime.as_ref().filter(|_| self.closing.is_none())?.end()
    }
}

impl Client {
    /// How long its stream may be open, once it is.
    pub(crate) fn limit_age(&self, max_age: Duration) {
        lock(&self.state).lifetime.get_or_insert_default().max_age = Some(max_age);
    }

    /// When its stream ends. `None`: not at any time.
    pub(crate) fn expire(&self, at: Option<Instant>) {
        lock(&self.state).lifetime.get_or_insert_default().expires_at = at;
        self.changed();
    }
}

/// A reader's timer, if its client has a lifetime.
#[derive(Debug, Default)]
pub(super) struct Countdown {
    /// The client's changes that were seen.
    seen: Option<u32>,
    end: Option<Box<Ending>>,
}

#[derive(Debug)]
struct Ending {
    alarm: Pin<Box<Alarm>>,
    reason: CloseReason,
}

impl Countdown {
    /// Closes the client when its time is over.
    #[inline]
    pub(super) fn poll(&mut self, client: &Arc<Client>, cx: &mut Context<'_>) {
        let changes = client.changes.load(Ordering::Acquire);
        if self.seen != Some(changes) {
            self.seen = Some(changes);
            let end = lock(&client.state).end_of_life();
            self.end = end.map(|(at, reason)| Box::new(Ending { alarm: Box::pin(Alarm::at(at)), reason }));
        }
        if let Some(end) = &mut self.end {
            if end.alarm.as_mut().poll(cx).is_ready() {
                client.close(end.reason);
                self.end = None;
            }
        }
    }
}
