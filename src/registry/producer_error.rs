//! Why a producer was not started, or did not reach the end of its stream.

use std::fmt;

use http::StatusCode;

use crate::{event::Quoted, log::TopicError, topics::PublishError};

/// Why a producer was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerError {
    /// The topic name is invalid.
    Topic(TopicError),
    /// The topic has a producer already. Use [`Registry::replace_producer`](crate::Registry::replace_producer) to
    /// replace it.
    Busy {
        /// The topic's name.
        topic: String,
    },
    /// The outbox to the [backplane](crate::backplane) is full: the engine is away, or slower than the publishers.
    OutboxFull {
        /// The topic's name.
        topic: String,
    },
}

impl ProducerError {
    /// Returns the status of an HTTP response for this error.
    ///
    /// - 400: the topic name is invalid.
    /// - 409: the topic has a producer.
    /// - 503: the outbox is full.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Topic(_) => StatusCode::BAD_REQUEST,
            Self::Busy { .. } => StatusCode::CONFLICT,
            Self::OutboxFull { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Busy { topic } => {
                write!(f, "the topic {} has a producer already: wait until it ends, or replace it", Quoted(topic))
            }
            Self::OutboxFull { topic } => {
                write!(f, "too many events wait for the backplane: start the producer of {} later", Quoted(topic))
            }
        }
    }
}

impl std::error::Error for ProducerError {}

impl From<TopicError> for ProducerError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

/// Why a [producer task](crate::Producer::try_spawn_from) stopped before the end of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnFromError<E> {
    /// The stream returned this error.
    Stream(E),
    /// An event of the stream was not published.
    Publish(PublishError),
}

impl<E: fmt::Display> fmt::Display for SpawnFromError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::Publish(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for SpawnFromError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message is already the inner error's, so the source is the inner error's source.
        match self {
            Self::Stream(error) => error.source(),
            Self::Publish(error) => error.source(),
        }
    }
}

impl<E> From<PublishError> for SpawnFromError<E> {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}
