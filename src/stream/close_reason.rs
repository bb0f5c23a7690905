//! Why a stream ended.

use std::fmt;

use crate::log::Outcome;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler's own body ended, and the client had no subscriptions that held the stream open.
    Ended,
    /// All topics of the client ended, and each was finished: see [`Producer`](crate::Producer).
    Completed,
    /// All topics of the client ended, and at least one was cancelled: see [`Registry::cancel`](crate::Registry::cancel).
    Cancelled,
    /// All topics of the client ended, and at least one failed: see [`Producer::fail`](crate::Producer::fail).
    Failed,
    /// The body was dropped before its end: the client disconnected, or the server closed the connection.
    Gone,
    /// [`ClientHandle::close`](crate::ClientHandle::close) was called.
    Closed,
    /// The stream reached its maximum age: see [`SseLayer::max_age`](crate::SseLayer::max_age).
    Aged,
    /// The client's authorization expired: see [`ClientHandle::expire_at`](crate::ClientHandle::expire_at).
    Expired,
    /// The registry was drained: see [`Registry::drain`](crate::Registry::drain).
    Drained,
    /// A limit refused it. Only for a client that is read with [`into_events`](crate::ClientHandle::into_events): a response
    /// is refused before its stream begins.
    Refused,
    /// [`ClientHandle::close_with`](crate::ClientHandle::close_with) was called with this reason.
    Other(&'static str),
    /// The client fell behind what a topic retains, and the topic ends streams in that case: see [`Lag::End`](crate::Lag::End).
    Lagged,
    /// The client read nothing for a while although events waited for it: see [`RegistryConfig::stuck_after`](crate::RegistryConfig::stuck_after).
    Stuck,
    /// The handler's own body failed.
    BodyError,
    /// The response was not an event stream.
    NoStream,
}

impl CloseReason {
    /// The reason as one word, as it appears in [`Stats`](crate::Stats) as JSON, in logs, and as the label of a metric.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Closed => "closed",
            Self::Aged => "aged",
            Self::Expired => "expired",
            Self::Drained => "drained",
            Self::Refused => "refused",
            Self::Other(reason) => reason,
            Self::Lagged => "lagged",
            Self::Stuck => "stuck",
            Self::BodyError => "body_error",
            Self::NoStream => "no_stream",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other(reason) => reason,
            Self::Ended => "the handler's stream ended",
            Self::Completed => "all of its topics have ended",
            Self::Cancelled => "one of its topics was cancelled",
            Self::Failed => "one of its topics has failed",
            Self::Gone => "the client is gone",
            Self::Closed => "the client was closed",
            Self::Aged => "the stream was as old as it may become",
            Self::Expired => "what the stream was open for has expired",
            Self::Drained => "the server ends its streams",
            Self::Refused => "there was no room for the stream",
            Self::Lagged => "the client fell behind",
            Self::Stuck => "the client read nothing any more",
            Self::BodyError => "the handler's stream failed",
            Self::NoStream => "the answer was no event stream",
        })
    }
}

#[cfg(test)]
impl CloseReason {
    /// One of each. Whoever adds one is told by the compiler.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Ended), |reason| match reason {
            Self::Ended => Some(Self::Completed),
            Self::Completed => Some(Self::Cancelled),
            Self::Cancelled => Some(Self::Failed),
            Self::Failed => Some(Self::Gone),
            Self::Gone => Some(Self::Closed),
            Self::Closed => Some(Self::Aged),
            Self::Aged => Some(Self::Expired),
            Self::Expired => Some(Self::Drained),
            Self::Drained => Some(Self::Refused),
            Self::Refused => Some(Self::Other("of the program's own")),
            Self::Other(_) => Some(Self::Lagged),
            Self::Lagged => Some(Self::Stuck),
            Self::Stuck => Some(Self::BodyError),
            Self::BodyError => Some(Self::NoStream),
            Self::NoStream => None,
        })
    }
}

impl From<Outcome> for CloseReason {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Whole => Self::Completed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Failed => Self::Failed,
        }
    }
}
