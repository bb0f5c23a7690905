//! Several nodes of one backplane, in one process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faulty;
mod nodes;
mod producers;
#[path = "../support/random.rs"]
mod random;
mod sim;
