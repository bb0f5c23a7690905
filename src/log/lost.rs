//! The eviction history of one log.

use std::{collections::VecDeque, time::Duration};

/// The evicted events that clients must be notified of, in the order of eviction.
///
/// In the log of a pattern, that is not the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// How many events were evicted, ever.
    pub(super) count: u64,
    /// The evictions after which no greater number was evicted.
    pub(super) newest: Newest,
    /// As `newest`, for events whose policy disconnects slow clients.
    pub(super) ends: Newest,
    pub(super) reconnect_delay: Duration,
    /// The losses in the middle of what is retained. Boxed, because few logs have one.
    holes: Option<Box<Holes>>,
}

/// With each loss, the count of evictions and the number in whose place events are missing.
#[derive(Debug, Default)]
struct Holes(VecDeque<(u64, u64)>);

impl Lost {
    /// Counts events that never came here, in the place of this number.
    pub(super) fn add_hole(&mut self, number: u64) {
        self.count += 1;
        self.newest.push(self.count, number);
        let Holes(holes) = &mut **self.holes.get_or_insert_default();
        holes.push_back((self.count, number));
        if holes.len() > Newest::MOST {
            holes.pop_front();
        }
    }

    /// Returns the count of evictions that a reader knows of which begins at a number: all but the holes that it comes to.
    pub(super) fn known_from(&self, number: u64) -> u64 {
        let Some(Holes(holes)) = self.holes.as_deref() else { return self.count };
        let ahead = holes.partition_point(|(_, hole)| *hole < number);
        holes.get(ahead).map_or(self.count, |(count, _)| count - 1)
    }
}

/// Decreasing numbers, each with the count of evictions at which it was evicted.
#[derive(Debug, Default)]
pub(super) struct Newest(VecDeque<(u64, u64)>);

impl Newest {
    /// With more entries, two become one: a client may then be notified twice of the same events.
    const MOST: usize = 64;

    pub(super) fn push(&mut self, count: u64, number: u64) {
        while self.0.back().is_some_and(|(_, last)| *last <= number) {
            self.0.pop_back();
        }
        self.0.push_back((count, number));
        if self.0.len() > Self::MOST {
            if let (Some((_, number)), Some(second)) = (self.0.pop_front(), self.0.front_mut()) {
                second.1 = number;
            }
        }
    }

    /// Returns the count at which the last event with this number or a greater one was evicted, or 0.
    pub(super) fn last_from(&self, number: u64) -> u64 {
        let greater = self.0.partition_point(|(_, gone)| *gone >= number);
        greater.checked_sub(1).map_or(0, |last| self.0[last].0)
    }

    /// Returns the greatest number that was evicted after a count, or 0.
    pub(super) fn since(&self, count: u64) -> u64 {
        let first = self.0.partition_point(|(at, _)| *at <= count);
        self.0.get(first).map_or(0, |(_, number)| *number)
    }
}
