//! A clock, timers that many streams share, and jitter.

mod clock;
pub(crate) mod jitter;
mod timers;

pub(crate) use self::{
    clock::{Clock, nanoseconds},
    timers::{Timer, Timers},
};
