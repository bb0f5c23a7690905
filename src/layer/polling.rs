//! The response to a long poll: when it ends.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::open_stream::OpenStream;
use crate::{stream::CloseReason, time::Timer};

/// The state of a long poll.
pub(super) struct Polling {
    /// The time to wait.
    pub(super) time: Timer,
    /// An event of the registry was sent, or a gap.
    has_sent: bool,
    /// How many frames may still be sent when the time is over.
    left: u32,
}

impl Polling {
    /// How many frames a poll may send after its time is over, if always one more is ready.
    const AFTER_TIME: u32 = 64;

    fn until(time: u64, has_sent: bool) -> Self {
        Self { time: Timer::at(time), has_sent, left: Self::AFTER_TIME }
    }

    /// Whether the response has to end. `is_quiet`: nothing is ready to be sent.
    fn is_over(&mut self, is_time: bool, is_quiet: bool) -> bool {
        if is_time && !is_quiet {
            self.left = self.left.saturating_sub(1);
        }
        is_quiet && (is_time || self.has_sent) || self.left == 0
    }
}

impl OpenStream {
    /// Makes the stream the response to a long poll.
    ///
    /// `has_sent`: it begins with an event for which its client need not wait longer.
    pub(super) fn wait_for(&mut self, time: Duration, has_sent: bool) {
        let until = self.reader.client().shared().clock.after(time);
        self.rare().polling = Some(Polling::until(until, has_sent));
    }

    pub(super) fn is_poll(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.polling.is_some())
    }

    /// Notes that an event of the registry is sent.
    pub(super) fn note_sent_to_poll(&mut self) {
        if let Some(polling) = self.rare.as_mut().and_then(|rare| rare.polling.as_mut()) {
            polling.has_sent = true;
        }
    }

    /// Closes the client of a long poll, if its response has to end. The response then has all events until now.
    ///
    /// `is_quiet`: nothing is ready to be sent. Returns whether the client is closed by that.
    pub(super) fn end_poll(&mut self, is_quiet: bool, cx: &mut Context<'_>) -> bool {
        if !self.is_poll() {
            return false;
        }
        if self.reader.take_moved() {
            self.unset_timers();
        }
        let client = self.reader.client();
        let Some(polling) = self.rare.as_mut().and_then(|rare| rare.polling.as_mut()) else { return false };
        let is_time = matches!(polling.time.poll(&client.shared().timers, cx), Poll::Ready(()));
        let is_over = polling.is_over(is_time, is_quiet);
        if is_over {
            client.close(CloseReason::PollEnded);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_ends_when_it_has_sent_something_or_when_its_time_is_over_and_nothing_is_ready() {
        let mut polling = Polling::until(1, false);
        assert!(!polling.is_over(false, true));
        assert!(polling.is_over(true, true));
        polling.has_sent = true;
        assert!(polling.is_over(false, true));
        assert!(!polling.is_over(false, false));
    }

    #[test]
    fn a_poll_ends_some_frames_after_its_time_even_if_more_is_ready() {
        let mut polling = Polling::until(1, false);
        assert!((0..1000).all(|_| !polling.is_over(false, false)));
        let frames = (0..1000).take_while(|_| !polling.is_over(true, false)).count();
        assert_eq!(frames as u32 + 1, Polling::AFTER_TIME);
    }
}
