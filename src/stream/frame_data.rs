//! The bytes of a body's frames, and how long a server may take to write them.

use std::time::Duration;

use bytes::{Buf, Bytes};

/// How long a server may take to write the last event before a body fails.
///
/// After this time the server gets the error. Servers drop the bytes that they have not written by then. With HTTP/2,
/// another task writes, and a body is not told when its bytes are written.
pub(crate) const TIME_TO_WRITE: Duration = Duration::from_millis(100);

/// Converts the data of a frame.
///
/// `Bytes`, which most bodies use, are not copied.
pub(crate) fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
