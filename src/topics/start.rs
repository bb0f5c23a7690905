//! Where a subscription starts.

use crate::log::Position;

/// Where a subscription starts, for a client that does not resume.
///
/// A client that came with a `Last-Event-ID` goes on after it in every topic that is subscribed to before its stream
/// begins, wherever that subscription would have started. A subscription that is made later starts as it says: with
/// [`LastEventId`](Self::LastEventId) where the client was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// At what is published from now on.
    #[default]
    Now,
    /// At the oldest retained event.
    Oldest,
    /// At this many events before the newest, as far as they are retained.
    Last(usize),
    /// After this position. The client is told of a gap if not everything after it is retained, or if the position is from another
    /// registry or from before a restart.
    After(Position),
    /// Where the client was cut off, by the `Last-Event-ID` that it came with, also for a subscription that is made when the stream is
    /// open: for topics that a page adds again after each reconnect. If not everything after it is retained, the client is told of a gap.
    /// A client that brought no `Last-Event-ID` starts with what is published from now on.
    LastEventId,
}
