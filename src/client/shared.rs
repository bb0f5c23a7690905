//! The state that the clients of one registry share.

use std::{
    collections::{HashMap, hash_map},
    fmt,
    sync::{Arc, Weak},
};

use super::{
    draining::Draining,
    hooks::Hooks,
    settings::ClientSettings,
    state::Client,
    stats::{Counters, LastSample},
};
use crate::{
    cluster::{Cluster, Health},
    collections::shrunk_capacity,
    event::{ClientId, Event},
    presence::Presences,
    sync::{AtomicU64, Mutex, lock},
    time::{Clock, Timers},
    topics::{PublishError, Receipt, TopicSettings, Topics, Writer},
};

/// The state that a registry's clients and handles share.
///
/// Locks are taken in this order: a client's state, the hooks, the map of presence lists, one presence list, and then
/// the locks of `Topics`. User code runs under none of them.
pub(crate) struct Shared {
    pub(crate) topics: Topics,
    pub(crate) settings: ClientSettings,
    pub(crate) clock: Clock,
    pub(crate) timers: Timers,
    /// When to check for stalled clients again, in nanoseconds since the clock's start.
    pub(crate) next_look: AtomicU64,
    /// The clients, by half of their ids.
    pub(crate) clients: Mutex<HashMap<u64, Weak<Client>>>,
    pub(crate) presences: Arc<Presences>,
    pub(crate) draining: Draining,
    pub(crate) counters: Counters,
    pub(crate) last_sample: LastSample,
    pub(crate) hooks: Hooks,
    /// The node of a backplane, if there is one.
    pub(crate) cluster: Option<Arc<Cluster>>,
}

impl Shared {
    pub(crate) fn new(topics: TopicSettings, settings: ClientSettings, cluster: Option<Cluster>) -> Self {
        let clock = Clock::new();
        Self {
            topics: Topics::new(topics, clock, cluster.is_some()),
            cluster: cluster.map(Arc::new),
            clock,
            timers: Timers::new(clock),
            next_look: AtomicU64::new(0),
            clients: Mutex::default(),
            presences: Arc::new(Presences::new(settings.presence_grace)),
            draining: Draining::default(),
            counters: Counters::default(),
            last_sample: LastSample::default(),
            hooks: Hooks::default(),
            settings,
        }
    }

    /// Publishes an event, and notifies observers. `by`: the event's source, if that is a producer or somebody who
    /// cancels one.
    pub(crate) fn publish(&self, name: &str, event: &Event, by: Option<Writer<'_>>) -> Result<Receipt, PublishError> {
        let elapsed = self.clock.elapsed();
        let mut receipt = match self.send_to_engine(name, event, by) {
            None => self.topics.publish(name, event, by, elapsed)?,
            Some(sent) => sent?,
        };
        self.end_stalled_clients(elapsed);
        let excluded = event.audience().and_then(|audience| self.client(&audience.excluded_client?));
        let left_out = excluded.map_or(0, |client| client.having(name));
        receipt.subscribers = receipt.subscribers.saturating_sub(left_out);
        self.settings.observers.notify(|observer| observer.published(name, &receipt));
        self.sample(elapsed);
        Ok(receipt)
    }

    pub(crate) fn client(&self, id: &ClientId) -> Option<Arc<Client>> {
        let client = lock(&self.clients).get(&id.half()).and_then(Weak::upgrade)?;
        (client.known_id() == Some(*id)).then_some(client)
    }

    /// Returns all clients that have an id. Every client with an open stream has one.
    pub(crate) fn known_clients(&self) -> Vec<Arc<Client>> {
        lock(&self.clients).values().filter_map(Weak::upgrade).collect()
    }

    /// Registers a client under a new id.
    pub(crate) fn register(&self, client: &Arc<Client>) -> ClientId {
        let mut clients = lock(&self.clients);
        loop {
            let id = ClientId::random();
            if let hash_map::Entry::Vacant(place) = clients.entry(id.half()) {
                place.insert(Arc::downgrade(client));
                return id;
            }
        }
    }

    pub(crate) fn unregister(&self, id: &ClientId) {
        let mut clients = lock(&self.clients);
        clients.remove(&id.half());
        if let Some(enough) = shrunk_capacity(clients.len(), clients.capacity()) {
            clients.shrink_to(enough);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.close();
            let health = cluster.health();
            if health != Health::Loading {
                self.settings.observers.notify(|observer| observer.health_changed(&health, &Health::Loading));
            }
        }
        self.sample_at_the_end();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}
