//! Producers begin and end: in this registry's own log, or in the log of a backplane.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::shared::Shared;
use crate::{
    cluster::Cluster,
    event::Event,
    log::Outcome,
    sync::lock,
    topics::{By, Deferred, Production, ProductionId, PublishError, Receipt, Topics, Writer},
};

/// How long a producer waits before it publishes again on a full outbox. Other publishers can keep the outbox from becoming empty.
const A_MOMENT: Duration = Duration::from_millis(50);

/// Why a producer does not begin.
pub(crate) enum NotBegun {
    /// The topic has a producer.
    Produced,
    /// Too many events wait for the backplane.
    OutboxFull,
}

impl Shared {
    /// Begins a production of a topic. `replaces`: if the topic has another producer, that one is stopped.
    pub(crate) fn begin_production(&self, name: &str, replaces: bool) -> Result<Arc<Production>, NotBegun> {
        if let Some(cluster) = self.following() {
            let production = cluster.begin(name, replaces).map_err(|_| NotBegun::OutboxFull)?;
            let production = production.ok_or(NotBegun::Produced)?;
            let mut deferred = Deferred::default();
            let order = self.topics.order(&mut deferred);
            // The record may have been read back already, and even an end after it.
            let ended = order.topic(name).filter(|topic| topic.has_ended() && !production.is_over());
            ended.iter().for_each(|topic| topic.begin_again());
            drop(order);
            return Ok(production);
        }
        let mut deferred = Deferred::default();
        let (mut order, topic) = self.topics.topic(name, &mut deferred);
        let mut state = lock(&topic.state);
        if state.production.is_some() && !replaces {
            return Err(NotBegun::Produced);
        }
        let id = ProductionId { session: 0, number: order.next_id() };
        let production = Arc::new(Production::new(id));
        let other = Topics::begin(&mut order, &topic, &mut state, &production);
        drop(state);
        drop(order);
        if let Some(other) = other {
            other.tell();
        }
        Ok(production)
    }

    /// Whether this production is still its topic's current one, as far as this process knows.
    pub(crate) fn is_current(&self, name: &str, production: &Production) -> bool {
        match self.following() {
            Some(_) => !production.is_over(),
            None => self.production_of(name).is_some_and(|current| current.id == production.id),
        }
    }

    fn production_of(&self, name: &str) -> Option<Arc<Production>> {
        let mut deferred = Deferred::default();
        let topic = self.topics.order(&mut deferred).topic(name)?;
        let state = lock(&topic.state);
        state.production.clone()
    }

    /// Returns the production of a topic, also if it is of this process and on its way to the backplane.
    pub(super) fn any_production_of(&self, name: &str) -> Option<Arc<Production>> {
        let own = self.following().and_then(|cluster| cluster.own_production(name));
        own.or_else(|| self.production_of(name))
    }

    /// Whether the topic has a producer, as far as this process knows.
    pub(crate) fn is_produced(&self, name: &str) -> bool {
        self.any_production_of(name).is_some()
    }

    /// Waits for a moment, or until nothing is on its way to the backplane.
    pub(crate) async fn outbox_may_have_room(&self) {
        let flushed = async {
            if let Some(cluster) = self.following() {
                cluster.flushed().await;
            }
        };
        let _ = timeout(A_MOMENT, flushed).await;
    }

    /// Ends a topic without a last event, if this production is the current one.
    pub(crate) fn end_production(&self, name: &str, production: &Production, outcome: Outcome) {
        if let Some(cluster) = self.following() {
            if !production.is_over() {
                cluster.end(name, By::Producer(production.id), outcome);
                production.end();
            }
            return;
        }
        self.end_without_event(name, outcome, |current| current.id == production.id);
    }

    /// Cancels the producer of a topic without a last event. Returns `false` if the topic has no producer.
    pub(crate) fn cancel_without_event(&self, name: &str) -> bool {
        match self.following() {
            Some(cluster) => {
                let Some(production) = self.any_production_of(name) else { return false };
                // Once is enough, however long the engine is away.
                if production.note_cancel() {
                    cluster.end(name, By::Canceller(Some(production.id)), Outcome::Cancelled);
                }
                true
            }
            None => self.end_without_event(name, Outcome::Cancelled, |_| true),
        }
    }

    fn end_without_event(&self, name: &str, outcome: Outcome, is_meant: impl Fn(&Production) -> bool) -> bool {
        let mut deferred = Deferred::default();
        let order = self.topics.order(&mut deferred);
        let Some(topic) = order.topic(name) else { return false };
        let state = lock(&topic.state);
        let ends = state.production.as_ref().is_some_and(|current| is_meant(current));
        if ends {
            self.topics.end(order, &topic, state, outcome);
        }
        ends
    }

    /// Publishes the last event of a topic.
    pub(crate) fn publish_last(
        &self,
        name: &str,
        event: &Event,
        production: &Arc<Production>,
        outcome: Outcome,
    ) -> Result<Receipt, PublishError> {
        let receipt = self.publish(name, event, Some(Writer::Last(production, outcome)))?;
        production.end();
        Ok(receipt)
    }

    /// The backplane, if there is one. Its task is started if it does not run.
    pub(crate) fn following(&self) -> Option<&Arc<Cluster>> {
        let cluster = self.cluster.as_ref()?;
        cluster.start();
        Some(cluster)
    }
}
