//! Timers that many streams share.
//!
//! A tokio timer takes 112 bytes and an entry in the runtime's timer wheel. Streams that wait for the same millisecond
//! share one timer: for example, all streams that got the same event.
//!
//! A timer fires only while its runtime runs. So streams of different runtimes share no timer, and a stream that is
//! polled in another runtime sets a new timer there.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
};

use tokio::{
    runtime::{Handle, Id},
    task::{self, coop::unconstrained},
    time::{Sleep, sleep_until},
};

use super::clock::Clock;
use crate::{
    collections::{Slot, Waiters},
    sync::{AtomicBool, Mutex, lock},
};

/// A time that one task waits for, in nanoseconds of the registry's clock. Polling it again before that time costs
/// nothing.
///
/// Another task must [unset](Self::unset) it before it polls it.
#[derive(Debug)]
pub(crate) struct Timer {
    time: u64,
    waiter: Option<WaiterSlot>,
}

/// A slot among the waiters of a shared timer.
struct WaiterSlot {
    timer: Arc<SharedTimer>,
    slot: Slot,
}

/// The timers of one clock.
#[derive(Debug)]
pub(crate) struct Timers {
    clock: Clock,
    by_time: Mutex<ByTime>,
}

#[derive(Debug, Default)]
struct ByTime {
    /// The timers by their millisecond and their runtime.
    timers: HashMap<(u64, Driver), Weak<SharedTimer>>,
    /// How many timers there may be before unused ones are removed.
    enough: usize,
}

/// The runtime that drives a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Driver {
    runtime: Id,
    /// Whether a task set the timer. A task stays in its runtime, so polling in another runtime comes with another
    /// waker. (The exception: a `LocalSet` that another runtime runs leaves its timers behind.) Outside of tasks, a
    /// thread may enter several runtimes in turn with the same waker.
    in_task: bool,
}

struct SharedTimer {
    driver: Driver,
    waiters: Mutex<Option<Waiters<Waker>>>,
    has_fired: AtomicBool,
    /// Kept alive, because the timer would not fire without it.
    sleep: Mutex<Pin<Box<Sleep>>>,
}

/// A waker that fires the timer, if anybody still waits for it.
struct TimerWaker(Weak<SharedTimer>);

impl Timer {
    /// `u64::MAX` means never.
    pub(crate) fn at(time: u64) -> Self {
        Self { time, waiter: None }
    }

    /// Whether the timer was polled in this runtime, and its time has not come.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| waiter.timer.is_set())
    }

    /// Removes the waker, until the timer is polled again.
    pub(crate) fn unset(&mut self) {
        self.waiter = None;
    }

    pub(crate) fn poll(&mut self, timers: &Timers, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_set() {
            return Poll::Pending;
        }
        // The shutdown of another runtime may have fired the timer early.
        if timers.clock.now() >= self.time {
            self.waiter = None;
            return Poll::Ready(());
        }
        self.waiter = timers.wait(self.time, cx.waker());
        Poll::Pending
    }
}

impl Drop for WaiterSlot {
    fn drop(&mut self) {
        let waker = lock(&self.timer.waiters).as_mut().and_then(|waiters| waiters.remove(self.slot));
        drop(waker);
    }
}

impl Timers {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, by_time: Mutex::default() }
    }

    /// Waits for a time. `None`: the time cannot be represented.
    fn wait(&self, time: u64, waker: &Waker) -> Option<WaiterSlot> {
        const MILLISECOND: u64 = 1_000_000;
        let ms = time.div_ceil(MILLISECOND);
        let deadline = self.clock.instant(ms.saturating_mul(MILLISECOND))?;
        let driver = Driver::current();
        let mut by_time = lock(&self.by_time);
        let known = by_time.timers.get(&(ms, driver)).and_then(Weak::upgrade);
        if let Some(slot) = known.and_then(|timer| timer.waiter_slot(waker)) {
            return Some(slot);
        }
        if by_time.timers.len() >= by_time.enough {
            by_time.timers.retain(|_, timer| timer.strong_count() > 0);
            by_time.timers.shrink_to(64);
            by_time.enough = 2 * by_time.timers.len().max(32);
        }
        let timer = Arc::new(SharedTimer {
            driver,
            waiters: Mutex::new(Some(Waiters::new())),
            has_fired: AtomicBool::new(false),
            sleep: Mutex::new(Box::pin(sleep_until(deadline))),
        });
        by_time.timers.insert((ms, driver), Arc::downgrade(&timer));
        drop(by_time);
        let slot = timer.waiter_slot(waker);
        timer.set();
        slot
    }
}

impl Driver {
    /// Returns the current runtime. Panics outside of runtimes, as a tokio timer does.
    fn current() -> Self {
        Self { runtime: Handle::current().id(), in_task: task::try_id().is_some() }
    }

    /// Whether the current runtime is another one, with the same waker.
    #[inline]
    fn is_elsewhere(self) -> bool {
        !self.in_task && Handle::try_current().is_ok_and(|current| current.id() != self.runtime)
    }
}

impl SharedTimer {
    #[inline]
    fn is_set(&self) -> bool {
        !self.has_fired.load(Ordering::Acquire) && !self.driver.is_elsewhere()
    }

    /// Adds a waiter. `None`: the timer has fired.
    fn waiter_slot(self: &Arc<Self>, waker: &Waker) -> Option<WaiterSlot> {
        let slot = lock(&self.waiters).as_mut()?.insert(waker.clone());
        Some(WaiterSlot { timer: Arc::clone(self), slot })
    }

    fn set(self: &Arc<Self>) {
        let waker = Waker::from(Arc::new(TimerWaker(Arc::downgrade(self))));
        let mut sleep = lock(&self.sleep);
        // The timer serves several tasks, so it does not depend on the coop budget of the task that sets it.
        let is_time = pin!(unconstrained(sleep.as_mut())).poll(&mut Context::from_waker(&waker)).is_ready();
        drop(sleep);
        if is_time {
            self.fire();
        }
    }

    fn fire(&self) {
        self.has_fired.store(true, Ordering::Release);
        let waiters = lock(&self.waiters).take();
        waiters.into_iter().for_each(|mut waiters| waiters.take().into_iter().for_each(|(_, waker)| waker.wake()));
    }
}

impl Wake for TimerWaker {
    fn wake(self: Arc<Self>) {
        if let Some(timer) = self.0.upgrade() {
            timer.fire();
        }
    }
}

impl fmt::Debug for WaiterSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timer.fmt(f)
    }
}

impl fmt::Debug for SharedTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTimer").field("has_fired", &self.has_fired).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use tokio::{
        runtime::{Builder, Runtime},
        time::advance,
    };

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// A waiter in a test, and how often it was woken.
    struct Waiting {
        timer: Timer,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Waiting {
        fn at(time: u64) -> Self {
            Self { timer: Timer::at(time), woken: Arc::default() }
        }

        fn poll(&mut self, timers: &Timers) -> Poll<()> {
            self.timer.poll(timers, &mut Context::from_waker(&Waker::from(Arc::clone(&self.woken))))
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    /// Returns how many timers are in use.
    fn shared_timers(timers: &Timers) -> usize {
        lock(&timers.by_time).timers.values().filter(|timer| timer.strong_count() > 0).count()
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_for_the_same_millisecond_share_a_timer_and_wake_once() {
        let timers = Timers::new(Clock::new());
        let mut early: Vec<_> = (1..=MILLISECOND).step_by(99_999).map(|at| Waiting::at(4 * MILLISECOND + at)).collect();
        let mut late = Waiting::at(6 * MILLISECOND);
        for _ in 0..2 {
            assert!(early.iter_mut().all(|waiting| waiting.poll(&timers).is_pending()));
            assert!(late.poll(&timers).is_pending());
        }
        assert_eq!(shared_timers(&timers), 2);
        advance(Duration::from_millis(4)).await;
        assert!(early.iter().all(|waiting| waiting.woken() == 0));
        advance(Duration::from_millis(1)).await;
        assert!(early.iter().all(|waiting| waiting.woken() == 1));
        assert!(early.iter_mut().all(|waiting| waiting.poll(&timers).is_ready()));
        assert!(late.woken() == 0 && late.poll(&timers).is_pending());
        assert_eq!(shared_timers(&timers), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_waiter_is_not_woken_and_the_last_one_removes_the_timer() {
        let timers = Timers::new(Clock::new());
        let mut all = [(); 3].map(|()| Waiting::at(MILLISECOND));
        assert!(all.iter_mut().all(|waiting| waiting.poll(&timers).is_pending()));
        let [mut first, second, third] = all;
        first.timer.unset();
        let woken = Arc::clone(&second.woken);
        assert_eq!(Arc::strong_count(&woken), 3);
        drop(second);
        assert_eq!(Arc::strong_count(&woken), 1, "its waker is not kept");
        advance(Duration::from_millis(2)).await;
        assert_eq!((first.woken(), woken.0.load(Ordering::Relaxed), third.woken()), (0, 0, 1));
        drop(third);
        assert_eq!(shared_timers(&timers), 0);
        assert!(first.poll(&timers).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_past_time_is_ready_and_a_time_beyond_the_clock_is_never() {
        let timers = Timers::new(Clock::new());
        advance(Duration::from_millis(5)).await;
        assert!(Waiting::at(0).poll(&timers).is_ready());
        assert!(Waiting::at(5 * MILLISECOND).poll(&timers).is_ready());
        assert!(Waiting::at(u64::MAX).poll(&timers).is_pending());
        assert_eq!(shared_timers(&timers), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_budget_still_sets_its_timer() {
        let timers = Timers::new(Clock::new());
        let mut waiting = Waiting::at(MILLISECOND);
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        assert!(waiting.poll(&timers).is_pending());
        tokio::task::yield_now().await;
        assert_eq!(waiting.woken(), 0);
        advance(Duration::from_millis(2)).await;
        assert_eq!(waiting.woken(), 1);
    }

    #[test]
    fn the_end_of_one_runtime_delays_no_timer_in_another() {
        let (first, second) = (current_thread(), current_thread());
        let timers = Timers::new(Clock::new());
        let time = timers.clock.after(Duration::from_secs(3600));
        let mut waiting = Waiting::at(time);
        first.block_on(async { assert!(waiting.poll(&timers).is_pending()) });
        drop(first);
        second.block_on(async {
            assert_eq!((waiting.woken(), waiting.poll(&timers)), (1, Poll::Pending), "its time has not come yet");
            assert!(waiting.timer.is_set());
        });
    }

    fn current_thread() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn multi_thread() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    /// Polls each timer in a task of its own in this runtime.
    fn poll_in_tasks(runtime: &Runtime, timers: &Arc<Timers>, times: impl IntoIterator<Item = u64>) -> Vec<Waiting> {
        let tasks = times.into_iter().map(|time| {
            let timers = Arc::clone(timers);
            runtime.spawn(async move {
                let mut waiting = Waiting::at(time);
                assert!(waiting.poll(&timers).is_pending());
                waiting
            })
        });
        let tasks: Vec<_> = tasks.collect();
        runtime.block_on(async {
            let mut all = Vec::new();
            for task in tasks {
                all.push(task.await.unwrap());
            }
            all
        })
    }

    #[test]
    fn timers_are_shared_within_a_runtime_and_not_between_runtimes() {
        let timers = Arc::new(Timers::new(Clock::new()));
        let time = timers.clock.after(Duration::from_secs(3600));
        let mut all = Vec::new();
        for (others, runtime) in [current_thread(), current_thread(), multi_thread(), multi_thread()].iter().enumerate()
        {
            all.extend(poll_in_tasks(runtime, &timers, [time; 20]));
            assert_eq!(shared_timers(&timers), others + 1);
        }
        assert!(all.iter().all(|waiting| waiting.woken() == 1), "all of these runtimes have ended");
    }

    #[test]
    fn the_end_of_one_runtime_wakes_no_waiter_in_another() {
        let timers = Arc::new(Timers::new(Clock::new()));
        let time = timers.clock.after(Duration::from_secs(3600));
        let (first, second) = (current_thread(), multi_thread());
        let [here, there] = [&first, &second].map(|runtime| poll_in_tasks(runtime, &timers, [time]));
        drop(first);
        assert_eq!((here[0].woken(), there[0].woken()), (1, 0));
        assert!(there[0].timer.is_set() && !here[0].timer.is_set());
    }

    #[test]
    fn outside_of_tasks_a_waiter_uses_the_runtime_that_polls_it() {
        let timers = Timers::new(Clock::new());
        let mut waiting = Waiting::at(timers.clock.after(Duration::from_secs(3600)));
        let runtimes = [current_thread(), multi_thread()];
        for runtime in runtimes.iter().chain(&runtimes) {
            let _entered = runtime.enter();
            assert!(!waiting.timer.is_set());
            assert!(waiting.poll(&timers).is_pending() && waiting.timer.is_set());
            assert_eq!(shared_timers(&timers), 1, "the timer in the other runtime is removed");
        }
        drop(runtimes);
        assert_eq!(waiting.woken(), 1);
    }

    #[test]
    fn an_ended_runtime_leaves_nothing_behind() {
        let timers = Arc::new(Timers::new(Clock::new()));
        let time = timers.clock.after(Duration::from_secs(3600));
        for _ in 0..1000 {
            drop(poll_in_tasks(&current_thread(), &timers, [time]));
        }
        assert!(lock(&timers.by_time).timers.len() <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn timers_without_waiters_are_removed() {
        let timers = Timers::new(Clock::new());
        for at in 1..10_000 {
            assert!(Waiting::at(at * MILLISECOND).poll(&timers).is_pending());
        }
        assert!(lock(&timers.by_time).timers.len() <= 64);
    }
}
