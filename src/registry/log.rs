//! The retained recent events: of one topic ([`TopicLog`]), and of all in the order they go ([`Ledger`]).
//!
//! An event's place in its topic is an index that is never used twice; a cursor is the index of the next event to read.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;

use super::position::Position;

/// One retained event.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// When it was published, counted over the whole registry: 1 for the first.
    pub(crate) number: u64,
    pub(crate) position: Position,
    pub(crate) wire: Bytes,
    /// Where in `wire` the `id:` line is, or would be.
    pub(crate) id_at: usize,
    /// Whether the id is the publisher's own.
    pub(crate) own_id: bool,
    /// Its place in the ledger.
    pub(crate) ticket: Ticket,
}

impl Entry {
    /// What an entry takes in memory besides its bytes: itself, its rows in the topic's log and the ledger with their
    /// slack, and what the allocator adds to each allocation. Measured with a million events of 1 byte, by the resident
    /// size of the process (x86-64, glibc): 125 bytes on one topic, 214 on a thousand.
    const OVERHEAD: usize = 224;

    /// What an id of its own takes besides its bytes, in the index of its topic. Measured as above: about 130 bytes on
    /// a thousand topics.
    const OWN_ID_OVERHEAD: usize = 160;

    /// What an entry with so many bytes takes. A quarter is for what the allocator cannot use between pieces that
    /// several threads ask for and give back: with it, a million events of 1 KiB on a thousand topics, published over
    /// HTTP on a multi-threaded runtime, took 97 % of a budget of 64 MiB, connections included (x86-64, glibc).
    pub(crate) fn cost_of(bytes: usize, own_id: Option<&str>) -> usize {
        bytes + bytes / 4 + Self::OVERHEAD + own_id.map_or(0, |id| id.len() + Self::OWN_ID_OVERHEAD)
    }

    pub(crate) fn cost(&self) -> usize {
        Self::cost_of(self.wire.len(), self.own_id())
    }

    /// The id, if it is the publisher's own.
    fn own_id(&self) -> Option<&str> {
        if self.own_id { self.id() } else { None }
    }

    /// The id that it has on the wire.
    pub(crate) fn id(&self) -> Option<&str> {
        let line = self.wire.get(self.id_at..)?.strip_prefix(b"id: ")?;
        std::str::from_utf8(line.strip_suffix(b"\n\n")?).ok()
    }
}

/// The capacity that is enough for a collection that has become much smaller than it was, so that what it grew to for a
/// flood is given back.
pub(super) fn spacious(len: usize, capacity: usize) -> Option<usize> {
    (capacity > 64 && len < capacity / 4).then_some(len * 2)
}

/// The retained events of one topic.
#[derive(Debug)]
pub(crate) struct TopicLog {
    entries: VecDeque<Entry>,
    /// The bytes of all entries that were ever appended, up to and with each retained one.
    ends: VecDeque<u64>,
    /// The index of the oldest retained entry.
    base: u64,
    /// Everything up to here may have been evicted.
    floor: Position,
    /// Where events with an id of their own are. Most topics have none.
    own_ids: Option<HashMap<Box<str>, u64>>,
    cost: usize,
}

impl TopicLog {
    pub(crate) fn new(floor: Position) -> Self {
        Self { entries: VecDeque::new(), ends: VecDeque::new(), base: 0, floor, own_ids: None, cost: 0 }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The index that the next entry gets.
    pub(crate) fn tail(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(self.slot(index))
    }

    pub(crate) fn range(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let start = self.slot(range.start).min(self.entries.len());
        let end = self.slot(range.end).clamp(start, self.entries.len());
        self.entries.range(start..end)
    }

    fn slot(&self, index: u64) -> usize {
        index.saturating_sub(self.base) as usize
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if let Some(id) = entry.own_id() {
            let (id, tail) = (id.into(), self.tail());
            self.own_ids.get_or_insert_default().insert(id, tail);
        }
        self.cost += entry.cost();
        self.ends.push_back(self.ends.back().unwrap_or(&0) + entry.wire.len() as u64);
        self.entries.push_back(entry);
    }

    /// Evicts the oldest entry.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.ends.pop_front();
        if let (Some(ids), Some(id)) = (&mut self.own_ids, entry.own_id()) {
            if ids.get(id) == Some(&self.base) {
                ids.remove(id);
            }
            if let Some(enough) = spacious(ids.len(), ids.capacity()) {
                ids.shrink_to(enough);
            }
        }
        self.base += 1;
        self.floor = entry.position;
        self.cost -= entry.cost();
        if self.entries.is_empty() {
            // With nothing left, the next end is counted from zero: no reader has a range that spans both.
            self.own_ids = None;
        }
        if let Some(enough) = spacious(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(enough);
            self.ends.shrink_to(enough);
        }
        Some(entry)
    }

    /// The index of the first entry after a position.
    pub(crate) fn after(&self, position: Position) -> u64 {
        self.base + self.entries.partition_point(|entry| entry.position <= position) as u64
    }

    /// Whether every event after a position is retained.
    pub(crate) fn covers(&self, position: Position) -> bool {
        position >= self.floor
    }

    /// Where the event with this id of its own is.
    pub(crate) fn find(&self, own_id: &str) -> Option<Position> {
        let index = self.own_ids.as_ref()?.get(own_id)?;
        self.get(*index).map(|entry| entry.position)
    }

    /// The entries from an index on, up to the one with the number `horizon`, that make a frame of about `max` bytes: at least one, if there is one.
    pub(crate) fn frame(&self, from: u64, horizon: u64, max: u64) -> Range<u64> {
        let start = self.slot(from);
        let Some(newest) = self.entries.back() else { return from..from };
        let mut end = match newest.number <= horizon {
            true => self.entries.len(),
            false => self.entries.partition_point(|entry| entry.number <= horizon),
        };
        if end <= start {
            return from..from;
        }
        let before = self.ends[start] - self.entries[start].wire.len() as u64;
        if self.ends[end - 1] - before > max {
            end = self.ends.partition_point(|end| *end <= before + max).clamp(start + 1, end);
        }
        from..self.base + end as u64
    }
}

/// Every retained event's topic in the order of publishing, so that the oldest event of all can be found and any be taken out, each in constant time.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    rows: Vec<Row<T>>,
    oldest: u32,
    newest: u32,
    free: u32,
    len: usize,
}

/// An event's place in the [`Ledger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

#[derive(Debug)]
struct Row<T> {
    topic: Option<T>,
    older: u32,
    newer: u32,
}

/// No row.
const NONE: u32 = u32::MAX;

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), oldest: NONE, newest: NONE, free: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether it has as many events as it can count.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= NONE as usize
    }

    pub(crate) fn oldest(&self) -> Option<&T> {
        self.rows.get(self.oldest as usize)?.topic.as_ref()
    }

    pub(crate) fn push(&mut self, topic: T) -> Ticket {
        let row = Row { topic: Some(topic), older: self.newest, newer: NONE };
        let at = if self.free == NONE {
            self.rows.push(row);
            (self.rows.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.rows[at as usize].newer;
            self.rows[at as usize] = row;
            at
        };
        match self.newest {
            NONE => self.oldest = at,
            newest => self.rows[newest as usize].newer = at,
        }
        self.newest = at;
        self.len += 1;
        Ticket(at)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let row = &mut self.rows[ticket.0 as usize];
        let topic = row.topic.take()?;
        let (older, newer) = (row.older, row.newer);
        row.newer = self.free;
        self.free = ticket.0;
        match older {
            NONE => self.oldest = newer,
            older => self.rows[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.rows[newer as usize].older = older,
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::new();
        }
        Some(topic)
    }
}

/// Up to where topics had been evicted when they were forgotten, so that a topic that comes into being again still
/// knows what it once had. Bounded: of what was forgotten longest ago, only the newest floor of all is kept, which may
/// tell a client of a gap where there is none, and never the other way round.
#[derive(Debug)]
pub(crate) struct Forgotten {
    floors: HashMap<u64, Position>,
    order: VecDeque<u64>,
    floor: Position,
}

impl Forgotten {
    /// How many topics are remembered, in about half a mebibyte.
    const TOPICS: usize = 8 * 1024;

    /// `floor`: where the registry begins.
    pub(crate) fn new(floor: Position) -> Self {
        Self { floors: HashMap::new(), order: VecDeque::new(), floor }
    }

    /// `topic`: a hash of its name.
    pub(crate) fn insert(&mut self, topic: u64, floor: Position) {
        if floor <= self.floor {
            return;
        }
        if self.floors.insert(topic, floor).is_none() {
            self.order.push_back(topic);
        }
        if self.floors.len() > Self::TOPICS {
            if let Some(floor) = self.order.pop_front().and_then(|topic| self.floors.remove(&topic)) {
                self.floor = self.floor.max(floor);
            }
        }
    }

    /// Up to where a new topic counts as evicted.
    pub(crate) fn floor(&self, topic: u64) -> Position {
        self.floors.get(&topic).copied().unwrap_or(self.floor).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64, size: usize) -> Entry {
        let wire = Bytes::from(vec![b'x'; size]);
        let position = Position::new(number, 0);
        Entry { number, position, id_at: wire.len(), wire, own_id: false, ticket: Ticket(0) }
    }

    fn log(sizes: &[usize]) -> TopicLog {
        let mut log = TopicLog::new(Position::default());
        sizes.iter().enumerate().for_each(|(index, size)| log.push(entry(index as u64 + 1, *size)));
        log
    }

    #[test]
    fn a_frame_has_what_fits_and_at_least_one() {
        let log = log(&[10, 10, 10, 50]);
        assert_eq!(log.frame(0, u64::MAX, 25), 0..2);
        assert_eq!(log.frame(0, u64::MAX, 30), 0..3);
        assert_eq!(log.frame(3, u64::MAX, 25), 3..4);
        assert_eq!(log.frame(0, u64::MAX, 1000), 0..4);
        assert_eq!(log.frame(0, 2, 1000), 0..2);
        assert_eq!(log.frame(2, 2, 1000), 2..2);
        assert_eq!(log.frame(4, u64::MAX, 1000), 4..4);
        let many = self::log(&[10; 100]);
        assert_eq!(many.frame(70, u64::MAX, 105), 70..80, "what was read before does not count");
    }

    #[test]
    fn eviction_moves_the_base_and_the_floor() {
        let mut log = log(&[10, 20, 30]);
        assert!(log.covers(Position::default()));
        assert_eq!(log.pop().map(|entry| entry.number), Some(1));
        assert_eq!((log.base(), log.tail(), log.floor()), (1, 3, Position::new(1, 0)));
        assert!(!log.covers(Position::default()) && log.covers(Position::new(1, 0)));
        assert_eq!(log.frame(1, u64::MAX, 20), 1..2);
        assert_eq!((log.after(Position::new(2, 0)), log.after(Position::new(2, 1))), (2, 2));
        assert_eq!(log.cost(), Entry::cost_of(20, None) + Entry::cost_of(30, None));
    }

    #[test]
    fn an_own_id_is_found_while_its_event_is_retained() {
        let own = |number| {
            let wire = Bytes::from_static(b"data: \nid: order-7\n\n");
            Entry { id_at: 7, wire, own_id: true, ..entry(number, 0) }
        };
        let mut log = TopicLog::new(Position::default());
        (1..=3).for_each(|number| log.push(own(number)));
        assert_eq!(log.find("order-7"), Some(Position::new(3, 0)), "the newest of those with the same id");
        log.pop();
        log.pop();
        assert_eq!(log.find("order-7"), Some(Position::new(3, 0)));
        log.pop();
        assert_eq!(log.find("order-7"), None);
    }

    #[test]
    fn a_topic_that_was_forgotten_keeps_its_floor_and_others_keep_theirs() {
        let start = Position::new(10, 0);
        let mut forgotten = Forgotten::new(start);
        forgotten.insert(1, Position::new(20, 0));
        assert_eq!((forgotten.floor(1), forgotten.floor(2)), (Position::new(20, 0), start));
        for topic in 0..2 * Forgotten::TOPICS as u64 {
            forgotten.insert(100 + topic, Position::new(30 + topic, 0));
        }
        assert!(forgotten.floor(1) >= Position::new(20, 0));
        assert!(forgotten.floors.len() <= Forgotten::TOPICS && forgotten.order.len() <= Forgotten::TOPICS);
    }

    proptest! {
        #[test]
        fn the_ledger_is_a_queue_that_anything_can_be_taken_out_of(steps in prop::collection::vec(0usize..3, 0..200), picks in prop::collection::vec(any::<prop::sample::Index>(), 200)) {
            let mut ledger = Ledger::new();
            let mut model: Vec<(Ticket, usize)> = Vec::new();
            for (step, (kind, pick)) in steps.into_iter().zip(picks).enumerate() {
                if kind > 0 || model.is_empty() {
                    model.push((ledger.push(step), step));
                } else {
                    let (ticket, value) = model.remove(pick.index(model.len()));
                    prop_assert_eq!(ledger.remove(ticket), Some(value));
                }
                prop_assert_eq!(ledger.oldest(), model.first().map(|(_, value)| value));
                prop_assert_eq!(ledger.len(), model.len());
            }
        }
    }
}
