//! An observer that records what it is told.
#![allow(dead_code, reason = "no test uses all of it")]

use std::sync::{Arc, Mutex};

use tower_sse::{
    ClientHandle, ClientId, Gap, Observation, Observer, Receipt, RefusedReason, RegistryConfig, Stats, StreamSummary,
    SubscribeError,
};

/// An observation in a form that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observed {
    Opened(ClientId),
    StreamRefused(ClientId, RefusedReason),
    SubscriptionRefused(ClientId, SubscribeError),
    Subscribed(ClientId, String),
    Unsubscribed(ClientId, String),
    FellBehind(ClientId, String, u64),
    Gap(ClientId, Gap),
    Heartbeat(ClientId),
    Closed(ClientId, StreamSummary),
    Published(String, Receipt),
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Observed>>>);

impl Recorder {
    /// A recorder, and a configuration that has it as its observer.
    pub(crate) fn new() -> (Self, RegistryConfig) {
        let recorder = Self::default();
        (recorder.clone(), RegistryConfig::default().observer(recorder))
    }

    /// Returns the observations since the last call.
    pub(crate) fn take(&self) -> Vec<Observed> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The same without published events.
    pub(crate) fn of_clients(&self) -> Vec<Observed> {
        self.take().into_iter().filter(|it| !matches!(it, Observed::Published(..))).collect()
    }

    /// The summaries of the streams that have ended.
    pub(crate) fn closed(&self) -> Vec<StreamSummary> {
        let closed = |observed| match observed {
            Observed::Closed(_, summary) => Some(summary),
            _ => None,
        };
        self.take().into_iter().filter_map(closed).collect()
    }

    fn push(&self, observed: Observed) {
        self.0.lock().unwrap().push(observed);
    }
}

impl Observer for Recorder {
    fn observe(&self, observation: &Observation<'_>) {
        unreachable!("every hook is overridden: {observation:?}");
    }

    fn opened(&self, client: &ClientHandle) {
        self.push(Observed::Opened(client.id()));
    }

    fn stream_refused(&self, client: &ClientHandle, refused: &RefusedReason) {
        self.push(Observed::StreamRefused(client.id(), refused.clone()));
    }

    fn subscription_refused(&self, client: &ClientHandle, error: &SubscribeError) {
        self.push(Observed::SubscriptionRefused(client.id(), error.clone()));
    }

    fn subscribed(&self, client: &ClientHandle, topic: &str) {
        self.push(Observed::Subscribed(client.id(), topic.to_owned()));
    }

    fn unsubscribed(&self, client: &ClientHandle, topic: &str) {
        self.push(Observed::Unsubscribed(client.id(), topic.to_owned()));
    }

    fn fell_behind(&self, client: &ClientHandle, topic: &str, missed: u64) {
        self.push(Observed::FellBehind(client.id(), topic.to_owned(), missed));
    }

    fn gap(&self, client: &ClientHandle, gap: &Gap) {
        self.push(Observed::Gap(client.id(), gap.clone()));
    }

    fn heartbeat(&self, client: &ClientHandle) {
        self.push(Observed::Heartbeat(client.id()));
    }

    fn closed(&self, client: &ClientHandle, summary: &StreamSummary) {
        self.push(Observed::Closed(client.id(), summary.clone()));
    }

    fn published(&self, topic: &str, receipt: &Receipt) {
        self.push(Observed::Published(topic.to_owned(), receipt.clone()));
    }

    /// Most tests are not about the time of samples.
    fn sampled(&self, _before: &Stats, _now: &Stats) {}
}
