//! Why something was not published.

use std::fmt;

use crate::{
    event::{EventError, Quoted},
    log::TopicError,
    stream::CloseReason,
};

/// Why an event was not published.
///
/// An [`EventError`] becomes one with `?`, so that a handler which makes an event and publishes it has one type of error:
///
/// ```
/// # #[cfg(feature = "json")] {
/// use tower_sse::{Event, PublishError, Registry};
///
/// async fn move_to(registry: Registry, place: [f64; 2]) -> Result<(), PublishError> {
///     registry.publish("places", Event::json(&place)?.event("moved"))?;
///     Ok(())
/// }
/// # let _ = move_to;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic name is invalid.
    Topic(TopicError),
    /// The event could not be made, because a value cannot be part of it.
    Event(EventError),
    /// The event is larger than what its topic may retain, or all topics together.
    TooLarge {
        /// The memory that the event takes, in bytes.
        size: usize,
        /// The memory that may be retained, in bytes.
        limit: usize,
    },
    /// The event's own id is one that the registry may give to an event that is still to come: see [`Event::id`](crate::Event::id).
    IdToCome {
        /// The id.
        id: String,
    },
    /// The client has as many subscriptions as it may have, so that it has no room for the topic of what is sent to it alone.
    TooManySubscriptions {
        /// The number of subscriptions.
        limit: usize,
    },
    /// The client's stream has ended.
    Over {
        /// Why the stream ended.
        reason: CloseReason,
    },
    /// The topic has ended: its [`Producer`](crate::Producer) marked the end.
    Ended {
        /// The topic's name.
        topic: String,
    },
    /// Another producer took the topic over.
    Replaced {
        /// The topic's name.
        topic: String,
    },
    /// The producer was cancelled.
    Cancelled {
        /// The topic's name.
        topic: String,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Event(error) => error.fmt(f),
            Self::TooLarge { size, limit } => {
                write!(f, "the event takes {size} bytes, more than the {limit} that may be retained")
            }
            Self::IdToCome { id } => {
                write!(f, "the id {} is one that the registry may give to an event that is still to come", Quoted(id))
            }
            Self::TooManySubscriptions { limit } => {
                write!(
                    f,
                    "the client has {limit} subscriptions, as many as it may have, and none for what is sent to it"
                )
            }
            Self::Over { reason } => write!(f, "the stream is over: {reason}"),
            Self::Ended { topic } => write!(f, "the topic {} has ended", Quoted(topic)),
            Self::Replaced { topic } => write!(f, "another producer has replaced that of the topic {}", Quoted(topic)),
            Self::Cancelled { topic } => write!(f, "the producer of the topic {} was cancelled", Quoted(topic)),
        }
    }
}

impl std::error::Error for PublishError {
    /// What is behind it: of an [`EventError`], which it speaks for, what is behind that.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Event(error) => error.source(),
            _ => None,
        }
    }
}

impl From<EventError> for PublishError {
    fn from(error: EventError) -> Self {
        Self::Event(error)
    }
}

impl From<TopicError> for PublishError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}
