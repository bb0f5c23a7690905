//! Counts what a registry holds, and gives samples to observers.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    shared::Shared,
    stats::{LastSample, Sent, Stats},
};
use crate::{
    sync::{AtomicU64, Mutex, lock},
    time::nanoseconds,
    topics::Deferred,
};

impl Shared {
    pub(crate) fn stats(&self) -> Stats {
        let mut deferred = Deferred::default();
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Read before the open streams, so that a stream that ends meanwhile is counted a little later and not twice.
        let over = Sent { events: count(&counters.delivered), bytes: count(&counters.sent_bytes) };
        let (mut clients, mut subscriptions, mut all) = (0, 0, over);
        for (names, sent) in self.known_clients().iter().filter_map(|client| client.counts()) {
            clients += 1;
            subscriptions += names;
            all = Sent { events: all.events + sent.events, bytes: all.bytes + sent.bytes };
        }
        let order = self.topics.order(&mut deferred);
        Stats {
            clients,
            subscriptions,
            topics: order.topics.len(),
            events: order.eviction_queue.len(),
            bytes: order.cost,
            published: order.published,
            waiting: self.cluster.as_ref().map_or(0, |cluster| cluster.waiting()),
            delivered: all.events,
            sent_bytes: all.bytes,
            fell_behind: count(&counters.fell_behind),
            missed: count(&counters.missed),
            gaps: count(&counters.gaps),
            refused_subscriptions: count(&counters.refused_subscriptions),
            refused_streams: count(&counters.refused_streams),
            withheld_heartbeats: count(&counters.withheld_heartbeats),
            closed_streams: lock(&counters.closed_streams).clone(),
        }
    }
}

/// At least as often as metrics are usually read.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// With at most this many streams, a sample costs no more than the other work at the end of a stream.
const FEW_CLIENTS: usize = 64;

/// One thread takes a sample. When it is dropped, the next sample becomes due.
struct Sampling<'a>(&'a LastSample, u64);

impl Drop for Sampling<'_> {
    fn drop(&mut self) {
        self.0.due.store(self.1, Ordering::Release);
    }
}

impl Shared {
    /// Takes a sample and notifies observers, if one is due. No lock may be held.
    pub(crate) fn sample(&self, now: Duration) {
        if !self.settings.observers.is_empty() {
            let due = self.last_sample.due.load(Ordering::Relaxed);
            if nanoseconds(now) >= due {
                self.take_sample(due, now);
            }
        }
    }

    /// Takes a sample when a stream has ended, because the next chance may come much later.
    pub(crate) fn sample_at_an_end(&self) {
        if !self.settings.observers.is_empty() {
            let due = self.last_sample.due.load(Ordering::Relaxed);
            let now = self.clock.elapsed();
            if nanoseconds(now) >= due || (due < u64::MAX && lock(&self.clients).len() <= FEW_CLIENTS) {
                self.take_sample(due, now);
            }
        }
    }

    #[cold]
    fn take_sample(&self, due: u64, now: Duration) {
        let LastSample { due: next, stats: last } = &self.last_sample;
        // One thread at a time: observers get samples in order, and an observer that publishes does not get a sample
        // within its own call.
        if due == u64::MAX || next.compare_exchange(due, u64::MAX, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        let _sampling = Sampling(&self.last_sample, nanoseconds(now + SAMPLE_EVERY));
        self.tell_sample(self.stats(), last);
    }

    fn tell_sample(&self, mut now: Stats, last: &Mutex<Stats>) {
        let mut last = lock(last);
        // A stream that ends at this moment may be missing from the counts.
        now.delivered = now.delivered.max(last.delivered);
        now.sent_bytes = now.sent_bytes.max(last.sent_bytes);
        let before = std::mem::replace(&mut *last, now.clone());
        drop(last);
        self.settings.observers.notify(|observer| observer.sampled(&before, &now));
    }

    /// Takes the last sample when the registry is dropped: nothing is left in it.
    pub(crate) fn sample_at_the_end(&self) {
        if !self.settings.observers.is_empty() {
            let nothing = Stats { subscriptions: 0, topics: 0, events: 0, bytes: 0, ..self.stats() };
            self.tell_sample(nothing, &self.last_sample.stats);
        }
    }
}
