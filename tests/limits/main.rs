//! Limits of the number of streams.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/answer.rs"]
mod answer;
#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/observer.rs"]
mod observer;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/process.rs"]
mod process;

mod counting;
mod sockets;
#[path = "../support/time_limit.rs"]
mod time_limit;
