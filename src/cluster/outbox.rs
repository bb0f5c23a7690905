//! The records that are on their way to the engine.
//!
//! It is pure: no clock, no lock, no task.

use std::{collections::VecDeque, sync::Arc};

use bytes::BytesMut;

use super::{
    record::{self, Head, Record},
    state::MOST_RECORDS,
};
use crate::{
    backplane::{Block, BlockKey},
    topics::Pending,
};

/// The records of this node that it has not read back, in order, each with its number.
///
/// One block is in flight at a time: it is appended, and appended again if need be, until this node has read it. What comes meanwhile is the
/// next block. So no record of a session can overtake another, and blocks grow by themselves when the engine is slow.
#[derive(Debug)]
pub(crate) struct Outbox {
    session: u64,
    /// The number of the next record.
    next: u64,
    waiting: BytesMut,
    records: VecDeque<Outgoing>,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: usize,
    receipt: Option<Arc<Pending>>,
}

#[derive(Debug)]
struct InFlight {
    block: Block,
    /// The engine said that it has the block.
    is_accepted: bool,
    receipts: Vec<Option<Arc<Pending>>>,
}

/// Why the outbox does not take a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Full,
    /// The engine takes no block that is so large.
    TooLarge {
        size: usize,
    },
}

impl Outbox {
    /// How many bytes and records may wait. A publisher that is faster than the engine is told so.
    pub(crate) const BYTES: usize = 4 << 20;
    pub(crate) const RECORDS: usize = 10_000;
    /// How many bytes a block has, unless the engine takes less or one record is larger.
    const BLOCK: usize = 256 << 10;

    pub(crate) fn new(session: u64) -> Self {
        Self { session, next: 0, waiting: BytesMut::new(), records: VecDeque::new(), in_flight: None }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Returns the number that the next record gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// Returns how many records wait or are in flight.
    pub(crate) fn len(&self) -> usize {
        self.records.len() + self.in_flight.as_ref().map_or(0, |block| block.receipts.len())
    }

    /// Whether the record with this number is not read back yet.
    pub(crate) fn is_on_its_way(&self, number: u64) -> bool {
        number >= self.next - self.len() as u64
    }

    /// Adds a record, if there is room. `largest`: how many bytes a record may have.
    pub(crate) fn push(
        &mut self,
        record: &Record<'_>,
        receipt: Option<Arc<Pending>>,
        largest: usize,
    ) -> Result<(), NotTaken> {
        // A record that is larger than the outbox needs an empty one.
        if self.records.len() >= Self::RECORDS || self.waiting.len() >= Self::BYTES {
            return Err(NotTaken::Full);
        }
        let before = self.waiting.len();
        record.write(&mut self.waiting);
        let bytes = self.waiting.len() - before;
        if bytes > largest {
            self.waiting.truncate(before);
            return Err(NotTaken::TooLarge { size: bytes });
        }
        self.records.push_back(Outgoing { bytes, receipt });
        self.next += 1;
        Ok(())
    }

    /// Adds a record of the node itself, of which there are few.
    ///
    /// Returns how many bytes it has.
    pub(crate) fn push_always(&mut self, record: &Record<'_>, receipt: Option<Arc<Pending>>) -> usize {
        let before = self.waiting.len();
        record.write(&mut self.waiting);
        let bytes = self.waiting.len() - before;
        self.records.push_back(Outgoing { bytes, receipt });
        self.next += 1;
        bytes
    }

    /// Returns the block that has to be appended now. The same one, until it is read back. `largest`: how many bytes the engine takes.
    pub(crate) fn block(&mut self, head: Head, largest: usize) -> Option<Block> {
        if self.in_flight.is_none() {
            self.in_flight = self.cut(head, largest);
        }
        self.in_flight.as_ref().map(|block| block.block.clone())
    }

    fn cut(&mut self, head: Head, largest: usize) -> Option<InFlight> {
        let most = Self::BLOCK.min(largest.saturating_sub(Block::HEAD + Head::LENGTH));
        let (mut count, mut bytes) = (0, 0);
        for record in self.records.iter().take(MOST_RECORDS) {
            if count > 0 && bytes + record.bytes > most {
                break;
            }
            (count, bytes) = (count + 1, bytes + record.bytes);
        }
        if count == 0 {
            return None;
        }
        let number = self.next - self.records.len() as u64;
        let mut body = BytesMut::with_capacity(Head::LENGTH + bytes);
        head.write(&mut body);
        body.extend_from_slice(&self.waiting.split_to(bytes));
        if self.waiting.is_empty() {
            // What a large record took is given back.
            self.waiting = BytesMut::new();
        }
        let receipts = self.records.drain(..count).map(|record| record.receipt).collect();
        let key = BlockKey { session: self.session, number };
        let records = u32::try_from(count).unwrap_or(u32::MAX);
        Some(InFlight { block: Block { key, records, body: body.freeze() }, is_accepted: false, receipts })
    }

    /// Whether a block has this node's session and is none that this node has appended.
    ///
    /// Then another process writes as this node. It may be a copy of it, made while it ran.
    pub(crate) fn is_foreign(&self, block: &Block) -> bool {
        let unsent = self.next - self.records.len() as u64;
        block.key.session == self.session
            && match &self.in_flight {
                Some(own) if own.block.key == block.key => own.block != *block,
                _ => block.key.number >= unsent,
            }
    }

    /// The block with this key was read. Returns the receipts of its records, if it is the one in flight.
    pub(crate) fn read_back(&mut self, key: BlockKey) -> Option<Vec<Option<Arc<Pending>>>> {
        let block = self.in_flight.take_if(|block| block.block.key == key)?;
        Some(block.receipts)
    }

    /// The engine never takes the block in flight. If it is one event, another record takes its place: the end of the topic, if the event has
    /// one, or nothing. Returns the event's receipt, and how many bytes the block has.
    pub(crate) fn leave_out(&mut self) -> Option<(Arc<Pending>, usize)> {
        let InFlight { block, receipts, .. } = self.in_flight.as_mut()?;
        let [receipt @ Some(_)] = &mut receipts[..] else { return None };
        let mut body = BytesMut::from(&block.body[..Head::LENGTH]);
        let record = match record::read(&block.body).ok()?.1.pop()? {
            Record::Event { topic, by, outcome: Some(outcome), .. } => Record::End { topic, by, outcome },
            _ => Record::Unknown,
        };
        record.write(&mut body);
        let size = block.encoded_len();
        block.body = body.freeze();
        Some((receipt.take()?, size))
    }

    /// The engine said that it has the block with this number.
    pub(crate) fn accept(&mut self, number: u64) {
        if let Some(block) = self.in_flight.as_mut().filter(|block| block.block.key.number == number) {
            block.is_accepted = true;
        }
    }

    /// Returns the number of the block that the engine has and that was not read back.
    pub(crate) fn accepted(&self) -> Option<u64> {
        self.in_flight.as_ref().filter(|block| block.is_accepted).map(|block| block.block.key.number)
    }

    /// Whether the block with this number is still in flight.
    pub(crate) fn is_in_flight(&self, number: u64) -> bool {
        self.in_flight.as_ref().is_some_and(|block| block.block.key.number == number)
    }

    /// Removes all records, because the registry ends. Returns their receipts.
    pub(crate) fn give_up(&mut self) -> Vec<Arc<Pending>> {
        let in_flight = self.in_flight.take().map(|block| block.receipts).unwrap_or_default();
        self.waiting.clear();
        in_flight.into_iter().chain(self.records.drain(..).map(|record| record.receipt)).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Era;

    fn head() -> Head {
        Head { era: Era::random(), proposes: false }
    }

    fn event(bytes: usize) -> Record<'static> {
        Record::Begin { topic: "x".repeat(bytes).into() }
    }

    fn count(block: &Block) -> usize {
        record::read(&block.body).unwrap().1.len()
    }

    #[test]
    fn one_block_is_in_flight_until_it_is_read_back_and_the_next_has_what_came_meanwhile() {
        let mut outbox = Outbox::new(7);
        assert_eq!(outbox.block(head(), usize::MAX), None);
        outbox.push(&event(1), None, usize::MAX).unwrap();
        let first = outbox.block(head(), usize::MAX).unwrap();
        for _ in 0..3 {
            outbox.push(&event(1), None, usize::MAX).unwrap();
        }
        assert_eq!(outbox.block(head(), usize::MAX), Some(first.clone()));
        assert!(outbox.read_back(BlockKey { session: 7, number: 5 }).is_none());
        assert_eq!(outbox.read_back(first.key).map(|receipts| receipts.len()), Some(1));
        let second = outbox.block(head(), usize::MAX).unwrap();
        assert_eq!((first.key.number, second.key.number, second.records, count(&second)), (0, 1, 3, 3));
        outbox.read_back(second.key);
        assert!(outbox.len() == 0);
    }

    #[test]
    fn a_block_has_at_most_a_thousand_records_and_256_kib_or_one_record() {
        let mut outbox = Outbox::new(7);
        for _ in 0..2500 {
            outbox.push(&event(1), None, usize::MAX).unwrap();
        }
        outbox.push(&event(1 << 20), None, usize::MAX).unwrap();
        outbox.push(&event(100_000), None, usize::MAX).unwrap();
        outbox.push(&event(100_000), None, usize::MAX).unwrap();
        outbox.push(&event(100_000), None, usize::MAX).unwrap();
        let mut counts = Vec::new();
        while let Some(block) = outbox.block(head(), usize::MAX) {
            counts.push(count(&block));
            outbox.read_back(block.key);
        }
        assert_eq!(counts, [1000, 1000, 500, 1, 2, 1]);
    }

    #[test]
    fn a_full_outbox_takes_no_event_and_takes_what_the_node_itself_says() {
        let mut outbox = Outbox::new(7);
        (0..Outbox::RECORDS).for_each(|_| outbox.push(&event(1), None, usize::MAX).unwrap());
        assert_eq!(outbox.push(&event(1), None, usize::MAX), Err(NotTaken::Full));
        outbox.push_always(&Record::Hello, None);
        assert_eq!(Outbox::new(7).push(&event(100), None, 99), Err(NotTaken::TooLarge { size: 110 }));
        let mut outbox = Outbox::new(7);
        outbox.push(&event(2 * Outbox::BYTES), None, usize::MAX).unwrap();
        assert_eq!(outbox.push(&event(1), None, usize::MAX), Err(NotTaken::Full));
    }
}
