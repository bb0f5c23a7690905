//! How streams end, and how a server ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/answer.rs"]
mod answer;
#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/house.rs"]
mod house;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/wire.rs"]
mod wire;

mod drain;
mod graceful;
mod streams;
