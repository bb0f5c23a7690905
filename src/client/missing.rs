//! What a client misses, and how it comes to know.

use std::{sync::Arc, time::Duration};

use super::{cursor::Cursor, cursors::Cursors};
use crate::{
    log::{Entry, Gap, Position, topic_name},
    sync::lock,
};

/// What is missing, and the id from which all that is still to come can be had.
pub(crate) type Missing = Box<Gap>;

/// What one cursor misses.
pub(super) struct Loss {
    pub(super) name: Arc<str>,
    /// After this position,
    pub(super) after: Position,
    /// which the client has asked for,
    pub(super) asked: bool,
    /// and up to here.
    pub(super) floor: Position,
}

/// What one cursor finds evicted that it was to have.
pub(super) struct Lost {
    /// Which cursor that is.
    pub(super) at: usize,
    /// From this number on,
    pub(super) from: u64,
    /// The last one that was.
    pub(super) greatest: u64,
    /// so many events,
    pub(super) number: u64,
    /// all but those with these numbers.
    pub(super) left: Vec<u64>,
    /// The topic ends streams for it.
    pub(super) ends: Option<Duration>,
    pub(super) floor: Position,
    /// Its client is told that events are missing anyway.
    pub(super) is_told: bool,
}

impl Cursors {
    /// Whether the client has what one cursor has lost by its other ones, which took it before it was evicted, or was told of it by
    /// those. `events`: what all have taken in this look.
    pub(super) fn has_by_others(&self, cursor: &Cursor, lost: &Lost, events: &[(usize, Arc<Entry>)]) -> bool {
        // A filter may have refused it.
        let gives_all = |other: &Cursor| other.filter.is_none() && !other.catches_up;
        let covers = |other: &Cursor| gives_all(other) && other.feed.covers(cursor.name());
        let has_read = |other: &Cursor| (other.since..other.next).contains(&lost.greatest) && other.since <= lost.from;
        if self.cursors.iter().any(|other| covers(other) && has_read(other)) {
            return true;
        }
        // What was evicted after one of them had taken it and before this one looked.
        let others = events.iter().filter(|(at, _)| *at != lost.at && self.cursors.get(*at).is_some_and(gives_all));
        let was_lost = |entry: &Entry| {
            entry.number >= lost.from
                && lost.left.binary_search(&entry.number).is_err()
                && cursor.feed.has(&entry.topic)
        };
        let mut numbers: Vec<u64> =
            others.filter(|(_, entry)| was_lost(entry)).map(|(_, entry)| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() as u64 >= lost.number
    }

    /// What is missing and was not told yet. `first`: where what comes next stands.
    /// `is_all`: nothing more than that is there.
    pub(super) fn gap(
        &mut self,
        missing: &[Loss],
        last_event_id: Option<&str>,
        first: Option<Position>,
        is_all: bool,
    ) -> Option<Missing> {
        let after = missing.iter().map(|loss| loss.after).min()?;
        let asked = last_event_id.filter(|_| missing.iter().any(|loss| loss.asked));
        let floor = missing.iter().map(|loss| loss.floor).max().unwrap_or_default();
        // That of what is sent to the client alone is its id, which is a capability.
        let topics = missing.iter().map(|loss| &*loss.name).filter(|name| topic_name::is_public(name));
        let topics = topics.map(str::to_owned).collect();
        let after = match asked {
            Some(asked) => asked.to_owned(),
            // It has had nothing so far.
            None if after == Position::default() => String::new(),
            None => after.to_string(),
        };
        let id = first.map_or(floor, |first| floor.min(first.before()));
        let forward = (first.is_some() || is_all) && self.seen <= id;
        let id = forward.then_some(id);
        self.seen = id.unwrap_or(self.seen);
        Some(Box::new(Gap { topics, after, position: id }))
    }

    /// Says which cursors catch up, and whether any does. One position has to tell how far all of them are, so
    /// those that come later wait until the others are through.
    pub(super) fn gather_late(&mut self) -> bool {
        let seen = self.seen;
        let is_late = |it: &Cursor| {
            it.feed.reaches(it.next)
                && lock(&it.feed.state).log.next_from(it.next).is_some_and(|next| next.position <= seen)
        };
        self.cursors.iter_mut().for_each(|it| it.catches_up = it.catches_up && is_late(it));
        if !self.cursors.iter().any(|it| it.catches_up) {
            self.cursors.iter_mut().for_each(|it| it.catches_up = is_late(it));
        }
        self.cursors.iter().any(|it| it.catches_up)
    }
}
