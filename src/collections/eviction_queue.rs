//! A queue in the order of eviction.

/// A queue from which any item can be removed in constant time.
///
/// One holds the topic of every retained event, in the order of publishing. Another holds every ended topic, in the
/// order of the ends.
#[derive(Debug)]
pub(crate) struct EvictionQueue<T> {
    rows: Vec<Row<T>>,
    oldest: u32,
    newest: u32,
    free: u32,
    len: usize,
}

/// A reference to an item of an [`EvictionQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticket(u32);

#[derive(Debug)]
struct Row<T> {
    item: Option<T>,
    older: u32,
    newer: u32,
}

/// The index that means no row.
const NONE: u32 = u32::MAX;

impl<T> EvictionQueue<T> {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), oldest: NONE, newest: NONE, free: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the queue has as many rows as its indexes can count.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= NONE as usize
    }

    pub(crate) fn oldest(&self) -> Option<&T> {
        self.rows.get(self.oldest as usize)?.item.as_ref()
    }

    /// Removes the oldest item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.len == 0 { None } else { self.remove(Ticket(self.oldest)) }
    }

    pub(crate) fn push(&mut self, item: T) -> Ticket {
        let row = Row { item: Some(item), older: self.newest, newer: NONE };
        let at = if self.free == NONE {
            self.rows.push(row);
            (self.rows.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.rows[at as usize].newer;
            self.rows[at as usize] = row;
            at
        };
        match self.newest {
            NONE => self.oldest = at,
            newest => self.rows[newest as usize].newer = at,
        }
        self.newest = at;
        self.len += 1;
        Ticket(at)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let row = &mut self.rows[ticket.0 as usize];
        let item = row.item.take()?;
        let (older, newer) = (row.older, row.newer);
        row.newer = self.free;
        self.free = ticket.0;
        match older {
            NONE => self.oldest = newer,
            older => self.rows[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.rows[newer as usize].older = older,
        }
        self.len -= 1;
        if self.len == 0 {
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
