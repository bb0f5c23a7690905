//! The blocks that the layer itself puts into a stream: at its start, after silence, and at its end.

use std::sync::Arc;

use bytes::Bytes;

use super::{asked::Asked, sse_layer::Config};
use crate::{
    client::ClientHandle,
    reader::Reader,
    reading::Picked,
    stream::{CloseReason, Hello, HelloEvent, PositionEvent},
};

impl Config {
    /// Returns the bytes that a stream begins with.
    ///
    /// `is_behind`: events wait that were published before. It is known only for a client that asks for hello.
    pub(super) fn opening(&self, reader: &Reader, own: &[Picked], asked: Asked, is_behind: bool) -> Bytes {
        let mut opening = self.opening_block(reader.client().id().spread());
        let snapshot = reader.take_snapshot();
        let snapshot_has_id = snapshot.as_ref().is_some_and(|snapshot| snapshot.own_id().is_some());
        let snapshot = snapshot.map(|snapshot| snapshot.encode());
        let is_poll = asked.wait.is_some();
        let needs_id = !snapshot_has_id && (asked.hello || is_poll || self.shows_position(reader));
        let id = if needs_id { reader.standing() } else { None };
        let first = match asked.hello {
            true => Some(self.hello(reader, is_poll, is_behind, id.as_deref())),
            false => id.and_then(|id| self.encode_position(&id, is_poll)),
        };
        let own = (!own.is_empty()).then(|| reader.written(own).into());
        let live = (asked.hello && !is_poll && !is_behind).then(|| HelloEvent::encode_live(None));
        for block in [first, snapshot, own, live].into_iter().flatten() {
            opening = [opening, block].concat().into();
        }
        let is_empty = opening.is_empty() && !(self.gap_event.is_on() && reader.begins_with_gap());
        let comment = if is_empty { self.first_comment() } else { None };
        comment.unwrap_or(opening)
    }

    /// Returns the comment with which a stream begins that has nothing else to begin with.
    pub(super) fn first_comment(&self) -> Option<Bytes> {
        (self.opens_at_once && self.heartbeat.interval().is_some()).then(|| self.heartbeat.comment_wire())
    }

    /// Returns the event for a client that asks where it stands.
    fn hello(&self, reader: &Reader, is_poll: bool, is_behind: bool, id: Option<&str>) -> Bytes {
        let client = reader.client();
        let topics = client.subscriptions();
        let hello = Hello {
            // The client ends with the response to its poll, and that response may be in a shared cache.
            client: (!is_poll).then(|| client.id().to_string()),
            heartbeat: self.heartbeat.interval(),
            resumed: client.resumed(),
            is_behind,
            topics: &topics,
        };
        self.hello_event.encode(&hello, id)
    }

    /// Encodes a position event, unless there is to be none. The response to a poll has one in any case.
    fn encode_position(&self, id: &str, is_poll: bool) -> Option<Bytes> {
        match self.position_event.encode(id) {
            None if is_poll => PositionEvent::default().encode(id),
            encoded => encoded,
        }
    }

    /// Returns the bytes that a silent stream gets.
    pub(super) fn heartbeat(&self, reader: &mut Reader, is_poll: bool) -> Bytes {
        let heartbeat = self.heartbeat.encode();
        match self.position(reader, is_poll) {
            Some(position) => [heartbeat, position].concat().into(),
            None => heartbeat,
        }
    }

    /// Returns a position event if the client's cursor is ahead of the last sent id.
    fn position(&self, reader: &mut Reader, is_poll: bool) -> Option<Bytes> {
        let ahead = if is_poll || self.shows_position(reader) { reader.take_ahead() } else { None };
        self.encode_position(&ahead?.to_string(), is_poll)
    }

    fn shows_position(&self, reader: &Reader) -> bool {
        self.position_event.is_on() && !reader.style().is_recording
    }

    /// Returns the last bytes of a stream that ends at a boundary.
    pub(super) fn last_words(&self, reader: &mut Reader, reason: CloseReason, is_poll: bool) -> Bytes {
        // With the position, the client resumes after all events that its cursor has passed, even if none of them was
        // sent to it. So the server can tell when the client has had every event.
        let position = self.position(reader, is_poll).unwrap_or_default();
        let client = reader.client();
        let own = self.farewell.as_ref().filter(|_| reason != CloseReason::PollEnded);
        let own = own.and_then(|farewell| farewell.of(&ClientHandle::new(Arc::clone(client)), reason));
        let own = own.map(|event| event.encode_without_id()).unwrap_or_default();
        match reason {
            CloseReason::Drained => [position, own, client.last_words()].concat().into(),
            _ if position.is_empty() => own,
            _ => [position, own].concat().into(),
        }
    }
}
