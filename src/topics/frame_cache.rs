//! A cache of joined frames, which clients that read the same range share.

use bytes::Bytes;

use super::shared_log::SharedLog;
use crate::{
    collections::PerCore,
    log::{Log, Position, Slots},
    sync::{Mutex, lock, shard},
};

/// The size of a frame, in bytes. hyper queues a few of them before it writes.
pub(crate) const FRAME: u64 = 64 * 1024;

/// How many logs each shard caches the last read of.
const LATEST: usize = 8;

/// The frames that were joined last, by log and range, and those of several logs. It keeps a bounded number of about 64
/// KiB each.
#[derive(Debug)]
pub(crate) struct FrameCache {
    slots: [Mutex<Option<CachedFrame>>; 16],
    merged: [Mutex<Option<(MergeKey, Merged)>>; 16],
    /// The last read of each sharded log. Each shard has its own copy of the bytes, so that threads do not share
    /// reference counts.
    latest: PerCore<[Option<(u64, Latest)>; LATEST]>,
}

/// All events that a log had from a number on when a client read it. Another client that reads from there need not lock
/// the log.
#[derive(Debug)]
pub(crate) struct Latest {
    pub(crate) from: u64,
    /// The number of the last event, which is the log's newest.
    pub(crate) newest: u64,
    /// A client that knows of this many evictions has lost none of these events.
    pub(crate) known_lost: u64,
    /// The position of the first event.
    pub(crate) first: Position,
    /// The position of the last event.
    pub(crate) last: Position,
    pub(crate) events: u64,
    /// How many events the log has ever had.
    pub(crate) read: u64,
    /// The last event has an id on the wire.
    pub(crate) has_id: bool,
    pub(crate) wire: Bytes,
}

#[derive(Debug)]
struct CachedFrame {
    of: FrameKey,
    wire: Bytes,
}

/// The key of a frame: the log, the numbers of the first and the last event, and whether topics are the event types.
#[derive(Debug, PartialEq, Eq)]
struct FrameKey {
    shared_log: u64,
    first: u64,
    last: u64,
    topic_as_event_type: bool,
}

/// The key of a merged frame: the logs with the first number of each, and whether topics are the event types.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MergeKey {
    pub(crate) shared_logs: Vec<(u64, u64)>,
    pub(crate) topic_as_event_type: bool,
}

/// The joined events of several logs, in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// The position of the last event.
    pub(crate) seen: Position,
    /// The last event has an id on the wire.
    pub(crate) has_id: bool,
    /// Up to this number, these logs have no other events.
    pub(crate) read_to: u64,
    /// More events are pending than fit into one frame.
    pub(crate) has_more: bool,
}

impl MergeKey {
    fn slot_index(&self) -> usize {
        let mixed = self.shared_logs.iter().fold(0, |mixed: u64, (shared_log, first)| {
            (mixed ^ shared_log ^ first.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        (mixed >> 60) as usize
    }
}

impl FrameCache {
    pub(crate) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Mutex::new(None)),
            merged: std::array::from_fn(|_| Mutex::new(None)),
            latest: PerCore::new(),
        }
    }

    /// Calls `take` with the last read of a log on this thread's shard, if that read began at this number.
    #[inline]
    pub(crate) fn latest<T>(&self, shared_log: u64, from: u64, take: impl FnOnce(&Latest) -> Option<T>) -> Option<T> {
        let mine = lock(self.latest.of(shard::mine()));
        let (of, latest) = mine[Self::slot_index(shared_log)].as_ref()?;
        if *of == shared_log && latest.from == from { take(latest) } else { None }
    }

    /// Caches a read for this thread's shard, unless it is larger than a frame, which means one large event.
    pub(crate) fn keep_latest(&self, shared_log: u64, mut latest: Latest) {
        if latest.wire.len() as u64 <= FRAME {
            latest.wire = Bytes::copy_from_slice(&latest.wire);
            lock(self.latest.of(shard::mine()))[Self::slot_index(shared_log)] = Some((shared_log, latest));
        }
    }

    fn slot_index(shared_log: u64) -> usize {
        shared_log as usize % LATEST
    }

    /// Returns the merged frame of these logs, for a reader that may read up to the number `horizon`.
    pub(crate) fn merged(&self, of: &MergeKey, horizon: u64) -> Option<Merged> {
        let slot = lock(&self.merged[of.slot_index()]);
        let (_, merged) = slot.as_ref().filter(|(known, _)| known == of)?;
        // A frame that had all events at its time may lack later ones.
        let is_whole = merged.read_to == horizon || merged.has_more && merged.read_to < horizon;
        is_whole.then(|| merged.clone())
    }

    /// Caches a merged frame.
    pub(crate) fn keep(&self, of: MergeKey, merged: Merged) -> Merged {
        let index = of.slot_index();
        *lock(&self.merged[index]) = Some((of, merged.clone()));
        merged
    }

    /// Returns the joined bytes of a range of a log.
    #[inline]
    pub(crate) fn frame(&self, shared_log: &SharedLog, log: &Log, slots: Slots, topic_as_event_type: bool) -> Bytes {
        let (Some(first), Some(last)) = (log.number_at(slots.start), log.number_at(slots.end.saturating_sub(1))) else {
            return Bytes::new();
        };
        let of = FrameKey { shared_log: shared_log.id(), first, last, topic_as_event_type };
        let index = (of.shared_log ^ of.first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let mut slot = lock(&self.slots[index as usize]);
        match &*slot {
            Some(frame) if frame.of == of => frame.wire.clone(),
            _ => {
                let mut wire = Vec::with_capacity(log.range(slots.clone()).map(|entry| entry.wire.len()).sum());
                log.range(slots).for_each(|entry| entry.write(&mut wire, topic_as_event_type, None));
                let wire = Bytes::from(wire);
                *slot = Some(CachedFrame { of, wire: wire.clone() });
                wire
            }
        }
    }
}
