//! Why a subscription or a resume was refused.

use std::fmt;

use http::StatusCode;

use crate::{event::Quoted, log::TopicError, stream::CloseReason};

/// Why a subscription was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name of the topic or pattern is invalid.
    Topic(TopicError),
    /// The client has reached its limit of subscriptions: see
    /// [`RegistryConfig::subscriptions_per_client`](crate::RegistryConfig::subscriptions_per_client).
    TooManySubscriptions {
        /// The limit.
        limit: usize,
    },
    /// The client has reached its limit of patterns: see
    /// [`RegistryConfig::patterns_per_client`](crate::RegistryConfig::patterns_per_client).
    TooManyPatterns {
        /// The limit.
        limit: usize,
    },
    /// The client's stream has ended.
    StreamEnded {
        /// Why the stream ended.
        reason: CloseReason,
    },
    /// The topic does not exist, and the subscription requires an existing one: see
    /// [`Subscription::existing`](crate::Subscription::existing).
    NoTopic {
        /// The name of the topic or pattern.
        topic: String,
    },
}

impl SubscribeError {
    /// Returns the status of an HTTP response for this error.
    ///
    /// - 400: the name of the topic or pattern is invalid.
    /// - 404: the topic does not exist.
    /// - 409: the client has too many subscriptions, or its stream has ended.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Topic(_) => StatusCode::BAD_REQUEST,
            Self::NoTopic { .. } => StatusCode::NOT_FOUND,
            Self::TooManySubscriptions { .. } | Self::TooManyPatterns { .. } | Self::StreamEnded { .. } => {
                StatusCode::CONFLICT
            }
        }
    }
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::TooManySubscriptions { limit } => {
                write!(f, "the client has reached its limit of {limit} subscriptions: end one, or raise the limit")
            }
            Self::TooManyPatterns { limit } => {
                write!(f, "the client has reached its limit of {limit} patterns: end one, or raise the limit")
            }
            Self::StreamEnded { reason } => write!(f, "the client's stream has ended: {reason}"),
            Self::NoTopic { topic } => write!(f, "the topic {} does not exist, or was forgotten", Quoted(topic)),
        }
    }
}

impl std::error::Error for SubscribeError {}

/// Why a client cannot resume from an id: see [`ClientHandle::resume_from`](crate::ClientHandle::resume_from).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeError {
    /// The client's request already has a `Last-Event-ID`, or `resume_from` was called before.
    Known {
        /// The id that the client resumes from.
        last_event_id: String,
    },
    /// The client's stream has begun.
    Late,
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { last_event_id } => {
                write!(f, "the client already resumes from the id {}", Quoted(last_event_id))
            }
            Self::Late => f.write_str("the client's stream has begun: set the id before that"),
        }
    }
}

impl std::error::Error for ResumeError {}

impl From<TopicError> for SubscribeError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}
