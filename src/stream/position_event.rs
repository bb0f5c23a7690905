//! The event that tells a client its position when no other event does.

use bytes::Bytes;

use super::own_event::own_event;
use crate::event::{EventError, OwnEvent};

/// The event that tells a client its position when no other event does.
///
/// With it, a client can resume even if it is cut off before its first event.
///
/// A stream with subscriptions begins with this event. It is also sent with a heartbeat, if the client's cursor has
/// moved since the last id was sent. This happens when all events in between were for other clients
/// ([filters](crate::Subscription::filter), [exclusions](crate::Event::exclude_client)).
///
/// It can be the last event of a stream that the server ends. Then the client brings an id that tells the server that
/// the client has received everything. The id can be that of the event before it.
///
/// Default: an event of type `position`, which no page listens to, with empty data and the id:
///
/// ```text
/// event: position
/// data:
/// id: 1763612399000-4-7k3m9p2xr
/// ```
///
/// An `id:` field alone would not be enough: Chromium keeps such an id, and Firefox does not.
///
/// A client that came with a `Last-Event-ID` and missed nothing gets the same id again. A stream that begins with a
/// [gap](crate::GapEvent) or a [snapshot](crate::EventStream::snapshot) gets no position event, because the gap event
/// and the snapshot have an id.
///
/// Some client libraries pass events of all types to the program, so also this event. The guide's chapter on clients
/// lists them.
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
    /// Sends no position event.
    ///
    /// A client that is cut off before its first event then loses the events that are published until it is back.
    #[must_use]
    pub fn off() -> Self {
        Self { event: OwnEvent::OFF }
    }

    pub(crate) fn encode(&self, id: &str) -> Option<Bytes> {
        self.event.encode("", Some(id))
    }
}

own_event!(PositionEvent, "position");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_own_type_and_the_id_and_empty_data() {
        let wire = PositionEvent::default().encode("1-0-000000007");
        assert_eq!(wire.as_deref(), Some(&b"event: position\ndata: \nid: 1-0-000000007\n\n"[..]));
        assert!(PositionEvent::named("where").encode("7").unwrap().starts_with(b"event: where\ndata: \n"));
        assert_eq!(PositionEvent::off().encode("7"), None);
        assert!(matches!(PositionEvent::try_named("a\rb"), Err(EventError::EventType { value }) if value == "a\rb"));
    }

    #[test]
    #[should_panic(expected = "contains a line end")]
    fn an_invalid_literal_type_panics() {
        let _ = PositionEvent::named("a\nb");
    }
}
