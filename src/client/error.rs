//! Why a client was not subscribed, or does not resume.

use std::fmt;

use crate::{event::Quoted, log::TopicError, stream::CloseReason};

/// Why a client was not subscribed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name of the topic or the pattern is invalid.
    Topic(TopicError),
    /// The client has as many subscriptions as it may have.
    TooMany {
        /// The number that it may have.
        limit: usize,
    },
    /// The client has as many subscriptions to patterns as it may have: see
    /// [`RegistryConfig::patterns_per_client`](crate::RegistryConfig::patterns_per_client).
    TooManyPatterns {
        /// The number that it may have.
        limit: usize,
    },
    /// The client's stream has ended.
    Over {
        /// Why the stream ended.
        reason: CloseReason,
    },
    /// The topic does not exist, and the subscription asked for one that exists: see
    /// [`Subscription::existing`](crate::Subscription::existing).
    NoTopic {
        /// The topic's name, or the pattern.
        topic: String,
    },
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::TooMany { limit } => write!(f, "the client has {limit} subscriptions, as many as it may have"),
            Self::TooManyPatterns { limit } => {
                write!(f, "the client is subscribed to {limit} patterns, as many as it may be")
            }
            Self::Over { reason } => write!(f, "the stream is over: {reason}"),
            Self::NoTopic { topic } => write!(f, "there is no topic {}, or no longer", Quoted(topic)),
        }
    }
}

impl std::error::Error for SubscribeError {}

/// Why a client does not resume from an id: see [`ClientHandle::resume_from`](crate::ClientHandle::resume_from).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeError {
    /// The client has brought a `Last-Event-ID` already.
    Known {
        /// The id that it brought.
        last_event_id: String,
    },
    /// The client's stream has begun.
    Late,
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { last_event_id } => write!(f, "the client brought the id {} already", Quoted(last_event_id)),
            Self::Late => f.write_str("the stream has begun, so that it is too late to resume"),
        }
    }
}

impl std::error::Error for ResumeError {}

impl From<TopicError> for SubscribeError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}
