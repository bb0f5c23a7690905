//! A clock, timers that many streams share, and jitter.
//!
//! Streams of one runtime that wait for the same millisecond share a tokio timer. This folder knows no stream: a timer wakes a waker.

mod clock;
pub(crate) mod jitter;
mod timers;

pub(crate) use self::{
    clock::{Clock, nanoseconds},
    timers::{Timer, Timers},
};
