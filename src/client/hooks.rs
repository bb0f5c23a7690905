//! What observers are told of one client, in the order in which it happened.
//!
//! Several threads may change a client at the same time, and hooks run when nothing is locked. So what happens is
//! noted while the client's state is locked, and whoever notes something while nobody tells of this client tells
//! everything, one after the other, until there is nothing left.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use super::{observer::StreamSummary, state::Client};
use crate::{
    collections::spacious,
    sync::{Mutex, lock},
};

/// What happened to a client whose stream has begun.
#[derive(Debug)]
pub(crate) enum Hook {
    Opened,
    Subscribed(Arc<str>),
    Unsubscribed(Arc<str>),
    Closed(Box<StreamSummary>),
}

/// What is still to be told, of the clients of which somebody tells at this moment: by the address of each.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<HashMap<usize, VecDeque<Hook>>>);

/// Tells observers what was noted, when it is dropped: to be declared before the client's state is locked, so that it
/// is dropped after that.
pub(crate) struct TellDeferred<'a> {
    client: &'a Arc<Client>,
    /// Nobody else tells of this client.
    tells: bool,
}

impl<'a> TellDeferred<'a> {
    pub(crate) fn of(client: &'a Arc<Client>) -> Self {
        Self { client, tells: false }
    }

    /// Notes what happened. The client's state is locked, which gives it its place in the order.
    pub(crate) fn note(&mut self, hook: impl FnOnce() -> Hook) {
        let shared = self.client.shared();
        if shared.settings.observers.is_empty() {
            return;
        }
        let hook = hook();
        match lock(&shared.hooks.0).entry(address(self.client)) {
            Entry::Occupied(mut told) => told.get_mut().push_back(hook),
            Entry::Vacant(nobody) => {
                nobody.insert(VecDeque::from([hook]));
                self.tells = true;
            }
        }
    }
}

impl Drop for TellDeferred<'_> {
    fn drop(&mut self) {
        if self.tells {
            let hooks = &self.client.shared().hooks;
            while let Some(hook) = hooks.next(address(self.client)) {
                hook.tell(self.client);
            }
        }
    }
}

impl Hooks {
    /// The next one of a client. `None`: that was all, and who has something to tell from now on tells it.
    fn next(&self, client: usize) -> Option<Hook> {
        let mut hooks = lock(&self.0);
        let next = hooks.get_mut(&client)?.pop_front();
        if next.is_none() {
            hooks.remove(&client);
            if let Some(enough) = spacious(hooks.len(), hooks.capacity()) {
                hooks.shrink_to(enough);
            }
        }
        next
    }
}

impl Hook {
    fn tell(&self, client: &Arc<Client>) {
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
