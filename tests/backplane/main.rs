//! Engines that keep the registry's events outside of the process.
#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/random.rs"]
mod random;

#[cfg(feature = "file")]
mod file;
mod suite;
