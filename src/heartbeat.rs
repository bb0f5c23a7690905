//! What a heartbeat looks like, and when it is due.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::Event;

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

/// When the heartbeats of one stream are due. Time is passed in.
#[derive(Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    /// The silence after which the next one is due: shorter than the interval for the first.
    patience: Duration,
    silent_since: Instant,
}

impl Pulse {
    /// `spread`: a random number, which says where between half an interval and a whole one the first one comes.
    pub(crate) fn new(interval: Duration, opened: Instant, spread: u32) -> Self {
        let early = (interval / 2).mul_f64(f64::from(spread) / f64::from(u32::MAX));
        Self { interval, patience: interval.saturating_sub(early), silent_since: opened }
    }

    /// Bytes went out.
    pub(crate) fn stir(&mut self, now: Instant) {
        self.silent_since = now;
    }

    /// When it is worth to look again. `None`: not in the time that this machine's clock can count.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.silent_since.checked_add(self.patience)
    }

    /// Whether one is due now; if so, the next silence begins.
    pub(crate) fn beat(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.silent_since = now;
            self.patience = self.interval;
        }
        due
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

    #[test]
    fn a_heartbeat_is_due_after_an_interval_of_silence() {
        let start = Instant::now();
        let mut pulse = Pulse::new(10 * SECOND, start, 0);
        assert!(!pulse.beat(start + 9 * SECOND));
        pulse.stir(start + 9 * SECOND);
        assert!(!pulse.beat(start + 10 * SECOND));
        assert_eq!(pulse.due(), Some(start + 19 * SECOND));
        assert!(pulse.beat(start + 19 * SECOND));
        assert_eq!(pulse.due(), Some(start + 29 * SECOND));
    }

    #[test]
    fn only_the_first_one_comes_early() {
        let start = Instant::now();
        let mut pulse = Pulse::new(10 * SECOND, start, u32::MAX);
        assert!(pulse.beat(start + 5 * SECOND));
        assert_eq!(pulse.due(), Some(start + 15 * SECOND));
    }

    #[test]
    fn an_interval_beyond_the_clock_is_never_due() {
        let pulse = Pulse::new(Duration::MAX, Instant::now(), 0);
        assert_eq!(pulse.due(), None);
    }
}
