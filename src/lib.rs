//! Server-Sent Events for axum, hyper and tonic: a tower layer and a registry of topics.
//!
//! Put [`SseLayer`] around your service, subscribe clients to topics in your handlers, and publish events to the [`Registry`]:
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
//! // From any thread or task. There is nothing to await.
//! registry.publish("prices/AAPL", Event::json(&187.42)?.event("tick"))?;
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! The [guide] leads from the first stream to tests, proxies and shutdown.
//! [Topic names] says what a topic name may be.
//!
//! # What the layer does
//!
//! [`SseLayer`] wraps any service of `http` requests and responses. It puts a [`ClientHandle`] into the extensions of every request.
//!
//! A response becomes an event stream of the client if it has the content type `text/event-stream` and a status of success (2xx)
//! other than 204, 205 and 206. Its body can be anything: axum's `Sse`, a proxied response, an empty body. Then the layer does this:
//!
//! - It sets the headers that proxies need, where they are absent: `cache-control: no-cache, no-transform`,
//!   `x-accel-buffering: no`, and `connection: keep-alive` on HTTP/1.1.
//! - It removes headers and trailers about the handler's own bytes: `content-length`, `etag`, `last-modified`, `accept-ranges`,
//!   `content-digest`, `repr-digest`, `content-md5` and `digest`.
//! - It begins the stream at once, with a [`PositionEvent`] or a comment. With the position event, a client can resume before its
//!   first real event.
//! - It sends a [`Heartbeat`] when nothing was sent for an interval.
//! - It inserts the events of the client's topics, only at a boundary between two events of the handler's own body, however the
//!   bytes of that body are chunked.
//! - For a client that asks with `?hello=1`, it begins the stream with a [`HelloEvent`].
//! - For a client that asks with `?wait=25`, it ends the response after the first events: a [long poll](LongPoll).
//! - If you set [`SseLayer::open_after`], it opens a stream before its handler answers.
//! - It refuses requests for streams when a [limit](Limit) is reached.
//! - When the body is dropped, it removes the client's subscriptions. [`ClientHandle::closed`] returns the reason.
//!
//! All other responses pass byte for byte. The response to a HEAD gets the headers of the stream, and no stream. If a body has a
//! `content-encoding`, the layer sets headers and inserts nothing.
//!
//! Layers can be nested, for example to configure one route differently. The inner layer then does the work. The stream belongs to
//! the inner layer's client, which also has the outer layer's metadata, and the limits of both count.
//!
//! # What the registry does
//!
//! [`Registry::publish`] appends an event to one bounded log and wakes the clients that wait for it. A client has no queue. It is a
//! set of cursors into that log. So:
//!
//! - An event is encoded once, and a delivery is a reference count.
//! - A client that is behind receives all pending events in frames of up to about 64 KiB.
//! - A slow client holds no memory and delays nobody.
//! - A client that reconnects with a `Last-Event-ID` resumes on all of its topics, with no event lost or repeated between old and new
//!   events. It can send the id in the header, or in a query parameter if it cannot set headers.
//! - If events that a client missed are no longer retained, it is told with a [`GapEvent`] in its stream.
//! - [`RegistryConfig::total_retention`] bounds the memory, however many topics and events there are.
//! - A pattern such as `orders/**` is a log of references to the events of all matching topics. To read it costs as much as to read one
//!   topic. Names are matched only when a topic or a pattern is created.
//! - A [`Producer`] fills a topic and marks its end. It continues while its readers disconnect and reconnect.
//! - A [`RecordLayer`] does this for a handler's own stream: a request with the same key joins or resumes it, and the handler does not
//!   run again.
//!
//! All events have one order, by [`Position`]. A client that has received a position has received everything before it on all of its
//! topics that its [filters](Subscription::filter) let through. An id belongs to the registry that created it: an id of another process,
//! or from before a restart, is a gap.
//!
//! # Limits, lifetimes and shutdown
//!
//! - [`Limit`] bounds the number of open streams, or the rate of new ones: for the whole registry, for a layer, per user, or per
//!   [address](ClientIpKey). If there is no room, a request for a stream gets a [`RefusedResponse`] before its handler runs.
//! - [`SseLayer::max_age`] and [`ClientHandle::expire_at`] end streams after a time. [`SseLayer::farewell`] sends a last event.
//! - [`Registry::drain`] ends all streams, spread over a window, so that a server can stop.
//! - [`ClientHandle::closed`] waits until one stream has ended, and returns the reason.
//!
//! # Security
//!
//! What the crate does:
//!
//! - **No injection.** No data, event type, id, comment or topic name can end an event or forge a field. A value that cannot be sent is
//!   an [`EventError`] or a [`TopicError`].
//! - **No panic on input.** Setters that panic, such as [`Event::event`], take only literals.
//! - **Bounded memory.** The memory is bounded by the retention and by the number of open streams, whatever names, ids and queries
//!   clients send.
//! - **No access by name.** A name alone is never a [pattern](Subscription::matching). Nobody can subscribe to the registry's own topics.
//!   A [`segment`] leads to no other topic, whatever text it is made of.
//! - **No harm from slow clients.** A client that reads slowly, or not at all, takes no more memory than any client, and delays nobody.
//! - **Unguessable ids.** A [`ClientId`] is 128 random bits. `TracingObserver` (feature `tracing`) logs its first eight digits.
//!
//! What your program has to do:
//!
//! - **Authorization.** Your handler decides whether a client may have a topic, before it subscribes the client. The crate does not ask
//!   again. When the right ends, end the stream ([`ClientHandle::expire_at`]) or the subscription ([`ClientHandle::unsubscribe`]). A
//!   `Last-Event-ID` gives no rights: it only says where to resume.
//! - **Recordings.** Whoever sends the key of a [recording](RecordLayer) reads it. A key has to contain whose answer it is, as
//!   [`RecordLayer::by_idempotency_key`] asks for.
//! - **Shared caches.** [`SseLayer::cache_polls`] lets caches give the same events to everybody who asks for the same URL. Use it only
//!   on routes without private data.
//! - **Client ids.** If a handler looks up a client by its id and acts for it, anybody who knows the id can act for that client. Send the
//!   id only to its owner, and keep it out of logs and URLs. Or check by [metadata](SseLayer::metadata) that both clients belong to the
//!   same user.
//! - **Limits.** No limit is set by default. A limit per address helps only against attackers with few addresses. Behind proxies,
//!   [set their number](ClientIpKey::proxies), or all users count as one address. The server has to limit requests, connections and HTTP/2
//!   streams.
//! - **Patterns.** When the first client subscribes to a pattern, and when the last one leaves, the registry looks at all topics whose names
//!   begin as the pattern does before its first wildcard. Nobody can publish meanwhile. If the pattern begins with a wildcard, these are all topics: measured, some 10 ms with
//!   10,000 topics and 140 ms with 100,000, for each such pattern. Each matching pattern also makes each publish take longer.
//!   [`RegistryConfig::patterns_per_client`] bounds the patterns of a client, and a [limit](Limit) the number of clients. If clients may name
//!   patterns, limit the [rate](Limit::rate) of new streams, or keep a client in the process that is subscribed to each pattern.
//! - **Memory outside the registry.** For a peer that reads nothing, hyper keeps up to some 400 KiB until the socket is closed. If the sizes
//!   of events change much, the process can take twice the memory that is allocated.
//! - **Other origins.** The layer sets no CORS headers. If you allow credentials (`EventSource` with `withCredentials`), allow the origins
//!   by name: a server that allows every origin lets every page read its users' streams. A plain `EventSource` of another site sends cookies
//!   that are `SameSite=None`, so check the `Origin` if opening a stream changes something.
//! - **Tokens.** An `EventSource` cannot set headers, and a token in a URL gets into logs, histories and `Referer`. Prefer a cookie, a
//!   client library that uses `fetch`, or a ticket that is valid for one stream and a few seconds.
//! - **Private data.** [`SseLayer::no_store`] keeps streams out of caches and histories. Events stay in the registry's memory as long as they
//!   are [retained](RegistryConfig::total_retention).
//! - **Compression.** Do not compress a stream that has both secrets and text that an attacker chooses. The sizes reveal the secrets (BREACH).
//! - **Dead peers.** A peer that vanishes is found when a heartbeat cannot be delivered. Linux takes a quarter of an hour for that. A peer that
//!   is there and reads nothing is never found. `TCP_USER_TIMEOUT`, TCP keep-alive and HTTP/2 pings find both:
//!   `examples/support/sockets.rs` sets them.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | yes | [`ClientHandle`] as an extractor; [`EventStream`] and the errors as responses |
//! | `json` | yes | [`Event::json`], [`Batching::as_array`], [`TopicsService`], [`Stats`] as JSON |
//! | `file` | no | `backplane::File`, which keeps the events in a file over a restart |
//! | `redis` | no | `backplane::Redis`, which keeps the events in a stream of Redis or Valkey |
//! | `metrics` | no | `MetricsObserver`, an [`Observer`] that counts with the `metrics` crate |
//! | `tracing` | no | `TracingObserver`, an [`Observer`] that logs with the `tracing` crate |
//! | `test-util` | no | `test_util`, which reads event streams in tests of your handlers |
//!
//! # Runtime
//!
//! The registry needs no runtime. A stream needs the time driver of tokio, in the runtime that polls the stream. One registry can have
//! streams in several runtimes. If a runtime stands still, only its own streams are late.
//!
#![cfg_attr(all(feature = "axum", feature = "json"), doc = "[Topic names]: guide::topics#topic-names")]
// What these links lead to is there only with the features.
#![cfg_attr(
    not(all(feature = "axum", feature = "json")),
    doc = "[guide]: https://docs.rs/tower-sse/latest/tower_sse/guide/index.html",
    doc = "[Topic names]: https://docs.rs/tower-sse/latest/tower_sse/guide/topics/index.html#topic-names"
)]
#![cfg_attr(
    not(feature = "json"),
    doc = "[`Event::json`]: https://docs.rs/tower-sse/latest/tower_sse/struct.Event.html#method.json",
    doc = "[`Batching::as_array`]: https://docs.rs/tower-sse/latest/tower_sse/struct.Batching.html#method.as_array",
    doc = "[`TopicsService`]: https://docs.rs/tower-sse/latest/tower_sse/struct.TopicsService.html"
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backplane;
mod client;
mod cluster;
mod collections;
#[cfg(feature = "json")]
mod control;
mod event;
#[cfg(any(feature = "json", feature = "script"))]
mod full_body;
#[cfg(all(any(doc, doctest), feature = "axum", feature = "json"))]
pub mod guide;
mod handle;
mod layer;
mod limit;
mod log;
mod observe;
mod presence;
mod reader;
mod reading;
mod record;
mod registry;
#[cfg(feature = "script")]
mod script;
mod stream;
mod sync;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;
mod time;
mod topics;

/// The README's program compiles.
#[cfg(all(doctest, feature = "axum", feature = "json", feature = "redis"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use self::control::{TopicsError, TopicsFuture, TopicsService};
#[cfg(any(feature = "json", feature = "script"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "json", feature = "script"))))]
pub use self::full_body::FullBody;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::layer::MissingLayer;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::observe::MetricsObserver;
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub use self::observe::TracingObserver;
#[cfg(feature = "script")]
#[cfg_attr(docsrs, doc(cfg(feature = "script")))]
pub use self::script::{ScriptService, script};
pub use self::{
    client::{
        ClientHandle, ClientStats, Observation, Observer, Resume, ResumeError, Stats, StreamSummary, SubscribeError,
        Subscription,
    },
    cluster::{BackplaneRefused, Health},
    event::{ClientId, Event, EventError, InvalidClientId},
    handle::EventStream,
    layer::{
        EarlyHeadBody, EarlyHeadFuture, EarlyHeadLayer, EarlyHeadService, LongPoll, SseBody, SseFuture, SseLayer,
        SseService,
    },
    limit::{ClientIpKey, Limit, LimitKey, RefusedReason, RefusedResponse},
    log::{Gap, InvalidPosition, MAX_TOPIC, Position, Retention, SlowClientPolicy, TopicError, segment},
    presence::{Member, Presence, PresenceChange, PresenceChanges},
    reader::Events,
    reading::Delivery,
    record::{RecordBody, RecordError, RecordFuture, RecordLayer, RecordService, RecordingFailure},
    registry::{Drain, Drained, Error, Producer, ProducerError, Registry, RegistryConfig, SpawnFromError, TopicState},
    stream::{Batching, CloseReason, GapEvent, Heartbeat, HelloEvent, PositionEvent},
    topics::{PublishError, Receipt, Start},
};
