//! The Redis engine with real servers: each test starts its own, on a free port, with its files in a folder of its own.
#![cfg(all(unix, feature = "redis", feature = "test-util"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod conformance;
mod entries;
mod fake;
mod network;
mod proxy;
mod reader;
mod refused;
mod restart;
mod rollback;
mod room;
mod sentinel;
mod server;
mod tls;
