//! Frames with the events of several topics, which clients share.

use std::sync::Arc;

use super::{cursors::Cursors, picked::Plain, taking::Taker};
use crate::{
    log::Entry,
    sync::lock,
    topics::{Deferred, FRAME, MergeKey, Merged},
};

impl Cursors {
    /// Takes the pending events of several logs in position order. Clients that have the same events to read on the
    /// same logs share the bytes.
    pub(super) fn take_merged(&mut self, taker: Taker<'_>, horizon: u64, deferred: &mut Deferred) -> Option<Plain> {
        let mut of = MergeKey {
            shared_logs: Vec::with_capacity(self.cursors.len()),
            topic_as_event_type: taker.topic_as_event_type,
        };
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_pending()) {
            let state = lock(&cursor.shared_log.state);
            let first = cursor.plain_from(&state.log)?;
            if first.position <= self.seen {
                return None;
            }
            of.shared_logs.push((cursor.shared_log.id(), first.number));
        }
        of.shared_logs.sort_unstable();
        let frames = &taker.topics.frames;
        let merged = match frames.merged(&of, horizon) {
            Some(merged) => merged,
            None => frames.keep(of, self.merge(taker.topic_as_event_type, horizon, deferred)?),
        };
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.is_pending()) {
            // An event was published since the cursor waited.
            (cursor.parked, cursor.catches_up) = (None, false);
            if cursor.next <= merged.read_to {
                let state = lock(&cursor.shared_log.state);
                // An event that was evicted after it was read looks like a lost one. Rather too many events are counted
                // as lost than too few.
                if !cursor.has_lost(&state.log) {
                    cursor.read = state.log.ordinal_before(merged.read_to + 1);
                }
                drop(state);
                cursor.next = merged.read_to + 1;
            }
        }
        self.seen = merged.seen;
        let Merged { wire, events, has_id, has_more, .. } = merged;
        Some(Plain { wire, events, has_id, has_more, is_live: false })
    }

    /// Joins the pending events, up to about one frame.
    pub(super) fn merge(&self, topic_as_event_type: bool, mut horizon: u64, deferred: &mut Deferred) -> Option<Merged> {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut has_more = false;
        for cursor in self.cursors.iter().filter(|cursor| cursor.is_pending()) {
            let state = lock(&cursor.shared_log.state);
            // Checked again, because the log was unlocked meanwhile.
            cursor.plain_from(&state.log)?;
            let slots = state.log.frame(cursor.next, horizon, FRAME);
            if let Some(left_out) = state.log.number_at(slots.end).filter(|left_out| *left_out <= horizon) {
                (horizon, has_more) = (left_out - 1, true);
            }
            entries.extend(state.log.range(slots).inspect(|entry| deferred.keep(entry)).cloned());
        }
        entries.retain(|entry| entry.number <= horizon);
        // The events of each log are in order already.
        entries.sort_by_key(|entry| entry.number);
        entries.dedup_by_key(|entry| entry.number);
        let mut size = 0;
        let mut fits = |entry: &Arc<Entry>| {
            size += entry.wire.len() as u64;
            size <= FRAME
        };
        let fitting = entries.iter().take_while(|entry| fits(entry)).count().max(1);
        if fitting < entries.len() {
            entries.truncate(fitting);
            (horizon, has_more) = (entries.last()?.number, true);
        }
        let mut wire = Vec::with_capacity(entries.iter().map(|entry| entry.wire.len()).sum());
        entries.iter().for_each(|entry| entry.write(&mut wire, topic_as_event_type, None));
        let (events, last) = (entries.len() as u64, entries.last()?);
        let (seen, has_id) = (last.position, last.has_id());
        Some(Merged { wire: wire.into(), events, seen, has_id, read_to: horizon, has_more })
    }
}
