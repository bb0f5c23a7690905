//! Somebody's bytes as an event stream: where something may be put in, the headers, and the events that the crate makes. Plain values.

mod batching;
mod boundary;
mod close_reason;
mod gap_event;
pub(crate) mod headers;
mod heartbeat;
mod position_event;

pub use self::{
    batching::Batching, close_reason::CloseReason, gap_event::GapEvent, heartbeat::Heartbeat,
    position_event::PositionEvent,
};
pub(crate) use self::{
    boundary::{Boundary, LeadingMark},
    heartbeat::HeartbeatTimer,
};
