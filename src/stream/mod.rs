//! The format of an event stream: boundaries, headers, and the events that the crate sends.
//!
//! This folder has plain values only.

mod batching;
mod boundary;
mod close_reason;
mod frame_data;
mod gap_event;
pub(crate) mod headers;
mod heartbeat;
mod hello_event;
mod own_event;
mod position_event;
mod wrapped;

pub use self::{
    batching::Batching, close_reason::CloseReason, gap_event::GapEvent, heartbeat::Heartbeat, hello_event::HelloEvent,
    position_event::PositionEvent,
};
pub(crate) use self::{
    boundary::{Boundary, LeadingMark},
    frame_data::{TIME_TO_WRITE, into_bytes},
    heartbeat::HeartbeatTimer,
    hello_event::Hello,
    wrapped::Wrapped,
};
