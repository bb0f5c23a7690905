//! A gap: events that a client missed.

use std::fmt;

use super::position::Position;
use crate::event::{Quoted, push_json_field, push_json_strings};

/// A gap: events that a client should have got, and that are no longer retained.
///
/// The events were evicted, or are from before a restart, or the client's id is from another registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub(crate) topics: Vec<String>,
    pub(crate) after: String,
    pub(crate) position: Option<Position>,
}

impl Gap {
    /// Returns the client's topics or patterns on which events are missing.
    ///
    /// Empty if all missing events were [sent](crate::ClientHandle::send) to the client alone.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Returns the id or position of the last event before the gap.
    ///
    /// It is the client's `Last-Event-ID`, or the position up to which the client had read. An id of more than 256
    /// bytes is shortened to its first 64 characters and its length. Empty if the client had no event before, so that
    /// the start is unknown.
    #[must_use]
    pub fn after(&self) -> &str {
        &self.after
    }

    /// Returns the position that the client can resume from after the gap.
    ///
    /// It is the id of a [`GapEvent`](crate::GapEvent), so the client is not notified of the same gap again. `None`
    /// before the stream begins, and while the client catches up on events from before its position.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.after {
            "" => f.write_str("events")?,
            after => write!(f, "events after {}", Quoted(after))?,
        }
        match &*self.topics {
            [] => f.write_str(" for this client alone are no longer retained"),
            topics => write!(f, " on {} are no longer retained", topics.join(", ")),
        }
    }
}

impl std::error::Error for Gap {}

impl Gap {
    pub(crate) fn json(&self) -> String {
        let mut json = String::from("{\"topics\":");
        push_json_strings(&mut json, &self.topics);
        push_json_field(&mut json, "after", Some(&*self.after).filter(|after| !after.is_empty()));
        json.push('}');
        json
    }
}
