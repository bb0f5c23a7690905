//! Server-Sent Events for the tower ecosystem: one layer makes every event stream behind it right, and a shared registry
//! lets any handler publish once and deliver to all who subscribed.
//!
//! ```
//! use axum::{Router, extract::Path, routing::get};
//! use tower_sse::{ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError, segment};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! let app: Router = Router::new().route("/prices/{symbol}", get(prices)).layer(SseLayer::new(&registry));
//!
//! async fn prices(Path(symbol): Path<String>, client: ClientHandle) -> Result<EventStream, SubscribeError> {
//!     client.subscribe(format!("prices/{}", segment(&symbol)))?;
//!     Ok(client.into_stream())
//! }
//!
//! // From any thread, any task; no await.
//! registry.publish("prices/AAPL", Event::json(&187.42)?.event("tick"))?;
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! The [guide] goes from the first stream to tests, proxies and shutdown.
//!
//! # What the layer does
//!
//! [`SseLayer`] goes around any service of `http` requests and responses: axum, hyper, tonic. It puts a [`ClientHandle`]
//! into the extensions of every request. A response with the content type `text/event-stream` and a status of success (200, 201, any but 204, 205 and 206) becomes the client's
//! stream, wherever its body comes from (axum's `Sse`, a proxied answer, an empty body):
//!
//! - It gets the headers that proxies need, where they are absent: `cache-control: no-cache, no-transform`,
//!   `x-accel-buffering: no`, and `connection: keep-alive` on HTTP/1.1. A `content-length` is removed, and so are
//!   validators and digests of the handler's own bytes (`etag`, `last-modified`, `accept-ranges`, `content-digest`, `repr-digest`, `content-md5`, `digest`), in headers and trailers.
//! - It begins at once: with a [`PositionEvent`], so that a client can resume before it had an event, or with a comment.
//! - When nothing was sent for an interval, it gets a [`Heartbeat`].
//! - What the client subscribed to comes in between the handler's own events.
//! - When its body is dropped, the client is over: its subscriptions go, and [`ClientHandle::closed`] says why.
//!
//! A request that asks for a stream is refused where [limits](Limit) say so.
//!
//! Nothing is ever put in but at a boundary between two events, however the handler's bytes are chunked. Everything
//! that is no event stream passes byte for byte. A HEAD gets the headers of the stream, and no stream. A body with a `content-encoding` gets headers, but
//! nothing can be put in. Where layers are nested, the inner one does the work, so that a route can have a configuration of
//! its own: the stream is of its client, which knows what the outer one took as metadata, and the limits of both count. The layer sets no CORS headers; compose it with tower-http's `CorsLayer`.
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
//! - memory is bounded by [`RegistryConfig::total_retention`], however many topics and events there are;
//! - a pattern such as `orders/**` is a log of references to the events of all topics that match it, so that reading it is as
//!   reading one topic, and matching costs when a topic comes into being and never again;
//! - a [`Producer`] that goes on while its readers come and go is a topic with an end.
//!
//! All events have one order, by [`Position`]. An id says which registry gave it: one of another process, or of the time before a
//! restart, is a gap. A client that has seen a position has seen everything before it, on every
//! topic that it was subscribed to, that its [filters](Subscription::filter) let through.
//!
//! # Limits, lifetimes, and the end
//!
//! - [`Limit`] bounds the streams that are open, and the new ones in a time: of a registry, behind a layer, for each
//!   user or [address](ClientIpKey). Who finds no room gets a [`RefusedResponse`] before the handler runs.
//! - [`SseLayer::max_age`] and [`ClientHandle::expire_at`] end streams in time, [`SseLayer::farewell`] with a last event.
//! - [`Registry::drain`] ends all of them, spread over a window, so that a server can stop.
//! - [`ClientHandle::closed`] waits for the end of one, and says why.
//!
//! # Security
//!
//! What the crate sees to:
//!
//! - Nothing that is published, no event type, id, comment or topic name can end an event or forge a field: what cannot be sent is
//!   an [`EventError`] or a [`TopicError`]. No input makes it panic: setters that panic, such as [`Event::event`], take literals only.
//! - Memory is bounded by what is retained and by how many streams are open, whatever names, ids and queries clients
//!   send. A name alone is never a [pattern](Subscription::matching), and those of clients' own topics cannot be subscribed to. A text
//!   that is made a [`segment`] leads to no other topic, whatever is in it.
//! - Clients that read slowly or not at all cost what a client costs, and hold nobody up.
//! - A [`ClientId`] is 128 random bits. Logs of `TracingObserver` have its first eight digits.
//!
//! What is for the program to see to:
//!
//! - **Who may have what.** Whether a client may have a topic is for the handler to decide before it subscribes it; it is not asked again,
//!   so end the stream when the right to it ends: [`ClientHandle::expire_at`], [`ClientHandle::unsubscribe`]. A
//!   `Last-Event-ID` is no permission: it says from where, and the handler says of what.
//! - **Ids are capabilities.** Where a handler looks clients up by id to act for them, whoever knows an id acts for that
//!   client. Send it to its owner alone, and keep it out of logs and URLs; or check besides that both are of the same
//!   user, by [metadata](SseLayer::metadata).
//! - **Limits.** None is set by default, as only the program knows its users. A limit per address counts for one who can
//!   have only so many; behind proxies [say how many they are](ClientIpKey::proxies), or all users are one address.
//!   How many requests, connections and HTTP/2 streams there are is the server's to limit.
//! - **Patterns.** The first client of a pattern, and the last, have all topics looked at whose names begin as the pattern does up to its first wildcard,
//!   while nobody can publish. For a pattern that begins with a wildcard, these are all topics: measured, some 10 ms with
//!   10,000 topics and 140 ms with 100,000, for each such pattern. And each pattern that matches a topic makes each publish on it take
//!   longer: [`RegistryConfig::patterns_per_client`] bounds how many a client may have, and a [limit](Limit) how many clients there are. Where clients may name patterns, limit the [rate](Limit::rate) of new
//!   streams, or keep a client of each pattern in the process.
//! - **Memory outside the registry.** For a peer that reads nothing, hyper keeps what it has taken already, up to some 400 KiB, until its socket is closed. And the
//!   process can be twice as large as what is allocated, where the sizes of events change much.
//! - **Other origins.** The layer sets no CORS headers. With credentials (`EventSource` with `withCredentials`), allow the
//!   origins by name: a server that mirrors any origin lets every page read its users' streams. A plain `EventSource` of another site
//!   sends cookies that are `SameSite=None`, so check the `Origin` where opening a stream does something.
//! - **Tokens.** An `EventSource` cannot set headers, and a token in the URL gets into logs, histories and `Referer`. Prefer a cookie, a
//!   client library that uses `fetch`, or a ticket that is good for one stream and a few seconds.
//! - **Private data.** [`SseLayer::no_store`] keeps it out of caches and histories. Events stay in the registry's memory as
//!   long as they are [retained](RegistryConfig::total_retention).
//! - **Compression** of a stream that has both secrets and what an attacker chooses lets their sizes tell the secrets (BREACH).
//! - **Dead peers.** An event stream ends at the latest when its connection does. A peer that vanishes without a word is found when a heartbeat cannot be
//!   written, which takes as long as the system's retransmissions do, a quarter of an hour on Linux; one that is there and reads nothing, never.
//!   `TCP_USER_TIMEOUT`, TCP keep-alive and HTTP/2 pings find both: `examples/support/sockets.rs` sets them.
//!
//! # Features
//!
//! - `axum` (default): [`ClientHandle`] as an extractor; [`EventStream`] and the errors as responses.
//! - `json` (default): [`Event::json`], [`Batching::as_array`], [`Stats`] as JSON.
//! - `metrics`: `MetricsObserver`, an [`Observer`] that counts with the `metrics` crate.
//! - `tracing`: `TracingObserver`, an [`Observer`] that logs with the `tracing` crate.
//! - `test-util`: `test_util`, which reads event streams in tests of one's own handlers.
//!
//! The timers of a stream need tokio's time driver: that of the runtime in which the stream is polled. So a registry can have streams in several runtimes, and
//! one that stands still makes only its own streams late. The registry alone needs no runtime.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod collections;
mod event;
#[cfg(all(any(doc, doctest), feature = "axum", feature = "json", feature = "test-util"))]
pub mod guide;
mod layer;
mod limit;
mod log;
mod observe;
mod presence;
mod registry;
mod stream;
mod sync;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;
mod time;
mod topics;

/// The README's program compiles.
#[cfg(all(doctest, feature = "axum", feature = "json"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::layer::MissingLayer;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::observe::MetricsObserver;
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub use self::observe::TracingObserver;
pub use self::{
    client::{
        ClientHandle, ClientStats, Delivery, EventStream, Events, Observation, Observer, Resume, ResumeError, Stats,
        StreamSummary, SubscribeError, Subscription,
    },
    event::{ClientId, Event, EventError, InvalidClientId},
    layer::{SseBody, SseFuture, SseLayer, SseService},
    limit::{ClientIpKey, Limit, LimitKey, RefusedReason, RefusedResponse},
    log::{Gap, InvalidPosition, MAX_TOPIC, Position, Retention, SlowClientPolicy, TopicError, segment},
    presence::{Member, Presence, PresenceChange, PresenceChanges},
    registry::{Drain, Drained, Error, Producer, ProducerError, Registry, RegistryConfig, SpawnFromError, TopicState},
    stream::{Batching, CloseReason, GapEvent, Heartbeat, PositionEvent},
    topics::{PublishError, Receipt, Start},
};
