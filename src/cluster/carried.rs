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
    by_place: BTreeMap<RecordPlace, String>,
    /// How many records were ever found to be lost.
    lost: usize,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    at: RecordPlace,
    /// Where the record stood that changed it. What happened later counts.
    since: RecordPlace,
    stands: Stands,
}

/// The place of a block, and the index of a record in it.
pub(crate) type RecordPlace = (Place, usize);

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
    pub(crate) fn producer(self) -> Option<ProductionId> {
        match self {
            Self::Produced(id) => Some(id),
            Self::Ended(_) => None,
        }
    }

    fn has_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Whether this is the end of that producer.
    fn ends(self, other: Self) -> bool {
        matches!((self, other), (Self::Ended(Some(ended)), Self::Produced(producer)) if ended == producer)
    }
}

impl Carried {
    /// The first place in a log. What the log has lost stands before it.
    pub(super) const FIRST: Place = Place { ms: 0, seq: 1 };

    /// Notes that the record at this place says how a topic stands.
    pub(crate) fn note(&mut self, topic: &str, at: RecordPlace, stands: Stands) {
        self.set(topic, Noted { at, since: at, stands });
    }

    fn set(&mut self, topic: &str, noted: Noted) {
        if let Some(before) = self.by_topic.insert(topic.to_owned(), noted) {
            self.by_place.remove(&before.at);
        }
        self.by_place.insert(noted.at, topic.to_owned());
    }

    /// Notes that a topic ends at this place. `by`: the producer that ends it. One that was replaced ends nothing.
    pub(crate) fn note_end(&mut self, topic: &str, at: RecordPlace, by: Option<ProductionId>) {
        let producer = self.by_topic.get(topic).and_then(|noted| noted.stands.producer());
        if by.is_none() || producer.is_none() || by == producer {
            self.note(topic, at, Stands::Ended(by.or(producer)));
        }
    }

    /// Notes how a topic stands, as a node says again at this place. `since`: where the record stood that changed it. Returns `true` if that
    /// was not known.
    ///
    /// The node may have been away, so what happened later counts. But a producer that has ended never begins again, wherever the record of
    /// its end stood: the log may have lost it.
    pub(crate) fn note_again(&mut self, topic: &str, at: RecordPlace, stands: Stands, since: RecordPlace) -> bool {
        let (is_known, counts) = match self.by_topic.get(topic) {
            None => (false, true),
            Some(known) if known.stands == stands => (true, true),
            Some(known) if known.stands.ends(stands) => (true, false),
            Some(known) if stands.ends(known.stands) => (false, true),
            Some(known) => (known.stands.has_ended() && stands.has_ended(), since > known.since),
        };
        if counts {
            self.set(topic, Noted { at, since, stands });
        }
        counts && !is_known
    }

    /// Returns where the record stood that changed last how a topic stands.
    pub(crate) fn since(&self, topic: &str) -> Option<RecordPlace> {
        Some(self.by_topic.get(topic)?.since)
    }

    /// Returns how a topic stands, if that is known.
    pub(crate) fn stands(&self, topic: &str) -> Option<Stands> {
        Some(self.by_topic.get(topic)?.stands)
    }

    /// Forgets the topics that are said before a place and that a log does not mention, but for those of the producers of one
    /// session. Returns them.
    pub(crate) fn forget_unmentioned(
        &mut self,
        before: Place,
        spared: Option<u64>,
        is_mentioned: impl Fn(&str) -> bool,
    ) -> Vec<(String, Stands)> {
        let is_spared = |stands: Stands| stands.producer().is_some_and(|producer| Some(producer.session) == spared);
        let topics = self.before(before).filter(|topic| !is_mentioned(topic)).map(str::to_owned);
        let known = topics.filter_map(|topic| self.stands(&topic).map(|stands| (topic, stands)));
        let unmentioned: Vec<_> = known.filter(|(_, stands)| !is_spared(*stands)).collect();
        unmentioned.iter().for_each(|(topic, _)| self.forget(topic));
        unmentioned
    }

    /// Returns the producer that a topic had when it ended, if it had one.
    pub(crate) fn ended_by(&self, topic: &str) -> Option<ProductionId> {
        match self.by_topic.get(topic)?.stands {
            Stands::Ended(by) => by,
            Stands::Produced(_) => None,
        }
    }

    /// Notes who produces a topic, if nothing is known of it: its begin was trimmed before this node started.
    pub(crate) fn note_producer(&mut self, topic: &str, at: RecordPlace, producer: ProductionId) {
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
        assert!(!carried.note_again("ended", (at(2), 0), produced(1), (at(1), 0)));
        carried.note("begun", (at(3), 0), produced(2));
        assert!(!carried.note_again("begun", (at(4), 0), Stands::Ended(None), (at(2), 0)));
        assert!(!carried.note_again("begun", (at(4), 0), ended(1), (at(2), 0)));
        assert_eq!(carried.oldest(), Some(at(1)));
        // What was trimmed is known only so. An end that is said later counts more.
        let mut again = |place, stands, since| carried.note_again("t", (at(place), 0), stands, (at(since), 0));
        assert!(again(5, produced(3), 2) && !again(6, produced(3), 2) && !again(6, ended(2), 1));
        assert!(again(7, Stands::Ended(None), 4) && !again(8, produced(4), 3) && again(8, produced(4), 5));
        assert!(again(9, ended(4), 6) && !again(9, produced(4), 7));
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
        let since = has_read.since("t").unwrap();
        assert!(
            has_not.note_again("t", (at(3), 0), again, since) && !has_not.note_again("t", (at(4), 0), again, since)
        );
        assert_eq!(has_not.producing().count(), 0);
        // It has ended for good.
        assert!(!has_not.note_again("t", (at(5), 0), Stands::Produced(id(1)), (at(5), 0)));
        // A producer that has begun since is another one.
        has_not.note("t", (at(6), 0), Stands::Produced(id(2)));
        assert!(!has_not.note_again("t", (at(7), 0), again, since));
    }
}
