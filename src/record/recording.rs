//! One recording, as this process knows it: how far it is, and how many read it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{answer::Asked, head::Head};
use crate::registry::Registry;

/// One recording of this process.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) topic: Arc<str>,
    fingerprint: Option<Box<str>>,
    stage: watch::Sender<Stage>,
    readers: watch::Sender<usize>,
}

/// How far a recording is.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// The handler has not answered.
    Unanswered,
    /// The handler's body is being read.
    Running(Arc<Head>),
    /// The topic has ended.
    Ended(Arc<Head>),
    /// There is no recording: the handler did not answer with a stream of its own, or did not answer at all.
    Free,
    /// There is no recording: the program has cancelled the handler before it answered.
    Cancelled,
}

impl Recording {
    pub(super) fn new(asked: &Asked) -> Self {
        Self {
            topic: Arc::clone(&asked.topic),
            fingerprint: asked.fingerprint.clone(),
            stage: watch::Sender::new(Stage::Unanswered),
            readers: watch::Sender::new(0),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Whether the recording may be of the same request. Without a fingerprint nothing is compared.
    pub(super) fn may_be_of(&self, asked: &Asked) -> bool {
        self.fingerprint.as_ref().zip(asked.fingerprint.as_ref()).is_none_or(|(known, asked)| known == asked)
    }

    /// Cancels the handler, if it has not answered. Returns whether it has not.
    pub(super) fn cancel_unanswered(&self) -> bool {
        self.stage.send_if_modified(|stage| {
            let is_unanswered = matches!(stage, Stage::Unanswered);
            if is_unanswered {
                *stage = Stage::Cancelled;
            }
            is_unanswered
        })
    }

    /// The handler has answered, and its body is recorded. Returns `false` if it was cancelled before.
    pub(super) fn has_head(&self, head: Head) -> bool {
        self.stage.send_if_modified(|stage| {
            let is_wanted = !matches!(stage, Stage::Cancelled);
            if is_wanted {
                *stage = Stage::Running(Arc::new(head));
            }
            is_wanted
        })
    }

    /// Waits until the handler has answered, or will not.
    pub(super) async fn answer(&self) -> Stage {
        let mut stage = self.stage.subscribe();
        // This keeps the sender alive, so the wait cannot fail.
        let _ = stage.wait_for(|stage| !matches!(stage, Stage::Unanswered)).await;
        self.stage()
    }

    /// Waits until the handler is cancelled before it has answered.
    pub(super) async fn cancelled(&self) {
        let mut stage = self.stage.subscribe();
        let _ = stage.wait_for(|stage| matches!(stage, Stage::Cancelled)).await;
    }

    /// Waits until nobody has read the recording for this time. `None`: waits for ever.
    pub(super) async fn unread(&self, time: Option<Duration>, registry: &Registry) {
        let Some(time) = time else { return std::future::pending().await };
        let mut readers = self.readers.subscribe();
        loop {
            // This keeps the sender alive, so neither wait can fail.
            let _ = readers.wait_for(|readers| *readers == 0).await;
            let is_read = timeout(time, readers.wait_for(|readers| *readers > 0)).await.is_ok();
            // A client can also be subscribed to the topic itself.
            if !is_read && !registry.has_subscribers(&self.topic) {
                return;
            }
        }
    }
}

/// Counts a reader of a recording: a request that waits for the head, or a response. Dropped when the reader leaves.
#[derive(Debug)]
pub(super) struct Reading(Arc<Recording>);

impl Reading {
    pub(super) fn new(recording: &Arc<Recording>) -> Self {
        recording.readers.send_modify(|readers| *readers += 1);
        Self(Arc::clone(recording))
    }

    pub(super) fn recording(&self) -> &Arc<Recording> {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers -= 1);
    }
}
