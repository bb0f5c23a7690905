//! How records are written.

use bytes::{BufMut, BytesMut};

use super::{Attributes, Head, PastEnd, Record, Repeat, Spot, VERSION, kind, tag};
use crate::{
    backplane::Place,
    cluster::state::Loss,
    event::Payload,
    log::Outcome,
    topics::{By, ProductionId},
};

impl Head {
    pub(crate) const LENGTH: usize = 1 + 8 + 1;

    pub(crate) fn write(self, body: &mut BytesMut) {
        body.put_u8(VERSION);
        body.put_u64(self.era.to_bits());
        body.put_u8(self.proposes.into());
    }
}

impl Record<'_> {
    /// How many bytes larger an event is at most when it is said again.
    pub(crate) const REPEATING: usize = 128;

    /// Appends the record.
    pub(crate) fn write(&self, body: &mut BytesMut) {
        let (kind, start) = (self.kind(), body.len());
        body.put_u8(kind);
        body.put_u32(0);
        self.write_fields(body);
        let length = u32::try_from(body.len() - start - 5).unwrap_or(u32::MAX);
        body[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello => kind::HELLO,
            Self::Beat { .. } => kind::BEAT,
            Self::Event { .. } => kind::EVENT,
            Self::Begin { .. } => kind::BEGIN,
            Self::End { .. } => kind::END,
            Self::Fork(_) => kind::FORK,
            Self::Produced { .. } => kind::PRODUCED,
            Self::Ended { .. } => kind::ENDED,
            Self::Repeat(_) => kind::REPEAT,
            Self::Repeated { .. } => kind::REPEATED,
            Self::Unknown => 0,
        }
    }

    fn write_fields(&self, body: &mut BytesMut) {
        match self {
            Self::Hello | Self::Unknown => {}
            Self::Beat { oldest } => put_place(body, tag::OLDEST, *oldest),
            Self::Event { topic, payload, attributes, by, outcome } => {
                put_event(body, topic, payload, attributes);
                put_by(body, *by);
                outcome.iter().for_each(|outcome| put(body, tag::OUTCOME, &[outcome_byte(*outcome)]));
            }
            Self::Begin { topic } => put(body, tag::TOPIC, topic.as_bytes()),
            Self::End { topic, by, outcome } => {
                put(body, tag::TOPIC, topic.as_bytes());
                put_by(body, *by);
                put(body, tag::OUTCOME, &[outcome_byte(*outcome)]);
            }
            Self::Fork(Loss { kept, to }) => {
                put_place(body, tag::KEPT, *kept);
                put_place(body, tag::TO, *to);
            }
            Self::Produced { topic, producer, began } => {
                put(body, tag::TOPIC, topic.as_bytes());
                put_by(body, By::Producer(*producer));
                began.iter().for_each(|began| put_spot(body, tag::BEGAN, *began));
            }
            Self::Ended { topic, end: PastEnd { producer, began, outcome, at_ms, has_last_word } } => {
                put(body, tag::TOPIC, topic.as_bytes());
                put_by(body, producer.map_or(By::Anyone, By::Producer));
                began.iter().for_each(|began| put_spot(body, tag::BEGAN, *began));
                put(body, tag::OUTCOME, &[outcome_byte(*outcome)]);
                put(body, tag::AT, &at_ms.to_be_bytes());
                has_last_word.then(|| put(body, tag::LAST_WORD, &[]));
            }
            Self::Repeat(Repeat { origin, floor, next, at_ms, topic, payload, attributes }) => {
                put_spot(body, tag::ORIGIN, *origin);
                put_spot(body, tag::FLOOR, *floor);
                put_spot(body, tag::NEXT, *next);
                put(body, tag::AT, &at_ms.to_be_bytes());
                put_event(body, topic, payload, attributes);
            }
            Self::Repeated { from, to } => {
                put_place(body, tag::OLDEST, *from);
                put_place(body, tag::TO, *to);
            }
        }
    }
}

fn put_event(body: &mut BytesMut, topic: &str, payload: &Payload<'_>, attributes: &Attributes<'_>) {
    put(body, tag::TOPIC, topic.as_bytes());
    let texts = [
        (tag::DATA, &payload.data),
        (tag::EVENT_TYPE, &payload.event_type),
        (tag::ID, &payload.id),
        (tag::COMMENT, &payload.comment),
    ];
    texts.iter().for_each(|(tag, text)| _ = text.as_ref().map(|text| put(body, *tag, text.as_bytes())));
    payload.retry_ms.into_iter().for_each(|retry| put(body, tag::RETRY, &retry.to_be_bytes()));
    payload.excluded_client.into_iter().for_each(|id| put(body, tag::EXCLUDED_CLIENT, &id.to_bytes()));
    for (name, value) in attributes {
        let mut field = BytesMut::new();
        put(&mut field, 0, name.as_bytes());
        field.put_slice(value);
        put(body, tag::ATTRIBUTE, &field);
    }
}

pub(super) fn put(body: &mut BytesMut, tag: u8, bytes: &[u8]) {
    body.put_u8(tag);
    body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    body.put_slice(bytes);
}

fn put_by(body: &mut BytesMut, by: By) {
    match by {
        By::Anyone => {}
        By::Producer(id) => put_producer(body, tag::PRODUCER, id),
        By::Canceller(Some(id)) => put_producer(body, tag::CANCELLER, id),
        By::Canceller(None) => put(body, tag::CANCELLER, &[]),
    }
}

fn put_producer(body: &mut BytesMut, tag: u8, id: ProductionId) {
    put_place(body, tag, Place { ms: id.session, seq: id.number });
}

fn put_place(body: &mut BytesMut, tag: u8, place: Place) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&place.ms.to_be_bytes());
    bytes[8..].copy_from_slice(&place.seq.to_be_bytes());
    put(body, tag, &bytes);
}

fn put_spot(body: &mut BytesMut, tag: u8, spot: Spot) {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&spot.ms.to_be_bytes());
    bytes[8..].copy_from_slice(&spot.seq.to_be_bytes());
    put(body, tag, &bytes);
}

fn outcome_byte(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Finished => 1,
        Outcome::Cancelled => 2,
        Outcome::Failed => 3,
    }
}
