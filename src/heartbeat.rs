//! What a heartbeat looks like, and when it is due.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Event, clock::nanoseconds};

/// What is sent when a stream was silent for an interval, so that proxies and clients keep it open, and so that a peer
/// that is gone is found.
///
/// Default: every 15 seconds, an empty comment and a blank line (`:\n\n`). [`event-source-polyfill`] gives a stream up after
/// 45 seconds without bytes, common proxies after 55 to 60.
///
/// Any bytes count as life, the handler's own included: a stream that has something to say gets no heartbeats. The
/// first one of each stream comes after between half an interval and a whole one, so that the heartbeats of many streams that opened together
/// are spread. Nothing is ever put into the middle of an event: a stream that stalls there gets none.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Event, Heartbeat};
///
/// let quiet = Heartbeat::every(Duration::from_secs(30)).comment("still here");
/// let for_scripts = Heartbeat::every(Duration::from_secs(10)).event(|| {
///     Event::data("").event("heartbeat").unwrap_or_default()
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
    /// The interval that a new [`Heartbeat`] has: 15 seconds.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

    /// A heartbeat whenever a stream was silent for so long. Less than a millisecond, the resolution of tokio's timer, counts as one.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval: Some(interval.max(Duration::from_millis(1))), ..Self::default() }
    }

    /// No heartbeats.
    #[must_use]
    pub fn off() -> Self {
        Self { interval: None, ..Self::default() }
    }

    /// Sends this text as a comment, instead of an empty one. Line ends in it make it several comment lines.
    #[must_use]
    pub fn comment(self, text: impl Into<String>) -> Self {
        let single_line = matches!(self.form, Form::Comment { single_line: true, .. });
        Self { form: Form::Comment { text: text.into(), single_line }, ..self }
    }

    /// Leaves the blank line after the comment out (`:\n`). Default: it is sent.
    ///
    /// No form suits every client: after the blank line, `@microsoft/fetch-event-source` 2.0.1 makes an empty message
    /// of it; without it, `@google/genai` loses the event that comes next.
    #[must_use]
    pub fn single_line(self) -> Self {
        match self.form {
            Form::Comment { text, .. } => Self { form: Form::Comment { text, single_line: true }, ..self },
            Form::Event(_) => self,
        }
    }

    /// Sends an event, made anew each time, instead of a comment: a page's script cannot see comments, so this is what
    /// a script's watchdog needs. An id that the event has is not sent, as a heartbeat moves no client's position.
    #[must_use]
    pub fn event(self, make: impl Fn() -> Event + Send + Sync + 'static) -> Self {
        Self { form: Form::Event(Arc::new(make)), ..self }
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
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

/// When the heartbeats of one stream are due. Time is passed in, in nanoseconds by the registry's clock.
#[derive(Debug)]
pub(crate) struct Pulse {
    silent_since: u64,
    /// How much less than an interval of silence makes the next one due: some for the first.
    early: u64,
}

impl Pulse {
    /// `spread`: a random number, which says where between half an interval and a whole one the first one comes.
    pub(crate) fn new(interval: Duration, opened: u64, spread: u32) -> Self {
        let early = (interval / 2).mul_f64(f64::from(spread) / f64::from(u32::MAX));
        Self { silent_since: opened, early: nanoseconds(early) }
    }

    /// Bytes went out.
    pub(crate) fn stir(&mut self, now: u64) {
        self.silent_since = now;
    }

    /// When it is worth to look again.
    pub(crate) fn due(&self, interval: Duration) -> u64 {
        self.silent_since.saturating_add(nanoseconds(interval).saturating_sub(self.early))
    }

    /// Whether one is due now; if so, the next silence begins.
    pub(crate) fn beat(&mut self, interval: Duration, now: u64) -> bool {
        let is_due = self.due(interval) <= now;
        if is_due {
            *self = Self { silent_since: now, early: 0 };
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn forms() {
        assert_eq!(Heartbeat::default().encode(), ":\n\n");
        assert_eq!(Heartbeat::default().single_line().encode(), ":\n");
        assert_eq!(Heartbeat::default().comment("a\nb").encode(), ": a\n: b\n\n");
        assert_eq!(Heartbeat::default().single_line().comment("x").encode(), ": x\n");
        let with_id = || Event::data("1").id("7").unwrap();
        assert_eq!(Heartbeat::default().event(with_id).encode(), "data: 1\n\n");
    }

    #[test]
    fn an_interval_of_zero_is_a_millisecond_and_off_is_off() {
        assert_eq!(Heartbeat::every(Duration::ZERO).interval(), Some(Duration::from_millis(1)));
        assert_eq!(Heartbeat::off().interval(), None);
        assert_eq!(Heartbeat::default().interval(), Some(15 * SECOND));
    }

    const SECONDS: u64 = 1_000_000_000;

    #[test]
    fn a_heartbeat_is_due_after_an_interval_of_silence() {
        let interval = 10 * SECOND;
        let mut pulse = Pulse::new(interval, SECONDS, 0);
        assert!(!pulse.beat(interval, 10 * SECONDS));
        pulse.stir(10 * SECONDS);
        assert!(!pulse.beat(interval, 11 * SECONDS));
        assert_eq!(pulse.due(interval), 20 * SECONDS);
        assert!(pulse.beat(interval, 20 * SECONDS));
        assert_eq!(pulse.due(interval), 30 * SECONDS);
    }

    #[test]
    fn only_the_first_one_comes_early() {
        let mut pulse = Pulse::new(10 * SECOND, 0, u32::MAX);
        assert!(pulse.beat(10 * SECOND, 5 * SECONDS));
        assert_eq!(pulse.due(10 * SECOND), 15 * SECONDS);
    }

    #[test]
    fn an_interval_beyond_the_clock_is_never_due() {
        let mut pulse = Pulse::new(Duration::MAX, SECONDS, 0);
        assert_eq!(pulse.due(Duration::MAX), u64::MAX);
        assert!(!pulse.beat(Duration::MAX, u64::MAX - 1));
    }
}
