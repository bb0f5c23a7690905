//! Layers without an opening of their own, for tests of other things.
#![allow(dead_code, reason = "no test uses all of it")]

use tower_sse::{Heartbeat, PositionEvent, Registry, SseLayer};

/// Removes the opening from the layer's streams.
pub(crate) fn unopened(layer: SseLayer) -> SseLayer {
    layer.position_event(PositionEvent::off()).open_at_once(false)
}

/// A layer without an opening, with heartbeats.
pub(crate) fn plain(registry: &Registry) -> SseLayer {
    unopened(SseLayer::new(registry))
}

/// A layer whose streams have no opening and no heartbeats.
pub(crate) fn quiet(registry: &Registry) -> SseLayer {
    plain(registry).heartbeat(Heartbeat::off())
}
