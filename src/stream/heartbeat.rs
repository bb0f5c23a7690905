//! The form of heartbeats, and when they are due.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{event::Event, time::nanoseconds};

/// The bytes that are sent when a stream was silent for an interval.
///
/// Heartbeats make proxies and clients keep the stream open, and make the server notice a peer that is gone.
///
/// Default: an empty comment and a blank line (`:\n\n`), every 15 seconds. [`event-source-polyfill`] gives up a stream
/// after 45 seconds without bytes, and common proxies do after 55 to 60 seconds.
///
/// All bytes end the silence, also those of the handler's own body: a busy stream gets no heartbeats.
///
/// The first heartbeat of a stream comes after half an interval to a whole interval. This spreads the heartbeats of
/// streams that opened together. Each time a stream falls silent again, its second heartbeat comes early in the same
/// way, because many streams may have got the same event.
///
/// A heartbeat is never inserted into the middle of an event: a stream that pauses there gets no heartbeat.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Event, Heartbeat};
///
/// let quiet = Heartbeat::every(Duration::from_secs(30)).comment("still here");
/// let for_scripts = Heartbeat::every(Duration::from_secs(10)).event(|| {
///     Event::data("").event("heartbeat")
/// });
/// # let _ = (quiet, for_scripts);
/// ```
///
/// [`event-source-polyfill`]: https://www.npmjs.com/package/event-source-polyfill
#[derive(Clone)]
pub struct Heartbeat {
    interval: Option<Duration>,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Comment { text: String, single_line: bool },
    Event(Arc<dyn Fn() -> Event + Send + Sync>),
}

impl Heartbeat {
    /// The default interval: 15 seconds.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

    /// Sends a heartbeat each time a stream was silent for this interval.
    ///
    /// The minimum is one millisecond, the resolution of tokio's timer. A shorter interval is raised to the minimum.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval: Some(interval.max(Duration::from_millis(1))), ..Self::default() }
    }

    /// Sends no heartbeats.
    #[must_use]
    pub fn off() -> Self {
        Self { interval: None, ..Self::default() }
    }

    /// Sends this text as a comment.
    ///
    /// Default: an empty comment. A text with line ends becomes several comment lines.
    #[must_use]
    pub fn comment(self, text: impl Into<String>) -> Self {
        let single_line = matches!(self.form, Form::Comment { single_line: true, .. });
        Self { form: Form::Comment { text: text.into(), single_line }, ..self }
    }

    /// Sends the comment without a blank line after it (`:\n`).
    ///
    /// Default: the blank line is sent. A heartbeat that is an event is not changed.
    ///
    /// No form works with every client. With the blank line, `@microsoft/fetch-event-source` 2.0.1 dispatches an empty
    /// message. Without the blank line, `@google/genai` loses the next event.
    #[must_use]
    pub fn single_line(self) -> Self {
        match self.form {
            Form::Comment { text, .. } => Self { form: Form::Comment { text, single_line: true }, ..self },
            Form::Event(_) => self,
        }
    }

    /// Sends an event instead of a comment.
    ///
    /// The closure makes a new event for each heartbeat. Use this if a script has to notice missing heartbeats: a
    /// page's script cannot see comments. An id of the event is not sent, because a heartbeat does not move a client's
    /// cursor.
    #[must_use]
    pub fn event(self, make: impl Fn() -> Event + Send + Sync + 'static) -> Self {
        Self { form: Form::Event(Arc::new(make)), ..self }
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Returns a comment in the form of the heartbeat.
    ///
    /// If the heartbeat is an event, the comment is empty.
    pub(crate) fn comment_wire(&self) -> Bytes {
        match self.form {
            Form::Comment { .. } => self.encode(),
            Form::Event(_) => Self::default().encode(),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        match &self.form {
            Form::Event(make) => make().encode_without_id(),
            Form::Comment { text, single_line } => {
                let mut wire = match text.as_str() {
                    "" => Bytes::from_static(b":\n\n"),
                    text => Event::empty().comment(text).encode(),
                };
                if *single_line {
                    wire.truncate(wire.len() - 1);
                }
                wire
            }
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { interval: Some(Self::DEFAULT_INTERVAL), form: Form::Comment { text: String::new(), single_line: false } }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Heartbeat");
        debug.field("interval", &self.interval);
        match &self.form {
            Form::Comment { .. } => debug.field("wire", &self.encode()),
            Form::Event(_) => debug.field("wire", &"an event made anew each time"),
        };
        debug.finish()
    }
}

/// Computes when the heartbeats of one stream are due.
///
/// Time is an argument, in nanoseconds of the registry's clock.
#[derive(Debug)]
pub(crate) struct HeartbeatTimer {
    silent_since: u64,
    spread: Spread,
}

/// Which heartbeat of a silence comes early.
///
/// An early heartbeat spreads the heartbeats of streams that fell silent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    /// The next heartbeat comes early.
    Next,
    /// The heartbeat after the next one comes early.
    Deferred,
    /// The early heartbeat of this silence has come.
    Done,
}

impl HeartbeatTimer {
    pub(crate) fn new(opened: u64) -> Self {
        Self { silent_since: opened, spread: Spread::Next }
    }

    /// Notes that bytes were sent now.
    #[inline]
    pub(crate) fn note_activity(&mut self, now: u64) {
        self.silent_since = now;
        if self.spread == Spread::Done {
            self.spread = Spread::Deferred;
        }
    }

    /// Returns the time at which to call [`take_due`](Self::take_due).
    ///
    /// `spread` is a random number, which decides how early an early heartbeat comes.
    pub(crate) fn due(&self, interval: Duration, spread: u32) -> u64 {
        let interval = nanoseconds(interval);
        let latest = self.silent_since.saturating_add(interval);
        if self.spread != Spread::Next || latest == u64::MAX {
            return latest;
        }
        // About 512 different times are enough. Streams with the same time share a timer.
        let step = interval / 1024 + 1;
        let early = (u128::from(interval / 2 - step) * u128::from(spread)) >> u32::BITS;
        let due = latest - early as u64;
        due - due % step
    }

    /// Returns whether a heartbeat is due now. If it is, the next silence begins.
    ///
    /// If it is not, bytes were sent since the timer was set.
    pub(crate) fn take_due(&mut self, interval: Duration, spread: u32, now: u64) -> bool {
        let is_due = self.due(interval, spread) <= now;
        self.spread = match self.spread {
            // The timer of a busy stream fires once in each interval.
            Spread::Next if !is_due => Spread::Deferred,
            Spread::Deferred if is_due => Spread::Next,
            Spread::Next => Spread::Done,
            as_it_is => as_it_is,
        };
        if is_due {
            self.silent_since = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_form_is_encoded_as_documented() {
        assert_eq!(Heartbeat::default().encode(), ":\n\n");
        assert_eq!(Heartbeat::default().single_line().encode(), ":\n");
        assert_eq!(Heartbeat::default().comment("a\nb").encode(), ": a\n: b\n\n");
        assert_eq!(Heartbeat::default().single_line().comment("x").encode(), ": x\n");
        let with_id = || Event::data("1").id("7").unwrap();
        assert_eq!(Heartbeat::default().event(with_id).encode(), "data: 1\n\n");
    }

    #[test]
    fn an_interval_of_zero_is_a_millisecond_and_off_has_no_interval() {
        assert_eq!(Heartbeat::every(Duration::ZERO).interval(), Some(Duration::from_millis(1)));
        assert_eq!(Heartbeat::off().interval(), None);
        assert_eq!(Heartbeat::default().interval(), Some(15 * SECOND));
    }

    const SECONDS: u64 = 1_000_000_000;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// Returns the times of the next three heartbeats, in seconds.
    fn beats(heartbeat_timer: &mut HeartbeatTimer, spread: u32) -> [u64; 3] {
        [(); 3].map(|()| {
            let due = heartbeat_timer.due(INTERVAL, spread);
            assert!(heartbeat_timer.take_due(INTERVAL, spread, due));
            (due + SECONDS / 2) / SECONDS
        })
    }

    #[test]
    fn the_first_heartbeat_is_early_and_later_ones_follow_an_interval_of_silence() {
        assert_eq!(beats(&mut HeartbeatTimer::new(SECONDS), 0), [11, 21, 31]);
        assert_eq!(beats(&mut HeartbeatTimer::new(SECONDS), u32::MAX), [6, 16, 26]);
    }

    #[test]
    fn the_second_heartbeat_of_a_silence_is_early() {
        let mut heartbeat_timer = HeartbeatTimer::new(0);
        beats(&mut heartbeat_timer, u32::MAX);
        heartbeat_timer.note_activity(30 * SECONDS);
        assert_eq!(beats(&mut heartbeat_timer, u32::MAX), [40, 45, 55]);
    }

    #[test]
    fn the_timer_of_a_busy_stream_fires_once_per_interval() {
        let (mut set, mut fired) = (HeartbeatTimer::new(0).due(INTERVAL, u32::MAX / 2), Vec::new());
        let mut heartbeat_timer = HeartbeatTimer::new(0);
        for tenth in 1..=600 {
            let now = tenth * SECONDS / 10;
            if set <= now {
                assert!(!heartbeat_timer.take_due(INTERVAL, u32::MAX / 2, now));
                set = heartbeat_timer.due(INTERVAL, u32::MAX / 2);
                fired.push(tenth);
            }
            heartbeat_timer.note_activity(now);
        }
        assert_eq!(fired, [76, 175, 274, 373, 472, 571]);
    }

    #[test]
    fn an_early_heartbeat_comes_after_half_an_interval_at_least() {
        for spread in [0, 1, u32::MAX / 3, u32::MAX - 1, u32::MAX] {
            for opened in [0, 1, 999_999_999, SECONDS, 123_456_789_012] {
                for interval in [Duration::from_millis(1), Duration::from_millis(7), INTERVAL] {
                    let due = HeartbeatTimer::new(opened).due(interval, spread) - opened;
                    assert!(due >= nanoseconds(interval) / 2 && due <= nanoseconds(interval), "{due} of {interval:?}");
                }
            }
        }
    }

    #[test]
    fn an_interval_beyond_the_clocks_range_is_never_due() {
        let mut heartbeat_timer = HeartbeatTimer::new(SECONDS);
        assert_eq!(heartbeat_timer.due(Duration::MAX, 7), u64::MAX);
        assert!(!heartbeat_timer.take_due(Duration::MAX, 7, u64::MAX - 1));
    }
}
