//! What the client has of a stream. A response in which the stream goes on must not repeat it.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, DefaultHasher, RandomState},
    mem,
};

/// How many ids of a stream are remembered: the first ones, as an upstream that does not resume begins with these, and the
/// last ones.
const FIRST_IDS: usize = 100;
const LAST_IDS: usize = 1_000;
/// How many events of the last id are remembered.
const EVENTS_OF_LAST_ID: usize = 1_000;

/// The lines of a stream up to an empty line.
pub(crate) struct Block {
    /// Empty: the ids end here.
    pub(crate) id: Option<Vec<u8>>,
    /// A digest of the type and the data. `None`: it has no data, so it is no event.
    pub(crate) content: Option<u64>,
}

/// The ids and events that were sent to the client. Digests stand for both.
#[derive(Default)]
pub(crate) struct Delivered {
    digests: RandomState,
    /// What came first with each id.
    ids: HashMap<u64, Option<u64>>,
    /// The ids that are forgotten next.
    recent: VecDeque<u64>,
    has_forgotten: bool,
    /// An id came again after another one, so ids are no positions.
    has_repeated_ids: bool,
    last_id: Option<Vec<u8>>,
    /// The events that belong to the last id: with it, and after it without an id.
    of_last_id: Vec<u64>,
    has_more_of_last_id: bool,
    ends_without_id: bool,
    number: u64,
}

impl Delivered {
    pub(crate) fn add(&mut self, block: Block) {
        match block.id {
            Some(id) if id.is_empty() => self.begin(None),
            Some(id) if self.last_id.as_ref() != Some(&id) => {
                self.remember(self.digests.hash_one(&id), block.content);
                self.begin(Some(id));
            }
            Some(_) => self.ends_without_id = false,
            None => self.ends_without_id |= block.content.is_some(),
        }
        let Some(content) = block.content else { return };
        self.number += 1;
        if self.of_last_id.len() < EVENTS_OF_LAST_ID {
            self.of_last_id.push(content);
        } else {
            self.has_more_of_last_id = true;
        }
    }

    fn begin(&mut self, id: Option<Vec<u8>>) {
        self.last_id = id;
        self.of_last_id.clear();
        (self.has_more_of_last_id, self.ends_without_id) = (false, false);
    }

    fn remember(&mut self, id: u64, content: Option<u64>) {
        if self.ids.insert(id, content).is_some() {
            self.has_repeated_ids = true;
        } else if self.ids.len() > FIRST_IDS {
            self.recent.push_back(id);
        }
        if self.recent.len() > LAST_IDS {
            let oldest = self.recent.pop_front();
            oldest.map(|id| self.ids.remove(&id));
            self.has_forgotten = true;
        }
    }

    /// Digests the content of an event.
    pub(crate) fn digest(&self) -> DefaultHasher {
        self.digests.build_hasher()
    }

    /// `None`: the last event has no id.
    pub(crate) fn last_id(&self) -> Option<&[u8]> {
        self.last_id.as_deref()
    }

    /// How many events there were.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.number == 0 && self.ids.is_empty()
    }
}

/// A response of which the ids have not told yet where it begins.
#[derive(Default)]
pub(crate) enum Resumed {
    /// It has had no id.
    #[default]
    Unknown,
    /// It repeats events from before the last id. The last repeated id.
    Repeating(u64),
    /// It repeats events of the last id. So many were repeated.
    RepeatingLast(usize),
}

/// What a block of such a response is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The first that the client does not have. So is everything after it, and what had to wait before it.
    New,
    /// The next id says it.
    Waits,
    /// The client has it, and all that waited before it.
    Repeated,
    /// It says nothing that could be lost or come twice.
    Passes,
}

/// Nobody can say which events the client has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unclear;

impl Resumed {
    /// `waiting`: the blocks that wait for an id.
    pub(crate) fn judge(
        &mut self,
        block: &Block,
        waiting: &[Block],
        delivered: &Delivered,
    ) -> Result<Verdict, Unclear> {
        if block.id.is_none() && block.content.is_none() {
            return Ok(Verdict::Passes);
        }
        let id = block.id.as_ref().filter(|id| !id.is_empty());
        let is_last = id.is_some() && id == delivered.last_id.as_ref();
        if is_last && delivered.has_repeated_ids {
            return Err(Unclear);
        }
        if is_last && !matches!(self, Self::RepeatingLast(_)) {
            *self = Self::RepeatingLast(0);
        }
        let id = id.map(|id| delivered.digests.hash_one(id));
        let known = id.and_then(|id| delivered.ids.get(&id));
        match (mem::take(self), id) {
            (Self::RepeatingLast(nth), id) if is_last || (id.is_none() && block.id.is_none()) => {
                self.judge_of_last_id(nth, block, delivered)
            }
            (Self::RepeatingLast(_), _) if known.is_some() => Err(Unclear),
            (Self::RepeatingLast(_), _) => Ok(Verdict::New),
            (Self::Unknown, None) => Ok(Verdict::Waits),
            (Self::Unknown, Some(_)) if known.is_none() => {
                // What waited comes after the last id, and so did an event that the client has.
                let may_repeat = delivered.ends_without_id && waiting.iter().any(|block| block.content.is_some());
                if may_repeat { Err(Unclear) } else { Ok(Verdict::New) }
            }
            (before, Some(id)) => {
                let is_same_id = matches!(before, Self::Repeating(last) if last == id);
                let is_repeated = match known {
                    Some(content) => !delivered.has_repeated_ids && (is_same_id || *content == block.content),
                    None => delivered.has_forgotten,
                };
                *self = Self::Repeating(id);
                if is_repeated { Ok(Verdict::Repeated) } else { Err(Unclear) }
            }
            (before, None) => {
                *self = before;
                Ok(Verdict::Repeated)
            }
        }
    }

    fn judge_of_last_id(&mut self, nth: usize, block: &Block, delivered: &Delivered) -> Result<Verdict, Unclear> {
        *self = Self::RepeatingLast(nth);
        let Some(content) = block.content else { return Ok(Verdict::Repeated) };
        match delivered.of_last_id.get(nth) {
            Some(delivered) if *delivered == content => {
                *self = Self::RepeatingLast(nth + 1);
                Ok(Verdict::Repeated)
            }
            None if !delivered.has_more_of_last_id => Ok(Verdict::New),
            _ => Err(Unclear),
        }
    }

    /// The last id has not come yet, of a response that has begun to repeat.
    pub(crate) fn misses_last_id(&self) -> bool {
        matches!(self, Self::Repeating(_))
    }
}
