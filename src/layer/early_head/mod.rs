//! Streams that open before their handler answers.
//!
//! It is a layer around the whole of [`SseLayer`](crate::SseLayer). So a request that it does not open early goes through
//! unchanged, and the client's stream begins as ever, when the handler answers. Only its first bytes are sent before.

mod answer;
mod beats;
mod body;
mod future;
mod layer;
mod service;

pub use self::{body::EarlyHeadBody, future::EarlyHeadFuture, layer::EarlyHeadLayer, service::EarlyHeadService};
