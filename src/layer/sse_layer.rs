use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Extensions, request::Parts};
use tower_layer::Layer;

use super::{long_poll::LongPoll, service::SseService};
use crate::{
    client::{ClientHandle, ClientPool, Style},
    event::Event,
    limit::{Limit, RefusedResponse},
    registry::Registry,
    stream::{Batching, CloseReason, GapEvent, Heartbeat, HelloEvent, PositionEvent},
    time::jitter,
};

/// Adds heartbeats, resume, subscriptions and limits to event streams.
///
/// The [crate's documentation](crate) lists what the layer does.
///
/// Clones of a layer, and the services that it makes, share the registry. A setter changes only the layer that it is
/// called on.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Heartbeat, Registry, SseLayer};
///
/// let registry = Registry::new();
/// let layer = SseLayer::new(&registry)
///     .heartbeat(Heartbeat::every(Duration::from_secs(30)))
///     .reconnect_delay(Duration::from_secs(2));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing unless it is put around a service"]
pub struct SseLayer {
    registry: Registry,
    config: Arc<Config>,
}

/// The configuration that all streams of one layer share.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) heartbeat: Heartbeat,
    pub(crate) gap_event: GapEvent,
    pub(crate) position_event: PositionEvent,
    pub(crate) hello_event: HelloEvent,
    pub(crate) long_poll: LongPoll,
    /// How many seconds shared caches may keep the response to a poll.
    pub(crate) public_polls: Option<u32>,
    pub(crate) opens_at_once: bool,
    pub(crate) resume_at_most: Option<u32>,
    /// The comments that every stream begins with, without the reconnection time.
    opening: Event,
    reconnect_delay: Option<Duration>,
    pub(crate) resume_query: Vec<String>,
    pub(crate) metadata: Vec<Metadata>,
    pub(crate) style: Style,
    pub(crate) limits: Vec<Limit>,
    pub(crate) refused_response: RefusedResponse,
    pub(crate) max_age: Option<Duration>,
    pub(crate) farewell: Option<Farewell>,
    pub(crate) is_private: bool,
    pub(crate) client_pool: ClientPool,
}

impl Config {
    /// Returns the opening comments and the reconnection time of a stream.
    ///
    /// `spread`: a random number, which varies the reconnection time.
    pub(crate) fn opening_block(&self, spread: u32) -> Bytes {
        match self.reconnect_delay {
            Some(delay) => self.opening.clone().retry(jitter::jittered(delay, spread)).encode(),
            None => self.opening.encode(),
        }
    }
}

/// The program's function for the last event of a stream.
#[derive(Clone)]
pub(crate) struct Farewell(Arc<GiveFarewell>);

type GiveFarewell = dyn Fn(&ClientHandle, CloseReason) -> Option<Event> + Send + Sync;

impl Farewell {
    pub(crate) fn of(&self, client: &ClientHandle, reason: CloseReason) -> Option<Event> {
        (self.0)(client, reason)
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Farewell")
    }
}

/// A function of the program that takes metadata of a client from its request.
#[derive(Clone)]
pub(crate) struct Metadata(Arc<TakeMetadata>);

type TakeMetadata = dyn Fn(&Parts, &mut Extensions) + Send + Sync;

impl Metadata {
    pub(crate) fn take(&self, request: &Parts, metadata: &mut Extensions) {
        (self.0)(request, metadata);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metadata")
    }
}

impl SseLayer {
    /// Makes a layer with the defaults. Its clients belong to this registry.
    pub fn new(registry: &Registry) -> Self {
        let config = Config {
            heartbeat: Heartbeat::default(),
            gap_event: GapEvent::default(),
            position_event: PositionEvent::default(),
            hello_event: HelloEvent::default(),
            long_poll: LongPoll::default(),
            public_polls: None,
            opens_at_once: true,
            resume_at_most: None,
            opening: Event::empty(),
            reconnect_delay: None,
            resume_query: ["lastEventId", "last_event_id", "evs_last_event_id"].map(str::to_owned).into(),
            metadata: Vec::new(),
            style: Style::default(),
            limits: Vec::new(),
            refused_response: RefusedResponse::default(),
            max_age: None,
            farewell: None,
            is_private: false,
            client_pool: ClientPool::default(),
        };
        Self { registry: registry.clone(), config: Arc::new(config) }
    }

    /// Sets the heartbeat: its form and its interval. Default: [`Heartbeat::default`].
    pub fn heartbeat(self, heartbeat: Heartbeat) -> Self {
        self.with(|config| config.heartbeat = heartbeat)
    }

    /// Sets the event that tells a client of a gap. Default: [`GapEvent::default`].
    ///
    /// A gap means that events that the client should have had are no longer retained.
    pub fn gap_event(self, gap_event: GapEvent) -> Self {
        self.with(|config| config.gap_event = gap_event)
    }

    /// Sets the event that tells a client its position.
    ///
    /// Default: [`PositionEvent::default`]. It is sent when no other event has the id, for example at the beginning of
    /// a stream.
    pub fn position_event(self, position_event: PositionEvent) -> Self {
        self.with(|config| config.position_event = position_event)
    }

    /// Sets the event with which a stream begins for a client that asks for it with `?hello=1`.
    ///
    /// Default: [`HelloEvent::default`].
    pub fn hello_event(self, hello_event: HelloEvent) -> Self {
        self.with(|config| config.hello_event = hello_event)
    }

    /// Sets whether clients may poll with `?wait=SECONDS`, and for how long. Default: [`LongPoll::default`].
    pub fn long_poll(self, long_poll: LongPoll) -> Self {
        self.with(|config| config.long_poll = long_poll)
    }

    /// Lets shared caches keep the response to a [poll](LongPoll) for a moment. Default: no cache keeps it.
    ///
    /// A CDN then asks the server once for many clients that poll from the same position. Use it only on routes whose
    /// streams have **no private data**: everybody who asks for the same URL gets the same events.
    ///
    /// The response has `cache-control: public, max-age=..`, in whole seconds, rounded up. One second is enough: while a
    /// poll waits, a CDN can let all further requests wait for its response.
    ///
    /// It applies to a GET whose position is in the query, or which has none. It does not apply if the request has a
    /// `cookie`, an `authorization` or a `Last-Event-ID` header, if the response sets a cookie, or with
    /// [`no_store`](Self::no_store). If the stream depends on something else than the URL, such as the address or a client
    /// certificate, do not use it.
    pub fn cache_polls(self, max_age: Duration) -> Self {
        let seconds = max_age.as_secs().saturating_add(u64::from(max_age.subsec_nanos() > 0));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.with(|config| config.public_polls = Some(seconds))
    }

    /// Sends a comment at once if a stream has nothing else to begin with. Default: `true`.
    ///
    /// The comment has the form of the [heartbeat](Self::heartbeat). If the heartbeat is an event, the comment is
    /// empty. With [`Heartbeat::off`], there is no comment. A stream with subscriptions needs no comment, because it
    /// begins with a [`PositionEvent`].
    ///
    /// Firefox gives a page neither `onopen` nor the response of a `fetch` before the first byte of the body.
    pub fn open_at_once(self, at_once: bool) -> Self {
        self.with(|config| config.opens_at_once = at_once)
    }

    /// Limits how many missed events of one topic or pattern a client can get.
    ///
    /// Default: all retained events. A handler can change the limit for its client: see
    /// [`ClientHandle::resume_at_most`].
    ///
    /// Cost: one allocation for each request.
    pub fn resume_at_most(self, events: u32) -> Self {
        self.with(|config| config.resume_at_most = Some(events))
    }

    /// Begins every stream with a `retry:` field: the client's reconnection time.
    ///
    /// Default: no field; each client uses its own reconnection time.
    ///
    /// Each stream gets a random time between 0.5 and 1.5 times `delay`. So the clients do not all come back at once
    /// after a restart. The time is sent in whole milliseconds, rounded down.
    pub fn reconnect_delay(self, delay: Duration) -> Self {
        self.with(|config| config.reconnect_delay = Some(delay))
    }

    /// Begins every stream with a comment. Default: no comment.
    ///
    /// Several calls add several comments.
    pub fn opening_comment(self, text: impl AsRef<str>) -> Self {
        self.with(|config| config.opening = std::mem::take(&mut config.opening).comment(text))
    }

    /// Begins every stream with a comment of this many spaces. Default: no comment.
    ///
    /// Old polyfills that use `XMLHttpRequest` dispatch no event before they have 2 KiB. Such a client needs 2048
    /// spaces.
    pub fn opening_padding(self, bytes: usize) -> Self {
        self.opening_comment(" ".repeat(bytes))
    }

    /// Sets the query parameters that can carry the `Last-Event-ID`.
    ///
    /// They are read if the request has no such header, or a blank one. Clients that cannot set headers need them:
    /// polyfills, and a page that opens a new `EventSource`. With no names, the query is not read.
    ///
    /// Default: `lastEventId` (event-source-polyfill, reconnecting-eventsource), `last_event_id`, `evs_last_event_id`.
    pub fn resume_query<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.with(|config| config.resume_query = names.into_iter().map(Into::into).collect())
    }

    /// Takes metadata of a client from its request, for example a user or a role.
    ///
    /// Default: no metadata. The closure reads the headers of the request, or the extensions that an outer layer has
    /// set. [`ClientHandle::metadata`](crate::ClientHandle::metadata) returns the values; filters, hooks and presence
    /// read them. Several calls add several values. Of values of the same type, the last one is kept.
    ///
    /// Cost: the closure is called for each request through this layer, and its value is allocated. Without metadata,
    /// nothing is allocated.
    ///
    /// ```
    /// use http::{header::USER_AGENT, request::Parts};
    /// use tower_sse::{Registry, SseLayer};
    ///
    /// #[derive(Clone)]
    /// struct Agent(String);
    ///
    /// let registry = Registry::new();
    /// let layer = SseLayer::new(&registry).metadata(|request: &Parts| {
    ///     let agent = request.headers.get(USER_AGENT)?;
    ///     Some(Agent(String::from_utf8_lossy(agent.as_bytes()).into_owned()))
    /// });
    /// # let _ = layer;
    /// ```
    pub fn metadata<T: Clone + Send + Sync + 'static>(
        self,
        take: impl Fn(&Parts) -> Option<T> + Send + Sync + 'static,
    ) -> Self {
        let take = Metadata(Arc::new(move |request, metadata| {
            if let Some(value) = take(request) {
                metadata.insert(value);
            }
        }));
        self.with(|config| config.metadata.push(take))
    }

    /// Uses the topic as the event type of events that have no event type. Default: no.
    ///
    /// A handler can change this for its client: see
    /// [`ClientHandle::topic_as_event_type`](crate::ClientHandle::topic_as_event_type).
    pub fn topic_as_event_type(self, on: bool) -> Self {
        self.with(|config| config.style.topic_as_event_type = on)
    }

    /// Sets the shortest time between two frames of a stream. Default: no minimum.
    ///
    /// A handler can change this for its client. See [`Batching`].
    pub fn batching(self, batching: Batching) -> Self {
        self.with(|config| config.style.batching = Some(batching))
    }

    /// Limits the streams behind this layer. Default: no limit. See [`Limit`].
    ///
    /// Several calls add several limits, and a stream needs room in each of them. The limits of [the
    /// registry](crate::RegistryConfig::limit) count too.
    pub fn limit(self, limit: Limit) -> Self {
        self.with(|config| config.limits.push(limit))
    }

    /// Sets the response to a refused stream. Default: [`RefusedResponse::status`].
    pub fn refused_response(self, response: RefusedResponse) -> Self {
        self.with(|config| config.refused_response = response)
    }

    /// Ends each stream when it reaches this age. Default: no maximum age.
    ///
    /// Each stream ends at a random age between 80 and 100 % of the maximum. So streams that began together do not end
    /// together.
    ///
    /// A stream ends at a boundary. Its client reconnects and resumes, and a load balancer can send it to another
    /// server.
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|config| config.max_age = Some(age))
    }

    /// Sends a last event when the server ends a stream. Default: no last event.
    ///
    /// The closure gets the reason and returns the event. The event is sent at a boundary. If it has an id, the id is
    /// not sent.
    ///
    /// The closure is called for every reason, with three exceptions: the client has disconnected, the response to a
    /// [long poll](LongPoll) has ended, or no bytes can be inserted any more. It runs outside all locks, in the task that
    /// polls the stream. A client that is read with [`into_events`](ClientHandle::into_events) gets no last event.
    ///
    /// The closure is also called when the handler's own body fails ([`CloseReason::BodyFailed`]). At a boundary, the
    /// event is sent first, and then the body's error, so the response has no clean end. In the middle of an event,
    /// only the error is sent.
    ///
    /// ```
    /// use tower_sse::{CloseReason, Event, Registry, SseLayer};
    ///
    /// let registry = Registry::new();
    /// let log_in_again = Event::data("log in again").event("expired");
    /// let failed = Event::data("the answer is not complete").event("failed");
    /// let layer = SseLayer::new(&registry).farewell(move |_, reason| match reason {
    ///     CloseReason::AuthorizationExpired => Some(log_in_again.clone()),
    ///     CloseReason::BodyFailed => Some(failed.clone()),
    ///     _ => None,
    /// });
    /// # let _ = layer;
    /// ```
    pub fn farewell(
        self,
        farewell: impl Fn(&ClientHandle, CloseReason) -> Option<Event> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.farewell = Some(Farewell(Arc::new(farewell))))
    }

    /// Lets streams go on for a limited time during a drain. Default: no.
    ///
    /// The time is [`Drain::finish_within`](crate::Drain::finish_within).
    /// A handler can change this for its client: see [`ClientHandle::finish_on_drain`].
    pub fn finish_on_drain(self, finish: bool) -> Self {
        self.with(|config| config.style.finish_on_drain = finish)
    }

    /// Sets `cache-control: no-store, no-transform`. Default: `no-cache, no-transform`.
    ///
    /// Use it for private data, which no cache and no browser history may keep. A `cache-control` header of the handler
    /// wins.
    pub fn no_store(self) -> Self {
        self.with(|config| config.is_private = true)
    }

    #[cfg(test)]
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for SseLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        SseService::new(inner, self.registry.clone(), Arc::clone(&self.config))
    }
}
