//! Topics behind their locks: publish, wake, subscribe, evict, and producers. This module knows no client.

mod deferred;
mod error;
mod frame_cache;
mod order;
mod production;
mod publish;
mod receipt;
mod resume;
mod retain;
mod settings;
mod shared_log;
mod start;
mod steps;
mod store;
mod subscribe;

pub(crate) use self::{
    deferred::{Deferred, once},
    frame_cache::{FRAME, Latest, MergeKey, Merged},
    production::{Over, Production, Writer},
    resume::{Bound, CursorStart, Joining},
    settings::{LastWord, TopicSettings},
    shared_log::{Kept, Parked, SharedLog, SharedLogState},
    store::Topics,
};
pub use self::{error::PublishError, receipt::Receipt, start::Start};
