//! What each shard has of its own, so that readers on one thread do not meet those on others.

use crate::{sync::Mutex, sync::shard};

/// In cache lines of its own, so that who writes it does not slow down those who use what is next to it.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// One of these for each shard.
#[derive(Debug)]
pub(crate) struct PerCore<T>(Box<[CachePadded<Mutex<T>>]>);

impl<T: Default> PerCore<T> {
    pub(crate) fn new() -> Self {
        Self((0..shard::count()).map(|_| CachePadded(Mutex::default())).collect())
    }
}

impl<T> PerCore<T> {
    /// What they take in memory, besides what is in them.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline]
    pub(crate) fn of(&self, shard: usize) -> &Mutex<T> {
        &self.0[shard].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.0.iter().map(|CachePadded(it)| it)
    }
}
