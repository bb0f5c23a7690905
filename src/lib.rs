//! Server-Sent Events middleware for tower.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
mod axum;
mod body;
mod boundary;
mod client;
mod event;
mod future;
mod gap;
mod headers;
mod heartbeat;
mod layer;
mod registry;
mod service;
mod sync;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::axum::MissingLayer;
pub use self::{
    body::SseBody,
    client::{ClientHandle, Delivery, EventStream, Events},
    event::{Event, EventError},
    future::SseFuture,
    gap::{Gap, GapEvent},
    heartbeat::Heartbeat,
    layer::SseLayer,
    registry::{
        ClientId, CloseReason, InvalidClientId, InvalidPosition, MAX_TOPIC, Position, PublishError, Receipt, Registry,
        RegistryConfig, Resume, Retention, Start, Stats, SubscribeError, TopicError,
    },
    service::SseService,
};
