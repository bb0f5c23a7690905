//! Values per shard, so that threads on different shards do not share cache lines.

use crate::{sync::Mutex, sync::shard};

/// A value in cache lines of its own, so that writing it does not slow down threads that use its neighbours.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// One value for each shard.
#[derive(Debug)]
pub(crate) struct PerCore<T>(Box<[CachePadded<Mutex<T>>]>);

impl<T: Default> PerCore<T> {
    pub(crate) fn new() -> Self {
        Self((0..shard::count()).map(|_| CachePadded(Mutex::default())).collect())
    }
}

impl<T> PerCore<T> {
    /// Returns the memory of the values, without what they own.
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
