//! Why a value cannot be part of an event.

use std::fmt;
#[cfg(feature = "json")]
use std::sync::Arc;

use http::StatusCode;

use super::{quoted::Quoted, server_sent_event::Event};

/// Why a value cannot be part of an event.
///
/// It converts into [`PublishError`](crate::PublishError). So `?` works for both errors in `registry.publish("a",
/// Event::json(&value)?.event("tick"))?`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventError {
    /// The event type contains a line end (CR or LF).
    EventType {
        /// The event type that was given.
        value: String,
    },
    /// The id is not 1 to 256 bytes of printable ASCII, or starts or ends with a space.
    Id {
        /// The id that was given.
        value: String,
    },
    /// The event has an id but no data.
    IdWithoutData {
        /// The id that was given.
        value: String,
    },
    /// The value cannot be serialized as JSON.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    Json(Arc<serde_json::Error>),
}

/// Two errors are equal if they name the same value.
///
/// Two JSON errors are equal if their messages are equal.
impl PartialEq for EventError {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::EventType { value }, Self::EventType { value: other })
            | (Self::Id { value }, Self::Id { value: other })
            | (Self::IdWithoutData { value }, Self::IdWithoutData { value: other }) => value == other,
            #[cfg(feature = "json")]
            (Self::Json(error), Self::Json(other)) => error.to_string() == other.to_string(),
            _ => false,
        }
    }
}

impl Eq for EventError {}

impl EventError {
    /// Returns the status of an HTTP response for this error.
    ///
    /// - 400: the value cannot be sent.
    /// - 500: the value cannot be serialized as JSON.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            #[cfg(feature = "json")]
            Self::Json(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::EventType { .. } | Self::Id { .. } | Self::IdWithoutData { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventType { value } => {
                write!(f, "the event type {} contains a line end: remove each CR and LF", Quoted(value))
            }
            Self::Id { value } => write!(
                f,
                "the event id {} is invalid: use 1 to {} bytes of printable ASCII with no space at the start or end",
                Quoted(value),
                Event::MAX_ID
            ),
            Self::IdWithoutData { value } => {
                write!(f, "the event with the id {} has no data: add data, or remove the id", Quoted(value))
            }
            #[cfg(feature = "json")]
            Self::Json(error) => write!(f, "the value cannot be serialized as JSON: {error}"),
        }
    }
}

impl std::error::Error for EventError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            #[cfg(feature = "json")]
            Self::Json(error) => Some(&**error),
            _ => None,
        }
    }
}
