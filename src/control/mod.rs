//! Requests that change an open stream: its topics.
//!
//! It is a service beside the streams, and not a layer around them. This folder may know the registry and the handles of its clients. It
//! must not know the layer.

mod error;
mod request;
mod service;
mod topics;

pub use self::{
    error::TopicsError,
    service::{TopicsFuture, TopicsService},
};
