//! Many clients, hostile clients, and the memory and files that they take.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[allow(dead_code, reason = "these tests do not use all of it")]
#[path = "../support/example.rs"]
mod example;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/random.rs"]
mod random;
#[path = "../../examples/support/sockets.rs"]
mod sockets;

#[cfg(target_os = "linux")]
mod churn;
mod hostile;
mod leaks;
#[cfg(target_os = "linux")]
mod memory;
#[path = "../support/time_limit.rs"]
mod time_limit;
#[cfg(target_os = "linux")]
mod vanished;
