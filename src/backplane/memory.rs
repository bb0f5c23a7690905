//! A log in this process.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    AppendError, Backplane, BoxFuture, FollowError, Following, Read, Tail,
    block::{Block, Mark, Place, Stored},
};
use crate::sync::{Mutex, lock};

/// A log in the memory of this process, for several registries in it.
///
/// Clones share the log. It is for tests of an application with several nodes, and defines what a [`Backplane`] does: it is never away, never
/// full, and forgets everything when the process ends.
///
/// ```
/// use tower_sse::backplane::Memory;
///
/// let engine = Memory::new();
/// let same_log = engine.clone();
/// # let _ = same_log;
/// ```
#[derive(Debug, Clone)]
pub struct Memory {
    log: Arc<Mutex<Log>>,
    /// How many blocks were ever appended, for the readers that wait.
    appended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    blocks: VecDeque<Stored>,
    last: Place,
}

/// How long a reader waits for a block before it returns none.
const QUIET: Duration = Duration::from_secs(1);

/// How many blocks a reader gets at once.
const AT_ONCE: usize = 1000;

impl Memory {
    /// Makes an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self { log: Arc::default(), appended: watch::Sender::new(0) }
    }

    fn append_after(&self, least: Place, block: &Block) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(at_ms.as_millis()).unwrap_or(u64::MAX);
        let mut log = lock(&self.log);
        let last = log.last.max(least);
        let place = match (at_ms > last.ms, last.seq + 1) {
            (true, _) => Place { ms: at_ms, seq: 0 },
            (false, seq) if seq < 1 << 22 => Place { ms: last.ms, seq },
            (false, _) => Place { ms: last.ms + 1, seq: 0 },
        };
        log.last = place;
        log.blocks.push_back(Stored { place, at_ms, block: block.clone() });
        drop(log);
        self.appended.send_modify(|count| *count += 1);
    }
}

impl Memory {
    /// Adds a block that stands behind all others, at its own place. For tests.
    #[doc(hidden)]
    pub fn restore(&self, stored: Stored) {
        let mut log = lock(&self.log);
        log.last = log.last.max(stored.place);
        log.blocks.push_back(stored);
        drop(log);
        self.appended.send_modify(|count| *count += 1);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Backplane for Memory {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            self.append_after(place, block);
            Ok(())
        })
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(async move {
            let is_there = |mark: &Mark| lock(&self.log).blocks.iter().any(|stored| stored.mark() == *mark);
            let after = after.copied().filter(is_there);
            let tail = MemoryTail {
                engine: self.clone(),
                appended: self.appended.subscribe(),
                after: after.map(|mark| mark.place),
                has_read: false,
            };
            Ok(Following { continues: after.is_some(), tail: Box::new(tail) })
        })
    }

    fn trim(&self, before: Place) {
        lock(&self.log).blocks.retain(|stored| stored.place >= before);
    }
}

#[derive(Debug)]
struct MemoryTail {
    engine: Memory,
    appended: watch::Receiver<u64>,
    after: Option<Place>,
    has_read: bool,
}

impl MemoryTail {
    fn read(&mut self) -> Read {
        self.appended.mark_unchanged();
        let log = lock(&self.engine.log);
        let start = log.blocks.partition_point(|stored| Some(stored.place) <= self.after);
        let blocks: Vec<_> = log.blocks.range(start..).take(AT_ONCE).cloned().collect();
        let is_newest = start + blocks.len() == log.blocks.len();
        drop(log);
        if let Some(last) = blocks.last() {
            self.after = Some(last.place);
        }
        Read { blocks, is_newest }
    }
}

impl Tail for MemoryTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            let quiet = Instant::now() + QUIET;
            loop {
                let is_first = !std::mem::replace(&mut self.has_read, true);
                let read = self.read();
                if !read.blocks.is_empty() || is_first {
                    return Ok(read);
                }
                if timeout_at(quiet, self.appended.changed()).await.is_err() {
                    return Ok(self.read());
                }
            }
        })
    }
}
