//! The retained recent events of one topic or pattern.
//!
//! An event has a number, which counts the events of the whole registry. A cursor is the number of the next event to
//! read.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use super::{entry::Entry, lost::Lost, position::Position, retention::SlowClientPolicy};
use crate::collections::shrunk_capacity;

/// The retained events of one topic, or of all topics that match a pattern, in the order they were published.
///
/// A topic evicts its oldest events first. In the log of a pattern, an event may be evicted anywhere, because its topic
/// evicts it.
#[derive(Debug)]
pub(crate) struct Log {
    rows: VecDeque<Row>,
    /// The rows whose event was evicted while older events stayed.
    holes: usize,
    /// The number of the newest event ever, or of the end.
    newest: u64,
    /// How many events the log has ever had.
    pushed: u64,
    /// All events up to this position may have been evicted.
    floor: Position,
    lost: Lost,
    /// The events with an id of the publisher's own. Most topics have none.
    own_ids: Option<HashMap<Box<str>, EventsWithId>>,
    /// How many of the events exclude a client.
    exceptions: usize,
    cost: usize,
}

#[derive(Debug)]
pub(super) struct Row {
    number: u64,
    /// The bytes of all events ever appended, up to and including this one.
    end: u64,
    entry: Option<Arc<Entry>>,
}

/// The retained events with the same publisher's id.
#[derive(Debug)]
struct EventsWithId {
    /// The number of the first event, which may have been evicted.
    first: u64,
    count: usize,
}

/// A range of a log's rows. It is valid while the log is locked.
pub(crate) type Slots = Range<usize>;

impl Log {
    pub(crate) fn new(floor: Position) -> Self {
        Self {
            rows: VecDeque::new(),
            holes: 0,
            newest: 0,
            pushed: 0,
            floor,
            lost: Lost::default(),
            own_ids: None,
            exceptions: 0,
            cost: 0,
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    /// Returns how many events were evicted so far, without those that are skipped silently.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.count
    }

    /// Whether an event with this number or a greater one was evicted after the first `after` evictions.
    #[inline]
    pub(crate) fn has_lost(&self, number: u64, after: u64) -> bool {
        self.lost.count > after && self.lost.newest.since(after) >= number
    }

    /// Returns the greatest number that was evicted after the first `after` evictions.
    pub(crate) fn greatest_lost(&self, after: u64) -> u64 {
        self.lost.newest.since(after)
    }

    /// Returns the average reconnect delay, if such an event disconnects slow clients.
    pub(crate) fn ends(&self, number: u64, after: u64) -> Option<Duration> {
        (self.lost.ends.since(after) >= number).then_some(self.lost.reconnect_delay)
    }

    /// Returns the smallest count of evictions after which no event with this number or a greater one was evicted.
    pub(crate) fn none_lost_since(&self, number: u64) -> u64 {
        self.lost.newest.last_from(number)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.holes
    }

    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn has_exceptions(&self) -> bool {
        self.exceptions > 0
    }

    pub(crate) fn oldest(&self) -> Option<&Arc<Entry>> {
        self.rows.front()?.entry.as_ref()
    }

    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.range(0..self.rows.len())
    }

    pub(crate) fn range(&self, slots: Slots) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.rows.range(slots).filter_map(|row| row.entry.as_ref())
    }

    /// Returns the event in a slot, if it was not evicted.
    pub(crate) fn get(&self, slot: usize) -> Option<&Arc<Entry>> {
        self.rows.get(slot)?.entry.as_ref()
    }

    /// Returns the event from a number on, if it is the only one.
    #[inline]
    pub(crate) fn only(&self, number: u64) -> Option<&Arc<Entry>> {
        let newest = self.rows.back().filter(|row| row.number >= number)?;
        let is_only = self.rows.len() < 2 || self.rows[self.rows.len() - 2].number < number;
        newest.entry.as_ref().filter(|_| is_only)
    }

    /// Returns how many events a range has.
    pub(crate) fn count(&self, slots: Slots) -> usize {
        if self.holes == 0 { slots.len() } else { self.range(slots).count() }
    }

    /// Returns how many events are retained from a number on.
    pub(crate) fn count_from(&self, number: u64) -> usize {
        self.count(self.slot(number)..self.rows.len())
    }

    /// Returns the numbers of the events that are retained from a number on.
    pub(crate) fn numbers_from(&self, number: u64) -> Vec<u64> {
        self.range(self.slot(number)..self.rows.len()).map(|entry| entry.number).collect()
    }

    /// Returns how many events the log has ever had up to the end of a range, as far as it can be known.
    pub(crate) fn ordinal(&self, end: usize) -> u64 {
        self.pushed.wrapping_sub((self.rows.len() - end) as u64)
    }

    /// Returns how many events the log has ever had before a number.
    pub(crate) fn ordinal_before(&self, number: u64) -> u64 {
        self.ordinal(self.slot(number))
    }

    /// Returns the slot of the first event with this number or a greater one. It searches from the end, because most
    /// readers are there.
    fn slot(&self, number: u64) -> usize {
        let is_before = |slot: usize| self.rows[slot].number < number;
        let (mut high, mut step) = (self.rows.len(), 1);
        while step <= high && !is_before(high - step) {
            high -= step;
            step *= 2;
        }
        let mut low = high.saturating_sub(step);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn newest_number(&self) -> u64 {
        self.rows.back().map_or(0, |row| row.number)
    }

    pub(crate) fn push(&mut self, entry: Arc<Entry>, cost: usize) {
        if let Some(id) = entry.own_id() {
            let own_ids = self.own_ids.get_or_insert_default();
            match own_ids.get_mut(id) {
                Some(uses) => uses.count += 1,
                None => _ = own_ids.insert(id.into(), EventsWithId { first: entry.number, count: 1 }),
            }
        }
        self.exceptions += usize::from(entry.excluded_client().is_some());
        self.cost += cost;
        self.pushed += 1;
        self.newest = entry.number;
        let end = self.rows.back().map_or(0, |row| row.end) + entry.wire.len() as u64;
        self.rows.push_back(Row { number: entry.number, end, entry: Some(entry) });
    }

    /// Sets the position at which the log begins. Nothing has been published yet.
    pub(crate) fn begin_at(&mut self, begin: Position) {
        self.floor = begin;
    }

    /// Notes that all events after this position are or will be in the log, as far as they have not been evicted since.
    pub(crate) fn begins_after(&mut self, floor: Position) {
        self.floor = if self.pushed == 0 { floor } else { self.floor.max(floor) };
    }

    /// Counts an event that never came here: up to this position, events are missing.
    ///
    /// Every reader is told, whatever the policy for slow clients is: what such a reader has is not the latest.
    pub(crate) fn lose(&mut self, number: u64, before: Position) {
        self.newest = number;
        self.pushed += 1;
        self.floor = self.floor.max(before);
        self.lost.add_hole(number);
    }

    /// Returns how many of the lost events a reader knows of that begins at a number: those before it.
    pub(crate) fn known_lost_from(&self, number: u64) -> u64 {
        self.lost.known_from(number)
    }

    /// Removes an entry of a topic's log, which no other log has to know of.
    pub(crate) fn take_out(&mut self, entry: &Entry) {
        let slot = self.slot(entry.number);
        if self.rows.get(slot).is_some_and(|row| row.number == entry.number) {
            self.rows.remove(slot);
            self.forget(entry, entry.cost());
        }
    }

    /// Returns the position of the event of a topic after the one at this position, if there is a next one. `None`: no event is there.
    pub(crate) fn next_of(&self, position: Position) -> Option<Option<Position>> {
        let is_before = |row: &Row| row.entry.as_ref().is_some_and(|entry| entry.position < position);
        let slot = self.rows.partition_point(is_before);
        self.get(slot).filter(|entry| entry.position == position)?;
        Some(self.get(slot + 1).map(|entry| entry.position))
    }

    /// Marks that no event comes up to this number.
    pub(crate) fn end_at(&mut self, number: u64) {
        self.newest = number;
    }

    /// Adds events before the first one. `floor`: the position up to which older events may have been evicted.
    pub(crate) fn prepend(&mut self, entries: Vec<Arc<Entry>>, floor: Position) {
        let newer = std::mem::replace(self, Self::new(floor));
        let newer_rows = newer.rows.into_iter().filter_map(|row| row.entry);
        for entry in entries.into_iter().chain(newer_rows) {
            let cost = entry.cost_of_row();
            self.push(entry, cost);
        }
        self.newest = self.newest.max(newer.newest);
        (self.pushed, self.lost) = (newer.pushed, newer.lost);
    }

    /// Evicts the oldest entry. Returns the entry and the freed memory.
    pub(crate) fn pop(&mut self) -> Option<(Arc<Entry>, usize)> {
        let entry = self.rows.pop_front()?.entry?;
        let cost = entry.cost();
        self.forget(&entry, cost);
        Some((entry, cost))
    }

    /// Evicts an entry anywhere in the log. Returns the freed memory.
    pub(crate) fn remove(&mut self, entry: &Entry) -> usize {
        let slot = self.slot(entry.number);
        let is_here = |row: &&mut Row| row.number == entry.number && row.entry.is_some();
        let Some(row) = self.rows.get_mut(slot).filter(is_here) else { return 0 };
        row.entry = None;
        self.holes += 1;
        while self.rows.front().is_some_and(|row| row.entry.is_none()) {
            self.rows.pop_front();
            self.holes -= 1;
        }
        if self.holes > 64 && self.holes > self.rows.len() / 2 {
            self.compact();
        }
        let cost = entry.cost_of_row();
        self.forget(entry, cost);
        cost
    }

    fn compact(&mut self) {
        self.rows.retain(|row| row.entry.is_some());
        self.holes = 0;
    }

    fn forget(&mut self, entry: &Entry, cost: usize) {
        if let (Some(ids), Some(id)) = (&mut self.own_ids, entry.own_id()) {
            if let Some(uses) = ids.get_mut(id) {
                uses.count -= 1;
                if uses.count == 0 {
                    ids.remove(id);
                }
            }
            if let Some(enough) = shrunk_capacity(ids.len(), ids.capacity()) {
                ids.shrink_to(enough);
            }
        }
        self.exceptions -= usize::from(entry.excluded_client().is_some());
        self.cost -= cost;
        if entry.slow_client_policy != SlowClientPolicy::SkipSilently {
            self.floor = self.floor.max(entry.position);
            self.lost.count += 1;
            self.lost.newest.push(self.lost.count, entry.number);
        }
        if let SlowClientPolicy::Disconnect { reconnect_delay } = entry.slow_client_policy {
            self.lost.ends.push(self.lost.count, entry.number);
            self.lost.reconnect_delay = reconnect_delay;
        }
        if self.rows.is_empty() {
            // The next row's `end` starts at zero again, because no reader has a range across an empty log.
            self.own_ids = None;
        }
        if let Some(enough) = shrunk_capacity(self.rows.len(), self.rows.capacity()) {
            self.rows.shrink_to(enough);
        }
    }

    /// Returns the number of the first event after a position, or that of the next event to come.
    pub(crate) fn after(&mut self, position: Position) -> u64 {
        if self.holes > 0 {
            self.compact();
        }
        let is_before = |row: &Row| row.entry.as_ref().is_some_and(|entry| entry.position <= position);
        let slot = self.rows.partition_point(is_before);
        self.rows.get(slot).map_or(self.newest + 1, |row| row.number)
    }

    /// Returns the number at which the last `events` events begin.
    pub(crate) fn last(&self, events: usize) -> u64 {
        match events.checked_sub(1) {
            None => self.newest + 1,
            Some(others) => self.entries().rev().nth(others).or(self.oldest()).map_or(self.newest + 1, |it| it.number),
        }
    }

    /// Returns the position up to which a reader that continues at a number has passed all events, evicted or not.
    pub(crate) fn before(&self, number: u64) -> Position {
        let passed_over = self.range(0..self.slot(number)).next_back();
        passed_over.map_or(self.floor, |entry| self.floor.max(entry.position))
    }

    /// Whether every event after a position is retained.
    pub(crate) fn covers(&self, position: Position) -> bool {
        position >= self.floor
    }

    /// Returns the position of the first retained event with this publisher's id.
    pub(crate) fn find(&self, own_id: &str) -> Option<Position> {
        let uses = self.own_ids.as_ref()?.get(own_id)?;
        let mut entries = self.range(self.slot(uses.first)..self.rows.len());
        entries.find(|entry| entry.own_id() == Some(own_id)).map(|entry| entry.position)
    }

    /// Returns the oldest retained event from a number on.
    pub(crate) fn next_from(&self, number: u64) -> Option<&Arc<Entry>> {
        self.range(self.slot(number)..self.rows.len()).next()
    }

    /// Returns the events of one frame: from a number on, up to the number `horizon`, about `max` bytes, and at least
    /// one event if there is one.
    pub(crate) fn frame(&self, from: u64, horizon: u64, max: u64) -> Slots {
        let mut start = self.slot(from);
        let mut end = match self.newest_number() <= horizon {
            true => self.rows.len(),
            false => self.rows.partition_point(|row| row.number <= horizon),
        };
        // Evicted events take no bytes of the frame.
        while start < end && self.rows[start].entry.is_none() {
            start += 1;
        }
        if end <= start {
            return start..start;
        }
        let first = &self.rows[start];
        let before = first.end - first.entry.as_ref().map_or(0, |entry| entry.wire.len() as u64);
        if self.rows[end - 1].end - before > max {
            end = self.rows.partition_point(|row| row.end <= before + max).clamp(start + 1, end);
        }
        start..end
    }

    /// Returns the slot after the last one.
    pub(crate) fn end(&self) -> usize {
        self.rows.len()
    }

    /// Returns the number of the event in a slot, evicted or not.
    pub(crate) fn number_at(&self, slot: usize) -> Option<u64> {
        self.rows.get(slot).map(|row| row.number)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::collections::Ticket;

    fn entry(number: u64, wire: &[u8], policy: SlowClientPolicy) -> Arc<Entry> {
        Arc::new(Entry {
            number,
            position: Position::at(number, 0),
            at_ms: number,
            topic: "topic".into(),
            id_at: wire.windows(3).position(|at| at == b"id:").unwrap_or(wire.len()),
            own_id: wire.ends_with(b"\n\n"),
            is_typed: false,
            wire: Bytes::copy_from_slice(wire),
            slow_client_policy: policy,
            audience: None,
            ticket: Ticket::default(),
        })
    }

    fn push(log: &mut Log, entry: Arc<Entry>) {
        let cost = entry.cost();
        log.push(entry, cost);
    }

    fn log(sizes: &[usize]) -> Log {
        let mut log = Log::new(Position::default());
        let numbers = sizes.iter().zip(1..);
        numbers
            .for_each(|(size, number)| push(&mut log, entry(number, &vec![b'x'; *size], SlowClientPolicy::NotifyGap)));
        log
    }

    #[test]
    fn a_frame_has_the_events_that_fit_and_at_least_one() {
        let log = log(&[10, 10, 10, 50]);
        assert_eq!(log.frame(1, u64::MAX, 25), 0..2);
        assert_eq!(log.frame(1, u64::MAX, 30), 0..3);
        assert_eq!(log.frame(4, u64::MAX, 25), 3..4);
        assert_eq!(log.frame(1, u64::MAX, 1000), 0..4);
        assert_eq!(log.frame(1, 2, 1000), 0..2);
        assert_eq!(log.frame(3, 2, 1000), 2..2);
        assert_eq!(log.frame(5, u64::MAX, 1000), 4..4);
        let many = self::log(&[10; 100]);
        assert_eq!(many.frame(71, u64::MAX, 105), 70..80, "events that were read before do not count");
    }

    #[test]
    fn eviction_moves_the_floor() {
        let mut log = log(&[10, 20, 30]);
        assert!(log.covers(Position::default()));
        assert_eq!(log.pop().map(|(entry, _)| entry.number), Some(1));
        assert_eq!((log.lost(), log.newest(), log.floor()), (1, 3, Position::at(1, 0)));
        assert!(log.has_lost(1, 0) && !log.has_lost(2, 0) && !log.has_lost(1, 1));
        assert!(!log.covers(Position::default()) && log.covers(Position::at(1, 0)));
        assert_eq!(log.frame(1, u64::MAX, 20), 0..1);
        assert_eq!(
            (log.after(Position::at(2, 0)), log.after(Position::at(2, 1)), log.after(Position::at(3, 0))),
            (3, 3, 4)
        );
        assert_eq!(log.cost(), Entry::cost_of(20, None, false) + Entry::cost_of(30, None, false));
    }

    #[test]
    fn silently_skipped_events_do_not_move_the_floor() {
        let mut log = Log::new(Position::default());
        push(&mut log, entry(1, b"x", SlowClientPolicy::SkipSilently));
        push(&mut log, entry(2, b"x", SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_secs(1) }));
        log.pop();
        assert_eq!((log.floor(), log.lost()), (Position::default(), 0));
        log.pop();
        assert_eq!((log.floor(), log.has_lost(2, 0)), (Position::at(2, 0), true));
        assert_eq!((log.ends(2, 0), log.ends(3, 0)), (Some(Duration::from_secs(1)), None));
    }

    #[test]
    fn an_eviction_from_the_middle_keeps_the_other_events() {
        let mut log = Log::new(Position::default());
        let entries: Vec<_> = (1..=1000).map(|number| entry(number, b"xx", SlowClientPolicy::NotifyGap)).collect();
        entries.iter().for_each(|entry| log.push(Arc::clone(entry), entry.cost_of_row()));
        let numbers = |log: &Log| log.entries().map(|entry| entry.number).collect::<Vec<_>>();
        for gone in entries[1..].iter().filter(|entry| entry.number % 5 > 0) {
            assert!(log.remove(gone) > 0);
            assert_eq!(log.remove(gone), 0);
        }
        let left: Vec<u64> = (1..=1000).filter(|number| *number == 1 || number % 5 == 0).collect();
        assert_eq!((numbers(&log), log.len()), (left.clone(), left.len()));
        assert!(log.rows.len() <= 2 * left.len() + 64);
        assert_eq!(log.after(Position::at(7, 0)), 10);
        assert_eq!((log.last(2), log.last(0), log.last(5000), log.count_from(986)), (995, 1001, 1, 3));
        for entry in entries {
            log.remove(&entry);
        }
        assert_eq!((log.len(), log.rows.len(), log.cost()), (0, 0, 0));
    }

    #[test]
    fn older_events_are_inserted_in_front() {
        let mut log = Log::new(Position::at(2, 0));
        let late = entry(3, b"x", SlowClientPolicy::NotifyGap);
        log.push(Arc::clone(&late), late.cost_of_row());
        log.prepend(
            vec![entry(1, b"x", SlowClientPolicy::NotifyGap), entry(2, b"x", SlowClientPolicy::NotifyGap)],
            Position::default(),
        );
        assert_eq!(log.entries().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(log.covers(Position::default()));
        assert_eq!((log.newest(), log.cost()), (3, 3 * late.cost_of_row()));
    }

    #[test]
    fn an_own_id_is_found_while_its_event_is_retained() {
        let own = |number| entry(number, b"data: \nid: order-7\n\n", SlowClientPolicy::NotifyGap);
        let mut log = Log::new(Position::default());
        (1..=3).for_each(|number| push(&mut log, own(number)));
        assert_eq!(log.find("order-7"), Some(Position::at(1, 0)), "the oldest of those with the same id");
        log.pop();
        assert_eq!(log.find("order-7"), Some(Position::at(2, 0)));
        log.pop();
        assert_eq!(log.find("order-7"), Some(Position::at(3, 0)));
        log.pop();
        assert_eq!(log.find("order-7"), None);
    }
}
