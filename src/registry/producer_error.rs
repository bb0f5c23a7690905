//! Why a topic was not given to a producer, or not filled.

use std::fmt;

use crate::{event::Quoted, log::TopicError, topics::PublishError};

/// Why a topic was not given to a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerError {
    /// The topic name is invalid.
    Topic(TopicError),
    /// The topic has another producer.
    Busy {
        /// The topic's name.
        topic: String,
    },
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Busy { topic } => write!(f, "the topic {} has a producer already", Quoted(topic)),
        }
    }
}

impl std::error::Error for ProducerError {}

impl From<TopicError> for ProducerError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

/// Why the stream of a producer that was [spawned](crate::Producer::try_spawn_from) did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnFromError<E> {
    /// The stream gave this error.
    Stream(E),
    /// What it gave was not published.
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
        // The message is the error's own, so its source is too.
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
