//! Locks and shared counters: all that the registry's threads meet at comes from here, so that a model checker can take their place.

use std::sync::PoisonError;
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64},
};

/// Locks, whether or not somebody panicked with the lock held: no code of a user's runs under one, and every critical section leaves its state whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
