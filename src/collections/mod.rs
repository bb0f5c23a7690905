//! Lists and queues that know nothing of what is in them.

mod capacity;
mod eviction_queue;
mod per_core;
mod small_list;
mod waiters;

pub(crate) use self::{
    capacity::spacious,
    eviction_queue::{EvictionQueue, Ticket},
    per_core::{CachePadded, PerCore},
    small_list::SmallList,
    waiters::{Slot, Waiters},
};
