//! A clock, timers that many streams share, and times that differ.

mod clock;
pub(crate) mod jitter;
mod timers;

pub(crate) use self::{
    clock::{Clock, nanoseconds},
    timers::{Timer, Timers},
};
