//! An observer for the `metrics` crate.

use metrics::{Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    client::{ClientHandle, Observer, Stats, StreamSummary, SubscribeError},
    cluster::Health,
    limit::RefusedReason,
    log::Gap,
    topics::Receipt,
};

/// An observer that counts with the [`metrics`](https://docs.rs/metrics) crate.
///
/// It needs the `metrics` feature.
///
/// | name | kind | what it counts |
/// |---|---|---|
/// | `sse_opened_streams_total` | counter | streams that were opened |
/// | `sse_closed_streams_total{reason}` | counter | streams that ended, by reason |
/// | `sse_open_streams` | gauge | open streams |
/// | `sse_stream_seconds` | histogram | how long a stream was open, recorded when it ends |
/// | `sse_refused_streams_total{reason}` | counter | streams that were refused, by reason |
/// | `sse_refused_subscriptions_total` | counter | subscriptions that were refused |
/// | `sse_published_total` | counter | events that were published |
/// | `sse_delivered_total` | counter | deliveries: an event of the registry that 3 streams got counts 3; added every few seconds |
/// | `sse_sent_bytes_total` | counter | bytes of the streams' bodies; added every few seconds |
/// | `sse_topics` | gauge | topics that have events, subscribers or a producer |
/// | `sse_subscriptions` | gauge | subscriptions of all clients |
/// | `sse_retained_events` | gauge | retained events |
/// | `sse_retained_bytes` | gauge | the memory of retained events and of topics without subscribers, as the registry counts it |
/// | `sse_fell_behind_total` | counter | how often a client fell behind what a topic retains |
/// | `sse_missed_total` | counter | events that clients lost because they fell behind |
/// | `sse_gaps_total` | counter | gaps: when a client resumed, or when it fell behind |
/// | `sse_heartbeats_total` | counter | heartbeats that were sent |
/// | `sse_backplane_following` | gauge | registries that follow their [backplane](crate::backplane); without one, it is missing |
/// | `sse_backplane_waiting` | gauge | events that are on their way to the backplane |
///
/// The only label is `reason`. Logs use the same words:
///
/// - `sse_closed_streams_total` has the word of [`CloseReason::as_str`](crate::CloseReason::as_str): `body_ended`,
///   `topics_ended`, `topic_cancelled`, `topic_failed`, `client_disconnected`, `by_server`, `max_age`,
///   `authorization_expired`, `poll_ended`, `drained`, `refused`, `fell_behind`, `stalled`, `body_failed`, or the text
///   that the program passed to [`close_with`](ClientHandle::close_with).
/// - `sse_refused_streams_total` has the word of [`RefusedReason::as_str`]: `full`, `full_for_key`, `rate_limited`,
///   `rate_limited_for_key`, `missing_key`, `draining`, `other_client`, `open`, `stream_ended`.
///
/// So the number of series depends only on the program, and not on anything that clients send.
///
/// The counters that are "added every few seconds", and all gauges except `sse_open_streams`, come from
/// [`Observer::sampled`], which says when it is called. Clones of the observer, and the observers of several
/// registries, count together.
///
/// Make the observer after the recorder is installed, because the descriptions of the metrics are sent to the recorder
/// at that moment. Each number goes to the recorder that is installed when it is counted.
///
/// Cost: one look-up in the recorder for each number.
///
/// ```
/// use tower_sse::{MetricsObserver, Registry, RegistryConfig};
///
/// // Here an exporter is installed.
/// let registry = Registry::with_config(RegistryConfig::default().observer(MetricsObserver::new()));
/// # let _ = registry;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetricsObserver {}

impl MetricsObserver {
    /// Makes the observer, and describes its metrics to the installed recorder.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!("sse_opened_streams_total", Unit::Count, "Event streams that were opened");
        describe_counter!("sse_closed_streams_total", Unit::Count, "Event streams that ended, by reason");
        describe_gauge!("sse_open_streams", Unit::Count, "Open event streams");
        describe_histogram!("sse_stream_seconds", Unit::Seconds, "How long an event stream was open");
        describe_counter!("sse_refused_streams_total", Unit::Count, "Streams that were refused, by reason");
        describe_counter!("sse_refused_subscriptions_total", Unit::Count, "Subscriptions that were refused");
        describe_counter!("sse_published_total", Unit::Count, "Events that were published");
        describe_counter!("sse_delivered_total", Unit::Count, "Deliveries of published events to streams");
        describe_counter!("sse_sent_bytes_total", Unit::Bytes, "Bytes of the bodies of event streams");
        describe_gauge!("sse_topics", Unit::Count, "Topics that have events, subscribers or a producer");
        describe_gauge!("sse_subscriptions", Unit::Count, "Subscriptions of all clients");
        describe_gauge!("sse_retained_events", Unit::Count, "Retained events");
        describe_gauge!("sse_retained_bytes", Unit::Bytes, "Memory of retained events and topics without subscribers");
        describe_counter!("sse_fell_behind_total", Unit::Count, "Times that a client fell behind what a topic retains");
        describe_counter!("sse_missed_total", Unit::Count, "Events that clients lost because they fell behind");
        describe_counter!("sse_gaps_total", Unit::Count, "Gaps in the events that clients should have had");
        describe_counter!("sse_heartbeats_total", Unit::Count, "Heartbeats that were sent");
        describe_gauge!("sse_backplane_following", Unit::Count, "Registries that follow their backplane");
        describe_gauge!("sse_backplane_waiting", Unit::Count, "Events that are on their way to the backplane");
        Self {}
    }
}

impl Default for MetricsObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for MetricsObserver {
    fn opened(&self, _client: &ClientHandle) {
        counter!("sse_opened_streams_total").increment(1);
        gauge!("sse_open_streams").increment(1);
    }

    fn stream_refused(&self, _client: &ClientHandle, reason: &RefusedReason) {
        counter!("sse_refused_streams_total", "reason" => reason.as_str()).increment(1);
    }

    fn subscription_refused(&self, _client: &ClientHandle, _error: &SubscribeError) {
        counter!("sse_refused_subscriptions_total").increment(1);
    }

    fn fell_behind(&self, _client: &ClientHandle, _topic: &str, missed: u64) {
        counter!("sse_fell_behind_total").increment(1);
        counter!("sse_missed_total").increment(missed);
    }

    fn gap(&self, _client: &ClientHandle, _gap: &Gap) {
        counter!("sse_gaps_total").increment(1);
    }

    fn heartbeat(&self, _client: &ClientHandle) {
        counter!("sse_heartbeats_total").increment(1);
    }

    fn closed(&self, _client: &ClientHandle, summary: &StreamSummary) {
        counter!("sse_closed_streams_total", "reason" => summary.reason.as_str()).increment(1);
        gauge!("sse_open_streams").decrement(1);
        histogram!("sse_stream_seconds").record(summary.duration);
    }

    fn published(&self, _topic: &str, _receipt: &Receipt) {
        counter!("sse_published_total").increment(1);
    }

    fn sampled(&self, before: &Stats, now: &Stats) {
        counter!("sse_delivered_total").increment(now.delivered.saturating_sub(before.delivered));
        counter!("sse_sent_bytes_total").increment(now.sent_bytes.saturating_sub(before.sent_bytes));
        // Only the change is added, because other registries may use the same gauges.
        let change = |gauge: Gauge, before: usize, now: usize| match now.checked_sub(before) {
            Some(more) => gauge.increment(more as f64),
            None => gauge.decrement((before - now) as f64),
        };
        change(gauge!("sse_topics"), before.topics, now.topics);
        change(gauge!("sse_subscriptions"), before.subscriptions, now.subscriptions);
        change(gauge!("sse_retained_events"), before.events, now.events);
        change(gauge!("sse_retained_bytes"), before.bytes, now.bytes);
        if before.waiting != now.waiting {
            change(gauge!("sse_backplane_waiting"), before.waiting, now.waiting);
        }
    }

    fn health_changed(&self, before: &Health, now: &Health) {
        let following = gauge!("sse_backplane_following");
        following.increment(f64::from(u8::from(now.is_following())) - f64::from(u8::from(before.is_following())));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::{Arc, Mutex},
    };

    use metrics::{
        Counter, CounterFn, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        with_local_recorder,
    };

    use super::*;
    use crate::{CloseReason, Event, Registry, RegistryConfig, client::samples::Samples, sync::lock};

    type Numbers = Arc<Mutex<BTreeMap<String, f64>>>;

    #[derive(Default)]
    struct Recorded {
        /// The name of each described metric, with its kind.
        described: Mutex<BTreeSet<String>>,
        numbers: Numbers,
    }

    struct Series(String, Numbers);

    impl Series {
        fn add(&self, value: f64) {
            *lock(&self.1).entry(self.0.clone()).or_default() += value;
        }
    }

    impl CounterFn for Series {
        fn increment(&self, value: u64) {
            self.add(value as f64);
        }

        fn absolute(&self, _value: u64) {
            panic!("this crate sets no counter");
        }
    }

    impl GaugeFn for Series {
        fn increment(&self, value: f64) {
            self.add(value);
        }

        fn decrement(&self, value: f64) {
            self.add(-value);
        }

        fn set(&self, _value: f64) {
            panic!("this crate sets no gauge");
        }
    }

    impl HistogramFn for Series {
        fn record(&self, value: f64) {
            self.add(value);
        }
    }

    impl Recorded {
        fn describe(&self, kind: &str, name: &KeyName) {
            let is_new = lock(&self.described).insert(format!("{kind} {}", name.as_str()));
            assert!(is_new, "{name:?} is described twice");
        }

        fn series(&self, kind: &str, key: &Key) -> Arc<Series> {
            let labels: String = key.labels().map(|label| format!("{{{}={}}}", label.key(), label.value())).collect();
            Arc::new(Series(format!("{kind} {}{labels}", key.name()), Arc::clone(&self.numbers)))
        }

        fn number(&self, series: &str) -> Option<f64> {
            lock(&self.numbers).get(series).copied()
        }
    }

    impl Recorder for Recorded {
        fn describe_counter(&self, name: KeyName, _unit: Option<Unit>, _description: SharedString) {
            self.describe("counter", &name);
        }

        fn describe_gauge(&self, name: KeyName, _unit: Option<Unit>, _description: SharedString) {
            self.describe("gauge", &name);
        }

        fn describe_histogram(&self, name: KeyName, _unit: Option<Unit>, _description: SharedString) {
            self.describe("histogram", &name);
        }

        fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.series("counter", key))
        }

        fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.series("gauge", key))
        }

        fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.series("histogram", key))
        }
    }

    #[test]
    fn each_metric_counts_what_the_table_says() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || Samples::new().tell(&MetricsObserver::new()));
        let expected = [
            ("counter sse_closed_streams_total{reason=client_disconnected}", 1.0),
            ("counter sse_delivered_total", 7.0),
            ("counter sse_gaps_total", 1.0),
            ("counter sse_heartbeats_total", 1.0),
            ("counter sse_fell_behind_total", 1.0),
            ("counter sse_missed_total", 5.0),
            ("counter sse_opened_streams_total", 1.0),
            ("counter sse_published_total", 1.0),
            ("counter sse_refused_streams_total{reason=draining}", 1.0),
            ("counter sse_refused_subscriptions_total", 1.0),
            ("counter sse_sent_bytes_total", 900.0),
            ("gauge sse_backplane_following", -1.0),
            ("gauge sse_backplane_waiting", 3.0),
            ("gauge sse_open_streams", 0.0),
            ("gauge sse_retained_bytes", 80.0),
            ("gauge sse_retained_events", 5.0),
            ("gauge sse_subscriptions", 2.0),
            ("gauge sse_topics", -2.0),
            ("histogram sse_stream_seconds", 1.5),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(series, number)| (series.to_owned(), number)).into();
        assert_eq!(*lock(&recorded.numbers), expected);
    }

    /// Returns the doc comment of the observer, without the comment marks.
    fn docs() -> String {
        let source = include_str!("metrics.rs").split("#[derive").next().unwrap();
        source.lines().filter_map(|line| line.strip_prefix("/// ")).flat_map(|line| [line, "\n"]).collect()
    }

    #[test]
    fn exactly_the_recorded_metrics_are_described_and_documented() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || Samples::new().tell(&MetricsObserver::default()));
        let counted: BTreeSet<String> =
            lock(&recorded.numbers).keys().map(|series| series.split('{').next().unwrap().to_owned()).collect();
        assert_eq!(*lock(&recorded.described), counted);
        let docs = docs();
        let rows = docs.lines().filter_map(|line| line.strip_prefix("| `"));
        let table: BTreeMap<String, &str> = rows
            .map(|row| {
                let (name, rest) = row.split_once("` | ").unwrap();
                let kind = rest.split_once(" | ").unwrap().0;
                let (name, labels) = name.split_once('{').unwrap_or((name, ""));
                (format!("{kind} {name}"), labels.trim_end_matches('}'))
            })
            .collect();
        assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), counted);
        for series in lock(&recorded.numbers).keys() {
            let (name, label) = series.split_once('{').unwrap_or((series, ""));
            assert_eq!(table[name], label.split('=').next().unwrap(), "{series}");
        }
    }

    #[test]
    fn the_docs_name_every_reason() {
        let docs = docs();
        // `NoStream` is never observed, because there was no stream. `Other` has the program's text.
        let reasons = CloseReason::all().filter(|it| !matches!(it, CloseReason::NoStream | CloseReason::Other(_)));
        let refused: Vec<&str> = RefusedReason::all().map(|refused| refused.as_str()).collect();
        for word in reasons.map(|reason| reason.as_str()).chain(refused) {
            assert!(docs.contains(&format!("`{word}`")), "the docs do not name {word}");
        }
    }

    #[test]
    fn deliveries_are_counted_in_open_streams_and_gauges_end_with_the_registry() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let recorded = Recorded::default();
        let number = |name: &str| recorded.number(name).unwrap_or(0.0);
        with_local_recorder(&recorded, || {
            runtime.block_on(async {
                let registry = Registry::with_config(RegistryConfig::default().observer(MetricsObserver::new()));
                let client = registry.connect();
                client.subscribe("a").unwrap();
                let mut events = client.into_events();
                for expected in 1..=35 {
                    registry.publish("a", Event::data("x")).unwrap();
                    std::future::poll_fn(|cx| futures_core::Stream::poll_next(std::pin::Pin::new(&mut events), cx))
                        .await;
                    tokio::time::advance(std::time::Duration::from_secs(100)).await;
                    registry.publish("b", Event::data("x")).unwrap();
                    assert_eq!(number("counter sse_delivered_total"), f64::from(expected), "while the stream is open");
                }
                assert_eq!((number("gauge sse_topics"), number("gauge sse_subscriptions")), (2.0, 1.0));
                assert_eq!(number("gauge sse_retained_events"), 70.0);
                assert_eq!(number("gauge sse_retained_bytes"), registry.stats().bytes as f64);
                registry.publish("a", Event::data("x")).unwrap();
                std::future::poll_fn(|cx| futures_core::Stream::poll_next(std::pin::Pin::new(&mut events), cx)).await;
                drop(events);
                assert_eq!(
                    number("counter sse_delivered_total"),
                    36.0,
                    "the rest comes at once, because few streams are open"
                );
                assert_eq!(number("gauge sse_subscriptions"), 0.0);
            });
        });
        for gauge in ["sse_topics", "sse_subscriptions", "sse_retained_events", "sse_retained_bytes"] {
            assert_eq!(number(&format!("gauge {gauge}")), 0.0, "the registry was dropped");
        }
    }

    #[test]
    fn an_open_stream_is_counted_in_the_gauge() {
        let (recorded, samples, observer) = (Recorded::default(), Samples::new(), MetricsObserver::new());
        with_local_recorder(&recorded, || {
            observer.opened(&samples.client);
            observer.opened(&samples.client);
            assert_eq!(recorded.number("gauge sse_open_streams"), Some(2.0));
            observer.closed(&samples.client, &samples.summary);
            assert_eq!(recorded.number("gauge sse_open_streams"), Some(1.0));
        });
    }

    #[test]
    fn a_close_reason_of_the_program_has_its_own_label() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || {
            let samples = Samples::new();
            let summary = StreamSummary { reason: crate::CloseReason::Other("logged_out"), ..samples.summary };
            MetricsObserver::new().closed(&samples.client, &summary);
        });
        assert_eq!(recorded.number("counter sse_closed_streams_total{reason=logged_out}"), Some(1.0));
    }
}
