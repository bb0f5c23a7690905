//! Retained events are said again, so that the log before them can be trimmed.
//!
//! An event that is retained for long, such as the last value of a topic in which nothing happens, would hold all of the log that came after
//! it. So when the log is much larger than what is retained, one node reads its oldest blocks, and says again what is retained of them. A node
//! that starts later takes these events first, with their old positions. A node that has them passes over them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Weak,
};

use tokio::time::sleep;

use super::{
    Cluster, Replicated,
    changes::records_of,
    record::{Record, Repeat, Spot},
    state::{Loss, State},
    task::{BEAT, next, open},
};
use crate::{
    backplane::{FollowError, Place, Stored},
    log::Position,
    topics::{By, Change, Retained, Stamp, What},
};

/// How many bytes of the log are looked at before the node waits for what it has said to come back.
const AT_ONCE: usize = 128 << 10;

/// Says retained events again whenever the log is much larger than they are.
pub(super) async fn repeat(cluster: &Cluster, node: &Weak<dyn Replicated>) {
    loop {
        sleep(BEAT).await;
        let Some(is_overgrown) = node.upgrade().map(|node| cluster.is_overgrown(&*node)) else { return };
        if is_overgrown {
            // If it fails, then following fails too, and says why.
            let _ = repeat_oldest(cluster, node).await;
        }
    }
}

/// Goes through the log from its oldest block on that was not said again, until it is small enough.
async fn repeat_oldest(cluster: &Cluster, node: &Weak<dyn Replicated>) -> Result<(), FollowError> {
    let mut tail = open(cluster, None).await?.tail;
    let (mut from, end, losses) = {
        let inner = cluster.lock();
        (inner.state.repeated(), inner.state.highest(), inner.state.losses())
    };
    let mut said = 0;
    loop {
        let read = next(cluster, &mut *tail).await?;
        let known = read.blocks.partition_point(|stored| stored.place < from);
        let mut blocks = &read.blocks[known..];
        while !blocks.is_empty() {
            let Some(node) = node.upgrade() else { return Ok(()) };
            let has_fallen_back = cluster.lock().state.losses() != losses;
            let is_at_end = blocks[0].place >= end;
            if is_at_end {
                // All that is retained takes so much.
                cluster.lock().said_again = said;
            }
            if has_fallen_back || is_at_end || !cluster.is_overgrown(&*node) {
                return Ok(());
            }
            let some;
            (some, blocks) = blocks.split_at(first_of(blocks));
            let last = some.last().map(|stored| stored.place).unwrap_or_default();
            let to = Place { seq: last.seq + 1, ..last };
            let (number, bytes) = cluster.repeat_retained(&*node, some, from, to);
            (from, said) = (to, said + bytes);
            drop(node);
            cluster.came_back(number).await;
        }
        if read.is_newest {
            return Ok(());
        }
    }
}

/// Returns how many blocks are looked at together.
fn first_of(blocks: &[Stored]) -> usize {
    let mut bytes = 0;
    let is_within = |stored: &&Stored| {
        bytes += stored.block.encoded_len();
        bytes <= AT_ONCE
    };
    blocks.iter().take_while(is_within).count().max(1)
}

/// The events of a log that were said again, each once, in the order in which they were published.
#[derive(Debug, Default)]
pub(super) struct Repeats<'a> {
    events: BTreeMap<Spot, Repeat<'a>>,
    losses: Vec<Loss>,
}

impl Spot {
    pub(super) fn of(position: Position) -> Self {
        Self { ms: position.ms(), seq: position.seq() }
    }

    /// Returns the place of the block in which the event was first.
    fn place(self) -> Place {
        State::place_of(self.ms, self.seq)
    }
}

impl<'a> Repeats<'a> {
    pub(super) fn add(&mut self, records: Vec<Record<'a>>) {
        for record in records {
            match record {
                Record::Repeat(repeat) => _ = self.events.insert(repeat.origin, repeat),
                Record::Fork(loss) => self.losses.push(loss),
                _ => {}
            }
        }
    }
}

/// Whether the engine may have lost an event. A node may have said it again before it knew of that, and the publisher appends it anew.
fn may_be_lost(losses: &[Loss], origin: Spot) -> bool {
    losses.iter().any(|loss| loss.kept < origin.place() && origin.place() <= loss.to)
}

impl Cluster {
    /// Whether the log is so much larger than what is retained that this node has to say events again. One node of the log does it.
    fn is_overgrown(&self, node: &dyn Replicated) -> bool {
        let (oldest, retained) = (node.oldest().map(State::place), node.retained_bytes());
        let inner = self.lock();
        let useful = retained.max(inner.said_again);
        let enough = u64::try_from(useful.saturating_mul(2).saturating_add(self.engine.slack())).unwrap_or(u64::MAX);
        let needed = inner.state.needed(oldest);
        inner.has_said_hello
            && inner.state.is_loaded()
            && inner.state.is_first(inner.outbox.session())
            && needed.is_some_and(|needed| inner.state.volume_from(needed) > enough)
    }

    /// Says again what is retained of blocks, which are all from one place on and before another. Returns the number of the last record, and
    /// how many bytes were said.
    fn repeat_retained(&self, node: &dyn Replicated, blocks: &[Stored], from: Place, to: Place) -> (u64, usize) {
        let mut repeats = Vec::new();
        for stored in blocks {
            // What cannot be read was told as a gap.
            let records = records_of(stored).map(|(_, records)| records).unwrap_or_default();
            for (index, record) in records.into_iter().enumerate() {
                match record {
                    Record::Event { topic, payload, attributes, .. } => {
                        repeats.extend(State::spot(stored.place, index).map(|origin| Repeat {
                            origin,
                            floor: origin,
                            next: origin,
                            at_ms: stored.at_ms,
                            topic,
                            payload,
                            attributes,
                        }));
                    }
                    Record::Repeat(repeat) => repeats.push(repeat),
                    _ => {}
                }
            }
        }
        let era = self.lock().state.era();
        let position = |spot: Spot| Some(Position::new(era?, spot.ms, spot.seq));
        let events: Vec<_> =
            repeats.iter().filter_map(|repeat| Some((&*repeat.topic, position(repeat.origin)?))).collect();
        let retained = node.retained(&events);
        let mut inner = self.lock();
        let mut bytes = 0;
        for (mut repeat, retained) in repeats.into_iter().zip(retained) {
            let Some(Retained { floor, next }) = retained else { continue };
            (repeat.floor, repeat.next) = (Spot::of(floor).min(repeat.origin), Spot::of(next));
            bytes += inner.outbox.push_always(&Record::Repeat(repeat), None);
        }
        let number = inner.outbox.next_number();
        inner.outbox.push_always(&Record::Repeated { from, to }, None);
        drop(inner);
        self.to_write.notify_one();
        (number, bytes)
    }

    pub(super) fn at(&self, spot: Spot) -> Option<Position> {
        Some(Position::new(self.lock().state.era()?, spot.ms, spot.seq))
    }

    /// Takes the events of a log that were said again and that stand before its first block. `above`: this node knows the events up to there.
    pub(super) fn take_repeats(
        &self,
        node: &dyn Replicated,
        repeats: Repeats<'_>,
        above: Place,
        first: Place,
        newest: Stamp,
    ) {
        let Repeats { events, losses } = repeats;
        // Of a topic whose next event is neither said again nor in the log, events may be missing.
        let is_broken = |repeat: &Repeat<'_>| {
            let is_followed = repeat.next.place() >= first || events.contains_key(&repeat.next);
            !is_followed || may_be_lost(&losses, repeat.origin)
        };
        let broken: HashSet<String> =
            events.values().filter(|repeat| is_broken(repeat)).map(|repeat| repeat.topic.to_string()).collect();
        let is_missing = |spot: Spot| above < spot.place() && spot.place() < first && !may_be_lost(&losses, spot);
        let missing = events.into_iter().filter(|(spot, _)| is_missing(*spot));
        let changes = missing.filter_map(|(_, repeat)| {
            let stamp = Stamp { position: self.at(repeat.origin)?, at_ms: repeat.at_ms };
            let what = match self.event(&repeat.payload, &repeat.attributes) {
                Some(event) => {
                    let is_whole = !broken.contains(&*repeat.topic);
                    let floor = if is_whole { Some(self.at(repeat.floor)?) } else { None };
                    What::Event { event: Box::new(event), by: By::Anyone, outcome: None, floor }
                }
                None => What::Missing { by: By::Anyone, outcome: None },
            };
            Some(Change { stamp, topic: repeat.topic, what })
        });
        let changes: Vec<Change<'_>> = changes.collect();
        if !changes.is_empty() {
            // A node that retains less has told its readers.
            let _ = node.make(&changes, newest);
        }
    }
}
