//! The event that tells a client that it has caught up.

use bytes::Bytes;

use super::open_stream::OpenStream;
use crate::stream::HelloEvent;

impl OpenStream {
    /// Returns the event `live`, once, if the client has asked for it and has read everything that was there at the
    /// beginning.
    pub(super) fn take_live(&mut self) -> Option<Bytes> {
        let until = self.rare.as_ref()?.live_after?;
        if !self.reader.has_read(until) {
            return None;
        }
        self.rare().live_after = None;
        self.drop_empty_rare_state();
        let position = self.reader.take_ahead().map(|position| position.to_string());
        let live = HelloEvent::encode_live(position.as_deref());
        self.is_active = true;
        self.reader.client().add_bytes(live.len());
        Some(live)
    }
}
