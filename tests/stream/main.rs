//! Bytes on the wire: encoding, frames, headers, heartbeats, and responses that are no stream.
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
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/spec.rs"]
mod spec;
#[path = "../support/test_server.rs"]
mod test_server;

mod early_head;
mod encoding;
mod frames;
mod hello;
mod hyper;
mod injection;
mod layer;
mod long_poll;
mod no_stream;
mod opening;
#[cfg(feature = "test-util")]
mod test_util;
#[path = "../support/time_limit.rs"]
mod time_limit;
