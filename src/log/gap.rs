//! Events that a client should have had and that are no longer retained.

use std::fmt;

use super::position::Position;
use crate::event::{Quoted, push_json_string};

/// Events that a client missed and that are no longer retained: they were evicted, or are from before a restart, or the client's
/// id is from another registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub(crate) topics: Vec<String>,
    pub(crate) after: String,
    pub(crate) position: Option<Position>,
}

impl Gap {
    /// The topics or patterns of the client's subscriptions on which events are missing. Empty if all missing events were
    /// [sent](crate::ClientHandle::send) to the client alone.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The last event that the client had: the `Last-Event-ID` that it came with (the beginning of one of more than
    /// 256 bytes), or the position up to which it had read. Empty if nobody can say, as it had had none.
    #[must_use]
    pub fn after(&self) -> &str {
        &self.after
    }

    /// What the client can resume from once it was told of the gap, so that it is not told again: the id of a [`GapEvent`](crate::GapEvent). None
    /// before the stream begins, and while it is to get events from before what it has seen.
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
        let mut json = String::from("{\"topics\":[");
        for (index, topic) in self.topics.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            push_json_string(&mut json, topic);
        }
        json.push(']');
        if !self.after.is_empty() {
            json.push_str(",\"after\":");
            push_json_string(&mut json, &self.after);
        }
        json.push('}');
        json
    }
}
