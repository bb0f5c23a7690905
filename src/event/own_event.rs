//! Events that the crate itself sends.

use bytes::Bytes;

use super::{
    encoding::{finish, push_field},
    error::EventError,
    server_sent_event::{Event, literal},
};

/// An event that the crate itself sends, such as the gap event.
///
/// The program can choose its event type, or turn it off (`None`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnEvent(Option<String>);

impl OwnEvent {
    pub(crate) const OFF: Self = Self(None);

    pub(crate) fn of(event_type: impl Into<String>) -> Self {
        Self(Some(event_type.into()))
    }

    /// Takes the event type from a literal. Panics if it contains a line end.
    #[track_caller]
    pub(crate) fn named(event_type: &'static str) -> Self {
        literal(Self::try_named(event_type))
    }

    /// Takes the event type, or returns an error if it contains a line end.
    pub(crate) fn try_named(event_type: impl Into<String>) -> Result<Self, EventError> {
        let event_type = event_type.into();
        Event::empty().try_event(&event_type)?;
        Ok(Self::of(event_type))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn encode(&self, data: impl AsRef<str>, id: Option<&str>) -> Option<Bytes> {
        let event = Event::data(data).try_event(self.0.as_ref()?).ok()?;
        let mut wire = event.encode_fields();
        if let Some(id) = id {
            push_field(&mut wire, "id", id);
        }
        Some(finish(wire))
    }
}
