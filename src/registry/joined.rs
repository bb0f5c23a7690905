//! Joined bytes that clients behind by the same range share.

use bytes::Bytes;

use super::{
    feed::Feed,
    log::{Log, Slots},
};
use crate::sync::{Mutex, lock};

/// The frames that were joined last, by feed and range. A bounded few: each of up to about 64 KiB.
#[derive(Debug)]
pub(crate) struct Joined {
    slots: [Mutex<Option<Frame>>; 16],
}

#[derive(Debug)]
struct Frame {
    of: Of,
    wire: Bytes,
}

/// What was joined: the feed, the numbers of the first and the last event, and whether they are labelled.
#[derive(Debug, PartialEq, Eq)]
struct Of {
    feed: u64,
    first: u64,
    last: u64,
    labelled: bool,
}

impl Joined {
    pub(crate) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Mutex::new(None)) }
    }

    /// The bytes of a piece of a feed's log, in one piece.
    #[inline]
    pub(crate) fn frame(&self, feed: &Feed, log: &Log, slots: Slots, labelled: bool) -> Bytes {
        let (Some(first), Some(last)) = (log.number_at(slots.start), log.number_at(slots.end.saturating_sub(1))) else {
            return Bytes::new();
        };
        let of = Of { feed: feed.id(), first, last, labelled };
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
