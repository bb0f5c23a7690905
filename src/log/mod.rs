//! Retained events, positions and topic names.
//!
//! These are plain values: no locks, no clock, no tokio and no clients. Times are arguments.

mod entry;
mod evicted_ids;
mod forgotten;
mod gap;
mod lost;
mod outcome;
mod position;
mod retention;
mod topic_log;
pub(crate) mod topic_name;

pub(crate) use self::{
    entry::Entry,
    evicted_ids::EvictedIds,
    forgotten::Forgotten,
    outcome::{End, Outcome},
    position::{Era, Progress},
    topic_log::{Log, Slots},
    topic_name::Patterns,
};
pub use self::{
    gap::Gap,
    position::{InvalidPosition, Position},
    retention::{Retention, SlowClientPolicy},
    topic_name::{MAX_TOPIC, TopicError, segment},
};
