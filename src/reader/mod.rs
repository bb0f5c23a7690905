//! The reader of a client's events: as frames of a response, or one by one.
//!
//! It takes events through the client's cursors, calls filters, encodes frames, and ends the stream. This folder knows clients. It must not
//! know the layer or HTTP.

#[cfg(feature = "json")]
mod array;
mod countdown;
mod delivering;
mod events;
mod frame;
mod poll;

pub use self::events::Events;
pub(crate) use self::{
    frame::{FastRead, OwnBody},
    poll::Reader,
};
