//! Entries of the stream.

use bytes::Bytes;
use redis::Value;

use super::connect::text;
use crate::backplane::{Block, InvalidBlock, Place, PlainEvent, Stored};

/// The field that a block is in.
pub(super) const FIELD: &str = "block";

/// The field with the topic of another program's event. An entry with it is no block, whatever other fields it has.
const TOPIC: &str = "topic";

/// The bounds of [`Place`].
const MS_BOUND: u64 = 1 << 48;
pub(super) const SEQ_BOUND: u64 = 1 << 22;

/// An entry that was read.
pub(super) enum Entry {
    Block(Stored),
    /// Neither a block nor an event.
    Other(Place),
}

/// Why a node must not read on.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The entry's id is beyond what a place can be.
    Id { id: String },
    /// The entry's block was written by another version of this crate.
    Block { id: String, why: InvalidBlock },
    /// The answer does not have the form of entries.
    Form,
}

impl Unreadable {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Id { id } => format!(
                "the entry {id} is out of range: the first number of an id must be less than 2^48, and the second less than 2^22"
            ),
            Self::Block { id, why } => format!("the entry {id} cannot be read: {why}"),
            Self::Form => "the answer has not the form of entries".to_owned(),
        }
    }
}

/// The id of an entry at this place.
pub(super) fn id(place: Place) -> String {
    format!("{}-{}", place.ms, place.seq)
}

/// The least place above this one.
pub(super) fn next(place: Place) -> Place {
    match place.seq + 1 < SEQ_BOUND {
        true => Place { ms: place.ms, seq: place.seq + 1 },
        false => Place { ms: place.ms + 1, seq: 0 },
    }
}

/// The entries in an answer to XREAD for one stream.
pub(super) fn of_read(answer: Value) -> Result<Vec<Value>, Unreadable> {
    let entries = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
        // As servers answer that do not know version 3 of the protocol well.
        Value::Array(streams) => match streams.into_iter().next() {
            Some(Value::Array(stream)) => stream.into_iter().nth(1),
            _ => None,
        },
        _ => None,
    };
    of_range(entries.ok_or(Unreadable::Form)?)
}

/// The entries in an answer to XRANGE.
pub(super) fn of_range(answer: Value) -> Result<Vec<Value>, Unreadable> {
    match answer {
        Value::Array(entries) => Ok(entries),
        _ => Err(Unreadable::Form),
    }
}

/// Whether an entry is a block, by its fields.
pub(super) fn is_block(entry: &Value) -> bool {
    let Value::Array(parts) = entry else { return false };
    let Some(Value::Array(fields)) = parts.get(1) else { return false };
    let has = |name: &str| {
        fields.iter().step_by(2).any(|field| matches!(field, Value::BulkString(field) if field == name.as_bytes()))
    };
    has(FIELD) && !has(TOPIC)
}

impl Entry {
    /// Reads an entry, and says how many bytes its fields have.
    pub(super) fn read(entry: Value) -> Result<(Self, usize), Unreadable> {
        let Value::Array(parts) = entry else { return Err(Unreadable::Form) };
        let mut parts = parts.into_iter();
        let id = parts.next().as_ref().and_then(text).ok_or(Unreadable::Form)?;
        let place = place(&id).ok_or_else(|| Unreadable::Id { id: id.clone() })?;
        let fields = Fields::read(parts.next().unwrap_or_default());
        let size = fields.size();
        let block = match fields.into_block() {
            Ok(block) => block,
            Err(why) => return Err(Unreadable::Block { id, why }),
        };
        let entry = match block {
            Some(block) => Self::Block(Stored { place, at_ms: place.ms, block }),
            None => Self::Other(place),
        };
        Ok((entry, size))
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::Block(stored) => stored.place,
            Self::Other(place) => *place,
        }
    }
}

pub(super) fn place(id: &str) -> Option<Place> {
    let (ms, seq) = id.split_once('-')?;
    let place = Place { ms: ms.parse().ok()?, seq: seq.parse().ok()? };
    (place.ms < MS_BOUND && place.seq < SEQ_BOUND).then_some(place)
}

/// The fields of an entry, by name.
struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Fields {
    fn read(fields: Value) -> Self {
        let Value::Array(fields) = fields else { return Self(Vec::new()) };
        let mut strings = fields.into_iter().filter_map(|field| match field {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let mut all = Vec::new();
        while let (Some(name), Some(value)) = (strings.next(), strings.next()) {
            all.push((name, value));
        }
        Self(all)
    }

    fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(it, _)| it == name.as_bytes())
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(it, _)| it == name.as_bytes())?;
        Some(self.0.swap_remove(at).1)
    }

    /// The block that the entry is, or none.
    ///
    /// A block of another version is an error: a node that left it out would miss events without knowing.
    fn into_block(mut self) -> Result<Option<Block>, InvalidBlock> {
        match self.take(FIELD).filter(|_| !self.has(TOPIC)) {
            Some(bytes) => match Block::decode(&Bytes::from(bytes)) {
                Ok(block) => Ok(Some(block)),
                Err(why @ InvalidBlock::Version { .. }) => Err(why),
                Err(_) => Ok(None),
            },
            None => Ok(plain_event(self).map(|event| Block::of_plain_event(&event))),
        }
    }
}

/// The event of a program without this crate: the fields `topic`, `data` and, if it has a type, `event`, all of them UTF-8.
fn plain_event(mut fields: Fields) -> Option<PlainEvent> {
    let mut text = |name| fields.take(name).map(String::from_utf8);
    let (topic, data) = (text(TOPIC)?.ok()?, text("data")?.ok()?);
    Some(PlainEvent { topic, event_type: text("event").transpose().ok()?, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::BlockKey;

    fn entry(id: &str, fields: &[(&str, &[u8])]) -> Value {
        let bytes = |it: &[u8]| Value::BulkString(it.to_vec());
        let fields = fields.iter().flat_map(|(name, value)| [bytes(name.as_bytes()), bytes(value)]).collect();
        Value::Array(vec![bytes(id.as_bytes()), Value::Array(fields)])
    }

    #[test]
    fn an_entry_with_a_block_is_that_block() {
        let block = Block { key: BlockKey { session: 3, number: 4 }, records: 1, body: "body".into() };
        let (Entry::Block(stored), size) = Entry::read(entry("17-3", &[(FIELD, &block.encode())])).unwrap() else {
            panic!()
        };
        assert_eq!((stored.place, stored.at_ms), (Place { ms: 17, seq: 3 }, 17));
        assert_eq!(stored.block, block);
        assert_eq!(size, FIELD.len() + block.encoded_len());
    }

    #[test]
    fn an_entry_with_a_topic_and_data_is_an_event_of_another_publisher() {
        let read = |fields: &[(&str, &[u8])]| match Entry::read(entry("1-0", fields)).unwrap().0 {
            Entry::Block(stored) => Some(stored.block),
            Entry::Other(_) => None,
        };
        let event = |event_type: Option<&str>, data: &str| {
            let event = PlainEvent {
                topic: "a/b".to_owned(),
                event_type: event_type.map(str::to_owned),
                data: data.to_owned(),
            };
            Some(Block::of_plain_event(&event))
        };
        assert_eq!(read(&[("topic", b"a/b"), ("event", b"x"), ("data", b"hello")]), event(Some("x"), "hello"));
        assert_eq!(read(&[("data", b"\"\n"), ("other", b"1"), ("topic", b"a/b")]), event(None, "\"\n"));
        assert_eq!(read(&[("topic", b"a/b"), ("data", b"")]), event(None, ""));
        assert_eq!(read(&[("topic", b"a/b")]), None);
        assert_eq!(read(&[("topic", b"a/b"), ("data", b"\xff")]), None);
        assert_eq!(read(&[("topic", b"a/b"), ("data", b""), ("event", b"\xff")]), None);
        assert_eq!(read(&[(FIELD, b"817"), ("topic", b"a/b"), ("data", b"x")]), event(None, "x"));
        assert_eq!(read(&[(FIELD, b"\x01short"), ("data", b"")]), None);
    }

    #[test]
    fn a_block_of_another_version_and_an_id_out_of_range_stop_the_reader() {
        assert!(matches!(Entry::read(entry("1-0", &[(FIELD, &[9; 40])])), Err(Unreadable::Block { .. })));
        assert!(matches!(Entry::read(entry("281474976710656-0", &[])), Err(Unreadable::Id { .. })));
        assert!(matches!(Entry::read(entry("1-4194304", &[])), Err(Unreadable::Id { .. })));
        assert!(Entry::read(entry("281474976710655-4194303", &[])).is_ok());
    }

    #[test]
    fn the_next_place_is_the_least_above() {
        assert_eq!(next(Place { ms: 5, seq: 0 }), Place { ms: 5, seq: 1 });
        assert_eq!(next(Place { ms: 5, seq: SEQ_BOUND - 1 }), Place { ms: 6, seq: 0 });
    }
}
