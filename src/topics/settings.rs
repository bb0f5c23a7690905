//! The settings of a registry's topics.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    event::{Event, push_json_string},
    log::{Retention, SlowClientPolicy, topic_name},
};

/// The settings of a registry's topics.
#[derive(Clone)]
pub(crate) struct TopicSettings {
    pub(crate) total_retention: Retention,
    pub(crate) topic_retention: Option<Retention>,
    pub(crate) topic_retention_by: Option<RetentionBy>,
    pub(crate) ended_topic_ttl: Duration,
    pub(crate) failed_event: LastWord,
    pub(crate) cancelled_event: LastWord,
}

pub(crate) type RetentionBy = Arc<dyn Fn(&str) -> Retention + Send + Sync>;

impl TopicSettings {
    pub(crate) fn topic_retention_of(&self, topic: &str) -> Retention {
        let retention = match &self.topic_retention_by {
            Some(by) => by(topic),
            None => self.topic_retention.unwrap_or_else(|| Retention::of_a_topic(self.total_retention)),
        };
        match retention.slow_client_policy {
            // A part of a recording must not look like the whole.
            SlowClientPolicy::SkipSilently if topic_name::is_recording(topic) => {
                retention.slow_client_policy(SlowClientPolicy::NotifyGap)
            }
            _ => retention,
        }
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            total_retention: Retention::default().bytes(64 << 20),
            topic_retention: None,
            topic_retention_by: None,
            ended_topic_ttl: Duration::from_secs(300),
            failed_event: LastWord::FAILED,
            cancelled_event: LastWord::CANCELLED,
        }
    }
}

impl fmt::Debug for TopicSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicSettings")
            .field("total_retention", &self.total_retention)
            .field("topic_retention", &self.topic_retention)
            .field("topic_retention_by", &self.topic_retention_by.is_some())
            .field("ended_topic_ttl", &self.ended_topic_ttl)
            .field("failed_event", &self.failed_event)
            .field("cancelled_event", &self.cancelled_event)
            .finish()
    }
}

/// The last event of a topic that failed or was cancelled, if the application gives none.
#[derive(Debug, Clone)]
pub(crate) enum LastWord {
    /// An event of this type, with JSON data that names the topic.
    Naming(&'static str),
    Own(Option<Box<Event>>),
}

impl LastWord {
    pub(crate) const FAILED: Self = Self::Naming("failed");
    pub(crate) const CANCELLED: Self = Self::Naming("cancelled");

    /// Removes the event's id, because it would be the same on all topics.
    pub(crate) fn own(event: Option<Event>) -> Self {
        Self::Own(event.map(|event| Box::new(event.without_id())))
    }

    pub(crate) fn of(&self, topic: &str) -> Option<Event> {
        match self {
            Self::Own(event) => event.as_deref().cloned(),
            Self::Naming(event_type) => {
                let mut json = String::from("{");
                // The name of a recording has the key of its request in it.
                if topic_name::is_public(topic) {
                    json.push_str("\"topic\":");
                    push_json_string(&mut json, topic);
                }
                json.push('}');
                Event::data(json).try_event(event_type).ok()
            }
        }
    }
}
