//! Joined bytes that clients behind by the same range share.

use bytes::Bytes;

use super::{
    Position,
    feed::Feed,
    log::{Log, Slots},
};
use crate::sync::{Mutex, lock};

/// The frames that were joined last, by feed and range, and those of several feeds. A bounded few: each of up to about 64 KiB.
#[derive(Debug)]
pub(crate) struct Joined {
    slots: [Mutex<Option<Frame>>; 16],
    merged: [Mutex<Option<(Of, Merged)>>; 16],
}

#[derive(Debug)]
struct Frame {
    of: Piece,
    wire: Bytes,
}

/// What was joined: the feed, the numbers of the first and the last event, and whether they are labelled.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    feed: u64,
    first: u64,
    last: u64,
    labelled: bool,
}

/// What is merged: the feeds with the number of the first event of each, and whether they are labelled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) feeds: Vec<(u64, u64)>,
    pub(crate) labelled: bool,
}

/// The events of several feeds in one piece, in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) wire: Bytes,
    pub(crate) events: u64,
    /// Where the last one stands.
    pub(crate) seen: Position,
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

impl Joined {
    pub(crate) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Mutex::new(None)), merged: std::array::from_fn(|_| Mutex::new(None)) }
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
    pub(crate) fn frame(&self, feed: &Feed, log: &Log, slots: Slots, labelled: bool) -> Bytes {
        let (Some(first), Some(last)) = (log.number_at(slots.start), log.number_at(slots.end.saturating_sub(1))) else {
            return Bytes::new();
        };
        let of = Piece { feed: feed.id(), first, last, labelled };
        let place = (of.feed ^ of.first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let mut slot = lock(&self.slots[place as usize]);
        match &*slot {
            Some(frame) if frame.of == of => frame.wire.clone(),
            _ => {
                let mut wire = Vec::with_capacity(log.range(slots.clone()).map(|entry| entry.wire.len()).sum());
                log.range(slots).for_each(|entry| entry.write(&mut wire, labelled, None));
                let wire = Bytes::from(wire);
                *slot = Some(Frame { of, wire: wire.clone() });
                wire
            }
        }
    }
}
