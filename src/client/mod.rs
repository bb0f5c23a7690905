//! One client: its state, cursors, reader, lifetime and handle, and what all clients of a registry share.
//!
//! A reader takes events through the cursors of its client, and tells observers of the client's end. This folder knows topics, limits and
//! presence. It must not know the layer, HTTP bodies or the registry's handle.
//!
//! 19 files of this folder import each other in one circle. User code causes it: filters, observers, the presence key and the farewell are
//! called with a `ClientHandle`. So the cursors and the settings that keep such closures lead to the handle, the handle leads to the client,
//! and the client leads to its cursors and settings.

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
mod producing;
mod reader;
mod replica;
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
    producing::NotBegun,
    reader::{FastRead, OwnBody, Reader},
    replica::CatchingUp,
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
