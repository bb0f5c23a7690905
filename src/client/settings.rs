//! The settings of a registry's clients.

use std::{fmt, sync::Arc, time::Duration};

use super::{client_handle::ClientHandle, observers::Observers};
use crate::{limit::Limit, presence::GRACE};

/// The settings of a registry's clients.
#[derive(Clone)]
pub(crate) struct ClientSettings {
    pub(crate) limits: Vec<Limit>,
    pub(crate) subscriptions_per_client: usize,
    pub(crate) patterns_per_client: usize,
    pub(crate) stalled_client_timeout: Option<Duration>,
    pub(crate) observers: Observers,
    pub(crate) presence_key: Option<PresenceKey>,
    pub(crate) presence_grace: Duration,
}

/// The function that returns a client's presence key.
#[derive(Clone)]
pub(crate) struct PresenceKey(Arc<GivePresenceKey>);

type GivePresenceKey = dyn Fn(&ClientHandle) -> Option<String> + Send + Sync;

impl PresenceKey {
    pub(crate) fn new(key: impl Fn(&ClientHandle) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(key))
    }

    pub(crate) fn of(&self, client: &ClientHandle) -> Option<String> {
        (self.0)(client)
    }
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            subscriptions_per_client: 1000,
            patterns_per_client: 16,
            stalled_client_timeout: Some(Duration::from_secs(60)),
            observers: Observers::default(),
            presence_key: None,
            presence_grace: GRACE,
        }
    }
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("limits", &self.limits)
            .field("subscriptions_per_client", &self.subscriptions_per_client)
            .field("patterns_per_client", &self.patterns_per_client)
            .field("stalled_client_timeout", &self.stalled_client_timeout)
            .field("observers", &self.observers)
            .field("presence_key", &self.presence_key.is_some())
            .field("presence_grace", &self.presence_grace)
            .finish()
    }
}
