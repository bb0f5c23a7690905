//! Other projects' layers outside and inside of `SseLayer`, over real sockets. These tests check the guide's chapter on
//! layer order (`src/guide/layers.md`). Each file is a section of the chapter.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
#[path = "../../../tests/support/time_limit.rs"]
mod time_limit;
#[macro_use]
mod test_server;
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
