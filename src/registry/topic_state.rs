//! How a topic is filled.

use std::fmt;

use crate::log::{End, Outcome};

/// How a topic is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicState {
    /// By whoever publishes on it.
    Open,
    /// By a [`Producer`](crate::Producer).
    Producing,
    /// By nobody any more: its producer has finished it.
    Ended,
    /// By nobody any more: its producer has [failed](crate::Producer::fail), or was dropped without an end.
    Failed,
    /// By nobody any more: its producer was [cancelled](crate::Registry::cancel_producer).
    Cancelled,
}

impl TopicState {
    /// Of a topic without a producer.
    pub(crate) fn of(end: Option<End>) -> Self {
        match end.map(|end| end.outcome) {
            None => Self::Open,
            Some(Outcome::Whole) => Self::Ended,
            Some(Outcome::Failed) => Self::Failed,
            Some(Outcome::Cancelled) => Self::Cancelled,
        }
    }

    /// The state in a word, for statistics.
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
