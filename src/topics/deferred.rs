//! Work that is deferred until no lock is held.

use std::{any::Any, fmt, mem, pin::pin, sync::Arc, task::Waker};

use slab::Slab;
use tokio::sync::Notify;

use crate::{
    collections::{SmallList, Waiters},
    log::Entry,
    sync::{each, nothing_is_locked},
};

/// Waiters that were taken, to be woken when no lock is held.
#[derive(Debug, Default)]
pub(crate) struct ToWake(SmallList<Slab<Waker>>);

impl ToWake {
    #[inline]
    pub(crate) fn take(&mut self, waiters: &mut Waiters<Waker>) {
        let waiters = waiters.take();
        if !waiters.is_empty() {
            self.0.push(waiters);
        }
    }

    pub(crate) fn wake(mut self) {
        each(self.0.iter_mut().flat_map(mem::take), |(_, waker)| waker.wake());
    }
}

/// Work that is deferred until no lock is held, because it may run user code: waking tasks and dropping user values.
///
/// A function that may find such work under a lock takes a `Deferred` as an argument. So its caller must declare one
/// before it takes the first lock, and the work is done when the `Deferred` is dropped, after the last lock is
/// released. All tasks are woken before anything is dropped. If one item panics, the others are still done.
#[derive(Default)]
pub(crate) struct Deferred {
    wake: Vec<Waker>,
    entries: SmallList<Arc<Entry>>,
    others: Vec<Box<dyn Any + Send>>,
}

impl Deferred {
    pub(crate) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.wake.extend(wakers);
    }

    /// Keeps an event that a reader has, because the event may be evicted meanwhile and the reader may drop it last.
    #[inline]
    pub(crate) fn keep(&mut self, entry: &Arc<Entry>) {
        if entry.audience.is_some() {
            self.entries.push(Arc::clone(entry));
        }
    }

    /// Keeps evicted events, because dropping them takes time too.
    #[inline]
    pub(crate) fn drop_entries(&mut self, entries: &mut SmallList<Arc<Entry>>) {
        if self.entries.is_empty() {
            mem::swap(&mut self.entries, entries);
        } else {
            mem::take(entries).into_vec().into_iter().for_each(|entry| self.entries.push(entry));
        }
    }

    /// Keeps anything else that contains user values.
    pub(crate) fn drop(&mut self, other: impl Any + Send) {
        self.others.push(Box::new(other));
    }
}

impl Deferred {
    /// Whether there is no work that runs user code. That is the usual case.
    #[inline]
    fn is_plain(&self) -> bool {
        self.wake.is_empty() && self.others.is_empty() && self.entries.iter().all(|entry| entry.audience.is_none())
    }

    #[cold]
    fn wake_and_drop(&mut self) {
        each(self.wake.drain(..), Waker::wake);
        each(mem::take(&mut self.entries).into_vec(), drop);
        each(self.others.drain(..), drop);
    }
}

impl Drop for Deferred {
    #[inline]
    fn drop(&mut self) {
        if !self.is_plain() {
            self.wake_and_drop();
        }
        nothing_is_locked();
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

/// Waits until `answer` returns a value. Whoever causes the value must notify all waiters afterwards.
pub(crate) async fn once<T>(notify: &Notify, answer: impl Fn() -> Option<T>) -> T {
    loop {
        let mut notified = pin!(notify.notified());
        // Registered before `answer` is called, so that no notification is missed.
        notified.as_mut().enable();
        if let Some(answer) = answer() {
            return answer;
        }
        notified.await;
    }
}
