//! Whose open streams are subscribed, for presence.

use std::sync::Arc;

use super::{
    shared::Shared,
    state::{Client, State},
};
use crate::{presence::Presence, topics::Deferred};

impl Client {
    /// For a list that is new: whether its stream is open and was subscribed before.
    fn join_if_subscribed(self: &Arc<Self>, presence: &Presence) {
        let is_there = |state: &State| state.is_open() && state.cursors.contains(presence.name());
        let mut deferred = Deferred::default();
        let mut state = self.lock_with_key(is_there);
        if is_there(&state) {
            let metadata = state.metadata();
            presence.join(state.key_or(|| self.key_of_its_own()), self.id(), metadata, &mut deferred);
        }
    }
}

impl Shared {
    /// Whose open streams are subscribed to a topic or a pattern by just that name.
    pub(crate) fn presence(&self, name: &str) -> Presence {
        let (presence, is_new) = self.presences.open(name);
        if is_new {
            // Whoever subscribes or begins from now on sees the list. All others are looked at.
            self.known_clients().iter().for_each(|client| client.join_if_subscribed(&presence));
        }
        presence
    }
}
