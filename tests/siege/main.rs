//! Examples with 512 file descriptors, and a thousand hostile clients. A well-behaved client is served within a second.
//!
//! This is a program of its own, as each request is timed: no other test runs at the same time.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tokio::{sync::Mutex, time::timeout};

#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
mod dashboard;
#[allow(dead_code, reason = "a process with few file descriptors is killed, not stopped")]
#[path = "../support/example.rs"]
mod example;
mod gateway;
#[path = "../support/listener.rs"]
mod listener;
mod llm;
#[path = "../support/other_address.rs"]
mod other_address;
#[path = "../support/siege.rs"]
mod siege;
#[path = "../support/upstream.rs"]
mod upstream;
use example::Example;

/// Runs one test at a time, with a bound on failure. The time to build the example does not count.
async fn alone(example: &Example, test: impl Future<Output = ()>) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    example.executable();
    timeout(Duration::from_secs(60), test).await.expect("the test takes too long");
}
