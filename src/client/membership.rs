//! Adds clients to presence lists.

use std::sync::Arc;

use super::{
    shared::Shared,
    state::{Client, ClientState},
};
use crate::{presence::Presence, topics::Deferred};

impl Client {
    /// Adds the client to a new list, if its stream is open and subscribed.
    fn join_if_subscribed(self: &Arc<Self>, presence: &Presence) {
        let is_there = |state: &ClientState| state.is_open() && state.cursors.contains(presence.name());
        let mut deferred = Deferred::default();
        let mut state = self.lock_with_key(is_there);
        if is_there(&state) {
            let metadata = state.metadata();
            presence.join(state.key_or(|| self.default_presence_key()), self.id(), metadata, &mut deferred);
        }
    }
}

impl Shared {
    /// Returns the presence list of a topic or pattern with exactly this name.
    pub(crate) fn presence(&self, name: &str) -> Presence {
        let (presence, is_new) = self.presences.open(name);
        if is_new {
            // Clients that subscribe or begin from now on find the list. The others are added here.
            self.known_clients().iter().for_each(|client| client.join_if_subscribed(&presence));
        }
        presence
    }
}
