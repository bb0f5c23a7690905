//! The store of all topics.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{
    deferred::Deferred,
    frame_cache::FrameCache,
    order::{Order, OrderGuard},
    replica::Replica,
    settings::TopicSettings,
    shared_log::SharedLog,
};
use crate::{
    collections::CachePadded,
    log::{Era, Position, Progress, Retention},
    sync::{AtomicU64, Mutex, MutexGuard, lock},
    time::Clock,
};

/// All topics and patterns, the order of their events, and the retained events.
///
/// Locks are taken in this order: the order, a topic's state, a pattern's state, a joined frame, a shard. User code
/// runs under none of them.
pub(crate) struct Topics {
    pub(crate) settings: TopicSettings,
    pub(crate) clock: Clock,
    /// Publishers take turns here, so that events enter the log in the order of their positions.
    pub(super) order: CachePadded<Mutex<Order>>,
    /// The values that readers check.
    pub(super) newest: CachePadded<NewestEvent>,
    /// A log that never has an event.
    pub(crate) nothing: Arc<SharedLog>,
    pub(crate) frames: FrameCache,
    /// What is known of the engine's log, if there is a backplane.
    pub(super) replica: Option<Replica>,
}

#[derive(Debug)]
pub(super) struct NewestEvent {
    /// The number of the newest event, when all older events are in the log too.
    pub(super) published: AtomicU64,
    /// When the last event was published, in nanoseconds since the clock's start.
    pub(super) last_publish: AtomicU64,
}

impl Topics {
    /// `is_replica`: an engine keeps the log.
    pub(crate) fn new(settings: TopicSettings, clock: Clock, is_replica: bool) -> Self {
        // A replica begins when it is loaded. No position of its log may be before this one.
        let begin = Position::new(Era::random(), if is_replica { 0 } else { clock.start_ms() }, 0);
        Self {
            settings,
            clock,
            order: CachePadded(Mutex::new(Order::new(begin))),
            newest: CachePadded(NewestEvent { published: AtomicU64::new(0), last_publish: AtomicU64::new(0) }),
            nothing: Arc::new(SharedLog::new(0, "", Retention::default(), begin)),
            frames: FrameCache::new(),
            replica: is_replica.then(Replica::default),
        }
    }

    /// Returns the number of the newest event that may be read. All older events can be read too.
    #[inline]
    pub(crate) fn horizon(&self) -> u64 {
        self.newest.0.published.load(Ordering::Acquire)
    }

    /// Lets readers read up to this number.
    pub(crate) fn set_horizon(&self, number: u64) {
        self.newest.0.published.store(number, Ordering::Release);
    }

    /// Returns when the last event was published. A stream that has just got that event need not read the clock.
    #[inline]
    pub(crate) fn last_publish(&self) -> u64 {
        self.newest.0.last_publish.load(Ordering::Relaxed)
    }

    /// Returns the newest position.
    pub(crate) fn position(&self) -> Position {
        lock(&self.order.0).last
    }

    /// Whether any client is subscribed to this topic by its name.
    pub(crate) fn has_subscribers(&self, name: &str) -> bool {
        let mut deferred = Deferred::default();
        let topic = self.order(&mut deferred).topic(name);
        topic.is_some_and(|topic| lock(&topic.state).subscribers > 0)
    }

    /// Returns how many bytes an event of this topic may have at most. It may ask the program, so no lock may be held.
    pub(crate) fn largest_event(&self, name: &str) -> usize {
        self.settings.topic_retention_of(name).largest().min(self.settings.total_retention.bytes)
    }

    /// Whether an id is one that this registry gives to events.
    pub(crate) fn is_position(&self, id: &str) -> bool {
        id.parse::<Progress>().is_ok_and(|progress| progress.seen.era() == lock(&self.order.0).last.era())
    }

    /// Returns the last position before the current or last producer of a topic, if it had one.
    pub(crate) fn began(&self, name: &str) -> Option<Position> {
        let mut deferred = Deferred::default();
        let topic = self.order(&mut deferred).topic(name)?;
        lock(&topic.state).began
    }

    /// Whether this registry has issued this position.
    pub(crate) fn has_issued(&self, position: Position) -> bool {
        lock(&self.order.0).has_issued(position)
    }

    pub(crate) fn order<'a>(&'a self, deferred: &'a mut Deferred) -> OrderGuard<'a> {
        OrderGuard { guard: self.lock_order(), deferred }
    }

    pub(super) fn lock_order(&self) -> MutexGuard<'_, Order> {
        let mut order = lock(&self.order.0);
        self.forget_ended(&mut order);
        order
    }
}

impl Drop for Topics {
    /// Dropping user values in the events may panic here too.
    fn drop(&mut self) {
        let mut deferred = Deferred::default();
        let mut order = OrderGuard { guard: lock(&self.order.0), deferred: &mut deferred };
        while let Some(topic) = order.eviction_queue.pop() {
            order.drop_oldest_of(&mut lock(&topic.state));
        }
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("settings", &self.settings).finish_non_exhaustive()
    }
}
