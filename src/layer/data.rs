//! The data of the handler's own frames.

use bytes::{Buf, Bytes, BytesMut};

use crate::stream::LeadingMark;

/// Removes the bytes of a leading byte-order mark from a frame.
///
/// Bytes that were held back, and that are not a mark, are put before the frame.
#[inline]
pub(super) fn without_mark(mark: &mut LeadingMark, frame: Bytes) -> Bytes {
    if mark.is_decided() { frame } else { strip(mark, frame) }
}

fn strip(mark: &mut LeadingMark, mut frame: Bytes) -> Bytes {
    let (held, gone) = mark.strip(&frame);
    frame.advance(gone);
    if held.is_empty() {
        return frame;
    }
    let mut whole = BytesMut::with_capacity(held.len() + frame.len());
    whole.extend_from_slice(held);
    whole.extend_from_slice(&frame);
    whole.freeze()
}
