//! The end of an open stream: its last bytes, its trailers, and its reason.

use std::mem;

use bytes::Bytes;
use http_body::Frame;

use super::open_stream::OpenStream;
use crate::stream::CloseReason;

impl OpenStream {
    /// Returns the last bytes of a stream that ends at a boundary.
    ///
    /// `None`: there are no such bytes, or they were returned before.
    pub(super) fn say_farewell(&mut self, reason: CloseReason) -> Option<Bytes> {
        if mem::replace(&mut self.said_farewell, true) {
            return None;
        }
        let is_poll = self.is_poll();
        let last_words = self.config.last_words(&mut self.reader, reason, is_poll);
        self.reader.client().add_bytes(last_words.len());
        Some(last_words).filter(|bytes| !bytes.is_empty())
    }

    /// Ends the stream because the handler's own body failed.
    ///
    /// Returns the bytes to send before the error, if there are any.
    #[cold]
    pub(super) fn fail(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let last_words = if self.may_inject() { self.say_farewell(CloseReason::BodyFailed) } else { None };
        self.end(CloseReason::BodyFailed);
        last_words
    }

    fn end(&mut self, reason: CloseReason) {
        self.over = true;
        self.reader.end(reason);
    }

    /// Ends the stream. Returns the last frame, if there are trailers.
    pub(super) fn finish(&mut self, reason: CloseReason) -> Option<Frame<Bytes>> {
        self.is_cut = !self.inner_ended && self.reader.style().is_recording && reason != CloseReason::PollEnded;
        self.end(reason);
        self.rare.as_mut()?.trailers.take().map(Frame::trailers)
    }
}
