use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Extensions, request::Parts};
use tower_layer::Layer;

use super::service::SseService;
use crate::{
    client::{ClientHandle, ClientPool, Style},
    event::Event,
    limit::{Limit, RefusedResponse},
    registry::Registry,
    stream::{Batching, CloseReason, GapEvent, Heartbeat, PositionEvent},
    time::jitter,
};

/// Makes every event stream behind it right: see the [crate's documentation](crate).
///
/// Clones, and the services of one layer, share the registry and the configuration. A setter changes this layer only.
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

/// What one layer's streams have in common.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) heartbeat: Heartbeat,
    pub(crate) gap_event: GapEvent,
    pub(crate) position_event: PositionEvent,
    pub(crate) opens_at_once: bool,
    pub(crate) resume_at_most: Option<u32>,
    /// What every stream begins with, without its reconnection time.
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
    /// What a stream begins with as the program wants it. `spread`: a random number.
    pub(crate) fn first_words(&self, spread: u32) -> Bytes {
        match self.reconnect_delay {
            Some(delay) => self.opening.clone().retry(jitter::jittered(delay, spread)).encode(),
            None => self.opening.encode(),
        }
    }
}

/// Says what a stream ends with.
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

/// Takes what is known of a client from its request.
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
    /// A layer with the defaults, whose clients belong to this registry.
    pub fn new(registry: &Registry) -> Self {
        let config = Config {
            heartbeat: Heartbeat::default(),
            gap_event: GapEvent::default(),
            position_event: PositionEvent::default(),
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

    /// What is sent when a stream is silent, and how long that is. Default: [`Heartbeat::default`].
    pub fn heartbeat(self, heartbeat: Heartbeat) -> Self {
        self.with(|config| config.heartbeat = heartbeat)
    }

    /// How a client is told that events it should have had are no longer retained. Default: [`GapEvent::default`].
    pub fn gap_event(self, gap_event: GapEvent) -> Self {
        self.with(|config| config.gap_event = gap_event)
    }

    /// How a client is told where it stands when no event does: at the beginning of its stream, for example. Default:
    /// [`PositionEvent::default`].
    pub fn position_event(self, position_event: PositionEvent) -> Self {
        self.with(|config| config.position_event = position_event)
    }

    /// Sends something at once when a stream begins that has nothing else to say: a comment in the form of the
    /// [heartbeat](Self::heartbeat), or an empty one where the heartbeat is an event. Default: `true`.
    ///
    /// Firefox gives a page neither `onopen` nor the response of a `fetch` before the first byte of the body. A stream with
    /// subscriptions begins with a [`PositionEvent`], which is such a byte. With [`Heartbeat::off`], there is no comment.
    pub fn open_at_once(self, at_once: bool) -> Self {
        self.with(|config| config.opens_at_once = at_once)
    }

    /// The most events of one topic (or pattern) that a client can get that it has missed, unless a handler says otherwise:
    /// see [`ClientHandle::resume_at_most`]. Default: all that are retained. Cost: an allocation for each request.
    pub fn resume_at_most(self, events: u32) -> Self {
        self.with(|config| config.resume_at_most = Some(events))
    }

    /// Begins every stream with a `retry:` field: how long its client waits before it reconnects. Default: none, and the client waits as long as
    /// it likes.
    ///
    /// Each stream is given a time of its own, between half of `delay` and one and a half, so that after a restart not all clients come
    /// back at once. It is sent in whole milliseconds, rounded down.
    pub fn reconnect_delay(self, delay: Duration) -> Self {
        self.with(|config| config.reconnect_delay = Some(delay))
    }

    /// Begins every stream with a comment. Default: none. With more than one, each is sent.
    pub fn opening_comment(self, text: impl AsRef<str>) -> Self {
        self.with(|config| config.opening = std::mem::take(&mut config.opening).comment(text))
    }

    /// Begins every stream with a comment of so many spaces. Default: none.
    ///
    /// Old polyfills on top of `XMLHttpRequest` dispatch nothing before 2 KiB have come: 2048 is what they need.
    pub fn opening_padding(self, bytes: usize) -> Self {
        self.opening_comment(" ".repeat(bytes))
    }

    /// The query parameters that a `Last-Event-ID` is taken from where there is no such header: what cannot set
    /// headers (polyfills, a page that opens a new `EventSource`) sends it there. No names: none is.
    ///
    /// Default: `lastEventId` (event-source-polyfill, reconnecting-eventsource), `last_event_id`, `evs_last_event_id`.
    pub fn resume_query<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.with(|config| config.resume_query = names.into_iter().map(Into::into).collect())
    }

    /// Takes something that is to be known of a client from its request: a user, a role, an address, from the extensions that a layer further out has put there
    /// or from a header. [`ClientHandle::metadata`](crate::ClientHandle::metadata) gives it; filters, hooks and presence have use for it.
    /// Default: nothing. With more than one, each is taken, and of the same type the last.
    ///
    /// Cost: it is called for each request that comes through the layer, and what it gives is allocated; without it, nothing is.
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

    /// Sends events without an event type with their topic as the event type, unless a handler says otherwise: see [`ClientHandle::topic_as_event_type`](crate::ClientHandle::topic_as_event_type). Default: no.
    pub fn topic_as_event_type(self, on: bool) -> Self {
        self.with(|config| config.style.topic_as_event_type = on)
    }

    /// How long at least it is between two frames of a stream, unless a handler says otherwise: see [`Batching`]. Default: no time.
    pub fn batching(self, batching: Batching) -> Self {
        self.with(|config| config.style.batching = Some(batching))
    }

    /// Limits the streams behind this layer: see [`Limit`]. Default: no limit. With more than one, there has to be room in each.
    ///
    /// Those of [the registry](crate::RegistryConfig::limit) count too.
    pub fn limit(self, limit: Limit) -> Self {
        self.with(|config| config.limits.push(limit))
    }

    /// What a request for a stream gets that is refused. Default: [`RefusedResponse::status`].
    pub fn refused_response(self, response: RefusedResponse) -> Self {
        self.with(|config| config.refused_response = response)
    }

    /// Ends streams when they are as old as this: each at 80 to 100 % of it, so that those that began together do not end together.
    /// Default: never.
    ///
    /// A stream ends at a boundary and its client comes back and resumes, where a load balancer sends it by then.
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|config| config.max_age = Some(age))
    }

    /// Ends streams with an event, by why they end: at a boundary, as the last there is, and without an id if it has one. Default: none.
    ///
    /// It is asked when the server ends a stream, for whatever reason: not where the client has left, and not where
    /// nothing can be put in any more. Where the handler's own body fails ([`CloseReason::BodyFailed`]) it is asked too: if
    /// the stream is at a boundary, the event goes out, and then the body's error, so that the response has no clean end. In the middle of an event, only the error goes out. It is asked outside all locks, by the task that the stream is polled on. What is read with
    /// [`into_events`](ClientHandle::into_events) gets none.
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

    /// Lets streams go on for some time when the registry ends its streams, unless a handler says otherwise: see [`ClientHandle::finish_on_drain`].
    /// Default: no.
    pub fn finish_on_drain(self, finish: bool) -> Self {
        self.with(|config| config.style.finish_on_drain = finish)
    }

    /// Sets `cache-control: no-store, no-transform`, where the handler did not set one: for streams of private data, which no
    /// cache and no browser's history may keep. Default: `no-cache, no-transform`.
    pub fn no_store(self) -> Self {
        self.with(|config| config.is_private = true)
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
