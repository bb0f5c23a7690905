//! An observer for the `tracing` crate.

use std::fmt;

use tracing::{debug, info, trace, warn};

use crate::{
    client::{ClientHandle, Observer, StreamSummary, SubscribeError},
    cluster::Health,
    event::{ClientId, Quoted},
    limit::RefusedReason,
    log::Gap,
    topics::Receipt,
};

/// An observer that logs with the [`tracing`](https://docs.rs/tracing) crate.
///
/// It needs the `tracing` feature. The target of all log lines is `tower_sse`:
///
/// | level | message | fields |
/// |---|---|---|
/// | WARN | `backplane`, if the registry does not follow its [backplane](crate::backplane) | `health` (a sentence) |
/// | INFO | `backplane`, if it follows again | `health` |
/// | WARN | `client fell behind` | `client`, `topic`, `missed` |
/// | INFO | `gap` | `client`, `topic` (the first), `topics` (how many), `after` |
/// | INFO | `stream refused` | `client`, `reason` (a word), `error` (a sentence) |
/// | WARN | `stream refused`, if a limit [has no key](crate::RefusedReason::MissingKey) for the request | the same, and `key` |
/// | INFO | `subscription refused` | `client`, `error` |
/// | DEBUG | `stream opened` | `client` |
/// | DEBUG | `stream closed` | `client`, `reason` (a word), `duration_ms`, `events`, `bytes` |
/// | DEBUG | `subscribed` | `client`, `topic` |
/// | DEBUG | `unsubscribed` | `client`, `topic` |
/// | TRACE | `heartbeat` | `client` |
/// | TRACE | `published` | `topic`, `position`, `subscribers` |
///
/// `reason` is the word of [`CloseReason::as_str`](crate::CloseReason::as_str) or [`RefusedReason::as_str`], as in
/// metrics.
///
/// `client` is the first eight digits of the client's id. They tell clients apart. The whole id is not logged, because
/// it may let a reader of the log act for the client. The id in the name of a client's own topic is cut in the same
/// way.
///
/// Text that clients send is escaped, and cut to fit a line.
///
/// Cost: a log line that is not enabled costs one check.
///
/// ```
/// use tower_sse::{Registry, RegistryConfig, TracingObserver};
///
/// // Here a subscriber is installed.
/// let registry = Registry::with_config(RegistryConfig::default().observer(TracingObserver::new()));
/// # let _ = registry;
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TracingObserver {}

impl TracingObserver {
    /// Makes the observer.
    ///
    /// Each line goes to the subscriber that is installed when it is logged.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

const TARGET: &str = "tower_sse";

impl Observer for TracingObserver {
    fn opened(&self, client: &ClientHandle) {
        debug!(target: TARGET, client = %Short(client.id()), "stream opened");
    }

    fn stream_refused(&self, client: &ClientHandle, refused: &RefusedReason) {
        let (client, reason) = (Short(client.id()), refused.as_str());
        match refused {
            RefusedReason::MissingKey { by } => {
                warn!(target: TARGET, %client, reason, error = %refused, key = by, "stream refused");
            }
            _ => info!(target: TARGET, %client, reason, error = %refused, "stream refused"),
        }
    }

    fn subscription_refused(&self, client: &ClientHandle, error: &SubscribeError) {
        info!(target: TARGET, client = %Short(client.id()), %error, "subscription refused");
    }

    fn subscribed(&self, client: &ClientHandle, topic: &str) {
        debug!(target: TARGET, client = %Short(client.id()), topic = shown(topic), "subscribed");
    }

    fn unsubscribed(&self, client: &ClientHandle, topic: &str) {
        debug!(target: TARGET, client = %Short(client.id()), topic = shown(topic), "unsubscribed");
    }

    fn fell_behind(&self, client: &ClientHandle, topic: &str, missed: u64) {
        warn!(target: TARGET, client = %Short(client.id()), topic = shown(topic), missed, "client fell behind");
    }

    fn gap(&self, client: &ClientHandle, gap: &Gap) {
        info!(
            target: TARGET,
            client = %Short(client.id()),
            topic = gap.topics().first().map(|topic| shown(topic)),
            topics = gap.topics().len(),
            after = %Quoted(gap.after()),
            "gap"
        );
    }

    fn heartbeat(&self, client: &ClientHandle) {
        trace!(target: TARGET, client = %Short(client.id()), "heartbeat");
    }

    fn closed(&self, client: &ClientHandle, summary: &StreamSummary) {
        debug!(
            target: TARGET,
            client = %Short(client.id()),
            reason = summary.reason.as_str(),
            duration_ms = u64::try_from(summary.duration.as_millis()).unwrap_or(u64::MAX),
            events = summary.events,
            bytes = summary.bytes,
            "stream closed"
        );
    }

    fn published(&self, topic: &str, receipt: &Receipt) {
        trace!(
            target: TARGET,
            topic = shown(topic),
            position = receipt.position().map(tracing::field::display),
            subscribers = receipt.subscribers(),
            "published"
        );
    }

    fn health_changed(&self, _before: &Health, now: &Health) {
        match now {
            Health::Following | Health::Loading => info!(target: TARGET, health = %now, "backplane"),
            _ => warn!(target: TARGET, health = %now, "backplane"),
        }
    }
}

/// The first eight digits of a client's id.
///
/// They tell clients apart, and do not let a reader act for the client.
struct Short(ClientId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}", self.0.to_string())
    }
}

/// Returns a topic's name for a log line.
///
/// The topic of one client has the client's id in its name. Only the first eight digits are kept.
fn shown(topic: &str) -> &str {
    const OWN: &str = "$client/";
    match topic.starts_with(OWN) {
        true => topic.get(..OWN.len() + 8).unwrap_or(OWN),
        false => topic,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Write,
        sync::{Arc, Mutex},
    };

    use tracing::{
        Event, Level, Metadata, Subscriber,
        field::{Field, Visit},
        span,
        subscriber::with_default,
    };

    use super::*;
    use crate::{Registry, client::samples::Samples, sync::lock};

    /// A subscriber that keeps each event as a line.
    #[derive(Clone)]
    struct Lines {
        lines: Arc<Mutex<Vec<String>>>,
        most: Level,
    }

    impl Lines {
        fn new(most: Level) -> Self {
            Self { lines: Arc::default(), most }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= self.most
        }

        fn event(&self, event: &Event<'_>) {
            let metadata = event.metadata();
            let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
            event.record(&mut line);
            lock(&self.lines).push(line.0);
        }

        fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

        fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

        fn enter(&self, _span: &span::Id) {}

        fn exit(&self, _span: &span::Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    fn log_of(most: Level, tell: impl FnOnce(&TracingObserver)) -> Vec<String> {
        let lines = Lines::new(most);
        with_default(lines.clone(), || tell(&TracingObserver::new()));
        let lines = lock(&lines.lines);
        lines.clone()
    }

    #[test]
    fn each_line_has_its_level_and_its_fields() {
        let samples = Samples::new();
        let log = log_of(Level::TRACE, |observer| samples.tell(observer));
        let id = &samples.client.id().to_string()[..8];
        let position = samples.receipt.position().unwrap();
        let expected = [
            format!("DEBUG tower_sse message=stream opened client={id}"),
            format!(
                "INFO tower_sse message=stream refused client={id} reason=\"draining\" \
                 error=the server is shutting down and accepts no new event streams"
            ),
            format!(
                "INFO tower_sse message=subscription refused client={id} \
                 error=the client has reached its limit of 3 subscriptions: end one, or raise the limit"
            ),
            format!("DEBUG tower_sse message=subscribed client={id} topic=\"a/1\""),
            format!("DEBUG tower_sse message=unsubscribed client={id} topic=\"a/1\""),
            format!("WARN tower_sse message=client fell behind client={id} topic=\"a/1\" missed=5"),
            format!("INFO tower_sse message=gap client={id} topic=\"a/1\" topics=2 after=\"1-0\\n\""),
            format!("TRACE tower_sse message=heartbeat client={id}"),
            format!(
                "DEBUG tower_sse message=stream closed client={id} reason=\"client_disconnected\" \
                 duration_ms=1500 events=7 bytes=900"
            ),
            format!("TRACE tower_sse message=published topic=\"a/1\" position={position} subscribers=0"),
            "WARN tower_sse message=backplane health=the engine is full: no room".to_owned(),
        ];
        assert_eq!(log, expected);
    }

    #[test]
    fn no_line_contains_a_whole_client_id() {
        let samples = Samples::new();
        let id = samples.client.id().to_string();
        let own = format!("$client/{id}");
        let gap = Gap { topics: vec![own.clone()], ..samples.gap.clone() };
        let log = log_of(Level::TRACE, |observer| {
            samples.tell(observer);
            observer.subscribed(&samples.client, &own);
            observer.unsubscribed(&samples.client, &own);
            observer.fell_behind(&samples.client, &own, 1);
            observer.gap(&samples.client, &gap);
            observer.published(&own, &samples.receipt);
        })
        .join("\n");
        assert_eq!(log.matches(&format!("topic=\"$client/{}\"", &id[..8])).count(), 5);
        assert!(!log.contains(&id[..9]));
    }

    #[test]
    fn a_disabled_level_creates_no_client_id() {
        let client = Registry::new().connect();
        assert_eq!(log_of(Level::INFO, |observer| observer.opened(&client)), [""; 0]);
        assert!(format!("{client:?}").contains("id: None"));
    }
}
