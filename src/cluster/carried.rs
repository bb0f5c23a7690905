//! How topics stand, as far as that must outlive the records that said so.

use std::collections::{BTreeMap, HashMap};

use crate::{backplane::Place, topics::ProductionId};

/// The topics whose begin or end must outlive the record that said so, with the place of that record.
///
/// Before the log is trimmed behind such a record, a node says it again. Otherwise a node that starts later would not know that the topic has
/// ended, and a reader would wait for ever.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    by_topic: HashMap<String, Noted>,
    by_place: BTreeMap<(Place, usize), String>,
    /// How many records were ever found to be lost.
    lost: usize,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    at: (Place, usize),
    stands: Stands,
    /// Whether a node has said it again. It may have been out of date then.
    is_said_again: bool,
}

/// Whether a topic is produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// A producer has begun.
    Produced(ProductionId),
    /// The topic has ended. It had this producer then, if it had one.
    Ended(Option<ProductionId>),
}

impl Stands {
    /// Returns the producer that has begun and not ended.
    fn producer(self) -> Option<ProductionId> {
        match self {
            Self::Produced(id) => Some(id),
            Self::Ended(_) => None,
        }
    }
}

impl Carried {
    /// The first place in a log. What the log has lost stands before it.
    pub(super) const FIRST: Place = Place { ms: 0, seq: 1 };

    /// Notes that the record at this place says how a topic stands.
    pub(crate) fn note(&mut self, topic: &str, at: (Place, usize), stands: Stands) {
        self.set(topic, Noted { at, stands, is_said_again: false });
    }

    fn set(&mut self, topic: &str, noted: Noted) {
        if let Some(before) = self.by_topic.insert(topic.to_owned(), noted) {
            self.by_place.remove(&before.at);
        }
        self.by_place.insert(noted.at, topic.to_owned());
    }

    /// Notes that a topic ends at this place. `by`: the producer that ends it. One that was replaced ends nothing.
    pub(crate) fn note_end(&mut self, topic: &str, at: (Place, usize), by: Option<ProductionId>) {
        let producer = self.by_topic.get(topic).and_then(|noted| noted.stands.producer());
        if by.is_none() || producer.is_none() || by == producer {
            self.note(topic, at, Stands::Ended(by.or(producer)));
        }
    }

    /// Notes how a topic stands, as a node says again at this place. Returns `true` if that was not known.
    ///
    /// The node may have said it before it had read what came before this place. So what the log itself says counts more, but for the end of
    /// a producer, which never begins again: the log may have lost the record of it.
    pub(crate) fn note_again(&mut self, topic: &str, at: (Place, usize), stands: Stands) -> bool {
        let (is_known, counts) = match self.by_topic.get(topic).map(|noted| (noted.stands, noted.is_said_again)) {
            None => (false, true),
            Some((Stands::Produced(known), _)) if stands == Stands::Produced(known) => (true, true),
            Some((Stands::Produced(known), _)) if stands == Stands::Ended(Some(known)) => (false, true),
            Some((Stands::Produced(_), is_said_again)) => (false, is_said_again && stands.producer().is_none()),
            Some((Stands::Ended(_), _)) => (true, stands.producer().is_none()),
        };
        if counts {
            self.set(topic, Noted { at, stands, is_said_again: true });
        }
        counts && !is_known
    }

    /// Returns the producer that a topic had when it ended, if it had one.
    pub(crate) fn ended_by(&self, topic: &str) -> Option<ProductionId> {
        match self.by_topic.get(topic)?.stands {
            Stands::Ended(by) => by,
            Stands::Produced(_) => None,
        }
    }

    /// Notes who produces a topic, if nothing is known of it: its begin was trimmed before this node started.
    pub(crate) fn note_producer(&mut self, topic: &str, at: (Place, usize), producer: ProductionId) {
        if !self.by_topic.contains_key(topic) {
            self.note(topic, at, Stands::Produced(producer));
        }
    }

    pub(crate) fn forget(&mut self, topic: &str) {
        if let Some(noted) = self.by_topic.remove(topic) {
            self.by_place.remove(&noted.at);
        }
    }

    /// The records at some places are lost, so they have to be said again.
    pub(crate) fn lose(&mut self, is_lost: impl Fn(Place) -> bool) {
        let in_log = self.by_place.range((Self::FIRST, 0)..);
        let lost = in_log.filter(|((place, _), _)| is_lost(*place)).map(|(_, topic)| topic.clone());
        for topic in lost.collect::<Vec<_>>() {
            if let Some(noted) = self.by_topic.get(&topic).copied() {
                self.set(&topic, Noted { at: (Place::default(), self.lost), ..noted });
                self.lost += 1;
            }
        }
    }

    pub(super) fn producing(&self) -> impl Iterator<Item = (&str, ProductionId)> {
        self.by_topic.iter().filter_map(|(topic, noted)| Some((&**topic, noted.stands.producer()?)))
    }

    /// Returns the topics that are said before a place, the oldest first.
    pub(crate) fn before(&self, place: Place) -> impl Iterator<Item = &str> {
        self.by_place.range(..(place, 0)).map(|(_, topic)| &**topic)
    }

    pub(super) fn is_lost(&self, topic: &str) -> bool {
        self.by_topic.get(topic).is_some_and(|noted| noted.at.0 < Self::FIRST)
    }

    /// Returns the place of the oldest record that the log has and that must be kept.
    pub(super) fn first_in_log(&self) -> Option<Place> {
        self.by_place.range((Self::FIRST, 0)..).next().map(|((place, _), _)| *place)
    }

    /// Returns the place of the oldest record that must be kept.
    pub(crate) fn oldest(&self) -> Option<Place> {
        self.by_place.keys().next().map(|(place, _)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Place {
        Place { ms, seq: 0 }
    }

    #[test]
    fn what_must_outlive_trimming_is_known_by_the_place_that_says_it_last() {
        let mut carried = Carried::default();
        for (topic, place) in [("a", 1), ("b", 2), ("a", 3)] {
            carried.note(topic, (at(place), 0), Stands::Ended(None));
        }
        assert_eq!((carried.before(at(3)).collect::<Vec<_>>(), carried.oldest()), (vec!["b"], Some(at(2))));
        carried.forget("b");
        assert_eq!(carried.oldest(), Some(at(3)));
    }

    #[test]
    fn what_a_node_says_again_of_a_topic_changes_nothing_that_the_log_says() {
        let id = |number| ProductionId { session: 7, number };
        let (produced, ended) = (|number| Stands::Produced(id(number)), |number| Stands::Ended(Some(id(number))));
        let mut carried = Carried::default();
        // A late word of a producer that has ended since, and of an end before a new begin.
        carried.note_end("ended", (at(1), 0), Some(id(1)));
        assert!(!carried.note_again("ended", (at(2), 0), produced(1)));
        carried.note("begun", (at(3), 0), produced(2));
        assert!(!carried.note_again("begun", (at(4), 0), Stands::Ended(None)));
        assert!(!carried.note_again("begun", (at(4), 0), ended(1)));
        assert_eq!(carried.oldest(), Some(at(1)));
        // What was trimmed is known only so. An end that is said later counts more.
        assert!(carried.note_again("t", (at(5), 0), produced(3)) && !carried.note_again("t", (at(6), 0), produced(3)));
        assert!(carried.note_again("t", (at(7), 0), Stands::Ended(None)));
        // A producer that was replaced ends nothing.
        carried.note_end("begun", (at(8), 0), Some(id(1)));
        assert_eq!(carried.producing().map(|(topic, _)| topic).collect::<Vec<_>>(), ["begun"]);
    }

    #[test]
    fn an_end_that_the_log_has_lost_is_taken_from_a_node_that_has_read_it() {
        let id = |number| ProductionId { session: 7, number };
        let (mut has_read, mut has_not) = (Carried::default(), Carried::default());
        for carried in [&mut has_read, &mut has_not] {
            carried.note("t", (at(1), 0), Stands::Produced(id(1)));
        }
        // Somebody without the producer ends it: what ended is the producer that the topic had.
        has_read.note_end("t", (at(2), 0), None);
        assert_eq!(has_read.ended_by("t"), Some(id(1)));
        let again = Stands::Ended(has_read.ended_by("t"));
        assert!(has_not.note_again("t", (at(3), 0), again) && !has_not.note_again("t", (at(4), 0), again));
        assert_eq!(has_not.producing().count(), 0);
        // It has ended for good.
        assert!(!has_not.note_again("t", (at(5), 0), Stands::Produced(id(1))));
        // A producer that has begun since is another one.
        has_not.note("t", (at(6), 0), Stands::Produced(id(2)));
        assert!(!has_not.note_again("t", (at(7), 0), again));
    }
}
