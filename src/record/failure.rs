//! Why a recording failed.

use std::{error::Error, fmt, sync::Arc};

use crate::{event::Event, topics::PublishError};

/// Why a recording is not complete: see [`RecordLayer::failed_event`](crate::RecordLayer::failed_event).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RecordingFailure {
    /// The handler's body returned this error.
    Body(Arc<dyn Error + Send + Sync>),
    /// The handler's body panicked.
    Panicked,
    /// An event of the body is larger than the [retention](crate::RegistryConfig::topic_retention) accepts.
    EventTooLarge {
        /// The largest memory that one event may take, in bytes.
        limit: usize,
    },
    /// An event of the body could not be published.
    Publish(PublishError),
    /// Nobody has read the recording for [so long](crate::RecordLayer::cancel_unread_after). It ends as cancelled.
    Unread,
    /// The task that read the body was stopped, for example because its runtime ended.
    Stopped,
}

impl RecordingFailure {
    /// Returns the failure as one word, for logs and for clients.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Body(_) => "body_failed",
            Self::Panicked => "panicked",
            Self::EventTooLarge { .. } => "event_too_large",
            Self::Publish(_) => "not_published",
            Self::Unread => "unread",
            Self::Stopped => "stopped",
        }
    }

    /// Returns the event that clients get by default. The text of an error may be a secret of the server.
    pub(super) fn event(&self) -> Event {
        Event::data(format!(r#"{{"reason":"{}"}}"#, self.as_str())).event("failed")
    }
}

impl From<PublishError> for RecordingFailure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::TooLarge { limit, .. } => Self::EventTooLarge { limit },
            error => Self::Publish(error),
        }
    }
}

impl fmt::Display for RecordingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => write!(f, "the handler's body failed: {error}"),
            Self::Panicked => f.write_str("the handler's body panicked"),
            Self::EventTooLarge { limit } => write!(f, "an event takes more than {limit} bytes: raise the retention"),
            Self::Publish(error) => error.fmt(f),
            Self::Unread => f.write_str("nobody has read the recording"),
            Self::Stopped => f.write_str("the task of the recording was stopped"),
        }
    }
}

impl Error for RecordingFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => error.source(),
            _ => None,
        }
    }
}

/// The error with which the bodies of a recording end that failed or was cancelled, or that the server ends before they are complete: no client
/// takes a part for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incomplete;

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream is only a part of the recording")
    }
}

impl Error for Incomplete {}
