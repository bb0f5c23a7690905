//! Joined bytes that clients behind by the same range share.

use bytes::Bytes;

use super::shared_log::SharedLog;
use crate::{
    collections::PerCore,
    log::{Log, Position, Slots},
    sync::{Mutex, lane, lock},
};

/// About how many bytes leave as one frame: what hyper queues before it writes is a few of these.
pub(crate) const FRAME: u64 = 64 * 1024;

/// The logs of which a lane knows what was read last.
const LATEST: usize = 8;

/// The frames that were joined last, by log and range, and those of several logs. A bounded few: each of up to about 64 KiB.
#[derive(Debug)]
pub(crate) struct FrameCache {
    slots: [Mutex<Option<Frame>>; 16],
    merged: [Mutex<Option<(Of, Merged)>>; 16],
    /// By log, of those that have lanes. The bytes are each lane's own, so that threads do not meet at reference counts either.
    latest: PerCore<[Option<(u64, Latest)>; LATEST]>,
}

/// All that a log had from a number on when somebody read it: who reads from there too need not ask the log.
#[derive(Debug)]
pub(crate) struct Latest {
    pub(crate) from: u64,
    /// The number of the last event, the log's newest.
    pub(crate) newest: u64,
    /// Nothing of it has to be told as lost to who knows of so many events that were.
    pub(crate) told: u64,
    /// Where the first event stands.
    pub(crate) first: Position,
    /// Where the last one stands.
    pub(crate) last: Position,
    pub(crate) events: u64,
    /// How many events there ever were on the log.
    pub(crate) read: u64,
    /// The last one has an id on the wire.
    pub(crate) has_id: bool,
    pub(crate) wire: Bytes,
}

#[derive(Debug)]
struct Frame {
    of: Piece,
    wire: Bytes,
}

/// What was joined: the log, the numbers of the first and the last event, and whether topics are the event types.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    shared_log: u64,
    first: u64,
    last: u64,
    topic_as_event_type: bool,
}

/// What is merged: the logs with the number of the first event of each, and whether topics are the event types.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) shared_logs: Vec<(u64, u64)>,
    pub(crate) topic_as_event_type: bool,
}

/// The events of several logs in one piece, in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// Where the last one stands.
    pub(crate) seen: Position,
    /// It has an id on the wire.
    pub(crate) has_id: bool,
    /// Up to this number, nothing else is on these logs.
    pub(crate) read_to: u64,
    /// There was more than makes a frame.
    pub(crate) has_more: bool,
}

impl Of {
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

    /// What `take` gives for what somebody on this thread's lane read last of a log, if it was from this number on.
    #[inline]
    pub(crate) fn latest<T>(&self, shared_log: u64, from: u64, take: impl FnOnce(&Latest) -> Option<T>) -> Option<T> {
        let mine = lock(self.latest.of(lane::mine()));
        let (of, latest) = mine[Self::slot_index(shared_log)].as_ref()?;
        if *of == shared_log && latest.from == from { take(latest) } else { None }
    }

    /// Keeps it for others on this thread's lane, unless it is larger than a frame: it has one large event.
    pub(crate) fn keep_latest(&self, shared_log: u64, mut latest: Latest) {
        if latest.wire.len() as u64 <= FRAME {
            latest.wire = Bytes::copy_from_slice(&latest.wire);
            lock(self.latest.of(lane::mine()))[Self::slot_index(shared_log)] = Some((shared_log, latest));
        }
    }

    fn slot_index(shared_log: u64) -> usize {
        shared_log as usize % LATEST
    }

    /// What was merged of these, for a reader that may read up to the number `horizon`.
    pub(crate) fn merged(&self, of: &Of, horizon: u64) -> Option<Merged> {
        let slot = lock(&self.merged[of.slot_index()]);
        let (_, merged) = slot.as_ref().filter(|(known, _)| known == of)?;
        // One that was all there was then may lack what came since.
        let is_whole = merged.read_to == horizon || merged.has_more && merged.read_to < horizon;
        is_whole.then(|| merged.clone())
    }

    /// Keeps it for others.
    pub(crate) fn keep(&self, of: Of, merged: Merged) -> Merged {
        let index = of.slot_index();
        *lock(&self.merged[index]) = Some((of, merged.clone()));
        merged
    }

    /// The bytes of a piece of a log, in one piece.
    #[inline]
    pub(crate) fn frame(&self, shared_log: &SharedLog, log: &Log, slots: Slots, topic_as_event_type: bool) -> Bytes {
        let (Some(first), Some(last)) = (log.number_at(slots.start), log.number_at(slots.end.saturating_sub(1))) else {
            return Bytes::new();
        };
        let of = Piece { shared_log: shared_log.id(), first, last, topic_as_event_type };
        let index = (of.shared_log ^ of.first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let mut slot = lock(&self.slots[index as usize]);
        match &*slot {
            Some(frame) if frame.of == of => frame.wire.clone(),
            _ => {
                let mut wire = Vec::with_capacity(log.range(slots.clone()).map(|entry| entry.wire.len()).sum());
                log.range(slots).for_each(|entry| entry.write(&mut wire, topic_as_event_type, None));
                let wire = Bytes::from(wire);
                *slot = Some(Frame { of, wire: wire.clone() });
                wire
            }
        }
    }
}
