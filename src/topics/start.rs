//! Where a subscription starts.

use crate::log::Position;

/// Where a subscription starts, if the client does not resume.
///
/// If the client has a `Last-Event-ID`, each subscription before its stream begins resumes after that id, whatever its
/// start is. A subscription on an open stream begins at its start; to resume there too, use
/// [`LastEventId`](Self::LastEventId).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the events that are published from now on.
    #[default]
    Now,
    /// At the oldest retained event.
    Oldest,
    /// At the last events, this many of them, as far as they are retained.
    Last(usize),
    /// After this position.
    ///
    /// The client is notified of a gap if some of the later events are not retained, or if the position is from another
    /// registry or from before a restart.
    After(Position),
    /// After the client's `Last-Event-ID`, also for a subscription on an open stream.
    ///
    /// Use it for topics that a page adds again after each reconnect. The client is notified of a gap if some of the
    /// later events are not retained. A client without a `Last-Event-ID` starts with the events that are published from
    /// now on.
    LastEventId,
}
