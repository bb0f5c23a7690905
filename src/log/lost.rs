//! What is remembered of events that were evicted.

use std::{collections::VecDeque, time::Duration};

/// The events that were evicted and whose loss is not passed over, in the order they went. Of a pattern, that is not the
/// order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// How many there ever were.
    pub(super) count: u64,
    /// Those after which none with a greater number went.
    pub(super) newest: Newest,
    /// The same of those that end streams.
    pub(super) ends: Newest,
    pub(super) reconnect_delay: Duration,
}

/// Numbers that get smaller, each with the count at which it went.
#[derive(Debug, Default)]
pub(super) struct Newest(VecDeque<(u64, u64)>);

impl Newest {
    /// With more than that, two count as one: a client may be told twice of what it lost.
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

    /// The count at which the last one with this number or a greater one went; 0 if none did.
    pub(super) fn last_from(&self, number: u64) -> u64 {
        let greater = self.0.partition_point(|(_, gone)| *gone >= number);
        greater.checked_sub(1).map_or(0, |last| self.0[last].0)
    }

    /// The greatest number that went after a count; 0 if none did.
    pub(super) fn since(&self, count: u64) -> u64 {
        let first = self.0.partition_point(|(at, _)| *at <= count);
        self.0.get(first).map_or(0, |(_, number)| *number)
    }
}
