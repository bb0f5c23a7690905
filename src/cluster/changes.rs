//! What blocks that were read mean for the registry: the log is loaded, compared, and its changes are made.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::Extensions;

use super::{
    Cluster, Replicated,
    beginnings::Beginnings,
    carried::Stands,
    record::{self, Attributes, Head, InvalidBody, Record, Spot},
    repeating::Repeats,
    state::{Arrival, State},
    task::Stop,
};
use crate::{
    backplane::{FollowError, Place, PlainEvent, Stored},
    event::{Event, Payload},
    log::{Era, Position, topic_name},
    topics::{By, Change, Pending, ProductionId, PublishError, Stamp, What},
};

impl Cluster {
    /// Loads the log for the first time.
    pub(super) fn load(&self, node: &dyn Replicated, log: &[Stored]) -> Result<(), Stop> {
        let (mut repeats, mut beginnings) = (Repeats::default(), Beginnings::default());
        for stored in log {
            let (head, records) = readable(stored)?;
            let mut inner = self.lock();
            head.into_iter().for_each(|head| _ = inner.state.read_head(head));
            drop(inner);
            beginnings.look_at(&records);
            repeats.add(records);
        }
        let begin = {
            let inner = &mut *self.lock();
            let era = inner.state.choose_era(Era::random);
            match log.first() {
                Some(first) => match State::spot(first.place, 0) {
                    Some(Spot { ms, seq }) => Position::new(era, ms, seq).before(),
                    None => return Err(out_of_bounds(first.place)),
                },
                None => Position::new(era, 0, 0),
            }
        };
        node.begin_at(begin);
        let first = log.first().map(|stored| stored.place).unwrap_or_default();
        // Nothing before the log is in it.
        self.lock().state.needs_nothing_before(first);
        self.take_repeats(node, repeats, Place::default(), first, Stamp { position: begin, at_ms: 0 });
        self.lock().state.note_ending(std::mem::take(&mut beginnings.ending));
        // After these events, which are from before: an ended topic takes none.
        self.take_beginnings(node, beginnings, first, begin);
        if let Some(stop) = self.take(node, log) {
            return Err(stop);
        }
        node.loaded();
        let mut inner = self.lock();
        inner.state.loaded();
        if !inner.has_said_hello {
            inner.has_said_hello = true;
            inner.outbox.push_always(&Record::Hello, None);
        }
        drop(inner);
        self.change_signs(|signs| !std::mem::replace(&mut signs.is_loaded, true));
        self.to_write.notify_one();
        Ok(())
    }

    /// Compares the registry with a log in which the last block was not found, or in which something was lost.
    pub(super) fn compare(&self, node: &dyn Replicated, log: &[Stored]) -> Result<(), Stop> {
        let mut inner = self.lock();
        let comparison = inner.state.compare(log);
        let loss = comparison.loss.filter(|loss| inner.state.add_loss(*loss));
        let mut lost = None;
        if let Some(loss) = loss {
            lost = inner.state.positions(loss);
            inner.above = Some(inner.above.unwrap_or_default().max(loss.to));
            inner.outbox.push_always(&Record::Fork(loss), None);
        }
        let was_gone_ms = inner.state.was_gone_ms(log);
        let begins =
            comparison.begins_later.and_then(|place| inner.state.position(place, 0).map(|position| (place, position)));
        let highest = inner.state.highest();
        drop(inner);
        node.cut(lost, &|position| comparison.has(position));
        if let Some((first, begins)) = begins {
            let (mut repeats, mut beginnings) = (Repeats::default(), Beginnings::default());
            for stored in log {
                let records = readable(stored)?.1;
                beginnings.look_at(&records);
                repeats.add(records);
            }
            // First the gap: a reader that gets one of these events must know that others may be missing.
            node.lose(begins.before());
            self.take_repeats(node, repeats, highest, first, Stamp { position: begins.before(), at_ms: 0 });
            if let Some(gone_ms) = was_gone_ms {
                let spares_own = u128::from(gone_ms) <= node.ended_topic_ttl().as_millis();
                self.forget_unmentioned(node, &beginnings, spares_own, first, begins.before());
            }
            self.take_beginnings(node, beginnings, first, begins.before());
        }
        if let Some((_, to)) = lost {
            node.lose(to);
            self.to_write.notify_one();
        }
        self.take(node, log).map_or(Ok(()), Err)
    }

    /// Takes blocks that were read: makes the changes that are new, and resolves the receipts of those that are this node's own.
    pub(super) fn take(&self, node: &dyn Replicated, blocks: &[Stored]) -> Option<Stop> {
        let mut batch = Batch::default();
        for stored in blocks {
            if let Err(stop) = self.take_one(node, stored, &mut batch) {
                self.make(node, &mut batch);
                return Some(stop);
            }
        }
        self.make(node, &mut batch);
        None
    }

    fn take_one<'a>(&self, node: &dyn Replicated, stored: &'a Stored, batch: &mut Batch<'a>) -> Result<(), Stop> {
        let (head, records) = readable(stored)?;
        let mut inner = self.lock();
        if inner.outbox.is_foreign(&stored.block) {
            return Err(refused(&"another process appends with this node's session: was it copied while it ran?"));
        }
        let arrival = inner.state.read(stored);
        if arrival == Arrival::Duplicate {
            return Ok(());
        }
        let was_of_another_era = head.is_some_and(|head| inner.state.read_head(head)) && inner.state.is_loaded();
        let Some(first) = inner.state.position(stored.place, 0) else {
            return Err(out_of_bounds(stored.place));
        };
        let receipts = inner.outbox.read_back(stored.block.key).unwrap_or_default();
        drop(inner);
        if was_of_another_era {
            // Nothing that is retained can be named in this era.
            self.make(node, batch);
            node.cut(None, &|_| false);
            node.begin_at(first.before());
            node.lose(first.before());
            self.lock().state.restart();
            self.progress.send_modify(|progress| progress.signs.is_loaded = false);
            return Err(Stop::Compare);
        }
        if arrival == Arrival::AfterHole || (head.is_none() && stored.block.records > 0) {
            self.make(node, batch);
            node.lose(first.before());
        }
        let mut receipts = receipts.into_iter();
        // The rest of the block is read first: it is not read again.
        let mut has_to_compare = false;
        for (index, record) in records.into_iter().enumerate() {
            let receipt = receipts.next().flatten();
            let Some(position) = self.lock().state.position(stored.place, index) else { break };
            let stamp = Stamp { position, at_ms: stored.at_ms };
            batch.newest = Some(stamp);
            match self.prepare(node, stored, index, record) {
                Prepared::Change(topic, what) => {
                    let receipt = match (&what, receipt) {
                        (What::Missing { .. }, Some(receipt)) => {
                            let reason = "an attribute cannot be read back as it was written".to_owned();
                            receipt.resolve(Err(PublishError::Attribute { reason }));
                            None
                        }
                        (_, receipt) => receipt,
                    };
                    batch.changes.push(Change { stamp, topic, what });
                    batch.receipts.push(receipt);
                }
                Prepared::Refused(error) => receipt.into_iter().for_each(|receipt| receipt.resolve(Err(error.clone()))),
                Prepared::Nothing => receipt.into_iter().for_each(|receipt| receipt.resolve(Ok(position))),
                Prepared::Compare => has_to_compare = true,
            }
        }
        batch.newest.get_or_insert(Stamp { position: first, at_ms: stored.at_ms });
        if has_to_compare { Err(Stop::Compare) } else { Ok(()) }
    }

    /// Says what a record changes.
    fn prepare<'a>(&self, node: &dyn Replicated, stored: &Stored, index: usize, record: Record<'a>) -> Prepared<'a> {
        let key = stored.block.key;
        let note_end = |topic: &str, by: By| {
            self.lock().state.carried().note_end(topic, (stored.place, index), by.producer());
        };
        let is_news = |topic: &str, stands, since| {
            let since = State::record_place(since);
            self.lock().state.carried().note_again(topic, (stored.place, index), stands, since)
        };
        if let Record::Event { topic, by, .. } | Record::End { topic, by, .. } = &record {
            let inner = &mut *self.lock();
            // Of a producer whose begin was read, the log says what became of it, also when its topic has been forgotten.
            if let Some(producer) = by.producer().filter(|producer| inner.state.has_read_begin(*producer)) {
                let topic = topic.to_string();
                match inner.state.carried().stands(&topic) {
                    Some(Stands::Produced(current)) if current == producer => {}
                    Some(Stands::Produced(_)) => return Prepared::Refused(PublishError::Replaced { topic }),
                    _ => return Prepared::Refused(PublishError::Ended { topic }),
                }
            }
        }
        match record {
            Record::Hello | Record::Unknown => Prepared::Nothing,
            Record::Beat { oldest } => {
                let mut inner = self.lock();
                inner.state.needs(key.session, oldest);
                if key.session == inner.outbox.session() {
                    inner.state.tick();
                }
                Prepared::Nothing
            }
            Record::Repeat(_) => Prepared::Nothing,
            Record::Repeated { from, to } => {
                self.lock().state.note_repeated(from, to);
                Prepared::Nothing
            }
            Record::Event { topic, payload, attributes, by, outcome } => {
                let event = self.event(&payload, &attributes);
                let has_failed = |producer: ProductionId| {
                    let inner = self.lock();
                    producer.session != inner.outbox.session() && inner.state.counts_as_failed(&topic, producer)
                };
                if by.producer().filter(|_| outcome.is_none()).is_some_and(has_failed) {
                    // If it is a producer whose begin the engine has lost, its node says again that it lives.
                    return Prepared::Change(topic, What::Missing { by: By::Anyone, outcome });
                }
                match (outcome, by) {
                    (Some(_), by) => note_end(&topic, by),
                    (None, By::Producer(id)) => {
                        self.lock().state.carried().note_producer(&topic, (stored.place, index), id);
                    }
                    (None, _) => {}
                }
                let what = match event {
                    Some(event) => What::Event { event: Box::new(event), by, outcome, floor: None },
                    None => What::Missing { by, outcome },
                };
                Prepared::Change(topic, what)
            }
            Record::Begin { topic } => {
                let number = key.number.saturating_add(u64::try_from(index).unwrap_or(u64::MAX));
                let id = ProductionId { session: key.session, number };
                self.lock().state.carried().note(&topic, (stored.place, index), Stands::Produced(id));
                let production = self.production(&topic, id);
                Prepared::Change(topic, What::Begin(production))
            }
            Record::End { topic, by, outcome } => {
                note_end(&topic, by);
                Prepared::Change(topic, What::End { by, outcome })
            }
            Record::Produced { topic, producer, began, since }
                if is_news(&topic, Stands::Produced(producer), since) =>
            {
                let production = self.production(&topic, producer);
                Prepared::Change(topic, What::Produces { production, began: began.and_then(|began| self.at(began)) })
            }
            Record::Ended { topic, end } if is_news(&topic, Stands::Ended(end.producer), end.since) => {
                Prepared::Change(topic, self.has_ended(end))
            }
            Record::Produced { .. } | Record::Ended { .. } => Prepared::Nothing,
            Record::Fork(loss) => {
                let mut inner = self.lock();
                let (is_new, is_loaded) = (inner.state.add_loss(loss), inner.state.is_loaded());
                let lost = inner.state.positions(loss).filter(|_| is_new);
                drop(inner);
                let Some((_, to)) = lost else { return Prepared::Nothing };
                node.cut(lost, &|_| true);
                if !is_loaded {
                    return Prepared::Nothing;
                }
                // This node may have what the engine has lost.
                node.lose(to);
                Prepared::Compare
            }
        }
    }

    /// Makes the event of a record. `None`: this node does not know what the event is, so it must not give it to anyone.
    pub(super) fn event(&self, payload: &Payload<'_>, attributes: &Attributes<'_>) -> Option<Event> {
        let mut extensions = Extensions::new();
        for (name, value) in attributes {
            // A panic of the program must not end the task, which would lose what it has read.
            let decode = || self.attributes.decode(name, value, &mut extensions);
            catch_unwind(AssertUnwindSafe(decode)).ok()?.ok()?;
        }
        let event = Event::from_payload(payload).ok()?;
        Some(if attributes.is_empty() { event } else { event.with_attributes(extensions) })
    }

    fn make(&self, node: &dyn Replicated, batch: &mut Batch<'_>) {
        let Some(newest) = batch.newest.take() else { return };
        let (changes, receipts) = (std::mem::take(&mut batch.changes), std::mem::take(&mut batch.receipts));
        let made = node.make(&changes, newest);
        for ((change, receipt), made) in changes.iter().zip(receipts).zip(made) {
            receipt.iter().for_each(|receipt| receipt.resolve(made.clone().map(|()| change.stamp.position)));
        }
        self.progress.send_modify(|progress| progress.last = newest.position);
        self.to_write.notify_one();
    }
}

/// What was read and is not made yet.
#[derive(Default)]
struct Batch<'a> {
    changes: Vec<Change<'a>>,
    /// The receipt of each change, if it is this node's own and somebody may wait for it.
    receipts: Vec<Option<Arc<Pending>>>,
    newest: Option<Stamp>,
}

enum Prepared<'a> {
    Change(Cow<'a, str>, What),
    Nothing,
    /// No node takes it.
    Refused(PublishError),
    /// Everything has to be read and compared again.
    Compare,
}

/// Returns the head of a block and its records. A block that no registry has appended has no head, and one event.
pub(super) fn records_of(stored: &Stored) -> Result<(Option<Head>, Vec<Record<'_>>), InvalidBody> {
    if stored.block.records > 0 {
        return record::read(&stored.block.body).map(|(head, records)| (Some(head), records));
    }
    let event = stored.block.plain_event().filter(is_valid);
    let records = event.map(|PlainEvent { topic, event_type, data }| Record::Event {
        topic: topic.into(),
        payload: Payload { event_type: event_type.map(Into::into), data: Some(data.into()), ..Payload::default() },
        attributes: Vec::new(),
        by: By::Anyone,
        outcome: None,
    });
    Ok((None, records.into_iter().collect()))
}

/// Whether a client can get an event of another program.
fn is_valid(event: &PlainEvent) -> bool {
    let event_type = event.event_type.as_deref().unwrap_or_default();
    topic_name::check(&event.topic).is_ok() && Event::empty().try_event(event_type).is_ok()
}

fn out_of_bounds(place: Place) -> Stop {
    refused(&format!("the place {place:?} is out of bounds"))
}

fn refused(why: &dyn std::fmt::Display) -> Stop {
    Stop::Failed(FollowError::Refused(why.to_string().into()))
}

/// As [`records_of`], but a block that is damaged has no head and no records: what it said is lost.
pub(super) fn readable(stored: &Stored) -> Result<(Option<Head>, Vec<Record<'_>>), Stop> {
    match records_of(stored) {
        Ok(readable) => Ok(readable),
        Err(InvalidBody::Damaged) => Ok((None, Vec::new())),
        Err(error) => Err(refused(&error)),
    }
}
