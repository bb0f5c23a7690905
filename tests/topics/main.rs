//! Publishing, retention, patterns, producers, losses and exclusions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/answer.rs"]
mod answer;
#[path = "../support/bodies.rs"]
mod bodies;
#[allow(dead_code, reason = "no test here needs all of it")]
#[path = "../support/client.rs"]
mod client;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/time_limit.rs"]
mod time_limit;
#[path = "../support/watched.rs"]
mod watched;

mod attacked;
mod audience;
mod control;
mod crowd;
mod drops;
mod losses;
mod patterns;
mod producer;
mod registry;
