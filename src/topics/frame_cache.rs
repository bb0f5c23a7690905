//! Joined bytes that clients behind by the same range share.

use bytes::Bytes;

use super::feed::Feed;
use crate::{
    collections::PerCore,
    log::{Log, Position, Slots},
    sync::{Mutex, lane, lock},
};

/// About how many bytes leave as one frame: what hyper queues before it writes is a few of these.
pub(crate) const FRAME: u64 = 64 * 1024;

/// The feeds of which a lane knows what was read last.
const LATEST: usize = 8;

/// The frames that were joined last, by feed and range, and those of several feeds. A bounded few: each of up to about 64 KiB.
#[derive(Debug)]
pub(crate) struct FrameCache {
    slots: [Mutex<Option<Frame>>; 16],
    merged: [Mutex<Option<(Of, Merged)>>; 16],
    /// By feed, of those that have lanes. The bytes are each lane's own, so that threads do not meet at reference counts either.
    latest: PerCore<[Option<(u64, Latest)>; LATEST]>,
}

/// All that a feed had from a number on when somebody read it: who reads from there too need not ask the feed.
#[derive(Debug)]
pub(crate) struct Latest {
    pub(crate) from: u64,
    /// The number of the last event, the feed's newest.
    pub(crate) newest: u64,
    /// Nothing of it has to be told as lost to who knows of so many events that were.
    pub(crate) told: u64,
    /// Where the first event stands.
    pub(crate) first: Position,
    /// Where the last one stands.
    pub(crate) last: Position,
    pub(crate) events: u64,
    /// How many events there ever were on the feed.
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

/// What was joined: the feed, the numbers of the first and the last event, and whether they are topic_as_event_type.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    feed: u64,
    first: u64,
    last: u64,
    topic_as_event_type: bool,
}

/// What is merged: the feeds with the number of the first event of each, and whether they are topic_as_event_type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) feeds: Vec<(u64, u64)>,
    pub(crate) topic_as_event_type: bool,
}

/// The events of several feeds in one piece, in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// Where the last one stands.
    pub(crate) seen: Position,
    /// It has an id on the wire.
    pub(crate) has_id: bool,
    /// Up to this number, nothing else is on these feeds.
    pub(crate) read_to: u64,
    /// There was more than makes a frame.
    pub(crate) has_more: bool,
}

impl Of {
    fn place(&self) -> usize {
        let mixed = self.feeds.iter().fold(0, |mixed: u64, (feed, first)| {
            (mixed ^ feed ^ first.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

    /// What `take` gives for what somebody on this thread's lane read last of a feed, if it was from this number on.
    #[inline]
    pub(crate) fn latest<T>(&self, feed: u64, from: u64, take: impl FnOnce(&Latest) -> Option<T>) -> Option<T> {
        let mine = lock(self.latest.of(lane::mine()));
        let (of, latest) = mine[Self::place(feed)].as_ref()?;
        if *of == feed && latest.from == from { take(latest) } else { None }
    }

    /// Keeps it for others on this thread's lane, unless it is larger than a frame: it has one large event.
    pub(crate) fn keep_latest(&self, feed: u64, mut latest: Latest) {
        if latest.wire.len() as u64 <= FRAME {
            latest.wire = Bytes::copy_from_slice(&latest.wire);
            lock(self.latest.of(lane::mine()))[Self::place(feed)] = Some((feed, latest));
        }
    }

    fn place(feed: u64) -> usize {
        feed as usize % LATEST
    }

    /// What was merged of these, for a reader that may read up to the number `horizon`.
    pub(crate) fn merged(&self, of: &Of, horizon: u64) -> Option<Merged> {
        let slot = lock(&self.merged[of.place()]);
        let (_, merged) = slot.as_ref().filter(|(known, _)| known == of)?;
        // One that was all there was then may lack what came since.
        let is_whole = merged.read_to == horizon || merged.has_more && merged.read_to < horizon;
        is_whole.then(|| merged.clone())
    }

    /// Keeps it for others.
    pub(crate) fn keep(&self, of: Of, merged: Merged) -> Merged {
        let place = of.place();
        *lock(&self.merged[place]) = Some((of, merged.clone()));
        merged
    }

    /// The bytes of a piece of a feed's log, in one piece.
    #[inline]
    pub(crate) fn frame(&self, feed: &Feed, log: &Log, slots: Slots, topic_as_event_type: bool) -> Bytes {
        let (Some(first), Some(last)) = (log.number_at(slots.start), log.number_at(slots.end.saturating_sub(1))) else {
            return Bytes::new();
        };
        let of = Piece { feed: feed.id(), first, last, topic_as_event_type };
        let place = (of.feed ^ of.first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let mut slot = lock(&self.slots[place as usize]);
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
