//! Layers whose streams begin with nothing of the layer's own, for tests of something else.
#![allow(dead_code, reason = "no test file needs all of it")]

use tower_sse::{Heartbeat, PositionEvent, Registry, SseLayer};

/// Its streams begin with what they are there for.
pub(crate) fn unopened(layer: SseLayer) -> SseLayer {
    layer.position_event(PositionEvent::off()).open_at_once(false)
}

/// Such a one that has heartbeats.
pub(crate) fn plain(registry: &Registry) -> SseLayer {
    unopened(SseLayer::new(registry))
}

/// One whose streams say nothing of their own.
pub(crate) fn quiet(registry: &Registry) -> SseLayer {
    plain(registry).heartbeat(Heartbeat::off())
}
