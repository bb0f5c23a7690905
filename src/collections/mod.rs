//! Lists and queues. They know nothing of their items.

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
