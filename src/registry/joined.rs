//! Joined bytes that clients behind by the same range share.

use std::{ops::Range, sync::Mutex};

use bytes::Bytes;

use super::log::TopicLog;
use crate::sync::lock;

/// The frames that were joined last, by topic and range. A bounded few: each of up to about 64 KiB.
#[derive(Debug)]
pub(crate) struct Joined {
    slots: [Mutex<Option<Frame>>; 16],
}

#[derive(Debug)]
struct Frame {
    topic: u64,
    range: Range<u64>,
    wire: Bytes,
}

impl Joined {
    pub(crate) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Mutex::new(None)) }
    }

    /// The bytes of a range of a topic's log, in one piece.
    #[inline]
    pub(crate) fn frame(&self, topic: u64, log: &TopicLog, range: Range<u64>) -> Bytes {
        if range.end - range.start == 1 {
            return log.get(range.start).map(|entry| entry.wire.clone()).unwrap_or_default();
        }
        let place = (topic ^ range.start).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let mut slot = lock(&self.slots[place as usize]);
        match &*slot {
            Some(frame) if frame.topic == topic && frame.range == range => frame.wire.clone(),
            _ => {
                let size = log.range(range.clone()).map(|entry| entry.wire.len()).sum();
                let mut wire = Vec::with_capacity(size);
                log.range(range.clone()).for_each(|entry| wire.extend_from_slice(&entry.wire));
                let wire = Bytes::from(wire);
                *slot = Some(Frame { topic, range, wire: wire.clone() });
                wire
            }
        }
    }
}
