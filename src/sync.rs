//! Locks, shared counters and lanes: all that the registry's threads meet at comes from here, so that a model checker can take their place.

use std::sync::PoisonError;
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64},
};

/// Locks, whether or not somebody panicked with the lock held: no code of a user's runs under one, and every critical section leaves its state whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lanes: threads on different ones do not meet where each lane has something of its own.
pub(crate) mod lane {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    /// More cores than this share lanes, so that a publisher has no more to look through.
    const MOST: usize = 16;

    /// How many lanes there are: as many as cores.
    pub(crate) fn count() -> usize {
        static COUNT: LazyLock<usize> =
            LazyLock::new(|| thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST)));
        *COUNT
    }

    /// The lane of this thread, below the count.
    #[inline]
    pub(crate) fn mine() -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % count();
        }
        MINE.with(|mine| *mine)
    }

    /// Whether so many subscribers of one feed are worth lanes, which take memory and a publisher's time.
    pub(crate) fn is_worth_it(subscribers: usize) -> bool {
        subscribers >= 32 && count() > 1
    }
}
