//! Notifies observers about one client, in the order in which things happened.
//!
//! Several threads may change a client at the same time, and observers are called when nothing is locked. So a thread
//! records what happened while the client's state is locked. The first thread that records something for a client
//! notifies the observers of everything, one by one, until nothing is left.

use std::sync::Arc;

use super::{hooks::Hook, state::Client};

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
        self.notifies |= shared.hooks.push(address(self.client), hook());
    }
}

impl Drop for TellDeferred<'_> {
    fn drop(&mut self) {
        if self.notifies {
            let hooks = &self.client.shared().hooks;
            while let Some(hook) = hooks.next(address(self.client)) {
                notify(self.client, &hook);
            }
        }
    }
}

fn notify(client: &Arc<Client>, hook: &Hook) {
    client.observe(|observer, client| match hook {
        Hook::Opened => observer.opened(client),
        Hook::Subscribed(topic) => observer.subscribed(client, topic),
        Hook::Unsubscribed(topic) => observer.unsubscribed(client, topic),
        Hook::Closed(summary) => observer.closed(client, summary),
    });
}

fn address(client: &Arc<Client>) -> usize {
    Arc::as_ptr(client).addr()
}
