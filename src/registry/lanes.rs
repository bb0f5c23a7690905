//! What each lane has of its own, so that readers on one thread do not meet those on others.

use crate::sync::{Mutex, lane};

/// In cache lines of its own, so that who writes it does not slow down those who use what is next to it.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Apart<T>(pub(super) T);

/// One of these for each lane.
#[derive(Debug)]
pub(super) struct Lanes<T>(Box<[Apart<Mutex<T>>]>);

impl<T: Default> Lanes<T> {
    pub(super) fn new() -> Self {
        Self((0..lane::count()).map(|_| Apart(Mutex::default())).collect())
    }
}

impl<T> Lanes<T> {
    /// What they take in memory, besides what is in them.
    pub(super) fn size(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline]
    pub(super) fn of(&self, lane: usize) -> &Mutex<T> {
        &self.0[lane].0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.0.iter().map(|Apart(it)| it)
    }
}
