//! Bytes on the wire: encoding, frames, headers, heartbeats, and responses that are no stream.
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
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/observer.rs"]
mod observer;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/spec.rs"]
mod spec;

mod encoding;
mod frames;
mod hyper;
mod injection;
mod layer;
mod no_stream;
mod opening;
#[cfg(feature = "test-util")]
mod test_util;
