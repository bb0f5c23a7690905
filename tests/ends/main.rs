//! How streams end, and how a server ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/answer.rs"]
mod answer;
#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/test_server.rs"]
mod test_server;
#[path = "../support/time_limit.rs"]
mod time_limit;
#[path = "../support/wire.rs"]
mod wire;

mod drain;
mod graceful;
mod streams;
