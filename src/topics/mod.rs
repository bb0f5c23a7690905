//! Topics behind their locks: publish, wake, subscribe, evict, and producers.
//!
//! An event is checked and encoded, gets the next position, and is applied: it is appended to the log of its topic and to the logs of the
//! patterns that match, and the waiting readers are woken after the last lock is released. This folder knows the logs, the event, the clock and
//! the reasons why a stream ends. It must not know clients: a reader is a waker here, and a cursor is a number. Only the texts of its errors
//! speak of clients, because a client that sends to itself gets the same error as a publisher.
//!
//! Four files import each other in a circle, because the topics keep the replica of an engine's log, and the replica publishes on the topics.

mod deferred;
mod ending;
mod error;
mod frame_cache;
mod order;
mod production;
mod publish;
mod receipt;
mod replica;
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
    production::{Over, Production, ProductionId, Writer},
    publish::Stamp,
    receipt::Pending,
    replica::{By, Change, Retained, What},
    resume::{Bound, CursorStart, Joining},
    settings::{LastWord, TopicSettings},
    shared_log::{Kept, SharedLog, WaiterSlot},
    store::Topics,
};
pub use self::{error::PublishError, receipt::Receipt, start::Start};
