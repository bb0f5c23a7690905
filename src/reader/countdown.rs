//! A reader's timer for the end of its client's lifetime.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
};

use crate::{client::Client, stream::CloseReason, sync::lock, time::Timer};

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
