//! The lifetime of a stream: its maximum age and its expiry.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
    time::Duration,
};

use super::state::{Client, State};
use crate::{
    stream::CloseReason,
    sync::lock,
    time::{Timer, jitter, nanoseconds},
};

/// When a client's lifetime ends, in nanoseconds of the registry's clock.
#[derive(Debug, Default)]
pub(crate) struct Lifetime {
    max_age: Option<Duration>,
    aged_at: Option<u64>,
    expires_at: Option<u64>,
}

impl Lifetime {
    fn end(&self) -> Option<(u64, CloseReason)> {
        let aged = self.aged_at.map(|at| (at, CloseReason::MaxAge));
        let expired = self.expires_at.map(|at| (at, CloseReason::AuthorizationExpired));
        [aged, expired].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl State {
    /// Starts the age of the stream. `spread`: a random number, so that streams that began together do not end
    /// together.
    pub(crate) fn begin_lifetime(&mut self, now: u64, spread: u32) {
        if let Some(lifetime) = self.rare.as_mut().and_then(|rare| rare.lifetime.as_mut()) {
            let max_age = lifetime.max_age.map(|age| jitter::shortened(age, spread));
            lifetime.aged_at = max_age.map(|age| now.saturating_add(nanoseconds(age)));
        }
    }

    fn end_of_life(&self) -> Option<(u64, CloseReason)> {
        self.rare.as_ref().filter(|_| self.closing.is_none())?.lifetime.as_ref()?.end()
    }

    fn lifetime(&mut self) -> &mut Lifetime {
        self.rare().lifetime.get_or_insert_default()
    }
}

impl Client {
    /// Sets how long the stream may be open after it began.
    pub(crate) fn limit_age(&self, max_age: Duration) {
        lock(&self.state).lifetime().max_age = Some(max_age);
    }

    /// Sets when the stream ends. `None`: at no time.
    pub(crate) fn expire(&self, after: Option<Duration>) {
        lock(&self.state).lifetime().expires_at = after.map(|time| self.shared().clock.after(time));
        self.changed();
    }
}

/// A reader's timer for the lifetime of its client.
#[derive(Debug)]
pub(crate) struct Countdown {
    /// The count of the client's changes at the last look.
    seen: u32,
    end: Option<Box<Ending>>,
}

#[derive(Debug)]
struct Ending {
    timer: Timer,
    wakes: Waker,
    reason: CloseReason,
}

impl Countdown {
    pub(crate) fn of(client: &Client) -> Self {
        // Differs from the count of changes, because the timer has not looked yet.
        Self { seen: client.changes.load(Ordering::Acquire).wrapping_sub(1), end: None }
    }

    /// Whether no end is set, and the client has not changed since the last look.
    #[inline]
    pub(crate) fn is_none(&self, changes: u32) -> bool {
        self.end.is_none() && self.seen == changes
    }

    /// Closes the client when its lifetime is over.
    #[inline]
    pub(crate) fn poll(&mut self, client: &Arc<Client>, cx: &mut Context<'_>) {
        if !self.is_none(client.changes.load(Ordering::Acquire)) {
            self.look(client, cx);
        }
    }

    #[cold]
    fn look(&mut self, client: &Arc<Client>, cx: &mut Context<'_>) {
        let changes = client.changes.load(Ordering::Acquire);
        if self.seen != changes {
            self.seen = changes;
            let end = lock(&client.state).end_of_life();
            self.end =
                end.map(|(at, reason)| Box::new(Ending { timer: Timer::at(at), wakes: cx.waker().clone(), reason }));
        }
        if let Some(end) = &mut self.end {
            if !end.wakes.will_wake(cx.waker()) {
                end.timer.unset();
                end.wakes = cx.waker().clone();
            }
            if end.timer.poll(&client.shared().timers, cx).is_ready() {
                client.close(end.reason);
                self.end = None;
            }
        }
    }
}
