use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;
use tokio::{
    task::coop,
    time::{Instant, Sleep, sleep_until},
};

pin_project! {
    /// A timer that costs nothing to ask again before it has elapsed.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Sleep,
        // Whom it wakes: it need not be polled again before it has elapsed.
        wakes: Option<Waker>,
    }
}

impl Alarm {
    pub(crate) fn at(time: Instant) -> Self {
        Self { sleep: sleep_until(time), wakes: None }
    }

    pub(crate) fn reset(self: Pin<&mut Self>, time: Instant) {
        self.project().sleep.reset(time);
    }

    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let is_set = this.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !this.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its budget is polled again soon; until then, its timers are not set.
        let will_be_set = coop::has_budget_remaining();
        if this.sleep.poll(cx).is_pending() {
            *this.wakes = will_be_set.then(|| cx.waker().clone());
            return Poll::Pending;
        }
        *this.wakes = None;
        Poll::Ready(())
    }
}
