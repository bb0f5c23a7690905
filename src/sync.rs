//! Locks, shared counters and lanes: all that the registry's threads meet at comes from here, so that a model checker can take their place.

pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64},
};
use std::{
    mem,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
};

/// Locks, whether or not somebody panicked with the lock held: no code of a user's runs under one, and every critical section leaves its state whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    MutexGuard {
        guard: mutex.lock().unwrap_or_else(PoisonError::into_inner),
        #[cfg(debug_assertions)]
        _held: held::Held::new(),
    }
}

/// What is locked. With debug assertions, each thread counts its own, so that a test sees where anybody's code would run under one.
pub(crate) struct MutexGuard<'a, T> {
    guard: std::sync::MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    _held: held::Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// To be said where anybody's code is about to run: this thread has nothing locked.
#[inline(always)]
pub(crate) fn nothing_is_locked() {
    #[cfg(debug_assertions)]
    debug_assert!(held::number() == 0 || std::thread::panicking(), "the program's code would run under a lock");
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    thread_local! {
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    /// How many locks this thread holds.
    pub(crate) fn number() -> usize {
        HELD.get()
    }

    pub(crate) struct Held;

    impl Held {
        pub(crate) fn new() -> Self {
            HELD.set(HELD.get() + 1);
            Self
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(HELD.get() - 1);
        }
    }
}

/// Does something of the program's with each, though some panic: nobody pays for what another has done wrong. The panic
/// hook has printed it already.
#[inline]
pub(crate) fn each<T>(items: impl IntoIterator<Item = T>, mut act: impl FnMut(T)) {
    nothing_is_locked();
    let mut items = items.into_iter();
    while let Err(panic) = catch_unwind(AssertUnwindSafe(|| items.by_ref().for_each(&mut act))) {
        // To drop it may panic as well.
        mem::forget(panic);
    }
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
