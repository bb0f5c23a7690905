//! What the fuzz targets check, each in a file of its own: a function of any bytes that panics if the crate does not keep its word.
//!
//! Nothing here knows of libFuzzer, so `tests/fuzz_corpus.rs` of the crate itself takes this in, and holds the corpus
//! against it on stable.
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
