//! Pending notifications to observers, in the order in which things happened to each client.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use super::stats::StreamSummary;
use crate::{
    collections::shrunk_capacity,
    sync::{Mutex, lock},
};

/// Something that happened to a client whose stream has begun.
#[derive(Debug)]
pub(crate) enum Hook {
    Opened,
    Subscribed(Arc<str>),
    Unsubscribed(Arc<str>),
    Closed(Box<StreamSummary>),
}

/// The pending notifications, by the address of each client. Only clients that a thread is notifying about have an
/// entry.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<HashMap<usize, VecDeque<Hook>>>);

impl Hooks {
    /// Records what happened to a client. Returns whether the caller has to notify observers.
    pub(super) fn push(&self, client: usize, hook: Hook) -> bool {
        match lock(&self.0).entry(client) {
            Entry::Occupied(mut pending) => {
                pending.get_mut().push_back(hook);
                false
            }
            Entry::Vacant(nobody) => {
                nobody.insert(VecDeque::from([hook]));
                true
            }
        }
    }

    /// Takes the next notification about a client. `None`: nothing is left, and the next thread that records something
    /// notifies.
    pub(super) fn next(&self, client: usize) -> Option<Hook> {
        let mut hooks = lock(&self.0);
        let next = hooks.get_mut(&client)?.pop_front();
        if next.is_none() {
            hooks.remove(&client);
            if let Some(enough) = shrunk_capacity(hooks.len(), hooks.capacity()) {
                hooks.shrink_to(enough);
            }
        }
        next
    }
}
