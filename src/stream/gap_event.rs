//! The event that tells a client of a gap.

use bytes::Bytes;

use super::own_event::own_event;
use crate::{
    event::{EventError, OwnEvent},
    log::Gap,
};

/// The event that tells a client of a [`Gap`].
///
/// It is sent in the stream before the events that come after the gap, because `EventSource` cannot read response
/// headers.
///
/// Default: an event of type `gap`. Its data is JSON with the topics and the position that the client asked for
/// (`after`, which is absent if the client had no event yet). Its id is one from which the client can resume:
///
/// ```text
/// event: gap
/// data: {"topics":["prices/AAPL"],"after":"1763612345678-0-7k3m9p2xr"}
/// id: 1763612399000-4-7k3m9p2xr
/// ```
///
/// A page that listens for this event can load its state again:
///
/// ```
/// use tower_sse::{GapEvent, Registry, SseLayer};
///
/// let registry = Registry::new();
/// let layer = SseLayer::new(&registry).gap_event(GapEvent::named("reload"));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapEvent {
    event: OwnEvent,
}

impl GapEvent {
    /// Sends no gap event: the client is not told of gaps.
    ///
    /// A handler can still ask with [`ClientHandle::resume`](crate::ClientHandle::resume).
    #[must_use]
    pub fn off() -> Self {
        Self { event: OwnEvent::OFF }
    }

    pub(crate) fn encode(&self, gap: &Gap) -> Option<Bytes> {
        let id = gap.position.map(|position| position.to_string());
        self.event.encode(gap.json(), id.as_deref())
    }
}

own_event!(GapEvent, "gap");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Position;

    fn gap() -> Gap {
        Gap { topics: vec!["a".into(), "b/c".into()], after: "1-0".into(), position: Some(Position::at(2, 7)) }
    }

    #[test]
    fn the_data_has_the_topics_and_the_position_and_the_event_an_id() {
        let wire = GapEvent::default().encode(&gap());
        let expected = "event: gap\ndata: {\"topics\":[\"a\",\"b/c\"],\"after\":\"1-0\"}\nid: 2-7-000000007\n\n";
        assert_eq!(wire.as_deref(), Some(expected.as_bytes()));
        let wire = GapEvent::named("lost").encode(&Gap { position: None, ..gap() });
        assert!(wire.is_some_and(|wire| wire.starts_with(b"event: lost\n") && !wire.windows(3).any(|at| at == b"id:")));
        assert_eq!(GapEvent::off().encode(&gap()), None);
        assert!(matches!(GapEvent::try_named("a\nb"), Err(EventError::EventType { value }) if value == "a\nb"));
    }

    #[cfg(feature = "json")]
    #[test]
    fn any_last_event_id_becomes_valid_json() {
        let after: String = (0..0x250).filter_map(char::from_u32).collect();
        let json = Gap { topics: vec![after.clone()], after: after.clone(), position: None }.json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value, serde_json::json!({ "topics": [after], "after": after }));
    }

    #[test]
    #[should_panic(expected = "contains a line end")]
    fn an_invalid_literal_type_panics() {
        let _ = GapEvent::named("a\nb");
    }
}
