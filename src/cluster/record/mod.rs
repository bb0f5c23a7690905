//! What is in a block: the records, and how they are encoded.
//!
//! A block's body begins with a version, the era of the log as its writer knows it, and a flag. Then come the records. A record has a kind of
//! one byte, a length of four, and its fields; a field has a tag of one byte, a length of four, and its bytes. So a node can pass over a kind
//! or a field that a newer node writes. All numbers have their most significant byte first.

mod read;
mod write;

use std::borrow::Cow;

pub(crate) use self::read::{InvalidBody, read};
use super::state::Loss;
use crate::{
    backplane::Place,
    event::Payload,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use bytes::{BufMut, Bytes, BytesMut};

    use super::{write::put, *};
    use crate::event::ClientId;

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
