//! The state of a drain, and the last events of streams.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    event::Event,
    sync::{AtomicBool, AtomicU64, Mutex, lock},
    time::jitter,
    topics::once,
};

/// What a drain sends at the end of each stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct DrainFarewell {
    pub(crate) farewell: Arc<Event>,
    pub(crate) reconnect_delay: Option<Duration>,
}

/// The state of a registry's drain.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    has_begun: AtomicBool,
    last_words: Mutex<DrainFarewell>,
    /// Streams that have not reached their end.
    streams: AtomicU64,
    /// Streams that have reached their end, ever.
    ended: AtomicU64,
    /// Notified when no stream is left.
    all_ended: Notify,
}

impl Draining {
    pub(crate) fn begin(&self, last_words: &DrainFarewell) {
        let _former = mem::replace(&mut *lock(&self.last_words), last_words.clone());
        self.has_begun.store(true, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Counts a stream that has begun.
    pub(crate) fn add(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stream that has reached its end, or was dropped.
    pub(crate) fn remove(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all_ended.notify_waiters();
        }
    }

    pub(crate) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) async fn all_ended(&self) {
        once(&self.all_ended, || (self.streams() == 0).then_some(())).await;
    }

    /// Encodes what a stream ends with. `spread`: a random number for the jitter.
    pub(super) fn last_words(&self, spread: u32) -> Bytes {
        let DrainFarewell { farewell, reconnect_delay } = lock(&self.last_words).clone();
        // One block: some clients ignore a `retry` without data, and some take it for an event.
        let last_words = match reconnect_delay {
            Some(delay) => &Event::clone(&farewell).retry(jitter::jittered(delay, spread)),
            None => &*farewell,
        };
        last_words.encode_without_id()
    }
}
