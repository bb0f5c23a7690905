//! Observers: one counts for the page, one prints.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tower_sse::{ClientHandle, Observation, Observer, StreamSummary};

use crate::visitor::Visitor;

/// An observer as a type. The methods that it does not implement do nothing.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    opened: AtomicU64,
    heartbeats: AtomicU64,
    /// The bytes of closed streams.
    bytes: AtomicU64,
}

impl Observer for Counts {
    fn opened(&self, _: &ClientHandle) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn heartbeat(&self, _: &ClientHandle) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, _: &ClientHandle, summary: &StreamSummary) {
        self.bytes.fetch_add(summary.bytes, Ordering::Relaxed);
    }
}

impl Counts {
    pub(crate) fn to_json(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "opened": count(&self.opened),
            "heartbeats": count(&self.heartbeats),
            "closed_bytes": count(&self.bytes),
        })
    }
}

/// An observer as a function. It runs on the thread that publishes or polls, so it must not block for long. It prints
/// the number of a stream and not its id, because ids must not be in logs.
pub(crate) fn print(observation: &Observation<'_>) {
    match observation {
        Observation::Closed { client, summary } => {
            let seconds = summary.duration.as_secs_f64();
            let (reason, events, bytes) = (summary.reason, summary.events, summary.bytes);
            eprintln!("{} is over after {seconds:.1} s, {events} events, {bytes} bytes: {reason}", name(client));
        }
        Observation::FellBehind { client, topic, missed } => {
            eprintln!("{} lost {missed} events of {topic:?}: too slow", name(client));
        }
        _ => {}
    }
}

fn name(client: &ClientHandle) -> String {
    match Visitor::behind(client) {
        Some(visitor) => format!("stream {} of {:?}", visitor.number, visitor.user),
        None => "a stream".to_owned(),
    }
}
