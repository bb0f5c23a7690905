//! Notifications to observers about one client, in the order in which things happened.
//!
//! Several threads may change a client at the same time, and observers are called when nothing is locked. So a thread
//! records what happened while the client's state is locked. The first thread that records something for a client
//! notifies the observers of everything, one by one, until nothing is left.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use super::{observer::StreamSummary, state::Client};
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

/// Notifies observers of what was recorded, when it is dropped. Declare it before the client's state is locked, so that
/// it is dropped after the lock.
pub(crate) struct TellDeferred<'a> {
    client: &'a Arc<Client>,
    /// This thread notifies about the client.
    notifies: bool,
}

impl<'a> TellDeferred<'a> {
    pub(crate) fn of(client: &'a Arc<Client>) -> Self {
        Self { client, notifies: false }
    }

    /// Records what happened. The client's state is locked, and that gives the order.
    pub(crate) fn note(&mut self, hook: impl FnOnce() -> Hook) {
        let shared = self.client.shared();
        if shared.settings.observers.is_empty() {
            return;
        }
        let hook = hook();
        match lock(&shared.hooks.0).entry(address(self.client)) {
            Entry::Occupied(mut pending) => pending.get_mut().push_back(hook),
            Entry::Vacant(nobody) => {
                nobody.insert(VecDeque::from([hook]));
                self.notifies = true;
            }
        }
    }
}

impl Drop for TellDeferred<'_> {
    fn drop(&mut self) {
        if self.notifies {
            let hooks = &self.client.shared().hooks;
            while let Some(hook) = hooks.next(address(self.client)) {
                hook.notify(self.client);
            }
        }
    }
}

impl Hooks {
    /// Takes the next notification about a client. `None`: nothing is left, and the next thread that records something
    /// notifies.
    fn next(&self, client: usize) -> Option<Hook> {
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

impl Hook {
    fn notify(&self, client: &Arc<Client>) {
        client.observe(|observer, client| match self {
            Self::Opened => observer.opened(client),
            Self::Subscribed(topic) => observer.subscribed(client, topic),
            Self::Unsubscribed(topic) => observer.unsubscribed(client, topic),
            Self::Closed(summary) => observer.closed(client, summary),
        });
    }
}

fn address(client: &Arc<Client>) -> usize {
    Arc::as_ptr(client).addr()
}
