//! Who publishes on a topic, and how the topic ended.

use std::fmt;

use crate::log::{End, Outcome};

/// Who publishes on a topic, and how the topic ended: see [`Registry::topic_state`](crate::Registry::topic_state).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicState {
    /// The topic has no producer: anybody can publish on it.
    Open,
    /// A [`Producer`](crate::Producer) publishes on the topic.
    Producing,
    /// The producer has finished the topic. It is complete.
    Ended,
    /// The producer has [failed](crate::Producer::fail), or was dropped without an end. The topic is incomplete.
    Failed,
    /// The producer was [cancelled](crate::Registry::cancel_producer). The topic is incomplete.
    Cancelled,
}

impl TopicState {
    /// The state of a topic without a producer.
    pub(crate) fn of(end: Option<End>) -> Self {
        match end.map(|end| end.outcome) {
            None => Self::Open,
            Some(Outcome::Finished) => Self::Ended,
            Some(Outcome::Failed) => Self::Failed,
            Some(Outcome::Cancelled) => Self::Cancelled,
        }
    }

    /// Returns the state as one lower-case word, for statistics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Producing => "producing",
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for TopicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
