//! The publishers' own ids of evicted events.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use crate::log::topic_name;

/// The publishers' own ids of evicted events, with the topics and patterns whose logs had them.
///
/// So an id that is used again on the same topic is not mistaken for the evicted event that a client has read. The log
/// of a pattern may have evicted an id that the log of its topic still has.
///
/// Bounded: the ids that were evicted longest ago are forgotten.
#[derive(Debug, Default)]
pub(crate) struct EvictedIds {
    hasher: RandomState,
    /// The last eviction of each id, by the hash of the id and the name.
    last: HashMap<(u64, Arc<str>), u64>,
    /// All remembered evictions. Only the last one of an id and a name counts.
    order: VecDeque<(u64, Arc<str>, u64)>,
    evictions: u64,
}

impl EvictedIds {
    /// How many evictions are remembered. They take about 2 MiB.
    const MOST: usize = 16 * 1024;

    /// Records an eviction. `by`: the topic or pattern whose log has evicted the id.
    pub(crate) fn insert(&mut self, id: &str, by: &Arc<str>) {
        let hash = self.hasher.hash_one(id);
        self.evictions += 1;
        self.last.insert((hash, Arc::clone(by)), self.evictions);
        self.order.push_back((hash, Arc::clone(by), self.evictions));
        if self.order.len() > Self::MOST {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((hash, name, eviction)) = self.order.pop_front() else { return };
        let evicted = (hash, name);
        if self.last.get(&evicted) == Some(&eviction) {
            self.last.remove(&evicted);
        }
    }

    /// Whether this id was evicted from the log with this name. A pattern also looks at all topics that it `gives`.
    pub(crate) fn has(&self, id: &str, name: &Arc<str>, gives: impl Fn(&str) -> bool) -> bool {
        if self.last.is_empty() {
            return false;
        }
        let hash = self.hasher.hash_one(id);
        let of_topic = |(it, topic): &(u64, Arc<str>)| *it == hash && !topic_name::is_pattern(topic) && gives(topic);
        self.last.contains_key(&(hash, Arc::clone(name)))
            || topic_name::is_pattern(name) && self.last.keys().any(of_topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_maps_ids_to_topics_and_forgets_the_oldest() {
        let mut ids = EvictedIds::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        ids.insert("v1", &a);
        ids.insert("v1", &a);
        ids.insert("v1", &b);
        ids.insert("v2", &a);
        ids.insert("v3", &"*".into());
        let has = |ids: &EvictedIds, id: &str, name: &str| {
            ids.has(id, &name.into(), |topic| topic_name::matches(name, topic))
        };
        assert!(has(&ids, "v1", "b") && has(&ids, "v2", "a") && has(&ids, "v2", "*") && has(&ids, "v3", "*"));
        assert!(!has(&ids, "v2", "b") && !has(&ids, "v3", "a") && !has(&ids, "v3", "**") && !has(&ids, "v4", "*"));
        (1..EvictedIds::MOST).for_each(|number| ids.insert(&format!("many {number}"), &a));
        ids.insert("many 0", &a);
        assert!(!has(&ids, "v1", "**") && !has(&ids, "v2", "**"));
        assert!(has(&ids, "many 0", "a"));
        assert_eq!((ids.order.len(), ids.last.len()), (EvictedIds::MOST, EvictedIds::MOST));
    }
}
