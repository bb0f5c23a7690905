//! Whether a registry is being drained.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::state::Client;
use crate::{
    event::Event,
    stream::CloseReason,
    sync::{AtomicBool, AtomicU64, Mutex, lock},
    time::jitter,
    topics::once,
};

/// What streams end with.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastWords {
    pub(crate) farewell: Arc<Event>,
    pub(crate) reconnect_delay: Option<Duration>,
}

/// Whether a registry is being drained.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    has_begun: AtomicBool,
    last_words: Mutex<LastWords>,
    /// Streams that have not been told of their end.
    streams: AtomicU64,
    /// Streams that have, ever.
    told: AtomicU64,
    /// There are none any more.
    all_told: Notify,
}

impl Draining {
    pub(crate) fn begin(&self, last_words: &LastWords) {
        let _former = mem::replace(&mut *lock(&self.last_words), last_words.clone());
        self.has_begun.store(true, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// A stream has begun.
    pub(crate) fn add(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream was told of its end, or dropped.
    pub(crate) fn remove(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all_told.notify_waiters();
        }
    }

    pub(crate) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    pub(crate) async fn all_told(&self) {
        once(&self.all_told, || (self.streams() == 0).then_some(())).await;
    }

    /// What a stream ends with. `spread`: a random number.
    fn last_words(&self, spread: u32) -> Bytes {
        let LastWords { farewell, reconnect_delay } = lock(&self.last_words).clone();
        // In one block: some clients ignore a `retry` that comes without data, and some take it for an event.
        let last_words = match reconnect_delay {
            Some(delay) => &Event::clone(&farewell).retry(jitter::jittered(delay, spread)),
            None => &*farewell,
        };
        last_words.encode_without_id()
    }
}

impl Client {
    /// What its stream ends with, if the registry ends it.
    pub(crate) fn last_words(self: &Arc<Self>) -> Bytes {
        self.shared().draining.last_words(self.id().spread())
    }

    /// Whether it may go on for some time when the registry ends its streams. One that need not any more ends if it does.
    pub(crate) fn finish_on_drain(&self, finish: bool) {
        let might = mem::replace(&mut lock(&self.state).style.finish_on_drain, finish);
        if might && !finish && self.is_open() && self.shared().draining.has_begun() {
            self.close(CloseReason::Drained);
        }
    }
}
