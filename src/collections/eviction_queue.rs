//! A queue in the order of eviction.

use slab::Slab;

/// A queue from which any item can be removed in constant time.
///
/// One holds the topic of every retained event, in the order of publishing. Another holds every ended topic, in the
/// order of the ends.
#[derive(Debug)]
pub(crate) struct EvictionQueue<T> {
    rows: Slab<Linked<T>>,
    oldest: u32,
    newest: u32,
}

/// A reference to an item of an [`EvictionQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticket(u32);

#[derive(Debug)]
struct Linked<T> {
    item: T,
    older: u32,
    newer: u32,
}

/// The index that means no row.
const NONE: u32 = u32::MAX;

impl<T> EvictionQueue<T> {
    pub(crate) fn new() -> Self {
        Self { rows: Slab::new(), oldest: NONE, newest: NONE }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the queue has as many rows as its indexes can count.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= NONE as usize
    }

    pub(crate) fn oldest(&self) -> Option<&T> {
        self.rows.get(self.oldest as usize).map(|row| &row.item)
    }

    pub(crate) fn get(&self, ticket: Ticket) -> Option<&T> {
        self.rows.get(ticket.0 as usize).map(|row| &row.item)
    }

    /// Removes the oldest item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.remove(Ticket(self.oldest))
    }

    pub(crate) fn push(&mut self, item: T) -> Ticket {
        let at = self.rows.insert(Linked { item, older: self.newest, newer: NONE }) as u32;
        match self.rows.get_mut(self.newest as usize) {
            None => self.oldest = at,
            Some(newest) => newest.newer = at,
        }
        self.newest = at;
        Ticket(at)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let Linked { item, older, newer } = self.rows.try_remove(ticket.0 as usize)?;
        match self.rows.get_mut(older as usize) {
            None => self.oldest = newer,
            Some(older) => older.newer = newer,
        }
        match self.rows.get_mut(newer as usize) {
            None => self.newest = older,
            Some(newer) => newer.older = older,
        }
        if self.rows.is_empty() {
            *self = Self::new();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_item_can_be_removed_from_the_queue(steps in prop::collection::vec(0usize..3, 0..200), picks in prop::collection::vec(any::<prop::sample::Index>(), 200)) {
            let mut eviction_queue = EvictionQueue::new();
            let mut model: Vec<(Ticket, usize)> = Vec::new();
            for (step, (kind, pick)) in steps.into_iter().zip(picks).enumerate() {
                if kind > 0 || model.is_empty() {
                    model.push((eviction_queue.push(step), step));
                } else {
                    let (ticket, value) = model.remove(pick.index(model.len()));
                    prop_assert_eq!(eviction_queue.remove(ticket), Some(value));
                }
                prop_assert_eq!(eviction_queue.oldest(), model.first().map(|(_, value)| value));
                prop_assert_eq!(eviction_queue.len(), model.len());
            }
        }
    }
}
