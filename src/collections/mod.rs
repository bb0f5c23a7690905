//! Lists and queues. They know nothing of their items.
//!
//! What a crate keeps well is used: `slab` has the slots of the queue and of the waiters. The rest is here for these reasons:
//!
//! - `CachePadded` is one line. That of `crossbeam-utils` takes 128 bytes on x86-64 and would be one more dependency.
//! - `EvictionQueue` has one row for each retained event. Its links are 32-bit indexes, so a row is 8 bytes larger than its item, and the
//!   event's reference to it has 4 bytes. Lists with a generation and `usize` links take three times that.
//! - `Waiters` are all taken at once in constant time, because a publisher does that under the lock of the topic. A removed waiter of an earlier
//!   round is recognised by its number. `Notify` and `event-listener` visit each waiter under their lock.
//! - `SmallList` is 8 bytes smaller than a `SmallVec`: its file has the figures.

mod capacity;
mod eviction_queue;
mod per_core;
mod small_list;
mod waiters;

pub(crate) use self::{
    capacity::shrunk_capacity,
    eviction_queue::{EvictionQueue, Ticket},
    per_core::{CachePadded, PerCore},
    small_list::SmallList,
    waiters::{Slot, Waiters},
};
