//! The tower side: the layer, its service, future and body, and the axum extractor.

#[cfg(feature = "axum")]
mod axum;
mod blocks;
mod body;
mod data;
mod future;
mod open_stream;
mod rare_state;
mod service;
mod sse_layer;

#[cfg(feature = "axum")]
pub use self::axum::MissingLayer;

pub use self::{body::SseBody, future::SseFuture, service::SseService, sse_layer::SseLayer};
