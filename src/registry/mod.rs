//! The handle to all topics and clients: configuration, producers, errors, and the graceful shutdown.
//!
//! Each method of the registry's handle is a few lines here, and its work is done in `client`, `topics`, `cluster` or `presence`. A drain and
//! a producer do their own work: the one waits and closes streams in turn, the other ends its topic when it is dropped. This folder must not know the layer.

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
