//! The handle to all topics and clients: its configuration, producers, and the graceful end.

mod config;
mod drain;
mod error;
mod handle;
mod produce_error;
mod producer;
mod topic_state;

pub use self::{
    config::RegistryConfig,
    drain::{Drain, Drained},
    error::Error,
    handle::Registry,
    produce_error::{PipeError, ProduceError},
    producer::Producer,
    topic_state::TopicState,
};
