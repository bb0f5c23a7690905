//! Why an event was not published.

use std::fmt;

use http::StatusCode;

use crate::{
    event::{EventError, Quoted},
    log::TopicError,
    stream::CloseReason,
};

/// Why an event was not published.
///
/// An [`EventError`] converts into it with `?`. So a handler that creates an event and publishes it has one error type:
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
    /// The event is invalid.
    Event(EventError),
    /// The event is larger than the retention of its topic or of the registry, or than what the engine of the backplane takes.
    TooLarge {
        /// The memory that the event takes, in bytes.
        size: usize,
        /// The largest memory that one event may take, in bytes.
        limit: usize,
    },
    /// The event's own id may become the id of a later event: see [`Event::id`](crate::Event::id).
    IdToCome {
        /// The id.
        id: String,
    },
    /// The client has reached its limit of subscriptions, and needs one more for events that are sent to it alone.
    TooManySubscriptions {
        /// The limit.
        limit: usize,
    },
    /// The client's stream has ended.
    StreamEnded {
        /// Why the stream ended.
        reason: CloseReason,
    },
    /// The topic has ended: its [`Producer`](crate::Producer) marked the end.
    Ended {
        /// The topic's name.
        topic: String,
    },
    /// Another producer replaced this one.
    Replaced {
        /// The topic's name.
        topic: String,
    },
    /// The producer was cancelled.
    Cancelled {
        /// The topic's name.
        topic: String,
    },
    /// The outbox to the [backplane](crate::backplane) is full: the engine is away, or slower than the publishers. Nothing was published.
    Busy,
    /// An attribute cannot cross to another node: see `RegistryConfig::attribute`.
    Attribute {
        /// What is wrong.
        reason: String,
    },
    /// The registry ended before the engine answered. Nobody knows whether the event was published.
    Unknown,
}

impl PublishError {
    /// Returns the status of an HTTP response for this error.
    ///
    /// - 400: the topic name is invalid, or the id names a position that the registry has not issued yet.
    /// - 409: the client has too many subscriptions, its stream has ended, or the topic does not accept the event.
    /// - 413: the event is too large.
    /// - 400 or 500, as the [`EventError`]: a value cannot be part of an event.
    /// - 503: too many events wait for the backplane, or the registry ended before it answered.
    /// - 500: an attribute cannot cross to another node.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Busy | Self::Unknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Attribute { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Topic(_) | Self::IdToCome { .. } => StatusCode::BAD_REQUEST,
            Self::Event(error) => error.status(),
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManySubscriptions { .. }
            | Self::StreamEnded { .. }
            | Self::Ended { .. }
            | Self::Replaced { .. }
            | Self::Cancelled { .. } => StatusCode::CONFLICT,
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Event(error) => error.fmt(f),
            Self::TooLarge { size, limit } => {
                write!(
                    f,
                    "the event takes {size} bytes, more than the retention of {limit}: make it smaller, or raise the retention"
                )
            }
            Self::IdToCome { id } => {
                write!(f, "the id {} may become the id of a later event: use an id of another form", Quoted(id))
            }
            Self::TooManySubscriptions { limit } => {
                write!(f, "the client has reached its limit of {limit} subscriptions: end one, or raise the limit")
            }
            Self::StreamEnded { reason } => write!(f, "the client's stream has ended: {reason}"),
            Self::Ended { topic } => {
                write!(f, "the topic {} has ended: start a producer to begin it again", Quoted(topic))
            }
            Self::Replaced { topic } => {
                write!(f, "another producer has replaced this one on the topic {}", Quoted(topic))
            }
            Self::Cancelled { topic } => write!(f, "the producer of the topic {} was cancelled", Quoted(topic)),
            Self::Busy => f.write_str("too many events wait for the backplane: publish again later"),
            Self::Attribute { reason } => {
                write!(f, "the event has an attribute that cannot cross to another node: {reason}")
            }
            Self::Unknown => f.write_str("the registry ended before it knew whether the event was published"),
        }
    }
}

impl std::error::Error for PublishError {
    /// Returns the source of an inner [`EventError`], because the message is already that error's.
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
