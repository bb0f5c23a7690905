//! What the cursors need to know about their client.

use std::sync::OnceLock;

use crate::event::ClientId;

/// A client's id, and the `Last-Event-ID` that it resumes from. Both are set at most once.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Identity {
    id: OnceLock<ClientId>,
    /// A thin pointer, because each client has this field.
    last_event_id: OnceLock<Box<Box<str>>>,
}

impl Identity {
    /// Returns the client's id, if it has one already.
    pub(crate) fn id(&self) -> Option<ClientId> {
        self.id.get().copied()
    }

    pub(crate) fn id_or(&self, make: impl FnOnce() -> ClientId) -> ClientId {
        *self.id.get_or_init(make)
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.get().map(|id| &***id)
    }

    /// Sets the id that the client resumes from. Returns `false` if it has one.
    pub(crate) fn resume_from(&self, id: &str) -> bool {
        self.last_event_id.set(Box::new(id.into())).is_ok()
    }

    /// Sets what the request brings.
    pub(crate) fn come_with(&mut self, last_event_id: Option<Box<str>>) {
        self.last_event_id = last_event_id.map(Box::new).map(OnceLock::from).unwrap_or_default();
    }

    /// Forgets what the request brought. Returns whether it brought an id.
    pub(crate) fn forget_last_event_id(&mut self) -> bool {
        self.last_event_id.take().is_some()
    }
}
