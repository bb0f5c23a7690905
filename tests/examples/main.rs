//! The dashboard and the chat example as real processes between real clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[allow(dead_code, reason = "not all of it is asked for here")]
#[path = "../support/example.rs"]
mod example;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/spec.rs"]
mod spec;
#[path = "../support/strangers.rs"]
mod strangers;
#[path = "../support/wire.rs"]
mod wire;

mod dashboard;
mod dashboard_features;
#[cfg(unix)]
mod dashboard_signals;
mod llm;
mod other_sites;
