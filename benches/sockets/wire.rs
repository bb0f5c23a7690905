//! The events of both servers, as the load finds them in a stream.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub(crate) const EVENT_TYPE: &str = "tick";

const SEQUENCE: usize = 10;
const DUE: usize = 18;
const HEAD: &[u8] = b"event: tick\ndata: {\"sequence\":\"";
const MIDDLE: &[u8] = b"\",\"due\":\"";
const TAIL: &[u8] = b"\",\"symbol\":\"AAPL\",\"price\":187.42,\"venue\":\"XNAS\"}\nid: ";
const SEQUENCE_AT: usize = HEAD.len();
const MIDDLE_AT: usize = SEQUENCE_AT + SEQUENCE;
const DUE_AT: usize = MIDDLE_AT + MIDDLE.len();
const TAIL_AT: usize = DUE_AT + DUE;
const ID_AT: usize = TAIL_AT + TAIL.len();
const MAX_ID: usize = 48;

/// The data of an event: its sequence number from 1, and when it was due on the clock of [`now`].
pub(crate) fn data(sequence: u64, due: Duration) -> String {
    let due = due.as_nanos();
    format!(
        "{{\"sequence\":\"{sequence:010}\",\"due\":\"{due:018}\",\"symbol\":\"AAPL\",\"price\":187.42,\"venue\":\"XNAS\"}}"
    )
}

/// A clock that both processes share.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock").into()
}

/// An event's content and length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) sequence: u64,
    pub(crate) due: u64,
    pub(crate) length: usize,
}

/// The event at the start of these bytes, each of which is checked. `None` if there is no complete event.
pub(crate) fn tick(bytes: &[u8]) -> Option<Tick> {
    let id = bytes.get(ID_AT..)?;
    let id = id.iter().take(MAX_ID).position(|byte| *byte == b'\n')?;
    let length = ID_AT + id + 2;
    let is_one = bytes.get(length - 1) == Some(&b'\n')
        && id > 0
        && bytes[..SEQUENCE_AT] == *HEAD
        && bytes[MIDDLE_AT..DUE_AT] == *MIDDLE
        && bytes[TAIL_AT..ID_AT] == *TAIL;
    is_one.then(|| Tick {
        sequence: number(&bytes[SEQUENCE_AT..MIDDLE_AT]),
        due: number(&bytes[DUE_AT..TAIL_AT]),
        length,
    })
}

/// Whether a block begins as the events do.
pub(crate) fn begins_a_tick(block: &[u8]) -> bool {
    block.starts_with(HEAD)
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')))
}
