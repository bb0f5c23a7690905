//! The handle to all topics and clients: configuration, producers, errors, and the graceful shutdown.
//!
//! Each public method is a few lines here, and its work is done in `client`, `topics` or `presence`. This folder must not know the layer.

mod config;
mod drain;
mod error;
mod handle;
mod producer;
mod producer_error;
mod topic_state;

pub use self::{
    config::RegistryConfig,
    drain::{Drain, Drained},
    error::Error,
    handle::Registry,
    producer::Producer,
    producer_error::{ProducerError, SpawnFromError},
    topic_state::TopicState,
};
