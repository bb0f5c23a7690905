//! Recorded streams: who runs the handler, who joins, what readers get, and how recordings end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/bodies.rs"]
mod bodies;
#[allow(dead_code, reason = "no test here needs all of it")]
#[path = "../support/client.rs"]
mod client;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/random.rs"]
mod random;
#[allow(dead_code, reason = "these tests do not use all of it")]
#[path = "../support/spec.rs"]
mod spec;
#[path = "../support/test_server.rs"]
mod test_server;
#[path = "../support/time_limit.rs"]
mod time_limit;

mod answers;
mod churn;
mod ends;
mod handlers;
mod joins;
mod keys;
mod nodes;
mod property;
mod sockets;
mod whole;
mod world;
