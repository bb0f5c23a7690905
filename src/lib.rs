//! Server-Sent Events for the tower ecosystem: one layer makes every event stream behind it right, and a shared registry
//! lets any handler publish once and deliver to all who subscribed.
//!
//! ```
//! use axum::{Router, extract::Path, routing::get};
//! use tower_sse::{ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! let app: Router = Router::new().route("/prices/{symbol}", get(prices)).layer(SseLayer::new(&registry));
//!
//! async fn prices(Path(symbol): Path<String>, client: ClientHandle) -> Result<EventStream, SubscribeError> {
//!     client.subscribe(format!("prices/{symbol}"))?;
//!     Ok(client.into_stream())
//! }
//!
//! // From any thread, any task; no await.
//! registry.publish("prices/AAPL", Event::json(&187.42)?.event("tick")?)?;
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! # What the layer does
//!
//! [`SseLayer`] goes around any service of `http` requests and responses: axum, hyper, tonic. It puts a [`ClientHandle`]
//! into the extensions of every request. A response that is a 200 with the content type `text/event-stream` becomes the client's
//! stream, wherever its body comes from (axum's `Sse`, a proxied answer, an empty body):
//!
//! - It gets the headers that proxies need, where they are absent: `cache-control: no-cache, no-transform`,
//!   `x-accel-buffering: no`, and `connection: keep-alive` on HTTP/1.1. A `content-length` goes.
//! - When nothing was sent for an interval, it gets a [`Heartbeat`].
//! - What the client subscribed to comes in between the handler's own events.
//! - When its body is dropped, the client is over: its subscriptions go, and [`ClientHandle::closed`] says why.
//!
//! Nothing is ever put in but at a boundary between two events, however the handler's bytes are chunked. Everything
//! that is no event stream (and the answer to HEAD) passes byte for byte. A body with a `content-encoding` gets headers, but
//! nothing can be put in. Where layers are nested, the inner one does the work, so that a route can have a configuration of
//! its own. The layer sets no CORS headers; compose it with tower-http's `CorsLayer`.
//!
//! # What the registry does
//!
//! [`Registry::publish`] appends an event to one bounded log, and wakes who waits for it. A client has no queue: it is a
//! set of cursors into that log. So
//!
//! - an event is encoded once, and a delivery is a reference count;
//! - a client that is behind takes all that is pending as one frame of up to about 64 KiB;
//! - a slow client holds no memory and holds nobody up;
//! - a client that comes back with a `Last-Event-ID` (a header, or a query parameter where a client cannot set headers) goes on where it was, over all
//!   of its topics, with no seam between what it missed and what is new;
//! - when what it missed is no longer retained, it is told, with a [`GapEvent`] in its stream;
//! - memory is bounded by [`RegistryConfig::retention`], however many topics and events there are;
//! - a pattern such as `orders/**` is a log of references to the events of all topics that match it, so that reading it is as
//!   reading one topic, and matching costs when a topic comes into being and never again;
//! - a [`Producer`] that goes on while its readers come and go is a topic with an end.
//!
//! All events have one order, by [`Position`]. A client that has seen a position has seen everything before it, on every
//! topic that it was subscribed to, that its [filters](Subscription::filter) let through.
//!
//! # What is left to you
//!
//! Whether a client may have a topic is for the handler to decide, before it subscribes it. A [`ClientId`] lets its holder act for
//! the client, where a handler of yours looks clients up by it. An event stream ends at the latest when its connection does:
//! a peer that vanishes without a word is found when a heartbeat cannot be written, which on TCP takes as long as the
//! system's retransmissions do.
//!
//! # Features
//!
//! - `axum` (default): [`ClientHandle`] as an extractor; [`EventStream`] and the errors as responses.
//! - `json` (default): [`Event::json`], [`Batching::as_array`], [`Stats`] as JSON.
//! - `metrics`: `MetricsObserver`, an [`Observer`] that counts with the `metrics` crate.
//! - `tracing`: `TracingObserver`, an [`Observer`] that logs with the `tracing` crate.
//!
//! A stream's timer needs tokio's time driver; the registry alone needs no runtime.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod alarm;
#[cfg(feature = "axum")]
mod axum;
mod batching;
mod body;
mod boundary;
mod client;
mod event;
mod future;
mod gap;
mod headers;
mod heartbeat;
mod jitter;
mod layer;
mod limit;
mod observe;
mod registry;
mod service;
mod subscription;
mod sync;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::axum::MissingLayer;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::observe::MetricsObserver;
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub use self::observe::TracingObserver;
pub use self::{
    batching::Batching,
    body::SseBody,
    client::{ClientHandle, Delivery, EventStream, Events},
    event::{Event, EventError},
    future::SseFuture,
    gap::{Gap, GapEvent},
    heartbeat::Heartbeat,
    layer::SseLayer,
    limit::{ClientAddress, Limit, LimitKey, Refusal, Refused},
    observe::{Closed, Observation, Observer},
    registry::{
        ClientId, ClientStats, CloseReason, Drain, Drained, InvalidClientId, InvalidPosition, Lag, MAX_TOPIC, Member,
        Position, Presence, PresenceChange, PresenceChanges, ProduceError, Producer, PublishError, Receipt, Registry,
        RegistryConfig, Resume, Retention, Start, Stats, SubscribeError, TopicError, TopicState,
    },
    service::SseService,
    subscription::Subscription,
};
