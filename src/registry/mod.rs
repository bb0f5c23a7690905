//! The handle to all topics and clients: its configuration, producers, and the graceful end.

mod config;
mod drain;
mod error;
mod handle;
mod producer;

pub use self::{
    config::RegistryConfig,
    drain::{Drain, Drained},
    error::Error,
    handle::Registry,
    producer::{PipeError, ProduceError, Producer, TopicState},
};
