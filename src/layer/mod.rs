//! The tower side: the layer, its service, future and body, and the axum extractor.
//!
//! It turns responses into event streams, and inserts the registry's events and heartbeats at boundaries. It may know all
//! other folders except `observe`, `presence`, `cluster` and `backplane`, which it uses through the registry. No other folder may know it. Of
//! recordings it knows only the error, as a response.
//!
//! The five files from the layer to the open stream import each other in a circle: the configuration is declared with the layer, and each
//! part of a response uses it.

mod asked;
#[cfg(feature = "axum")]
mod axum;
mod blocks;
mod body;
mod data;
mod early_head;
mod ending;
mod future;
mod live;
mod long_poll;
mod open_stream;
mod polling;
mod rare_state;
mod service;
mod sse_layer;

#[cfg(feature = "axum")]
pub use self::axum::MissingLayer;

pub use self::{
    body::SseBody,
    early_head::{EarlyHeadBody, EarlyHeadFuture, EarlyHeadLayer, EarlyHeadService},
    future::SseFuture,
    long_poll::LongPoll,
    service::SseService,
    sse_layer::SseLayer,
};
