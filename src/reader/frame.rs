//! What a poll of the reader gives, and what it has to know of the handler's own body.

use bytes::Bytes;

use crate::reading::Missing;

/// Bytes that are sent in one piece.
#[derive(Debug)]
pub(crate) struct EventFrame {
    pub(crate) gap: Option<Missing>,
    /// Empty if the frame has only a gap.
    pub(crate) wire: Bytes,
    /// The client was waiting for these events, so they are sent about when they were published.
    pub(crate) is_live: bool,
    /// More events are pending than fit into one frame.
    pub(crate) has_more: bool,
}

/// The result of the fast path, for an idle stream with one topic.
#[derive(Debug)]
pub(crate) enum FastRead {
    /// No event was published.
    Nothing,
    /// The published events, which the client was waiting for.
    Live(Bytes),
    /// The fast path cannot decide: the caller has to take the slow path.
    Unclear,
}

/// The handler's own body in a client's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnBody {
    /// The body has not ended.
    Open,
    /// The body has ended.
    Ended,
    /// The stream has no body of the handler's.
    Absent,
}
