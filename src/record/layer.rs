use std::{sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;

use super::{
    config::Config,
    error::RecordError,
    failure::RecordingFailure,
    key::{self, KeySource},
    service::RecordService,
    table::Table,
};
use crate::{event::Event, registry::Registry};

/// Makes any handler's event stream resumable: it is recorded while it is made.
///
/// Put the layer inside of [`SseLayer`](crate::SseLayer), and no `SseLayer` inside of it. Requests without a key pass
/// unchanged.
///
/// The first request with a key runs the handler, in a task of its own. The task reads the body into a topic, event by
/// event, and each reader gets a stream of that topic from its oldest event. So the handler goes on when its client
/// disconnects. A second request with the key does not run the handler:
///
/// | the recording | the second request gets |
/// |---|---|
/// | has no head yet | the same as the first request, as soon as the handler answers |
/// | is being made | the events after its `Last-Event-ID`, or all of them, and then the further ones |
/// | has ended | the events after its `Last-Event-ID`, or all of them; 204 if it has had all of them |
/// | has failed, or was cancelled | the same, with the last event that says so; 410 if it has had all of them |
/// | is forgotten after [`ended_topic_ttl`](crate::RegistryConfig::ended_topic_ttl), or evicted | a new run of the handler, or 404: see [`join_only`](Self::join_only) |
///
/// A client that has read a recording, and comes back when it is forgotten, is told of a [gap](crate::Gap) before it gets
/// the events of the new run. So it does not add one answer to a part of another.
///
/// ```
/// use axum::{Router, response::{Sse, sse}, routing::post};
/// use http::request::Parts;
/// use tower_sse::{RecordLayer, Registry, SseLayer};
///
/// /// Your authentication layer inserts it into the request's extensions.
/// #[derive(Clone)]
/// struct User(String);
///
/// let registry = Registry::new();
/// let record = RecordLayer::by_idempotency_key(&registry, |request: &Parts| {
///     Some(request.extensions.get::<User>()?.0.clone())
/// });
/// let app: Router = Router::new()
///     .route("/answers", post(answer))
///     .layer(record)
///     .layer(SseLayer::new(&registry)); // around the recording
///
/// /// It is called once for each key, and knows nothing of it.
/// async fn answer(prompt: String) -> Sse<impl tokio_stream::Stream<Item = Result<sse::Event, axum::Error>>> {
///     let tokens = prompt.split(' ').map(|token| Ok(sse::Event::default().data(token))).collect::<Vec<_>>();
///     Sse::new(tokio_stream::iter(tokens))
/// }
/// # let _ = app;
/// ```
///
/// # What is recorded
///
/// An event stream with a success status and without a `content-encoding`. Every event is kept with its data, event
/// type, reconnection time and id; an event without an id, or with one that [`Event::id`](crate::Event::id) refuses,
/// gets an id of the registry. Comments, unknown fields, trailers, and ids without data are left out. An event that is
/// unfinished when the body ends is left out too, as the HTML standard says. An event is in the log before anybody gets
/// it. The recording ends where the body ends, whatever the events say.
///
/// Every reader gets the status and the headers of the handler's response. Left out are those of the connection and of
/// the body's bytes, and for later readers `set-cookie`, `date` and `age`. A recorded stream has no
/// [`PositionEvent`](crate::PositionEvent): a client that has no id yet gets everything again.
///
/// Every reader gets the events as the handler sent them: batching, event types from topics, and
/// [`resume_at_most`](crate::SseLayer::resume_at_most) do not apply. A client of a recording has no other subscriptions:
/// those that the handler made are removed.
///
/// An id that is a position of the registry, such as one of an event that the handler passes on from another topic, is
/// replaced by the position of the recorded event.
///
/// Any other response passes unchanged and is not recorded, and the next request with the key runs the handler. This is
/// so for another content type or status, an error, a panic, a compressed body, a HEAD, and [the client's own
/// stream](crate::ClientHandle::into_stream). Requests with the same key wait for each other until it is known that the
/// answer is no stream.
///
/// # How it ends
///
/// If the body fails, panics, or has an event that is too large, the readers get a last event
/// ([`failed_event`](Self::failed_event)), and their responses end with an error. So nobody takes a part for the whole.
/// Later readers get the same. A response also ends with an error if the server ends it before the recording has ended,
/// for example because the registry is [drained](crate::Registry::drain).
///
/// [`cancel`](Self::cancel) stops the handler and ends the recording as cancelled: [`topic_of`](Self::topic_of) returns
/// its topic. The readers get the event of [`RegistryConfig::cancelled_event`](crate::RegistryConfig::cancelled_event),
/// and their responses end with an error.
///
/// If the first client disconnects before the handler has answered, the handler goes on, and the next request with the
/// key gets its answer. To stop a handler that nobody waits for, set
/// [`cancel_unread_after`](Self::cancel_unread_after).
///
/// # Limits
///
/// The [retention](crate::RegistryConfig::topic_retention) bounds what is kept of each recording and of all. A reader
/// that is behind what is retained is told of a [gap](crate::Gap). Events are read as fast as the handler sends them,
/// whatever the readers do. An event that has not arrived as a whole takes at most as much memory as the largest event
/// that the retention accepts, besides what is retained. [`running_at_most`](Self::running_at_most) bounds the
/// handlers.
///
/// With a [backplane](crate::RegistryConfig::backplane), a request can join at any node, and after a restart. Such a
/// reader gets no headers of the handler, and its fingerprint is not compared. It can join as soon as its node knows
/// the topic: two nodes that get the same key at the same time both run the handler, and the recording of one of them
/// is stopped.
///
/// # Cost
///
/// A request without a key: nothing that can be measured if the key is the header, and else the call of your closure.
/// With a key: a task, and a topic. Each event is decoded and published.
///
/// # Panics
///
/// A request with a key panics outside of a tokio runtime. A panic of the handler is the panic of the first request, as
/// without the layer.
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing unless it is put around a service"]
pub struct RecordLayer {
    table: Arc<Table>,
    config: Arc<Config>,
}

impl RecordLayer {
    /// The maximum length of a key in bytes: 256.
    pub const MAX_KEY: usize = key::MAX_KEY;

    /// Records requests with an `Idempotency-Key` header, for the owner that the closure names.
    ///
    /// The closure returns who has sent the request, such as the id of the user that your authentication layer has
    /// found. Without an owner, the request is not recorded: whoever guesses a key without an owner gets another user's
    /// answer.
    ///
    /// The key of the recording is the owner, the path, and the header. The method and the query are not a part of it.
    /// Inside of axum's `Router::nest` the path has no prefix. So put the layer around the outermost router, or use
    /// [`by_key`](Self::by_key) with axum's `OriginalUri`: otherwise two nested routes with the same rest share recordings.
    ///
    /// The header must have 1 to [`MAX_KEY`](Self::MAX_KEY) bytes of visible ASCII, and come once. Otherwise the
    /// response is a 400.
    pub fn by_idempotency_key(
        registry: &Registry,
        owner: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::new(registry, KeySource::Header { owner: Arc::new(owner) })
    }

    /// Records the requests for which the closure returns a key.
    ///
    /// The key has to say whose answer it is, and of which route: whoever has the same key reads the same recording, on
    /// all layers of the registry.
    ///
    /// A key of 1 to [`MAX_KEY`](Self::MAX_KEY) bytes is valid. Otherwise the response is a 400. No client can
    /// subscribe to the topic of a key by its name, and no pattern matches it.
    pub fn by_key(registry: &Registry, key: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::new(registry, KeySource::Key(Arc::new(key)))
    }

    /// Records the requests for which the closure names a topic.
    ///
    /// Use it if other handlers subscribe to the recording, or cancel it by name. The name is the key, so it has to say
    /// whose answer it is. Patterns match it. An invalid name is a 400. If another producer fills the topic, the
    /// request joins it.
    pub fn by_topic(registry: &Registry, topic: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::new(registry, KeySource::Topic(Arc::new(topic)))
    }

    fn new(registry: &Registry, key: KeySource) -> Self {
        Self { table: Arc::new(Table::new(registry)), config: Arc::new(Config::new(key)) }
    }

    /// Sets which requests only join a recording, and never run the handler. Default: none.
    ///
    /// Without a recording, such a request gets a 404. Use it for the GET with which a page comes back:
    ///
    /// ```
    /// # let registry = tower_sse::Registry::new();
    /// use http::{Method, request::Parts};
    /// use tower_sse::RecordLayer;
    ///
    /// // `POST /answers/7` asks, and `GET /answers/7` reads. An authentication layer checks who may.
    /// let record = RecordLayer::by_topic(&registry, |request: &Parts| Some(request.uri.path().strip_prefix('/')?.to_owned()))
    ///     .join_only(|request: &Parts| request.method == Method::GET);
    /// # let _ = record;
    /// ```
    pub fn join_only(self, only_joins: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.only_joins = Some(Arc::new(only_joins)))
    }

    /// Says where a GET finds the recording, in the `content-location` header. Default: no header.
    ///
    /// The closure returns a URL, for each request with a key. A header that the handler sets wins. A text that cannot
    /// be a header is left out.
    pub fn content_location(self, location: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.content_location = Some(Arc::new(location)))
    }

    /// Tells requests with the same key apart. Default: they are the same request.
    ///
    /// If the closure returns another text than for the first request, the response is a 422, and the recording goes
    /// on. If it returns `None` for one of them, nothing is compared.
    ///
    /// The layer does not read the body of a request, so that it need not keep it. The closure can read a digest that
    /// the client sends, as here, or one that a layer of yours has computed and put into the extensions.
    ///
    /// ```
    /// # let registry = tower_sse::Registry::new();
    /// use http::request::Parts;
    /// use tower_sse::RecordLayer;
    ///
    /// # let owner = |_: &Parts| Some("ada".to_owned());
    /// let record = RecordLayer::by_idempotency_key(&registry, owner).fingerprint(|request: &Parts| {
    ///     let digest = request.headers.get("content-digest")?.to_str().ok()?;
    ///     Some(format!("{} {} {digest}", request.method, request.uri))
    /// });
    /// # let _ = record;
    /// ```
    pub fn fingerprint(self, fingerprint: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.fingerprint = Some(Arc::new(fingerprint)))
    }

    /// Sets the last event of a recording that fails.
    ///
    /// Default: an event of the type `failed`, with JSON data: `{"reason":"body_failed"}`. The reason is
    /// [`RecordingFailure::as_str`]. The text of the error is not sent, because it may be a secret of the server.
    ///
    /// `None`, or an event that is too large: the event of
    /// [`RegistryConfig::failed_event`](crate::RegistryConfig::failed_event).
    ///
    /// Clients of OpenAI's API expect an error in this form:
    ///
    /// ```
    /// # let registry = tower_sse::Registry::new();
    /// # let owner = |_: &http::request::Parts| Some("ada".to_owned());
    /// use tower_sse::{Event, RecordLayer, RecordingFailure};
    ///
    /// let record = RecordLayer::by_idempotency_key(&registry, owner).failed_event(|failure: &RecordingFailure| {
    ///     Some(Event::data(format!(r#"{{"error":{{"message":"{}","type":"server_error"}}}}"#, failure.as_str())))
    /// });
    /// # let _ = record;
    /// ```
    pub fn failed_event(self, event: impl Fn(&RecordingFailure) -> Option<Event> + Send + Sync + 'static) -> Self {
        self.with(|config| config.failed_event = Arc::new(event))
    }

    /// Cancels a recording that nobody has read for this time. Default: it goes on.
    ///
    /// Readers are the requests that wait for the handler's answer, and the clients that are subscribed to the topic on
    /// this node. The handler is dropped if it has not answered. Otherwise its body is dropped, and the recording ends
    /// as cancelled, with the event of [`failed_event`](Self::failed_event) for [`RecordingFailure::Unread`].
    ///
    /// Choose a time that is longer than a reload takes.
    pub fn cancel_unread_after(self, time: Duration) -> Self {
        self.with(|config| config.cancel_unread_after = Some(time))
    }

    /// Sets how many recordings of this process may be made at the same time. Default: 10,000.
    ///
    /// A [limit](crate::Limit) of streams does not count a handler that nobody reads. A request that would run one
    /// handler more gets a 503 with `retry-after`. Requests that join are not limited. As any request, they wait until the
    /// inner service is ready: so put a limit of concurrent requests into the handler, and not between the two.
    pub fn running_at_most(self, handlers: usize) -> Self {
        self.with(|config| config.running_at_most = handlers)
    }

    /// Returns the topic that a request is recorded in. `None`: the request has no key.
    ///
    /// [`cancel`](Self::cancel) and [`Registry::topic_state`] take it.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if the key or the topic is invalid.
    pub fn topic_of(&self, request: &Parts) -> Result<Option<String>, RecordError> {
        self.config.key.topic(request)
    }

    /// Cancels a recording that is being made, by its [topic](Self::topic_of). Returns `false` if there is none.
    ///
    /// If the handler has not answered, it is dropped, the requests that wait for it get a 410, and the key is free. That
    /// works for handlers of this process. Otherwise it is [`Registry::cancel_producer`].
    ///
    /// ```
    /// # let registry = tower_sse::Registry::new();
    /// # let owner = |_: &http::request::Parts| Some("ada".to_owned());
    /// use http::{StatusCode, request::Parts};
    /// use tower_sse::RecordLayer;
    ///
    /// let record = RecordLayer::by_idempotency_key(&registry, owner);
    /// // The handler of `DELETE`, with the same path and the same `Idempotency-Key`.
    /// let stop = {
    ///     let record = record.clone();
    ///     move |request: Parts| match record.topic_of(&request) {
    ///         Ok(Some(topic)) if record.cancel(&topic) => StatusCode::NO_CONTENT,
    ///         _ => StatusCode::NOT_FOUND,
    ///     }
    /// };
    /// # let _ = stop;
    /// ```
    pub fn cancel(&self, topic: impl AsRef<str>) -> bool {
        self.table.cancel(topic.as_ref())
    }

    /// Returns how many recordings of this layer and its clones are being made.
    ///
    /// It includes handlers that have not answered yet.
    #[must_use]
    pub fn running(&self) -> usize {
        self.table.running()
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for RecordLayer {
    type Service = RecordService<S>;

    fn layer(&self, inner: S) -> RecordService<S> {
        RecordService::new(inner, Arc::clone(&self.table), Arc::clone(&self.config))
    }
}
