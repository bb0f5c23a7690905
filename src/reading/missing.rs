//! Events that a client misses, and the gap that it is notified of.

use std::{sync::Arc, time::Duration};

use super::{cursor::Cursor, cursors::Cursors, picked::Missing};
use crate::{
    log::{Entry, Gap, Position, topic_name},
    sync::lock,
};

/// The events that one cursor misses.
pub(super) struct CursorGap {
    pub(super) name: Arc<str>,
    /// The missing events come after this position.
    pub(super) after: Position,
    /// The client asked for them with its `Last-Event-ID`.
    pub(super) asked: bool,
    /// The missing events end here.
    pub(super) floor: Position,
}

/// The evicted events that one cursor should have read.
pub(super) struct CursorEvictions {
    /// The index of the cursor.
    pub(super) at: usize,
    /// The first number that the cursor has not read.
    pub(super) from: u64,
    /// What the cursor knew of the log before.
    pub(super) read: u64,
    pub(super) known_lost: u64,
    /// The greatest number that was evicted.
    pub(super) greatest: u64,
    /// How many events were evicted.
    pub(super) number: u64,
    /// The numbers that are still retained.
    pub(super) left: Vec<u64>,
    /// The reconnect delay, if the topic's policy disconnects slow clients.
    pub(super) ends: Option<Duration>,
    pub(super) floor: Position,
    /// The client is notified of missing events anyway.
    pub(super) is_notified: bool,
}

impl CursorEvictions {
    /// Whether the cursor lost an event, from those on that it has not read.
    pub(super) fn is_lost(&self, cursor: &Cursor, entry: &Entry) -> bool {
        self.left.binary_search(&entry.number).is_err() && cursor.shared_log.has(&entry.topic)
    }
}

impl Cursors {
    /// Whether the client has got the lost events of one cursor by its other cursors, or was notified of them there.
    ///
    /// The other cursors read the events before they were evicted. `events`: what all cursors have taken in this read.
    pub(super) fn has_by_others(
        &self,
        cursor: &Cursor,
        lost: &CursorEvictions,
        events: &[(usize, Arc<Entry>)],
    ) -> bool {
        let covers = |other: &Cursor| other.gives_all() && other.shared_log.covers(cursor.name());
        let has_read = |other: &Cursor| (other.since..other.next).contains(&lost.greatest) && other.since <= lost.from;
        if self.cursors.iter().any(|other| covers(other) && has_read(other)) {
            return true;
        }
        // Events that were evicted after another cursor took them and before this cursor did.
        let others = self.taken_by_others(lost, events).filter(|entry| lost.is_lost(cursor, entry));
        others.count() as u64 >= lost.number
    }

    /// Returns the first events from those on that were lost to one cursor, as far as the client has all of them by its
    /// other cursors.
    pub(super) fn first_had_by_others(
        &self,
        lost: &CursorEvictions,
        events: &[(usize, Arc<Entry>)],
    ) -> Vec<Arc<Entry>> {
        // No other event can be between two numbers in a row.
        let in_a_row = self.taken_by_others(lost, events).zip(lost.from..);
        in_a_row.take_while(|(entry, number)| entry.number == *number).map(|(entry, _)| Arc::clone(entry)).collect()
    }

    /// Returns the events from those on that were lost to one cursor, which the other cursors have taken, each once.
    fn taken_by_others<'a>(
        &self,
        lost: &CursorEvictions,
        events: &'a [(usize, Arc<Entry>)],
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = events.partition_point(|(_, entry)| entry.number < lost.from);
        let gives = |at: usize| at != lost.at && self.cursors.get(at).is_some_and(Cursor::gives_all);
        let others = events[from..].iter().filter(move |(at, _)| gives(*at)).map(|(_, entry)| entry);
        let mut last = None;
        others.filter(move |entry| last.replace(entry.number) != Some(entry.number))
    }

    /// Returns the gap that the client was not notified of yet, if any. `first`: the position of the next event.
    /// `is_all`: no further event is pending.
    pub(super) fn gap(
        &mut self,
        missing: &[CursorGap],
        last_event_id: Option<&str>,
        first: Option<Position>,
        is_all: bool,
    ) -> Option<Missing> {
        let after = missing.iter().map(|loss| loss.after).min()?;
        let asked = last_event_id.filter(|_| missing.iter().any(|loss| loss.asked));
        let floor = missing.iter().map(|loss| loss.floor).max().unwrap_or_default();
        // The client's own topic contains its id, which is a secret: whoever has it can act for the client. That of a
        // recording contains its key.
        let topics = missing.iter().map(|loss| &*loss.name).filter(|name| topic_name::is_public(name));
        let topics = topics.map(str::to_owned).collect();
        let after = match asked {
            Some(asked) => asked.to_owned(),
            // The client has not read any event so far.
            None if after == Position::default() => String::new(),
            None => after.to_string(),
        };
        let id = first.map_or(floor, |first| floor.min(first.before()));
        let forward = (first.is_some() || is_all) && self.seen <= id;
        let id = forward.then_some(id);
        self.seen = id.unwrap_or(self.seen);
        Some(Box::new(Gap { topics, after, position: id }))
    }

    /// Marks the cursors that catch up, and returns whether there is any.
    ///
    /// One position must say how far all of them are, so a cursor that falls behind later waits until the others have
    /// caught up.
    pub(super) fn mark_catching_up(&mut self) -> bool {
        let seen = self.seen;
        let is_late = |it: &Cursor| {
            it.shared_log.reaches(it.next)
                && lock(&it.shared_log.state).log.next_from(it.next).is_some_and(|next| next.position <= seen)
        };
        self.cursors.iter_mut().for_each(|it| it.catches_up = it.catches_up && is_late(it));
        if !self.cursors.iter().any(|it| it.catches_up) {
            self.cursors.iter_mut().for_each(|it| it.catches_up = is_late(it));
        }
        self.cursors.iter().any(|it| it.catches_up)
    }
}
