//! How a client is told where it stands when no event does.

use bytes::Bytes;

use crate::event::{EventError, OwnEvent};

/// How a client is told where it stands when no event does: so that it can resume before it had its first one.
///
/// A stream with subscriptions begins with such an event, and a heartbeat comes with one where the client has read on
/// since the last id that went out, as all of it was for others ([filters](crate::Subscription::filter),
/// [exclusions](crate::Event::exclude_client)). It has a type of its own, which no page listens to, empty data, and the id:
///
/// ```text
/// event: position
/// data:
/// id: 1763612399000-4-7k3m9p2xr
/// ```
///
/// A block of an `id:` alone would not do: Chromium keeps such an id and Firefox does not. A client that came with a
/// `Last-Event-ID` and misses nothing gets that one again. A stream that begins with a [gap](crate::GapEvent) or a
/// [snapshot](crate::EventStream::snapshot) gets none, as those have an id.
///
/// Libraries that give a program all events whatever their type give it these too: the guide's chapter on clients says
/// which. Default: an event of the type `position`.
///
/// ```
/// use tower_sse::{PositionEvent, Registry, SseLayer};
///
/// let registry = Registry::new();
/// let layer = SseLayer::new(&registry).position_event(PositionEvent::named("$position"));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionEvent {
    event: OwnEvent,
}

impl PositionEvent {
    /// Such an event of this type instead of `position`. An empty type makes it a `message`, which pages listen to.
    ///
    /// It is for literals. One that is read from a configuration is for [`try_named`](Self::try_named).
    ///
    /// # Panics
    ///
    /// If the type contains a line end (CR or LF).
    #[must_use]
    #[track_caller]
    pub fn named(event_type: &'static str) -> Self {
        Self { event: OwnEvent::named(event_type) }
    }

    /// The same of a type that is made at run time.
    ///
    /// # Errors
    ///
    /// [`EventError::EventType`] if the type contains a line end (CR or LF).
    pub fn try_named(event_type: impl Into<String>) -> Result<Self, EventError> {
        Ok(Self { event: OwnEvent::try_named(event_type)? })
    }

    /// No such event: a client that is cut off before its first event loses what is published until it is back.
    #[must_use]
    pub fn off() -> Self {
        Self { event: OwnEvent::OFF }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.event.is_on()
    }

    pub(crate) fn encode(&self, id: &str) -> Option<Bytes> {
        self.event.encode("", Some(id))
    }
}

impl Default for PositionEvent {
    fn default() -> Self {
        Self { event: OwnEvent::of("position") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_a_type_of_its_own_and_empty_data_and_the_id() {
        let wire = PositionEvent::default().encode("1-0-000000007");
        assert_eq!(wire.as_deref(), Some(&b"event: position\ndata: \nid: 1-0-000000007\n\n"[..]));
        assert!(PositionEvent::named("where").encode("7").unwrap().starts_with(b"event: where\ndata: \n"));
        assert_eq!(PositionEvent::off().encode("7"), None);
        assert!(matches!(PositionEvent::try_named("a\rb"), Err(EventError::EventType { value }) if value == "a\rb"));
    }

    #[test]
    #[should_panic(expected = "contains a line end")]
    fn a_literal_that_cannot_be_its_type_panics() {
        let _ = PositionEvent::named("a\nb");
    }
}
