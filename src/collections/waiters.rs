//! The waiters that are woken when an event is published on a topic.

use std::mem;

use slab::Slab;

/// The waiters of a topic since its last event. All are taken at once, or one is removed, each in constant time.
///
/// A publisher reads only the waker of a waiter.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    waiters: Slab<T>,
    /// How often all waiters were taken.
    round: u32,
}

/// A waiter's slot. It is valid until all waiters are taken.
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
        Self { waiters: Slab::new(), round: 0 }
    }

    #[inline]
    pub(crate) fn insert(&mut self, waiter: T) -> Slot {
        Slot { at: self.waiters.insert(waiter) as u32, round: self.round }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        if slot.round != self.round {
            return None;
        }
        let waiter = self.waiters.try_remove(slot.at as usize);
        if self.waiters.is_empty() {
            self.waiters = Slab::new();
        }
        waiter
    }

    pub(crate) fn take(&mut self) -> Slab<T> {
        self.round = self.round.wrapping_add(1);
        mem::take(&mut self.waiters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_waiter_is_not_woken_and_its_slot_is_reused() {
        let mut waiters = Waiters::new();
        let [_, b, _] = ["a", "b", "c"].map(|name| waiters.insert(name));
        assert_eq!(waiters.remove(b), Some("b"));
        waiters.insert("d");
        assert_eq!(waiters.waiters.iter().map(|(at, _)| at).max(), Some(2));
        assert_eq!(waiters.take().into_iter().map(|(_, waiter)| waiter).collect::<Vec<_>>(), ["a", "d", "c"]);
        assert!(waiters.take().is_empty());
    }

    #[test]
    fn the_slot_of_a_taken_waiter_is_not_reused() {
        let mut waiters = Waiters::new();
        let a = waiters.insert("a");
        drop(waiters.take());
        let b = waiters.insert("b");
        assert_eq!(waiters.remove(a), None);
        assert_eq!(waiters.remove(b), Some("b"));
    }

    #[test]
    fn memory_is_freed_when_all_waiters_have_left() {
        let mut waiters = Waiters::new();
        let slots: Vec<Slot> = (0..1000).map(|number| waiters.insert(number)).collect();
        slots.into_iter().for_each(|slot| assert!(waiters.remove(slot).is_some()));
        assert_eq!(waiters.waiters.capacity(), 0);
    }
}
