//! The log behind its locks: publish, wake, subscribe, evict, produce. It knows no client.

mod error;
mod feed;
mod joined;
mod later;
mod order;
mod production;
mod publish;
mod receipt;
mod resume;
mod retain;
mod settings;
mod start;
mod steps;
mod store;
mod subscribe;

pub use self::{error::PublishError, receipt::Receipt, start::Start};
pub(crate) use self::{
    feed::{Feed, FeedState, Kept, Parked},
    joined::{FRAME, Latest, Merged, Of},
    later::{Later, once},
    production::{Over, Production, Writer},
    resume::{Bound, Joining, Place},
    settings::{LastWord, TopicSettings},
    store::Topics,
};
