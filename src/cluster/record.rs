//! What is in a block: the records, and how they are encoded.
//!
//! A block's body begins with a version, the era of the log as its writer knows it, and a flag. Then come the records. A record has a kind of
//! one byte, a length of four, and its fields; a field has a tag of one byte, a length of four, and its bytes. So a node can pass over a kind
//! or a field that a newer node writes. All numbers have their most significant byte first.

use std::{borrow::Cow, fmt};

use bytes::{BufMut, Bytes, BytesMut};

use super::state::Loss;
use crate::{
    backplane::Place,
    event::{ClientId, Payload},
    log::{Era, Outcome},
    topics::{By, ProductionId},
};

/// The version of a block's body.
const VERSION: u8 = 1;

/// What stands before the records of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The era of the log.
    pub(crate) era: Era,
    /// The writer found an empty log, and proposes the era. The first proposal counts.
    pub(crate) proposes: bool,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A node begins.
    Hello,
    /// A node is there, and needs nothing before a place. It also shows the node that what it appends comes back.
    Beat { oldest: Place },
    /// An event.
    Event { topic: Cow<'a, str>, payload: Payload<'a>, attributes: Attributes<'a>, by: By, outcome: Option<Outcome> },
    /// A producer begins. Its id is the key of this record.
    Begin { topic: Cow<'a, str> },
    /// A topic ends without a last event.
    End { topic: Cow<'a, str>, by: By, outcome: Outcome },
    /// The engine has lost blocks.
    Fork(Loss),
    /// A producer has begun, after a position: said again before the record that said it is trimmed.
    Produced { topic: Cow<'a, str>, producer: ProductionId, began: Option<Spot> },
    /// A topic has ended: said again before the record that said it is trimmed.
    Ended { topic: Cow<'a, str>, end: PastEnd },
    /// An event that is retained, said again before its record is trimmed.
    Repeat(Repeat<'a>),
    /// Every retained event from one place on, and before another, was said again.
    Repeated { from: Place, to: Place },
    /// A record of a kind that this version does not know.
    Unknown,
}

/// How a topic has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PastEnd {
    /// Its last producer, if it had one, which began after a position.
    pub(crate) producer: Option<ProductionId>,
    pub(crate) began: Option<Spot>,
    pub(crate) outcome: Outcome,
    pub(crate) at_ms: u64,
    /// Whether it has ended with an event.
    pub(crate) has_last_word: bool,
}

/// An event that was said before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeat<'a> {
    /// Its position.
    pub(crate) origin: Spot,
    /// Up to where its topic may have been evicted when it was said again.
    pub(crate) floor: Spot,
    /// The position of the next event of its topic. If there was none, the position up to which there was none.
    pub(crate) next: Spot,
    /// When the engine took it.
    pub(crate) at_ms: u64,
    pub(crate) topic: Cow<'a, str>,
    pub(crate) payload: Payload<'a>,
    pub(crate) attributes: Attributes<'a>,
}

/// A position without its era, which is the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) ms: u64,
    pub(crate) seq: u32,
}

/// The attributes of an event, by name, as they cross.
pub(crate) type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, [u8]>)>;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const BEAT: u8 = 2;
    pub(super) const EVENT: u8 = 3;
    pub(super) const BEGIN: u8 = 4;
    pub(super) const END: u8 = 5;
    pub(super) const FORK: u8 = 6;
    pub(super) const PRODUCED: u8 = 7;
    pub(super) const REPEAT: u8 = 8;
    pub(super) const REPEATED: u8 = 9;
    pub(super) const ENDED: u8 = 10;
}

mod tag {
    pub(super) const TOPIC: u8 = 1;
    pub(super) const DATA: u8 = 2;
    pub(super) const EVENT_TYPE: u8 = 3;
    pub(super) const ID: u8 = 4;
    pub(super) const RETRY: u8 = 5;
    pub(super) const COMMENT: u8 = 6;
    pub(super) const EXCLUDED_CLIENT: u8 = 7;
    pub(super) const ATTRIBUTE: u8 = 8;
    pub(super) const PRODUCER: u8 = 9;
    pub(super) const CANCELLER: u8 = 10;
    pub(super) const OUTCOME: u8 = 11;
    pub(super) const KEPT: u8 = 12;
    pub(super) const TO: u8 = 13;
    pub(super) const OLDEST: u8 = 14;
    pub(super) const AT: u8 = 15;
    pub(super) const ORIGIN: u8 = 16;
    pub(super) const FLOOR: u8 = 17;
    pub(super) const NEXT: u8 = 18;
    pub(super) const BEGAN: u8 = 19;
    pub(super) const LAST_WORD: u8 = 20;
}

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

fn put(body: &mut BytesMut, tag: u8, bytes: &[u8]) {
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

/// Why a block's body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvalidBody {
    /// It was written by another version of the crate.
    Version(u8),
    /// The bytes are none that this crate writes.
    Damaged,
}

impl fmt::Display for InvalidBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(
                    f,
                    "a block has records of version {version}, and this version of the crate reads only version {VERSION}"
                )
            }
            Self::Damaged => f.write_str("a block has bytes that are not records"),
        }
    }
}

impl std::error::Error for InvalidBody {}

/// Reads a block's body.
pub(crate) fn read(body: &Bytes) -> Result<(Head, Vec<Record<'_>>), InvalidBody> {
    let mut rest = &body[..];
    let head = take(&mut rest, Head::LENGTH).ok_or(InvalidBody::Damaged)?;
    if head[0] != VERSION {
        return Err(InvalidBody::Version(head[0]));
    }
    let era = number(&head[1..9]).ok_or(InvalidBody::Damaged)?;
    let head = Head { era: Era::from_bits(era).ok_or(InvalidBody::Damaged)?, proposes: head[9] > 0 };
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (kind, fields) = field(&mut rest).ok_or(InvalidBody::Damaged)?;
        records.push(record(kind, fields).ok_or(InvalidBody::Damaged)?);
    }
    Ok((head, records))
}

/// The fields of a record that were read so far.
#[derive(Default)]
struct Fields<'a> {
    topic: Option<&'a str>,
    payload: Payload<'a>,
    attributes: Attributes<'a>,
    by: Option<By>,
    outcome: Option<Outcome>,
    kept: Option<Place>,
    to: Option<Place>,
    oldest: Option<Place>,
    at_ms: Option<u64>,
    origin: Option<Spot>,
    floor: Option<Spot>,
    next: Option<Spot>,
    began: Option<Spot>,
    has_last_word: bool,
}

fn record(kind: u8, mut rest: &[u8]) -> Option<Record<'_>> {
    let mut fields = Fields::default();
    while !rest.is_empty() {
        let (tag, bytes) = field(&mut rest)?;
        fields.add(tag, bytes)?;
    }
    let by = fields.by.unwrap_or(By::Anyone);
    Some(match kind {
        kind::HELLO => Record::Hello,
        kind::BEAT => Record::Beat { oldest: fields.oldest? },
        kind::EVENT => Record::Event {
            topic: fields.topic?.into(),
            payload: fields.payload,
            attributes: fields.attributes,
            by,
            outcome: fields.outcome,
        },
        kind::BEGIN => Record::Begin { topic: fields.topic?.into() },
        kind::END => Record::End { topic: fields.topic?.into(), by, outcome: fields.outcome? },
        kind::FORK => Record::Fork(Loss { kept: fields.kept?, to: fields.to? }),
        kind::PRODUCED => {
            Record::Produced { topic: fields.topic?.into(), producer: by.producer()?, began: fields.began }
        }
        kind::ENDED => Record::Ended {
            topic: fields.topic?.into(),
            end: PastEnd {
                producer: by.producer(),
                began: fields.began,
                outcome: fields.outcome?,
                at_ms: fields.at_ms?,
                has_last_word: fields.has_last_word,
            },
        },
        kind::REPEAT => Record::Repeat(Repeat {
            origin: fields.origin?,
            floor: fields.floor?,
            next: fields.next?,
            at_ms: fields.at_ms?,
            topic: fields.topic?.into(),
            payload: fields.payload,
            attributes: fields.attributes,
        }),
        kind::REPEATED => Record::Repeated { from: fields.oldest?, to: fields.to? },
        _ => Record::Unknown,
    })
}

impl<'a> Fields<'a> {
    fn add(&mut self, tag: u8, bytes: &'a [u8]) -> Option<()> {
        let text = || std::str::from_utf8(bytes).ok();
        match tag {
            tag::TOPIC => self.topic = Some(text()?),
            tag::DATA => self.payload.data = Some(text()?.into()),
            tag::EVENT_TYPE => self.payload.event_type = Some(text()?.into()),
            tag::ID => self.payload.id = Some(text()?.into()),
            tag::COMMENT => self.payload.comment = Some(text()?.into()),
            tag::RETRY => self.payload.retry_ms = Some(number(bytes)?),
            tag::EXCLUDED_CLIENT => self.payload.excluded_client = Some(ClientId::from_bytes(bytes.try_into().ok()?)),
            tag::ATTRIBUTE => {
                let mut rest = bytes;
                let (_, name) = field(&mut rest)?;
                self.attributes.push((std::str::from_utf8(name).ok()?.into(), rest.into()));
            }
            tag::PRODUCER => self.by = Some(By::Producer(producer(bytes)?)),
            tag::CANCELLER if bytes.is_empty() => self.by = Some(By::Canceller(None)),
            tag::CANCELLER => self.by = Some(By::Canceller(Some(producer(bytes)?))),
            tag::LAST_WORD => self.has_last_word = true,
            tag::OUTCOME => {
                self.outcome = Some(match bytes {
                    [1] => Outcome::Finished,
                    [2] => Outcome::Cancelled,
                    [3] => Outcome::Failed,
                    _ => return None,
                });
            }
            tag::KEPT => self.kept = Some(place(bytes)?),
            tag::TO => self.to = Some(place(bytes)?),
            tag::OLDEST => self.oldest = Some(place(bytes)?),
            tag::AT => self.at_ms = Some(number(bytes)?),
            tag::ORIGIN => self.origin = Some(spot(bytes)?),
            tag::FLOOR => self.floor = Some(spot(bytes)?),
            tag::NEXT => self.next = Some(spot(bytes)?),
            tag::BEGAN => self.began = Some(spot(bytes)?),
            _ => {}
        }
        Some(())
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(bytes)
}

/// Takes a byte, a length, and as many bytes.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let head = take(rest, 5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    Some((head[0], take(rest, usize::try_from(length).ok()?)?))
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn place(bytes: &[u8]) -> Option<Place> {
    let (ms, seq) = bytes.split_at_checked(8)?;
    Some(Place { ms: number(ms)?, seq: number(seq)? })
}

fn producer(bytes: &[u8]) -> Option<ProductionId> {
    let Place { ms: session, seq: number } = place(bytes)?;
    Some(ProductionId { session, number })
}

fn spot(bytes: &[u8]) -> Option<Spot> {
    let (ms, seq) = bytes.split_at_checked(8)?;
    Some(Spot { ms: number(ms)?, seq: u32::from_be_bytes(seq.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by() -> impl Strategy<Value = By> {
        let canceller = prop::option::of(producer()).prop_map(By::Canceller);
        prop_oneof![Just(By::Anyone), canceller, producer().prop_map(By::Producer)]
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![Just(Outcome::Finished), Just(Outcome::Cancelled), Just(Outcome::Failed)]
    }

    fn place() -> impl Strategy<Value = Place> {
        (any::<u64>(), any::<u64>()).prop_map(|(ms, seq)| Place { ms, seq })
    }

    fn spot() -> impl Strategy<Value = Spot> {
        (any::<u64>(), any::<u32>()).prop_map(|(ms, seq)| Spot { ms, seq })
    }

    fn producer() -> impl Strategy<Value = ProductionId> {
        (any::<u64>(), any::<u64>()).prop_map(|(session, number)| ProductionId { session, number })
    }

    fn payload() -> impl Strategy<Value = Payload<'static>> {
        let text = || prop::option::of(".{0,20}".prop_map(Cow::from));
        let excluded = prop::option::of(any::<[u8; 16]>().prop_map(ClientId::from_bytes));
        (text(), text(), text(), text(), prop::option::of(any::<u64>()), excluded).prop_map(
            |(comment, event_type, data, id, retry_ms, excluded_client)| Payload {
                comment,
                event_type,
                data,
                retry_ms,
                id,
                excluded_client,
            },
        )
    }

    fn a_record() -> impl Strategy<Value = Record<'static>> {
        let topic = || ".{1,20}".prop_map(Cow::from);
        let attribute = || {
            let attribute = (".{0,5}".prop_map(Cow::from), any::<Vec<u8>>().prop_map(Cow::from));
            prop::collection::vec(attribute, 0..3)
        };
        prop_oneof![
            (place(), place()).prop_map(|(from, to)| Record::Repeated { from, to }),
            ([spot(), spot(), spot()], any::<u64>(), topic(), payload(), attribute()).prop_map(
                |([origin, floor, next], at_ms, topic, payload, attributes)| Record::Repeat(Repeat {
                    origin,
                    floor,
                    next,
                    at_ms,
                    topic,
                    payload,
                    attributes
                })
            ),
            Just(Record::Hello),
            place().prop_map(|oldest| Record::Beat { oldest }),
            (topic(), producer(), prop::option::of(spot())).prop_map(|(topic, producer, began)| Record::Produced {
                topic,
                producer,
                began
            }),
            (topic(), prop::option::of(producer()), prop::option::of(spot()), outcome(), any::<(u64, bool)>())
                .prop_map(|(topic, producer, began, outcome, (at_ms, has_last_word))| {
                    let end = PastEnd { producer, began, outcome, at_ms, has_last_word };
                    Record::Ended { topic, end }
                }),
            topic().prop_map(|topic| Record::Begin { topic }),
            (topic(), by(), outcome()).prop_map(|(topic, by, outcome)| Record::End { topic, by, outcome }),
            (place(), place()).prop_map(|(kept, to)| Record::Fork(Loss { kept, to })),
            (topic(), payload(), attribute(), by(), prop::option::of(outcome())).prop_map(
                |(topic, payload, attributes, by, outcome)| Record::Event { topic, payload, attributes, by, outcome }
            ),
        ]
    }

    fn body_of(head: Head, records: &[Record<'_>]) -> Bytes {
        let mut body = BytesMut::new();
        head.write(&mut body);
        records.iter().for_each(|record| record.write(&mut body));
        body.freeze()
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(records in prop::collection::vec(a_record(), 0..5), proposes: bool) {
            let head = Head { era: Era::random(), proposes };
            let body = body_of(head, &records);
            prop_assert_eq!(read(&body), Ok((head, records)));
        }

        #[test]
        fn bytes_that_are_cut_off_are_an_error_or_fewer_records(records in prop::collection::vec(a_record(), 1..4), cut: prop::sample::Index) {
            let body = body_of(Head { era: Era::random(), proposes: false }, &records);
            let cut = cut.index(body.len());
            if let Ok((_, read)) = read(&body.slice(..cut)) {
                prop_assert!(read.len() < records.len());
                prop_assert_eq!(&read[..], &records[..read.len()]);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut body = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 7, 0];
            body.extend(&bytes);
            let _ = read(&body.into());
            let _ = read(&bytes.into());
        }
    }

    #[test]
    fn a_newer_kind_or_field_is_passed_over_and_a_newer_version_is_an_error() {
        let head = Head { era: Era::random(), proposes: false };
        let mut body = BytesMut::new();
        head.write(&mut body);
        body.put_slice(&[200, 0, 0, 0, 2, 1, 2]);
        put(&mut body, kind::HELLO, &[]);
        assert_eq!(read(&body.clone().freeze()), Err(InvalidBody::Damaged), "fields of any kind are well formed");
        let mut body = BytesMut::new();
        head.write(&mut body);
        put(&mut body, 200, &[77, 0, 0, 0, 1, 9]);
        put(&mut body, kind::BEGIN, &[tag::TOPIC, 0, 0, 0, 1, b'a', 77, 0, 0, 0, 0]);
        assert_eq!(
            read(&body.clone().freeze()).map(|(_, records)| records),
            Ok(vec![Record::Unknown, Record::Begin { topic: "a".into() }])
        );
        body[0] = 2;
        assert_eq!(read(&body.freeze()), Err(InvalidBody::Version(2)));
    }
}
