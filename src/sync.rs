//! Locks, atomics and shards. The registry's threads share state only through these, so that a model checker can
//! replace them.

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

/// Locks a mutex, and ignores poisoning: user code never runs under a lock, and every critical section leaves its state
/// complete.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    MutexGuard {
        guard: mutex.lock().unwrap_or_else(PoisonError::into_inner),
        #[cfg(debug_assertions)]
        _held: held::Held::new(),
    }
}

/// A locked value. With debug assertions, each thread counts its locks, so that a test finds user code that would run
/// under one.
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

/// Asserts that this thread holds no lock. Call it where user code is about to run.
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

    /// Returns how many locks this thread holds.
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

/// Calls user code for each item, also after one of the calls has panicked. The panic hook has printed the panic
/// already.
#[inline]
pub(crate) fn each<T>(items: impl IntoIterator<Item = T>, mut act: impl FnMut(T)) {
    nothing_is_locked();
    let mut items = items.into_iter();
    while let Err(panic) = catch_unwind(AssertUnwindSafe(|| items.by_ref().for_each(&mut act))) {
        // Dropping the panic's value may panic too.
        mem::forget(panic);
    }
}

/// Shards: each thread belongs to one, and threads on different shards do not share data that is kept per shard.
pub(crate) mod shard {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    /// The maximum number of shards, so that a publisher has few of them to look through.
    const MOST: usize = 16;

    /// Returns the number of shards: one for each core, at most 16.
    pub(crate) fn count() -> usize {
        static COUNT: LazyLock<usize> =
            LazyLock::new(|| thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST)));
        *COUNT
    }

    /// Returns the shard of this thread, a number below the count.
    #[inline]
    pub(crate) fn mine() -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % count();
        }
        MINE.with(|mine| *mine)
    }

    /// Whether a log with this many subscribers gets shards, which take memory and a publisher's time.
    pub(crate) fn is_worth_it(subscribers: usize) -> bool {
        subscribers >= 32 && count() > 1
    }
}
