//! What an engine keeps.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// A block of records, which is appended as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Who appends the block.
    pub key: BlockKey,
    /// How many records it has. 0: it was not appended by a registry, and its key says nothing.
    pub records: u32,
    /// The records. Only a registry looks into them.
    pub body: Bytes,
}

/// Who appended a block, and the number of its first record.
///
/// No two blocks of a log have the same key, except for a block that was appended twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The life of one node: a random number that is chosen when the node starts.
    pub session: u64,
    /// How many records the session appended before.
    pub number: u64,
}

/// Where a block stands in the log. It is greater than the places of all blocks before.
///
/// The [`Position`](crate::Position) of the event at `index` in the block has this `ms`, and `seq * 1024 + index` as its counter. An engine
/// may use any numbers that grow, such as `ms` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Usually when the block was appended, in milliseconds since the Unix epoch by the engine's clock. Less than 2^48.
    pub ms: u64,
    /// A counter within `ms`. Less than 2^22.
    pub seq: u64,
}

/// A block that was read. By its mark, an engine finds out whether its log is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Where the block stands.
    pub place: Place,
    /// The block's key.
    pub key: BlockKey,
}

/// A block that was read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where the block stands.
    pub place: Place,
    /// When the engine took the block, in milliseconds since the Unix epoch by the engine's clock.
    pub at_ms: u64,
    /// The block.
    pub block: Block,
}

/// An event that a program without this crate has appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainEvent {
    /// The topic.
    pub topic: String,
    /// The event type, if it has one.
    pub event_type: Option<String>,
    /// The data.
    pub data: String,
}

impl Stored {
    /// Returns the mark of the block.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { place: self.place, key: self.block.key }
    }
}

impl Block {
    /// The first byte of an encoded block.
    const VERSION: u8 = 1;
    /// No version is a printable character: with one of those, the bytes are somebody's text.
    const VERSIONS: u8 = b' ';
    /// The bytes of an encoded block without its body.
    pub(crate) const HEAD: usize = 1 + 8 + 8 + 4;

    /// Encodes the block as one value, for an engine that keeps values.
    ///
    /// A version of one byte, the session, the number and the count of records, each with its most significant byte first; then the body.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        bytes.put_u8(Self::VERSION);
        bytes.put_u64(self.key.session);
        bytes.put_u64(self.key.number);
        bytes.put_u32(self.records);
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    /// Returns the length of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        Self::HEAD + self.body.len()
    }

    /// Makes the block of an event that a program without this crate has appended, such as with `XADD` in a shell.
    ///
    /// An engine returns it in place of an entry that is no block. It has no records, and its key says nothing, so it may be read twice if the
    /// program appended it twice. An event with an invalid topic or event type is passed over.
    #[must_use]
    pub fn of_plain_event(event: &PlainEvent) -> Self {
        let mut body = BytesMut::new();
        for field in [&event.topic, event.event_type.as_ref().unwrap_or(&String::new()), &event.data] {
            body.put_u64(field.len() as u64);
            body.put_slice(field.as_bytes());
        }
        Self { key: BlockKey { session: 0, number: 0 }, records: 0, body: body.freeze() }
    }

    /// Returns the event of a block that [`of_plain_event`](Self::of_plain_event) has made.
    pub(crate) fn plain_event(&self) -> Option<PlainEvent> {
        let mut rest = &self.body[..];
        let mut field = || {
            let (length, after) = rest.split_at_checked(8)?;
            let length = usize::try_from(u64::from_be_bytes(length.try_into().ok()?)).ok()?;
            let (field, after) = after.split_at_checked(length)?;
            rest = after;
            Some(std::str::from_utf8(field).ok()?.to_owned())
        };
        let [topic, event_type, data] = [field()?, field()?, field()?];
        Some(PlainEvent { topic, event_type: Some(event_type).filter(|text| !text.is_empty()), data })
    }

    /// Decodes a block that was [encoded](Self::encode). The body is a part of `bytes`, and is not copied.
    ///
    /// # Errors
    ///
    /// [`InvalidBlock`] if the bytes are too short, of another version, or no block of any version.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidBlock> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        match bytes.first() {
            Some(&first) if first >= Self::VERSIONS => return Err(InvalidBlock::Foreign { first }),
            Some(&version) if version != Self::VERSION && bytes.len() >= Self::HEAD => {
                return Err(InvalidBlock::Version { version });
            }
            _ => {}
        }
        let head = || {
            let records = u32::from_be_bytes(bytes.get(17..Self::HEAD)?.try_into().ok()?);
            Some((BlockKey { session: number(1)?, number: number(9)? }, records))
        };
        let (key, records) = head().ok_or(InvalidBlock::Length { length: bytes.len() })?;
        Ok(Self { key, records, body: bytes.slice(Self::HEAD..) })
    }
}

/// The error for bytes that are not an encoded [`Block`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidBlock {
    /// The bytes are too short.
    Length {
        /// How many bytes there are.
        length: usize,
    },
    /// The block was written by another version of this crate.
    Version {
        /// The version that the block has.
        version: u8,
    },
    /// Something else than this crate has written the bytes.
    Foreign {
        /// The first byte, which is no version.
        first: u8,
    },
}

impl fmt::Display for InvalidBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { length } => {
                write!(f, "{length} bytes are too few for a block, which has {} or more", Block::HEAD)
            }
            Self::Foreign { first } => write!(f, "a block does not begin with the byte {first}"),
            Self::Version { version } => {
                write!(f, "the block has the version {version}, and this crate reads only version {}", Block::VERSION)
            }
        }
    }
}

impl std::error::Error for InvalidBlock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let block = Block { key: BlockKey { session: u64::MAX - 7, number: 9 }, records: 3, body: "body".into() };
        let bytes = block.encode();
        assert_eq!(bytes.len(), block.encoded_len());
        assert_eq!(Block::decode(&bytes), Ok(block));
    }

    #[test]
    fn a_plain_event_is_read_as_it_was_given() {
        for event_type in [None, Some("paid".to_owned())] {
            let event = PlainEvent { topic: "orders/17".into(), event_type, data: "{}".into() };
            let block = Block::of_plain_event(&event);
            assert_eq!((block.records, block.plain_event()), (0, Some(event)));
        }
    }

    #[test]
    fn bytes_that_are_no_block_are_an_error_that_says_why() {
        assert_eq!(Block::decode(&Bytes::new()), Err(InvalidBlock::Length { length: 0 }));
        assert_eq!(Block::decode(&vec![1; 20].into()), Err(InvalidBlock::Length { length: 20 }));
        assert_eq!(Block::decode(&vec![9; 20].into()), Err(InvalidBlock::Length { length: 20 }));
        assert_eq!(Block::decode(&vec![9; 30].into()), Err(InvalidBlock::Version { version: 9 }));
        assert_eq!(
            Block::decode(&Bytes::from("hello, I am no block at all")),
            Err(InvalidBlock::Foreign { first: 104 })
        );
    }
}
