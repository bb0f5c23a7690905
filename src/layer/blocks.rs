//! The blocks that the layer itself puts into a stream: at its start, after silence, and at its end.

use std::sync::Arc;

use bytes::Bytes;

use super::sse_layer::Config;
use crate::{client::ClientHandle, reader::Reader, reading::Picked, stream::CloseReason};

impl Config {
    /// Returns the bytes that a stream begins with.
    pub(super) fn opening(&self, reader: &Reader, own: &[Picked]) -> Bytes {
        let mut opening = self.opening_block(reader.client().id().spread());
        let snapshot = reader.take_snapshot();
        let snapshot_has_id = snapshot.as_ref().is_some_and(|snapshot| snapshot.own_id().is_some());
        let snapshot = snapshot.map(|snapshot| snapshot.encode());
        let position = match self.shows_position(reader) && !snapshot_has_id {
            true => reader.standing().and_then(|id| self.position_event.encode(&id)),
            false => None,
        };
        let own = (!own.is_empty()).then(|| reader.written(own).into());
        for block in [position, snapshot, own].into_iter().flatten() {
            opening = [opening, block].concat().into();
        }
        let is_empty = opening.is_empty() && !(self.gap_event.is_on() && reader.begins_with_gap());
        if is_empty && self.opens_at_once && self.heartbeat.interval().is_some() {
            self.heartbeat.comment_wire()
        } else {
            opening
        }
    }

    /// Returns the bytes that a silent stream gets.
    pub(super) fn heartbeat(&self, reader: &mut Reader) -> Bytes {
        let heartbeat = self.heartbeat.encode();
        match self.position(reader) {
            Some(position) => [heartbeat, position].concat().into(),
            None => heartbeat,
        }
    }

    /// Returns a position event if the client's cursor is ahead of the last sent id.
    fn position(&self, reader: &mut Reader) -> Option<Bytes> {
        let ahead = if self.shows_position(reader) { reader.take_ahead() } else { None };
        self.position_event.encode(&ahead?.to_string())
    }

    fn shows_position(&self, reader: &Reader) -> bool {
        self.position_event.is_on() && !reader.style().hides_position
    }

    /// Returns the last bytes of a stream that ends at a boundary.
    pub(super) fn last_words(&self, reader: &mut Reader, reason: CloseReason) -> Bytes {
        // With the position, the client resumes after all events that its cursor has passed, even if none of them was
        // sent to it. So the server can tell when the client has had every event.
        let position = self.position(reader).unwrap_or_default();
        let client = reader.client();
        let own = self.farewell.as_ref();
        let own = own.and_then(|farewell| farewell.of(&ClientHandle::new(Arc::clone(client)), reason));
        let own = own.map(|event| event.encode_without_id()).unwrap_or_default();
        match reason {
            CloseReason::Drained => [position, own, client.last_words()].concat().into(),
            _ if position.is_empty() => own,
            _ => [position, own].concat().into(),
        }
    }
}
