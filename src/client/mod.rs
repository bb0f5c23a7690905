//! One client: its state, subscriptions, lifetime and observers, and what all clients of a registry share.
//!
//! This folder knows topics, limits, presence, and the cursors of a client. It must not know the reader of a client's events, the layer, HTTP
//! bodies or the registry's handle.
//!
//! Six files import each other in a circle. User code causes it: observers and the presence key are called with a `ClientHandle`. So the
//! settings that keep them lead to the handle, the handle leads to the client, and the client leads to the settings.

mod client_handle;
mod client_pool;
mod draining;
mod error;
mod hooks;
mod lifecycle;
mod lifetime;
mod membership;
mod observer;
mod observers;
mod producing;
mod replica;
mod resuming;
mod sampling;
mod settings;
mod shared;
mod stall_check;
mod stalled;
mod state;
mod stats;
mod subscribing;
mod subscription;
mod telling;

pub use self::{
    client_handle::ClientHandle,
    error::{ResumeError, SubscribeError},
    observer::{Observation, Observer},
    resuming::Resume,
    stats::{ClientStats, Stats, StreamSummary},
    subscription::Subscription,
};
pub(crate) use self::{
    client_pool::ClientPool,
    draining::DrainFarewell,
    producing::NotBegun,
    replica::CatchingUp,
    settings::{ClientSettings, PresenceKey},
    shared::Shared,
    state::{Client, ClientState, Closing, Phase, Style},
    telling::TellDeferred,
};

#[cfg(test)]
pub(crate) use self::observer::samples;
