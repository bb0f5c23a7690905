//! The eviction state of forgotten topics.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::position::Position;
use crate::log::topic_name;

/// The position up to which each topic had been evicted when it was forgotten.
///
/// So a topic that is created again still knows what it has evicted. Bounded: for the topics that were forgotten
/// longest ago, only their newest position is kept. That may notify a client of a gap where there is none, but never
/// misses a gap.
#[derive(Debug)]
pub(crate) struct Forgotten {
    floors: HashMap<Arc<str>, Position>,
    order: VecDeque<Arc<str>>,
    floor: Position,
}

impl Forgotten {
    /// How many topics are remembered. With names of 20 bytes, they take about 1 MiB.
    const TOPICS: usize = 8 * 1024;

    /// `floor`: the position at which the registry begins.
    pub(crate) fn new(floor: Position) -> Self {
        Self { floors: HashMap::new(), order: VecDeque::new(), floor }
    }

    pub(crate) fn insert(&mut self, topic: &Arc<str>, floor: Position) {
        if floor <= self.floor || topic_name::is_of_one_client(topic) {
            return;
        }
        if self.floors.insert(Arc::clone(topic), floor).is_none() {
            self.order.push_back(Arc::clone(topic));
        }
        if self.floors.len() > Self::TOPICS {
            if let Some(floor) = self.order.pop_front().and_then(|topic| self.floors.remove(&topic)) {
                self.floor = self.floor.max(floor);
            }
        }
    }

    /// Whether a topic of this name is remembered.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.floors.contains_key(topic)
    }

    /// Returns the position up to which a new topic counts as evicted.
    pub(crate) fn floor(&self, topic: &str) -> Position {
        self.floors.get(topic).copied().unwrap_or(self.floor).max(self.floor)
    }

    /// Returns the greatest floor of all topics that match a pattern.
    pub(crate) fn floor_of_matching(&self, pattern: &str) -> Position {
        let is_matching = |name: &str| topic_name::is_public(name) && topic_name::matches(pattern, name);
        let matching = self.floors.iter().filter(|(name, _)| is_matching(name));
        matching.map(|(_, floor)| *floor).max().unwrap_or(self.floor).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Position {
        Position::at(ms, 0)
    }

    #[test]
    fn a_forgotten_topic_keeps_its_own_floor() {
        let start = at(10);
        let mut forgotten = Forgotten::new(start);
        forgotten.insert(&"a/1".into(), at(20));
        forgotten.insert(&"$client/1".into(), at(25));
        assert_eq!((forgotten.floor("a/1"), forgotten.floor("a/2")), (at(20), start));
        assert_eq!((forgotten.floor_of_matching("a/*"), forgotten.floor_of_matching("b/*")), (at(20), start));
        for topic in 0..2 * Forgotten::TOPICS as u64 {
            forgotten.insert(&format!("many/{topic}").into(), at(30 + topic));
        }
        assert!(forgotten.floor("a/1") >= at(20));
        assert!(forgotten.floors.len() <= Forgotten::TOPICS && forgotten.order.len() <= Forgotten::TOPICS);
    }
}
