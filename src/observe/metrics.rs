//! Numbers for the `metrics` crate.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::{Closed, Observer};
use crate::{ClientHandle, Gap, Receipt, Refused, SubscribeError};

/// Counts what happens, with the [`metrics`](https://docs.rs/metrics) crate. With the `metrics` feature.
///
/// | name | kind | what it counts |
/// |---|---|---|
/// | `sse_opened_total` | counter | streams that were opened |
/// | `sse_closed_total{reason}` | counter | streams that are over, by why |
/// | `sse_open_streams` | gauge | open streams |
/// | `sse_stream_seconds` | histogram | how long a stream was open, when it is over |
/// | `sse_refused_streams_total` | counter | streams that were refused |
/// | `sse_refused_subscriptions_total` | counter | subscriptions that were not made |
/// | `sse_published_total` | counter | events that were published |
/// | `sse_delivered_total` | counter | events of the registry that streams got, added when a stream is over |
/// | `sse_sent_bytes_total` | counter | bytes of the streams' bodies, added when a stream is over |
/// | `sse_lagged_total` | counter | how often a client fell off what a topic retains |
/// | `sse_missed_total` | counter | events that clients lost by that |
/// | `sse_gaps_total` | counter | gaps in what clients should have had, on resuming or by lag |
/// | `sse_heartbeats_total` | counter | heartbeats that were sent |
///
/// There is no label but `reason`: one of `ended`, `gone`, `closed`, `body_error`, or `other`, or the text that
/// [`close_with`](ClientHandle::close_with) was called with. So the number of series depends on the program alone, and on
/// nothing that clients send.
///
/// Each number goes to the recorder that is installed at the moment it is counted, at the cost of a look-up there. Make
/// the observer when the recorder is installed: it is then that the descriptions are given.
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
    /// One that counts, and that has described its metrics to the recorder that is installed now.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!("sse_opened_total", Unit::Count, "Event streams that were opened");
        describe_counter!("sse_closed_total", Unit::Count, "Event streams that are over, by reason");
        describe_gauge!("sse_open_streams", Unit::Count, "Open event streams");
        describe_histogram!("sse_stream_seconds", Unit::Seconds, "How long an event stream was open");
        describe_counter!("sse_refused_streams_total", Unit::Count, "Streams that were refused");
        describe_counter!("sse_refused_subscriptions_total", Unit::Count, "Subscriptions that were not made");
        describe_counter!("sse_published_total", Unit::Count, "Events that were published");
        describe_counter!("sse_delivered_total", Unit::Count, "Published events that closed streams had got");
        describe_counter!("sse_sent_bytes_total", Unit::Bytes, "Bytes of the bodies of closed streams");
        describe_counter!("sse_lagged_total", Unit::Count, "Times that a client fell off what a topic retains");
        describe_counter!("sse_missed_total", Unit::Count, "Events that clients lost by lag");
        describe_counter!("sse_gaps_total", Unit::Count, "Gaps in what clients should have had");
        describe_counter!("sse_heartbeats_total", Unit::Count, "Heartbeats that were sent");
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
        counter!("sse_opened_total").increment(1);
        gauge!("sse_open_streams").increment(1);
    }

    fn stream_refused(&self, _client: &ClientHandle, _refused: &Refused) {
        counter!("sse_refused_streams_total").increment(1);
    }

    fn subscription_refused(&self, _client: &ClientHandle, _error: &SubscribeError) {
        counter!("sse_refused_subscriptions_total").increment(1);
    }

    fn lagged(&self, _client: &ClientHandle, _topic: &str, missed: u64) {
        counter!("sse_lagged_total").increment(1);
        counter!("sse_missed_total").increment(missed);
    }

    fn gap(&self, _client: &ClientHandle, _gap: &Gap) {
        counter!("sse_gaps_total").increment(1);
    }

    fn heartbeat(&self, _client: &ClientHandle) {
        counter!("sse_heartbeats_total").increment(1);
    }

    fn closed(&self, _client: &ClientHandle, closed: &Closed) {
        counter!("sse_closed_total", "reason" => closed.reason.as_str()).increment(1);
        counter!("sse_delivered_total").increment(closed.events);
        counter!("sse_sent_bytes_total").increment(closed.bytes);
        gauge!("sse_open_streams").decrement(1);
        histogram!("sse_stream_seconds").record(closed.duration);
    }

    fn published(&self, _topic: &str, _receipt: &Receipt) {
        counter!("sse_published_total").increment(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::{Arc, Mutex},
    };

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        with_local_recorder,
    };

    use super::*;
    use crate::{observe::samples::Samples, sync::lock};

    type Numbers = Arc<Mutex<BTreeMap<String, f64>>>;

    #[derive(Default)]
    struct Recorded {
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
            panic!("no counter of ours is set");
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
            panic!("no gauge of ours is set");
        }
    }

    impl HistogramFn for Series {
        fn record(&self, value: f64) {
            self.add(value);
        }
    }

    impl Recorded {
        fn describe(&self, name: &KeyName) {
            assert!(lock(&self.described).insert(name.as_str().to_owned()), "{name:?} is described twice");
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
            self.describe(&name);
        }

        fn describe_gauge(&self, name: KeyName, _unit: Option<Unit>, _description: SharedString) {
            self.describe(&name);
        }

        fn describe_histogram(&self, name: KeyName, _unit: Option<Unit>, _description: SharedString) {
            self.describe(&name);
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
            ("counter sse_closed_total{reason=gone}", 1.0),
            ("counter sse_delivered_total", 7.0),
            ("counter sse_gaps_total", 1.0),
            ("counter sse_heartbeats_total", 1.0),
            ("counter sse_lagged_total", 1.0),
            ("counter sse_missed_total", 5.0),
            ("counter sse_opened_total", 1.0),
            ("counter sse_published_total", 1.0),
            ("counter sse_refused_streams_total", 1.0),
            ("counter sse_refused_subscriptions_total", 1.0),
            ("counter sse_sent_bytes_total", 900.0),
            ("gauge sse_open_streams", 0.0),
            ("histogram sse_stream_seconds", 1.5),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(series, number)| (series.to_owned(), number)).into();
        assert_eq!(*lock(&recorded.numbers), expected);
    }

    #[test]
    fn every_metric_is_described_and_no_other() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || Samples::new().tell(&MetricsObserver::default()));
        let counted: BTreeSet<String> = lock(&recorded.numbers)
            .keys()
            .filter_map(|series| series.split([' ', '{']).nth(1))
            .map(str::to_owned)
            .collect();
        assert_eq!(*lock(&recorded.described), counted);
    }

    #[test]
    fn a_stream_is_in_the_gauge_while_it_is_open() {
        let (recorded, samples, observer) = (Recorded::default(), Samples::new(), MetricsObserver::new());
        with_local_recorder(&recorded, || {
            observer.opened(&samples.client);
            observer.opened(&samples.client);
            assert_eq!(recorded.number("gauge sse_open_streams"), Some(2.0));
            observer.closed(&samples.client, &samples.closed);
            assert_eq!(recorded.number("gauge sse_open_streams"), Some(1.0));
        });
    }

    #[test]
    fn a_reason_of_the_programs_own_is_its_own_label() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || {
            let samples = Samples::new();
            let closed = Closed { reason: crate::CloseReason::Other("logged_out"), ..samples.closed };
            MetricsObserver::new().closed(&samples.client, &closed);
        });
        assert_eq!(recorded.number("counter sse_closed_total{reason=logged_out}"), Some(1.0));
    }
}
