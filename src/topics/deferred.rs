//! What waits until nothing is locked any more.

use std::{any::Any, fmt, mem, pin::pin, sync::Arc, task::Waker};

use tokio::sync::Notify;

use crate::{
    collections::{SmallList, Waiters},
    log::Entry,
    sync::{each, nothing_is_locked},
};

/// Waiters that were taken, to be woken when nothing is locked any more.
#[derive(Debug, Default)]
pub(crate) struct ToWake(SmallList<Vec<Option<Waker>>>);

impl ToWake {
    #[inline]
    pub(crate) fn take(&mut self, waiters: &mut Waiters<Waker>) {
        let slots = waiters.take_slots();
        if !slots.is_empty() {
            self.0.push(slots);
        }
    }

    pub(crate) fn wake(mut self) {
        each(self.0.iter_mut().flat_map(mem::take).flatten(), Waker::wake);
    }
}

/// What waits until nothing is locked any more, as it may run anybody's code: tasks are woken, and what is the program's is
/// dropped, when this is.
///
/// Whoever may come upon such things with something locked asks for one of these, so that its caller has to have one: to
/// be declared before the first lock is taken, which is after the last one is given back. All are woken before anything
/// is dropped; and whatever of it panics, the rest is not left out.
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

    /// An event that somebody reads, who may be the last to have it when it is evicted meanwhile.
    #[inline]
    pub(crate) fn keep(&mut self, entry: &Arc<Entry>) {
        if entry.audience.is_some() {
            self.entries.push(Arc::clone(entry));
        }
    }

    /// Events that were evicted: to drop them takes its time, too.
    #[inline]
    pub(crate) fn drop_entries(&mut self, entries: &mut SmallList<Arc<Entry>>) {
        if self.entries.is_empty() {
            mem::swap(&mut self.entries, entries);
        } else {
            mem::take(entries).into_vec().into_iter().for_each(|entry| self.entries.push(entry));
        }
    }

    /// Anything else that has something of the program's in it.
    pub(crate) fn drop(&mut self, other: impl Any + Send) {
        self.others.push(Box::new(other));
    }
}

impl Deferred {
    /// Whether it has nothing that runs anybody's code, but at most events that are gone. So it mostly is.
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
        f.write_str("Later")
    }
}

/// Waits until there is an answer. Whoever makes one notifies all waiters after that.
pub(crate) async fn once<T>(notify: &Notify, answer: impl Fn() -> Option<T>) -> T {
    loop {
        let mut notified = pin!(notify.notified());
        // In line before it looks, so that no answer slips in between.
        notified.as_mut().enable();
        if let Some(answer) = answer() {
            return answer;
        }
        notified.await;
    }
}
