//! The recordings of this process.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use super::{
    answer::Asked,
    config::Config,
    error::RecordError,
    recording::{Reading, Recording, Stage},
};
use crate::{
    collections::shrunk_capacity,
    registry::{Registry, TopicState},
    sync::{Mutex, lock},
};

/// The recordings of this process, by topic.
///
/// The registry forgets an ended topic after its time, or when there is no room. So each request with a key looks
/// whether the topics of two recordings still exist. The table has at most about twice as many recordings as the
/// registry has topics of them.
pub(super) struct Table {
    pub(super) registry: Registry,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_topic: HashMap<Arc<str>, Arc<Recording>>,
    /// The recordings to look at, in turn.
    to_check: VecDeque<Arc<Recording>>,
    running: usize,
}

impl Inner {
    /// Whether this is the current recording of its topic.
    fn has(&self, recording: &Arc<Recording>) -> bool {
        self.by_topic.get(&recording.topic).is_some_and(|known| Arc::ptr_eq(known, recording))
    }
}

/// What happens to a request with a key.
pub(super) enum Claim {
    /// The request is the first one: it runs the handler.
    Run(Lead, Reading),
    /// The request joins a recording of this process.
    Join(Reading),
    /// The request joins a recording of which only the topic is known: of another node, of the time before a restart,
    /// or of the program.
    JoinTopic,
    Refused(RecordError),
}

impl Table {
    /// How many recordings each request looks at.
    const AT_A_TIME: usize = 2;

    pub(super) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), inner: Mutex::default() }
    }

    /// Decides what happens to a request.
    pub(super) fn claim(self: &Arc<Self>, asked: &Asked, config: &Config) -> Claim {
        self.forget_some();
        loop {
            let known = lock(&self.inner).by_topic.get(&asked.topic).cloned();
            if let Some(recording) = known {
                match recording.stage() {
                    Stage::Ended(_) if !self.exists(&recording.topic) => self.remove(&recording),
                    Stage::Free | Stage::Cancelled => self.remove(&recording),
                    _ if !recording.may_be_of(asked) => return Claim::Refused(RecordError::OtherRequest),
                    _ => return Claim::Join(Reading::new(&recording)),
                }
                continue;
            }
            if self.exists(&asked.topic) {
                return Claim::JoinTopic;
            }
            if asked.only_joins {
                return Claim::Refused(RecordError::NoRecording);
            }
            let mut inner = lock(&self.inner);
            if inner.by_topic.contains_key(&asked.topic) {
                // Another request has come first.
                continue;
            }
            if inner.running >= config.running_at_most {
                return Claim::Refused(RecordError::TooMany { limit: config.running_at_most });
            }
            let recording = Arc::new(Recording::new(asked));
            inner.running += 1;
            inner.by_topic.insert(Arc::clone(&asked.topic), Arc::clone(&recording));
            inner.to_check.push_back(Arc::clone(&recording));
            drop(inner);
            let reading = Reading::new(&recording);
            return Claim::Run(Lead { table: Arc::clone(self), recording }, reading);
        }
    }

    pub(super) fn running(&self) -> usize {
        lock(&self.inner).running
    }

    /// Whether a topic is, or was, filled by a producer.
    pub(super) fn exists(&self, topic: &str) -> bool {
        self.registry.topic_state(topic).is_some_and(|state| state != TopicState::Open)
    }

    /// Cancels a recording, also if its handler has not answered. Returns `false` if there is none that is being made.
    pub(super) fn cancel(&self, topic: &str) -> bool {
        let known = lock(&self.inner).by_topic.get(topic).cloned();
        let is_unanswered = known.is_some_and(|recording| recording.cancel_unanswered());
        is_unanswered || self.registry.cancel_producer(topic)
    }

    fn remove(&self, recording: &Arc<Recording>) {
        let mut inner = lock(&self.inner);
        if inner.has(recording) {
            inner.by_topic.remove(&recording.topic);
        }
        if let Some(enough) = shrunk_capacity(inner.by_topic.len(), inner.by_topic.capacity()) {
            inner.by_topic.shrink_to(enough);
            inner.to_check.shrink_to(enough);
        }
    }

    /// Removes recordings whose topics the registry has forgotten.
    fn forget_some(&self) {
        for _ in 0..Self::AT_A_TIME {
            let Some(recording) = lock(&self.inner).to_check.pop_front() else { return };
            let is_kept = match recording.stage() {
                Stage::Unanswered | Stage::Running(_) => true,
                Stage::Ended(_) => lock(&self.inner).has(&recording) && self.exists(&recording.topic),
                Stage::Free | Stage::Cancelled => false,
            };
            match is_kept {
                true => lock(&self.inner).to_check.push_back(recording),
                false => self.remove(&recording),
            }
        }
    }
}

/// Without the topics, which contain the keys.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("running", &self.running()).finish_non_exhaustive()
    }
}

/// The right and the duty of the first request to make a recording.
///
/// When it is dropped, the recording has ended, or the key is free if there is no recording.
#[derive(Debug)]
pub(super) struct Lead {
    table: Arc<Table>,
    recording: Arc<Recording>,
}

impl Lead {
    pub(super) fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.table.registry
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        lock(&self.table.inner).running -= 1;
        match self.recording.stage() {
            Stage::Running(head) | Stage::Ended(head) => self.recording.set_stage(Stage::Ended(head)),
            Stage::Cancelled => self.table.remove(&self.recording),
            Stage::Unanswered | Stage::Free => {
                self.table.remove(&self.recording);
                self.recording.set_stage(Stage::Free);
            }
        }
    }
}
