//! One client: its state, cursors, reader, lifetime and handle, and what all clients of a registry share.

#[cfg(feature = "json")]
mod array;
mod client_pool;
mod cursor;
mod cursors;
mod delivering;
mod draining;
mod error;
mod event_stream;
mod events;
mod handle;
mod hooks;
mod lifecycle;
mod lifetime;
mod membership;
mod merging;
mod missing;
mod observer;
mod reader;
mod resuming;
mod settings;
mod shared;
mod stalled;
mod state;
mod stats;
mod subscribing;
mod subscription;
mod taking;

pub(crate) use self::{
    client_pool::ClientPool,
    draining::LastWords,
    event_stream::StreamOf,
    handle::bounded,
    reader::{FastRead, OwnBody, Reader},
    settings::{ClientSettings, PresenceKey},
    shared::Shared,
    state::{Client, Style},
    taking::Picked,
};
pub use self::{
    error::{ResumeError, SubscribeError},
    event_stream::EventStream,
    events::{Delivery, Events},
    handle::ClientHandle,
    observer::{Observation, Observer, StreamSummary},
    resuming::Resume,
    stats::{ClientStats, Stats},
    subscription::Subscription,
};

#[cfg(test)]
pub(crate) use self::observer::samples;
