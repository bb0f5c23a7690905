//! The publisher's own ids of events that were evicted.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

/// Ids of the publisher's own that were evicted, and the topics that they were on: so that one that is used again on the
/// same topic is not taken for the one that a client had.
///
/// Bounded: those that were evicted longest ago are forgotten.
#[derive(Debug, Default)]
pub(crate) struct EvictedIds {
    hasher: RandomState,
    /// By the hash of the id.
    topics: HashMap<u64, Vec<Arc<str>>>,
    order: VecDeque<(u64, Arc<str>)>,
}

impl EvictedIds {
    /// How many are remembered, in some two mebibytes.
    const MOST: usize = 16 * 1024;

    pub(crate) fn insert(&mut self, id: &str, topic: &Arc<str>) {
        let hash = self.hasher.hash_one(id);
        let topics = self.topics.entry(hash).or_default();
        if topics.contains(topic) {
            return;
        }
        topics.push(Arc::clone(topic));
        self.order.push_back((hash, Arc::clone(topic)));
        if self.order.len() > Self::MOST {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((hash, topic)) = self.order.pop_front() else { return };
        if let Some(topics) = self.topics.get_mut(&hash) {
            topics.retain(|known| *known != topic);
            if topics.is_empty() {
                self.topics.remove(&hash);
            }
        }
    }

    /// Whether this id was evicted from a topic that is one of those in question.
    pub(crate) fn has(&self, id: &str, is_in_question: impl Fn(&str) -> bool) -> bool {
        !self.topics.is_empty()
            && self
                .topics
                .get(&self.hasher.hash_one(id))
                .is_some_and(|topics| topics.iter().any(|it| is_in_question(it)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_of_each_id_on_which_topics_it_was_and_forgets_the_oldest() {
        let mut ids = EvictedIds::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        ids.insert("v1", &a);
        ids.insert("v1", &a);
        ids.insert("v1", &b);
        ids.insert("v2", &a);
        assert!(ids.has("v1", |topic| topic == "b") && ids.has("v2", |topic| topic == "a"));
        assert!(!ids.has("v2", |topic| topic == "b") && !ids.has("v3", |_| true));
        (0..EvictedIds::MOST).for_each(|number| ids.insert(&format!("many {number}"), &a));
        assert!(!ids.has("v1", |_| true) && !ids.has("v2", |_| true));
        assert!(ids.has("many 0", |_| true));
        assert_eq!((ids.order.len(), ids.topics.len()), (EvictedIds::MOST, EvictedIds::MOST));
    }
}
