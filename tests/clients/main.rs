//! A client: its handle, its lifetime, presence, and observers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/answer.rs"]
mod answer;
#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/layers.rs"]
mod layers;
#[path = "../support/observer.rs"]
mod observer;
#[path = "../support/open.rs"]
mod open;
#[path = "../support/polling.rs"]
mod polling;

mod handles;
mod lifetimes;
mod observe;
mod presence;
mod runtimes;
mod slow;
