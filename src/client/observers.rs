//! The list of a registry's observers.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::observer::Observer;
use crate::sync::nothing_is_locked;

/// The observers of one registry.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    pub(crate) fn push(&mut self, observer: impl Observer) {
        self.0.push(Arc::new(observer));
    }

    /// Returns whether there are no observers. Work for observers is skipped then.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls each observer. No lock may be held.
    #[inline]
    pub(crate) fn notify(&self, tell: impl Fn(&dyn Observer)) {
        if !self.is_empty() {
            self.notify_each(&tell);
        }
    }

    fn notify_each(&self, tell: &dyn Fn(&dyn Observer)) {
        nothing_is_locked();
        for observer in &self.0 {
            // A panic of a hook must not reach the code that publishes or polls. The panic hook has printed it already.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(&**observer))) {
                // Dropping the payload may panic too.
                mem::forget(panic);
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{
        super::observer::{Observation, samples::Samples},
        *,
    };
    use crate::sync::lock;

    #[test]
    fn observers_are_told_in_the_order_in_which_they_were_given() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut observers = Observers::default();
        for number in 0..3 {
            let order = Arc::clone(&order);
            observers.push(move |_: &Observation<'_>| lock(&order).push(number));
        }
        observers.push(());
        let samples = Samples::new();
        observers.clone().notify(|observer| observer.opened(&samples.client));
        assert_eq!(*lock(&order), [0, 1, 2]);
    }

    #[test]
    fn without_observers_nothing_is_called() {
        let observers = Observers::default();
        assert!(observers.is_empty());
        observers.notify(|_| panic!("there are no observers"));
    }

    fn a_panicking_one_and_a_counter() -> (Observers, Arc<AtomicUsize>) {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let mut observers = Observers::default();
        observers.push(|_: &Observation<'_>| panic!("this panic is part of the test"));
        observers.push(move |_: &Observation<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (observers, told)
    }

    #[test]
    fn a_panic_in_one_hook_reaches_neither_the_caller_nor_the_next_hook() {
        let (observers, told) = a_panicking_one_and_a_counter();
        let samples = Samples::new();
        observers.notify(|observer| observer.opened(&samples.client));
        observers.notify(|observer| observer.heartbeat(&samples.client));
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    /// `closed` is called when a body is dropped, which may be because its handler panics.
    #[test]
    fn a_panic_in_a_hook_while_another_panic_unwinds_does_not_abort() {
        struct TellsOnDrop(Observers, Samples);

        impl Drop for TellsOnDrop {
            fn drop(&mut self) {
                self.0.notify(|observer| observer.closed(&self.1.client, &self.1.summary));
            }
        }

        let (observers, told) = a_panicking_one_and_a_counter();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _body = TellsOnDrop(observers, Samples::new());
            panic!("this panic is part of the test, too");
        }));
        assert!(unwound.is_err());
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
