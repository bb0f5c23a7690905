//! The checks of the fuzz targets, one per file. Each is a function of any bytes that panics if the crate breaks a
//! promise.
//!
//! No code here uses libFuzzer, so `tests/fuzz_corpus.rs` of the crate itself includes it, and checks the corpus on
//! stable.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unreachable_pub, reason = "it is a crate here and a module there")]

#[path = "../../tests/support/answer.rs"]
mod answer;
pub mod boundary;
pub mod event;
mod input;
mod polled;
pub mod position;
pub mod resume;
#[path = "../../tests/support/spec.rs"]
mod spec;
pub mod topic;
