//! Recording: a handler's own event stream becomes a topic, so that readers can leave, come back and join.
//!
//! `key` says which recording a request belongs to, and `table` knows the recordings of this process. `service` answers
//! a request: it runs the handler in a task (`task`), or joins a recording (`answer`). The task reads the handler's
//! body into a producer's topic (`writer`), and the response to each reader is a stream of that topic (`body`).
//!
//! This folder uses the registry as a program does, with two exceptions: the names of its topics are reserved, and its
//! clients get no position events. It must not know the layer: the layer around it sends what it subscribes its clients
//! to.

mod answer;
mod body;
mod config;
mod error;
mod failure;
mod future;
mod head;
mod key;
mod layer;
mod recording;
mod service;
mod table;
mod task;
mod writer;

pub use self::{
    body::RecordBody, error::RecordError, failure::RecordingFailure, future::RecordFuture, layer::RecordLayer,
    service::RecordService,
};
