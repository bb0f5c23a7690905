//! Engines that keep the registry's events outside of the process.
//!
//! A registry without a backplane keeps its events in its own memory, and forgets them when the process ends. With a backplane, an engine
//! keeps one log of blocks. Every process that has the same log is a *node*: it reads every block in the same order, so all nodes have the
//! same events with the same ids, and a client can resume at any of them.
//!
//! | engine | for | feature |
//! |---|---|---|
//! | [`Memory`] | several registries in one process, in tests | none |
//! | `File` | one process that remembers over a restart, with a file of its machine | `file` |
//! | `Redis` | several machines, with a stream of Redis or Valkey | `redis` |
//!
//! An engine appends blocks and reads them in order: see [`Backplane`]. It does not look into them. This folder must not know topics, clients
//! or the registry: what the blocks say is decided in `cluster`.
//!
//! ```
//! use std::sync::Arc;
//! use tower_sse::backplane::{Backplane, Block, BlockKey, Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine: Arc<dyn Backplane> = Arc::new(Memory::new());
//! let block = Block { key: BlockKey { session: 7, number: 0 }, records: 1, body: "what happened".into() };
//! engine.append(&block).await?;
//!
//! let mut reading = engine.follow(None).await?;
//! let read = reading.tail.next().await?;
//! assert_eq!(read.blocks[0].block, block);
//! assert!(read.is_newest);
//! # Ok(())
//! # }
//! ```

mod block;
mod error;
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
mod file;
mod memory;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
mod redis;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod suite;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub use self::file::{Durability, File, FileConfig, FileError};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::{Redis, RedisConfigError};
pub use self::{
    block::{Block, BlockKey, InvalidBlock, Mark, Place, PlainEvent, Stored},
    error::{AppendError, BoxError, FollowError},
    memory::Memory,
};

/// A future on the heap, as the methods of [`Backplane`] return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An engine that keeps one log for several nodes: what one of them appends, all of them read, in one order.
///
/// What a block says is the registry's affair. An engine does not look into a block, and does not know topics, clients or nodes.
///
/// Implement it for a store of your own. [`Memory`] is the shortest complete implementation, and the suite of the feature `test-util` checks
/// what is written here.
pub trait Backplane: fmt::Debug + Send + Sync + 'static {
    /// Appends a block at the end of the log: the whole block, or nothing.
    ///
    /// A registry calls it again only after the call before has returned. After [`AppendError::Unknown`] the registry may append the same
    /// block again. An engine that can tell by the [key](Block::key) that it has the block already may return `Ok` without appending it. It
    /// need not, because readers leave out what they have read.
    ///
    /// # Errors
    ///
    /// [`AppendError`] says whether the block may be in the log.
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>>;

    /// Begins to read the log.
    ///
    /// `after`: a block that was read before. If the engine still has exactly that block at exactly that place, reading continues behind it.
    /// Otherwise, and with `None`, reading begins at the oldest block that is retained, and [`Following::continues`] is `false`.
    ///
    /// # Errors
    ///
    /// [`FollowError`] says whether it is worth trying again.
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>>;

    /// Appends a block as [`append`](Self::append) does, at a place greater than `place`. All later blocks stand above it too.
    ///
    /// A registry calls it when the log has lost its newest blocks, for example because an older copy of it was put back. The places of the
    /// lost blocks are then never used again.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>>;

    /// Returns the largest number of bytes that [`Block::encode`] may give for a block of this engine.
    ///
    /// Default: 64 MiB.
    fn max_block(&self) -> usize {
        64 << 20
    }

    /// Returns after how long a node gives a call up that has not returned, as if the engine were away. It is for an engine that hangs: one with
    /// time limits of its own returns their errors before.
    ///
    /// Default: 10 seconds.
    fn longest_call(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Returns how many bytes the log may have beyond twice the memory of the retained events.
    ///
    /// If it has more, an old event holds it. The registry then says that event again at the end of the log, and lets the engine trim the rest.
    ///
    /// Default: 8 MiB.
    fn slack(&self) -> usize {
        8 << 20
    }

    /// Says that no node needs the blocks before this place any more.
    ///
    /// The engine may remove them now, with the next append, or never. Default: it does nothing.
    fn trim(&self, before: Place) {
        let _ = before;
    }
}

/// An engine that the program keeps a handle of, for example to ask how it is.
impl<B: Backplane + ?Sized> Backplane for Arc<B> {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        (**self).append(block)
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        (**self).follow(after)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        (**self).append_above(place, block)
    }

    fn max_block(&self) -> usize {
        (**self).max_block()
    }

    fn longest_call(&self) -> Duration {
        (**self).longest_call()
    }

    fn slack(&self) -> usize {
        (**self).slack()
    }

    fn trim(&self, before: Place) {
        (**self).trim(before);
    }
}

/// How reading began: see [`Backplane::follow`].
#[derive(Debug)]
pub struct Following {
    /// `false`: the block that was asked for is not in the log. What was read before may be wrong, and all that is retained is read again.
    pub continues: bool,
    /// The log from there on.
    pub tail: Box<dyn Tail>,
}

/// The log from some place on. To stop reading, drop it.
pub trait Tail: fmt::Debug + Send {
    /// Returns the next blocks, in order.
    ///
    /// It waits until there are some. It returns none if nothing came for about a second, so that a reader sees that the engine is there. The
    /// first call does not wait: it returns at once, even if there is nothing.
    ///
    /// The future may be dropped before it is ready. The next call then misses nothing.
    ///
    /// # Errors
    ///
    /// [`FollowError`]. The reader then calls [`Backplane::follow`] again.
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>>;
}

/// What was read from the log at once.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The blocks, in order.
    pub blocks: Vec<Stored>,
    /// Whether there was nothing behind these blocks when the engine was asked for them.
    pub is_newest: bool,
}
