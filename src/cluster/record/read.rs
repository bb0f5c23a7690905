//! How records are read.

use std::fmt;

use bytes::Bytes;

use super::{Attributes, Head, PastEnd, Record, Repeat, Spot, VERSION, kind, tag};
use crate::{
    backplane::Place,
    cluster::state::Loss,
    event::{ClientId, Payload},
    log::{Era, Outcome},
    topics::{By, ProductionId},
};

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
