//! Who is to be woken when something is published on a topic.

use std::{any::Any, fmt, mem, pin::pin, sync::Arc, task::Waker};

use tokio::sync::Notify;

use super::log::Entry;
use crate::{
    few::Few,
    sync::{each, nothing_is_locked},
};

/// The waiters of a topic since it was last published on: all are taken at once, or one leaves, each in constant time.
///
/// A publisher touches nothing of a waiter's but its waker.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    /// How often they were taken.
    round: u32,
}

/// A waiter's place, until the waiters are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    at: u32,
    round: u32,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Waiters<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), round: 0 }
    }

    #[inline]
    pub(crate) fn insert(&mut self, waiter: T) -> Slot {
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(waiter);
                at
            }
            None => {
                self.slots.push(Some(waiter));
                (self.slots.len() - 1) as u32
            }
        };
        Slot { at, round: self.round }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        if slot.round != self.round {
            return None;
        }
        let waiter = self.slots.get_mut(slot.at as usize)?.take();
        if self.free.len() + 1 == self.slots.len() {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        } else if waiter.is_some() {
            self.free.push(slot.at);
        }
        waiter
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.take_slots().into_iter().flatten()
    }

    fn take_slots(&mut self) -> Vec<Option<T>> {
        self.round = self.round.wrapping_add(1);
        self.free = Vec::new();
        mem::take(&mut self.slots)
    }
}

/// Waiters that were taken, to be woken when nothing is locked any more.
#[derive(Debug, Default)]
pub(super) struct ToWake(Few<Vec<Option<Waker>>>);

impl ToWake {
    #[inline]
    pub(super) fn take(&mut self, waiters: &mut Waiters<Waker>) {
        let slots = waiters.take_slots();
        if !slots.is_empty() {
            self.0.push(slots);
        }
    }

    pub(super) fn wake(mut self) {
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
pub(crate) struct Later {
    wake: Vec<Waker>,
    entries: Few<Arc<Entry>>,
    others: Vec<Box<dyn Any + Send>>,
}

impl Later {
    pub(super) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.wake.extend(wakers);
    }

    /// An event that somebody reads, who may be the last to have it when it is evicted meanwhile.
    #[inline]
    pub(super) fn keep(&mut self, entry: &Arc<Entry>) {
        if entry.audience.is_some() {
            self.entries.push(Arc::clone(entry));
        }
    }

    /// Events that were evicted: to drop them takes its time, too.
    #[inline]
    pub(super) fn drop_entries(&mut self, entries: &mut Few<Arc<Entry>>) {
        if self.entries.is_empty() {
            mem::swap(&mut self.entries, entries);
        } else {
            mem::take(entries).into_vec().into_iter().for_each(|entry| self.entries.push(entry));
        }
    }

    /// Anything else that has something of the program's in it.
    pub(super) fn drop(&mut self, other: impl Any + Send) {
        self.others.push(Box::new(other));
    }
}

impl Later {
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

impl Drop for Later {
    #[inline]
    fn drop(&mut self) {
        if !self.is_plain() {
            self.wake_and_drop();
        }
        nothing_is_locked();
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// Waits until there is an answer. Whoever makes one notifies all waiters after that.
pub(super) async fn once<T>(notify: &Notify, answer: impl Fn() -> Option<T>) -> T {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_left_is_not_woken_and_its_place_is_used_again() {
        let mut waiters = Waiters::new();
        let [_, b, _] = ["a", "b", "c"].map(|name| waiters.insert(name));
        assert_eq!(waiters.remove(b), Some("b"));
        waiters.insert("d");
        assert_eq!(waiters.slots.len(), 3);
        assert_eq!(waiters.take().collect::<Vec<_>>(), ["a", "d", "c"]);
        assert_eq!(waiters.take().count(), 0);
    }

    #[test]
    fn a_place_among_those_who_were_taken_is_nobody_elses() {
        let mut waiters = Waiters::new();
        let a = waiters.insert("a");
        drop(waiters.take());
        let b = waiters.insert("b");
        assert_eq!(waiters.remove(a), None);
        assert_eq!(waiters.remove(b), Some("b"));
    }

    #[test]
    fn nothing_is_kept_for_waiters_that_all_left() {
        let mut waiters = Waiters::new();
        let slots: Vec<Slot> = (0..1000).map(|number| waiters.insert(number)).collect();
        slots.into_iter().for_each(|slot| assert!(waiters.remove(slot).is_some()));
        assert_eq!((waiters.slots.capacity(), waiters.free.capacity()), (0, 0));
    }
}
