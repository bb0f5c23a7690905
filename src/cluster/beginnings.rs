//! How topics stood when the log began, as far as the log says so later.
//!
//! A node says again how a topic stands before the log is trimmed behind the record that said it. That is some way behind the new begin of the
//! log. A node that loads the log has to know it from the begin on: otherwise it would take an event of a producer that all others refuse.

use std::collections::{HashMap, HashSet};

use super::{
    Cluster, Replicated,
    carried::Stands,
    record::{PastEnd, Record, Spot},
    state::{MOST_RECORDS, State},
};
use crate::{
    backplane::Place,
    log::{Outcome, Position},
    topics::{By, Change, ProductionId, Stamp, What},
};

/// How topics stood at the begin of a log.
#[derive(Debug, Default)]
pub(super) struct Beginnings {
    by_topic: HashMap<String, Beginning>,
    /// The producers that end in the log.
    pub(super) ending: HashSet<ProductionId>,
}

/// How one topic stood.
#[derive(Debug, Clone, Copy)]
enum Beginning {
    /// A producer begins in the log, so nothing before counts.
    Begins,
    /// The topic may end in the log, by somebody else than a producer if that is `None`.
    MayEnd(Option<ProductionId>),
    Produced {
        producer: ProductionId,
        began: Option<Spot>,
        since: Spot,
    },
    Ended(PastEnd),
}

impl Beginnings {
    /// Looks at the records of the next block of the log.
    pub(super) fn look_at(&mut self, records: &[Record<'_>]) {
        for record in records {
            match record {
                Record::Begin { topic } => {
                    self.by_topic.entry(topic.to_string()).or_insert(Beginning::Begins);
                }
                Record::End { topic, by, .. } | Record::Event { topic, by, outcome: Some(_), .. } => {
                    self.may_end(topic, *by);
                }
                Record::Produced { topic, producer, began, since } => {
                    let (producer, began, since) = (*producer, *began, *since);
                    self.say(topic, Beginning::Produced { producer, began, since });
                }
                Record::Ended { topic, end } => self.say(topic, Beginning::Ended(*end)),
                _ => {}
            }
        }
    }

    fn may_end(&mut self, topic: &str, by: By) {
        self.by_topic.entry(topic.to_owned()).or_insert(Beginning::MayEnd(by.producer()));
        self.ending.extend(by.producer());
    }

    /// Takes the first word that is said of a topic, unless the log says more before.
    fn say(&mut self, topic: &str, said: Beginning) {
        match self.by_topic.get(topic) {
            None => _ = self.by_topic.insert(topic.to_owned(), said),
            Some(Beginning::MayEnd(by)) => {
                let stood = match said {
                    // The end that was read may be the one that this word tells of.
                    Beginning::Ended(PastEnd { producer, began, since, .. }) if by.is_none() || *by == producer => {
                        match producer {
                            Some(producer) => Beginning::Produced { producer, began, since },
                            None => Beginning::Begins,
                        }
                    }
                    said => said,
                };
                self.by_topic.insert(topic.to_owned(), stood);
            }
            Some(_) => {}
        }
    }
}

impl Cluster {
    /// Says what a past end changes.
    pub(super) fn has_ended(&self, end: PastEnd) -> What {
        let PastEnd { began, outcome, at_ms, has_last_word, .. } = end;
        What::HasEnded { outcome, at_ms, began: began.and_then(|began| self.at(began)), has_last_word }
    }

    /// Forgets how topics stand of which a log says nothing that begins after what was read: the other nodes have forgotten them. A topic that
    /// had a producer then has ended, and nobody knows how.
    ///
    /// `spares_own`: the others cannot have forgotten yet that the producers of this node have failed.
    pub(super) fn forget_unmentioned(
        &self,
        node: &dyn Replicated,
        beginnings: &Beginnings,
        spares_own: bool,
        first: Place,
        begin: Position,
    ) {
        let mut inner = self.lock();
        let spared = spares_own.then_some(inner.outbox.session());
        let is_mentioned = |topic: &str| beginnings.by_topic.contains_key(topic);
        let unmentioned = inner.state.carried().forget_unmentioned(first, spared, is_mentioned);
        drop(inner);
        let stamp = Stamp { position: begin, at_ms: 0 };
        let produced = unmentioned.into_iter().filter(|(_, stands)| stands.producer().is_some());
        let what = || What::End { by: By::Anyone, outcome: Outcome::Failed };
        let changes: Vec<_> = produced.map(|(topic, _)| Change { stamp, topic: topic.into(), what: what() }).collect();
        // Nothing can be said against an end.
        let _ = node.make(&changes, stamp);
    }

    /// Makes the topics of a log that is loaded as they stood at its begin.
    pub(super) fn take_beginnings(
        &self,
        node: &dyn Replicated,
        Beginnings { by_topic, .. }: Beginnings,
        first: Place,
        begin: Position,
    ) {
        let stamp = Stamp { position: begin, at_ms: 0 };
        let before_log = Spot::of(begin);
        // No record of the first block has such an index.
        let changes = (MOST_RECORDS..).zip(by_topic).filter_map(|(index, (topic, stood))| {
            let at = |spot: Option<Spot>| spot.and_then(|spot| self.at(spot));
            let is_news = |stands, since| {
                self.lock().state.carried().note_again(&topic, (first, index), stands, State::record_place(since))
            };
            let produces = |producer, began| {
                let production = self.production(&topic, producer);
                What::Produces { production, began: at(began) }
            };
            let what = match stood {
                Beginning::Produced { producer, began, since } => {
                    is_news(Stands::Produced(producer), since).then(|| produces(producer, began))
                }
                Beginning::Ended(end) => is_news(Stands::Ended(end.producer), end.since).then(|| self.has_ended(end)),
                // If this node knows another producer, this one has begun since then.
                Beginning::MayEnd(Some(producer)) if self.lock().state.carried().stands(&topic).is_some() => {
                    is_news(Stands::Produced(producer), before_log).then(|| produces(producer, None))
                }
                Beginning::Begins | Beginning::MayEnd(_) => None,
            };
            Some(Change { stamp, topic: topic.into(), what: what? })
        });
        let changes: Vec<Change<'_>> = changes.collect();
        if !changes.is_empty() {
            // Each change says how a topic stands, and none can be refused.
            let _ = node.make(&changes, stamp);
        }
    }
}
