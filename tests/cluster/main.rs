//! Several nodes of one backplane, in one process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nodes;
mod producers;
