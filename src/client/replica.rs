//! The registry as a replica of the log that an engine keeps.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{draining::DrainFarewell, shared::Shared, state::Client};
use crate::{
    cluster::{Health, Replicated, Resumes, Standing},
    event::Event,
    log::{End, Outcome, Position, Progress, topic_name},
    sync::lock,
    topics::{By, Change, Deferred, Kept, ProductionId, PublishError, Receipt, Retained, Stamp, Writer},
};

impl Shared {
    /// Sends an event to the engine, if this process knows nothing against it. The log has the last word.
    pub(super) fn send_to_engine(
        &self,
        name: &str,
        event: &Event,
        by: Option<Writer<'_>>,
    ) -> Option<Result<Receipt, PublishError>> {
        let cluster = self.following()?;
        let (by, outcome, production) = match by {
            None => (By::Anyone, None, None),
            Some(Writer::Producer(production)) => (By::Producer(production.id), None, Some(production)),
            Some(Writer::Last(production, outcome)) => (By::Producer(production.id), Some(outcome), Some(production)),
            Some(Writer::Canceller) => {
                let meant = self.any_production_of(name).map(|production| production.id);
                (By::Canceller(meant), Some(Outcome::Cancelled), None)
            }
        };
        let stopped = production.and_then(|production| production.error(name));
        let may_publish = stopped.map_or_else(|| self.topics.may_publish(name, event, by), Err);
        Some(may_publish.and_then(|subscribers| cluster.publish(name, event, by, outcome, subscribers)))
    }

    /// Subscribes a client of this process to its own topic, if an event for it has come from elsewhere.
    fn prepare_own_topics(&self, changes: &[Change<'_>]) {
        let own = changes.iter().filter(|change| topic_name::is_of_one_client(&change.topic));
        for id in own.filter_map(|change| change.topic.strip_prefix("$client/")?.parse().ok()) {
            if let Some(client) = self.client(&id) {
                // A client that has too many subscriptions does not get it, and its sender was told if it is in this process.
                // It may ask the program for the retention, whose panic must not end the task that reads.
                let _ = catch_unwind(AssertUnwindSafe(|| client.subscribe_to_own()));
            }
        }
    }
}

impl Shared {
    /// Begins to drain: new streams are refused, and requests that wait for the log go on to be refused.
    pub(crate) fn begin_drain(&self, last_words: &DrainFarewell) {
        self.draining.begin(last_words);
        self.cluster.iter().for_each(|cluster| cluster.stop_waiting());
    }
}

/// A future that is ready when this process has read the log far enough for a client.
pub(crate) type CatchingUp = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Client {
    /// Returns what the client has to wait for before it is known where it resumes: its position may come from a node that has read more.
    pub(crate) fn catching_up(&self) -> Option<CatchingUp> {
        let cluster = self.shared().following()?;
        let resumes = match self.last_event_id().map(str::parse::<Progress>) {
            None => Resumes::Nothing,
            Some(Ok(progress)) => Resumes::After(progress.seen),
            Some(Err(_)) => Resumes::AfterOwnId,
        };
        let cluster = cluster.has_to_wait(resumes).then(|| Arc::clone(cluster))?;
        Some(Box::pin(async move { cluster.catch_up(resumes).await }))
    }
}

impl Replicated for Shared {
    fn begin_at(&self, begin: Position) {
        self.topics.begin_at(begin);
    }

    fn loaded(&self) {
        self.topics.loaded();
    }

    fn make(&self, changes: &[Change<'_>], newest: Stamp) -> Vec<Result<(), PublishError>> {
        self.prepare_own_topics(changes);
        let made = self.topics.make(changes, newest);
        let elapsed = self.clock.elapsed();
        self.end_stalled_clients(elapsed);
        self.sample(elapsed);
        made
    }

    fn lose(&self, before: Position) {
        self.topics.lose(before);
    }

    fn cut(&self, lost: Option<(Position, Position)>, is_kept: &dyn Fn(Position) -> bool) {
        self.topics.cut(lost, is_kept);
    }

    fn health_changed(&self, before: &Health, now: &Health) {
        self.settings.observers.notify(|observer| observer.health_changed(before, now));
    }

    fn oldest(&self) -> Option<Position> {
        self.topics.oldest()
    }

    fn retained(&self, events: &[(&str, Position)]) -> Vec<Option<Retained>> {
        self.topics.retained(events)
    }

    fn retained_bytes(&self) -> usize {
        self.topics.retained_bytes()
    }

    fn ended_topic_ttl(&self) -> Duration {
        self.topics.settings.ended_topic_ttl
    }

    fn standing_of(&self, name: &str) -> Option<Standing> {
        let mut deferred = Deferred::default();
        let order = self.topics.order(&mut deferred);
        let topic = order.topic(name)?;
        let state = lock(&topic.state);
        if let Some(production) = &state.production {
            return Some(Standing::Producing { producer: production.id, began: state.began });
        }
        let End { outcome, has_last_word, .. } = topic.end_in_log()?;
        let Some(Kept::Ending(ticket)) = state.kept else { return None };
        let at_ms = order.ended.get(ticket)?.at_ms;
        Some(Standing::Ended { outcome, at_ms, began: state.began, has_last_word })
    }

    fn fail(&self, name: &str, producer: ProductionId) {
        let Some(cluster) = &self.cluster else { return };
        if !self.topics.is_produced_by(name, producer) {
            return;
        }
        let by = By::Producer(producer);
        let sent = self.topics.settings.failed_event.of(name).map(|event| {
            self.topics.may_publish(name, &event, by)?;
            cluster.publish(name, &event, by, Some(Outcome::Failed), 0)
        });
        if !matches!(sent, Some(Ok(_))) {
            cluster.end(name, by, Outcome::Failed);
        }
    }
}
