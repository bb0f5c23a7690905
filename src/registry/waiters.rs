//! Who is to be woken when something is published on a topic.

/// The waiters of a topic since it was last published on: all are taken at once, or one leaves, each in constant time.
///
/// A publisher touches nothing of a waiter's but its waker.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

/// A waiter's place. It means nothing once the waiters were taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot(u32);

impl<T> Waiters<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, waiter: T) -> Slot {
        match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(waiter);
                Slot(at)
            }
            None => {
                self.slots.push(Some(waiter));
                Slot((self.slots.len() - 1) as u32)
            }
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let waiter = self.slots.get_mut(slot.0 as usize)?.take();
        if self.free.len() + 1 == self.slots.len() {
            *self = Self::new();
        } else if waiter.is_some() {
            self.free.push(slot.0);
        }
        waiter
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::replace(self, Self::new()).slots.into_iter().flatten()
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
    fn nothing_is_kept_for_waiters_that_all_left() {
        let mut waiters = Waiters::new();
        let slots: Vec<Slot> = (0..1000).map(|number| waiters.insert(number)).collect();
        slots.into_iter().for_each(|slot| assert!(waiters.remove(slot).is_some()));
        assert_eq!((waiters.slots.capacity(), waiters.free.capacity()), (0, 0));
    }
}
