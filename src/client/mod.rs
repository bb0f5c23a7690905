//! One open stream: its state, its cursors, its reader, its lifetime, what a handler holds of it, and what all clients of a registry share.

#[cfg(feature = "json")]
mod array;
mod cursor;
mod draining;
mod error;
mod handle;
mod hooks;
mod lifetime;
mod membership;
mod observer;
mod reader;
mod settings;
mod shared;
mod spare;
mod state;
mod stats;
mod stuck;
mod subscription;

pub(crate) use self::{
    cursor::Picked,
    draining::LastWords,
    handle::{StreamOf, bounded},
    reader::{Besides, Glance, Reader},
    settings::{ClientSettings, PresenceKey},
    shared::Shared,
    spare::Spare,
    state::{Client, Style},
};
pub use self::{
    error::{ResumeError, SubscribeError},
    handle::{ClientHandle, Delivery, EventStream, Events},
    observer::{Closed, Observation, Observer},
    state::Resume,
    stats::{ClientStats, Stats},
    subscription::Subscription,
};

#[cfg(test)]
pub(crate) use self::observer::samples;
