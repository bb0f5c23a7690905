//! Timers that many streams share.
//!
//! A timer of tokio's takes 112 bytes and a place in the runtime's wheel. Streams that wait for the same millisecond,
//! as all do that got the same event, have one together: a bell.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
};

use tokio::{
    task::coop::unconstrained,
    time::{Sleep, sleep_until},
};

use crate::{
    clock::Clock,
    registry::{Slot, Waiters},
    sync::{AtomicBool, Mutex, lock},
};

/// A time that one task waits for, in nanoseconds by the registry's clock. It costs nothing to ask again before that.
///
/// Another task has to [unset](Self::unset) it before it polls it.
#[derive(Debug)]
pub(crate) struct Alarm {
    time: u64,
    place: Option<Place>,
}

/// A place among those that a bell wakes.
struct Place {
    bell: Arc<Bell>,
    slot: Slot,
}

/// The bells of one clock.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<ByTime>);

#[derive(Debug, Default)]
struct ByTime {
    /// By milliseconds.
    bells: HashMap<u64, Weak<Bell>>,
    /// How many there may be until those that nobody waits for are looked for.
    enough: usize,
}

struct Bell {
    waiters: Mutex<Option<Waiters<Waker>>>,
    has_rung: AtomicBool,
    /// Kept, as it would not ring without.
    sleep: Mutex<Pin<Box<Sleep>>>,
}

/// Rings the bell if there is somebody left who waits for it.
struct Clapper(Weak<Bell>);

impl Alarm {
    /// The greatest time is never.
    pub(crate) fn at(time: u64) -> Self {
        Self { time, place: None }
    }

    /// Whether it has been polled, and its time is yet to come.
    pub(crate) fn is_set(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !place.bell.has_rung.load(Ordering::Acquire))
    }

    /// It wakes nobody until it is polled again.
    pub(crate) fn unset(&mut self) {
        self.place = None;
    }

    pub(crate) fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_set() {
            return Poll::Pending;
        }
        // The end of another runtime may have rung it.
        if clock.now() >= self.time {
            self.place = None;
            return Poll::Ready(());
        }
        self.place = clock.bells().wait(clock, self.time, cx.waker());
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waker = lock(&self.bell.waiters).as_mut().and_then(|waiters| waiters.remove(self.slot));
        drop(waker);
    }
}

impl Bells {
    /// `None`: it is later than this machine can count.
    fn wait(&self, clock: &Clock, time: u64, waker: &Waker) -> Option<Place> {
        const MILLISECOND: u64 = 1_000_000;
        let ms = time.div_ceil(MILLISECOND);
        let deadline = clock.instant(ms.saturating_mul(MILLISECOND))?;
        let mut by_time = lock(&self.0);
        let known = by_time.bells.get(&ms).and_then(Weak::upgrade);
        if let Some(place) = known.and_then(|bell| bell.place(waker)) {
            return Some(place);
        }
        if by_time.bells.len() >= by_time.enough {
            by_time.bells.retain(|_, bell| bell.strong_count() > 0);
            by_time.bells.shrink_to(64);
            by_time.enough = 2 * by_time.bells.len().max(32);
        }
        let bell = Arc::new(Bell {
            waiters: Mutex::new(Some(Waiters::new())),
            has_rung: AtomicBool::new(false),
            sleep: Mutex::new(Box::pin(sleep_until(deadline))),
        });
        by_time.bells.insert(ms, Arc::downgrade(&bell));
        drop(by_time);
        let place = bell.place(waker);
        bell.set();
        place
    }
}

impl Bell {
    /// `None`: it has rung.
    fn place(self: &Arc<Self>, waker: &Waker) -> Option<Place> {
        let slot = lock(&self.waiters).as_mut()?.insert(waker.clone());
        Some(Place { bell: Arc::clone(self), slot })
    }

    fn set(self: &Arc<Self>) {
        let clapper = Waker::from(Arc::new(Clapper(Arc::downgrade(self))));
        let mut sleep = lock(&self.sleep);
        // It is not for the task alone that sets it, so it does not depend on what that has left of its turn.
        let is_time = pin!(unconstrained(sleep.as_mut())).poll(&mut Context::from_waker(&clapper)).is_ready();
        drop(sleep);
        if is_time {
            self.ring();
        }
    }

    fn ring(&self) {
        self.has_rung.store(true, Ordering::Release);
        let waiters = lock(&self.waiters).take();
        waiters.into_iter().for_each(|mut waiters| waiters.take().for_each(Waker::wake));
    }
}

impl Wake for Clapper {
    fn wake(self: Arc<Self>) {
        if let Some(bell) = self.0.upgrade() {
            bell.ring();
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bell.fmt(f)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("has_rung", &self.has_rung).finish_non_exhaustive()
    }
}
