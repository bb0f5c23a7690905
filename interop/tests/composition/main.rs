//! What other people's layers do outside of `SseLayer` and inside of it: what the guide says of the layer order
//! (`src/guide/layers.md`), over real sockets. Each file is a section of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
#[macro_use]
mod house;
mod handlers;

mod auth;
mod backpressure;
mod boxes;
mod compression;
mod cors;
mod middleware;
mod observation;
mod panics;
mod requests;
mod response_headers;
mod timeouts;
