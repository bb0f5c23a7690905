//! The handle to a client: subscribe, send, and start the stream.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Extensions;

use super::{
    error::{ResumeError, SubscribeError},
    event_stream::EventStream,
    events::Events,
    reader::Reader,
    resuming::Resume,
    state::Client,
    stats::ClientStats,
    subscription::Subscription,
};
use crate::{
    event::{ClientId, Event},
    limit::{Admission, RefusedReason},
    log::Outcome,
    stream::{Batching, CloseReason},
    topics::{PublishError, Receipt, Start},
};

/// The handle to a client: one request, and the event stream that it may become.
///
/// [`SseLayer`](crate::SseLayer) puts a handle into the extensions of every request. With the `axum` feature the handle
/// is an extractor too. It costs next to nothing until the client subscribes or its stream begins. Clones belong to the
/// same client. You may keep them after the handler has returned, or drop them: a handle does not keep the stream open,
/// and the stream does not need a handle.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use tower_sse::ClientHandle;
///
/// /// A handler with any body types, on plain hyper, say.
/// fn prices<In, Out: Default>(request: &Request<In>) -> Response<Out> {
///     let Some(client) = request.extensions().get::<ClientHandle>() else {
///         return status(StatusCode::INTERNAL_SERVER_ERROR);
///     };
///     match client.subscribe(request.uri().path().trim_start_matches('/')) {
///         Ok(()) => client.clone().into_stream().into_response(),
///         Err(_) => status(StatusCode::BAD_REQUEST),
///     }
/// }
///
/// fn status<Out: Default>(status: StatusCode) -> Response<Out> {
///     let mut response = Response::new(Out::default());
///     *response.status_mut() = status;
///     response
/// }
/// # let _ = prices::<(), ()>;
/// ```
#[derive(Clone)]
pub struct ClientHandle {
    pub(crate) client: Arc<Client>,
}

impl ClientHandle {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    pub(crate) fn admission(&self) -> Option<&Arc<Admission>> {
        self.client.admission()
    }

    /// Returns the client's id, with which [`Registry::client`](crate::Registry::client) finds the client.
    ///
    /// The id is made at the first call.
    ///
    /// # Panics
    ///
    /// Panics if the operating system has no randomness, as `HashMap::new` does.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.client.id()
    }

    /// Returns the client's `Last-Event-ID`, from the header or the query.
    ///
    /// An id of more than 256 bytes is shortened: it is the first 64 characters and the length.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.client.last_event_id()
    }

    /// Subscribes the client to a topic, or to what a [`Subscription`] describes.
    ///
    /// If the stream has not begun, a client with a `Last-Event-ID` resumes after that id. Otherwise a topic name alone
    /// starts with the events that are published from now on.
    ///
    /// You can call it at any time, from the handler or from elsewhere, also while the stream is open. An event that
    /// matches several of a client's subscriptions is delivered once.
    ///
    /// If the client is already subscribed to the name, the call changes that subscription. A name alone changes
    /// nothing. A new filter applies to all events that are not yet read for the client; no event is lost or repeated
    /// because of it. A new start replaces the old one if the stream has not begun. Once it has begun, a new
    /// start has an effect only if it is before the position up to which the client has read. The client then goes back
    /// there, and gets the events since then again.
    ///
    /// Cost: the first subscription to a pattern looks at the names of all topics. If it starts at retained events, it
    /// also looks at the retained events of the matching topics. After that, a pattern costs one reference to each
    /// event.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if the name is invalid, if the client has reached a limit of subscriptions, if the topic must
    /// exist and does not, or if the stream has ended.
    pub fn subscribe(&self, subscription: impl Into<Subscription>) -> Result<(), SubscribeError> {
        self.client.subscribe(subscription.into())
    }

    /// Subscribes the client to a topic from a [`Start`] on.
    ///
    /// A client that resumes ignores the start.
    ///
    /// Events are sent in position order over all topics. If a later subscription starts with older events, their ids
    /// do not move the client back: each id says how far the client has read in which topic. So a client that
    /// disconnects while it catches up loses nothing and gets nothing twice. There are three exceptions:
    ///
    /// - With more than eight such subscriptions at the same time, the client may get events twice.
    /// - Events that the client has already read by another subscription may come twice.
    /// - A subscription whose events were not sent yet is in no id. After a reconnect, the client continues there from
    ///   the position of its other subscriptions.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_from(&self, name: impl AsRef<str>, start: Start) -> Result<(), SubscribeError> {
        self.subscribe(Subscription::to(name.as_ref()).from(start))
    }

    /// Returns the names of the topics and patterns that the client is subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.client.subscriptions()
    }

    /// Ends a subscription. Returns whether the client was subscribed.
    ///
    /// Events of the subscription that were not sent yet are not sent. If only its subscriptions keep the stream open,
    /// the stream ends with the last of them.
    pub fn unsubscribe(&self, topic: impl AsRef<str>) -> bool {
        self.client.unsubscribe(topic.as_ref())
    }

    /// Sends an event to this client alone, in order with all other events.
    ///
    /// An event that is sent before the stream begins, such as a welcome, comes first: before the events of all
    /// subscriptions, and after a [snapshot](EventStream::snapshot). Its id is then the client's position at the
    /// beginning of the stream, so a client that resumes from it loses nothing. An id that you set on such an event is
    /// replaced.
    ///
    /// The event is lost if the client reconnects before it has received the event. Publish what must survive a
    /// reconnect on a topic.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the event is too large, if the client has reached its limit of subscriptions, or if the
    /// stream has ended.
    pub fn send(&self, event: impl std::borrow::Borrow<Event>) -> Result<Receipt, PublishError> {
        self.client.send(event.borrow())
    }

    /// Returns how the client's resume goes, with its subscriptions so far.
    ///
    /// On a gap, a handler may want to send a [snapshot](EventStream::snapshot).
    #[must_use]
    pub fn resume(&self) -> Resume {
        self.client.resume()
    }

    /// Resumes the client from this id, as if its request had a `Last-Event-ID`.
    ///
    /// Use it for a client that sends its last id elsewhere, such as in a gRPC or WebSocket message. The id is one that
    /// was sent, such as that of [`Delivery::id`](crate::Delivery::id). A blank id has no effect.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the client has an id already, or if its stream has begun.
    pub fn resume_from(&self, id: impl AsRef<str>) -> Result<(), ResumeError> {
        match id.as_ref().trim() {
            "" => Ok(()),
            _ => self.client.resume_from(&bounded(id.as_ref())),
        }
    }

    /// Limits how many missed events the client gets when it resumes.
    ///
    /// The bound is for each topic or pattern.
    ///
    /// Default: as the [layer](crate::SseLayer::resume_at_most) sets it. The client gets the newest events, after a
    /// [gap](crate::Gap). Call it before the stream begins.
    ///
    /// Any client can send a `Last-Event-ID` from long ago. Without a bound, it gets all retained events after that id.
    pub fn resume_at_most(&self, events: u32) {
        self.client.bound_resume(events);
    }

    /// Returns the client's metadata.
    ///
    /// It is what [`SseLayer::metadata`](crate::SseLayer::metadata) copied from the request, and what was
    /// [inserted](Self::insert_metadata).
    ///
    /// Cost: one reference count.
    #[must_use]
    pub fn metadata(&self) -> Arc<Extensions> {
        self.client.metadata()
    }

    /// Adds a value to the client's metadata. It replaces a value of the same type.
    ///
    /// Use it for what is known only behind the layer, such as the user who has logged in. Cost: the whole metadata is
    /// cloned.
    pub fn insert_metadata<T: Clone + Send + Sync + 'static>(&self, value: T) {
        let mut metadata = Extensions::new();
        metadata.insert(value);
        self.client.insert_metadata(&metadata);
    }

    /// Sets whether an event's topic is sent as its event type.
    ///
    /// Default: as the layer sets it. It applies to events without an event type.
    ///
    /// A page can then tell the topics of one stream apart with `addEventListener`. You can call it at any time; it
    /// applies to the next frames. Events that are read with [`into_events`](Self::into_events) do not change, because
    /// each of them has its topic anyway.
    ///
    /// The page has to know the topics, because a browser drops events of a type without a listener. For a pattern, an
    /// [array](Batching::as_array) fits better.
    pub fn topic_as_event_type(&self, on: bool) {
        self.client.restyle(|style| style.topic_as_event_type = on);
    }

    /// Sets the shortest time between two frames of this stream: see [`Batching`].
    ///
    /// Default: as the layer sets it.
    ///
    /// You can call it at any time. Events that wait for the former interval are then sent at once. It does not apply
    /// to [`into_events`](Self::into_events).
    pub fn batch(&self, batching: Batching) {
        self.client.restyle(|style| style.batching = Some(batching));
    }

    /// Returns statistics of the client's stream.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.client.stats()
    }

    /// Whether the client has read all of its topics to their end.
    ///
    /// All of them must be [finished](crate::Producer).
    ///
    /// A response is then a 204, which [`EventStream`] does by itself. `false` if one of the topics failed or was
    /// cancelled, because it is incomplete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.client.outcome() == Some(Outcome::Finished)
    }

    /// Closes the client: its stream ends at the next boundary.
    ///
    /// The client still gets all events that were published until now.
    ///
    /// A stream whose own body has stalled in the middle of an event ends only when that body continues to a boundary.
    pub fn close(&self) {
        self.client.close(CloseReason::ByServer);
    }

    /// Closes the client as [`close`](Self::close), with a reason of your own.
    ///
    /// [`closed`](Self::closed) returns the reason as [`CloseReason::Other`]. If the client is closed several times,
    /// the first reason counts.
    pub fn close_with(&self, reason: &'static str) {
        self.client.close(CloseReason::Other(reason));
    }

    /// Acquires a slot of each [limit](crate::Limit) that counts the client.
    ///
    /// It has no effect if the client has its slots already.
    ///
    /// A request for an event stream has its slots before the handler runs. Call this in a handler of another request,
    /// such as a `POST` that is answered with a stream or a WebSocket, to refuse the request before the work begins.
    /// Otherwise the layer replaces the handler's response by a refusal. The request keeps the slots until it is
    /// answered. Then its stream keeps them, if it has one.
    ///
    /// # Errors
    ///
    /// [`RefusedReason`] if a limit has no free slot, or if the registry is being drained. It converts into a response
    /// with a `retry-after`.
    pub fn acquire_slot(&self) -> Result<(), RefusedReason> {
        self.client.acquire_slot()
    }

    /// Closes the client at this time, such as when its token expires.
    ///
    /// Default: `None`, at no time.
    ///
    /// You can call it at any time, also while the stream is open, such as after a token was renewed. The last call
    /// counts. The stream ends at a boundary, after all events that were published until then, as
    /// [`CloseReason::AuthorizationExpired`]. A time in the past closes the client at once.
    ///
    /// The time is converted into a duration at the call. A system clock that is set later changes nothing.
    pub fn expire_at(&self, time: impl Into<Option<SystemTime>>) {
        let time = time.into().map(|time| time.duration_since(SystemTime::now()).unwrap_or_default());
        self.client.expire(time);
    }

    /// Closes the client after this time: see [`expire_at`](Self::expire_at).
    pub fn expire_after(&self, time: Duration) {
        self.client.expire(Some(time));
    }

    /// Sets whether the stream may finish when the registry is drained.
    ///
    /// See [`Drain::finish_within`](crate::Drain::finish_within).
    ///
    /// Default: as the layer sets it. Use it for a response that has an end of its own, such as an LLM answer. You can
    /// call it at any time. During a drain, a stream that no longer may finish is closed.
    pub fn finish_on_drain(&self, finish: bool) {
        self.client.finish_on_drain(finish);
    }

    /// Waits until the client's stream has ended, and returns why.
    ///
    /// ```
    /// use tower_sse::{ClientHandle, EventStream, SubscribeError};
    ///
    /// async fn progress(client: ClientHandle) -> Result<EventStream, SubscribeError> {
    ///     client.subscribe("progress")?;
    ///     let watched = client.clone();
    ///     tokio::spawn(async move {
    ///         let reason = watched.closed().await;
    ///         println!("nobody watches any more: {reason}");
    ///     });
    ///     Ok(client.into_stream())
    /// }
    /// # let _ = progress;
    /// ```
    pub async fn closed(&self) -> CloseReason {
        self.client.closed().await
    }

    /// Returns the client's event stream, as a response to the client's own request.
    ///
    /// The stream stays open until the client disconnects or is closed, with or without subscriptions.
    ///
    /// The response is a 500, with a [`RefusedReason`] in its extensions, if the client [has no
    /// request](crate::Registry::connect), or if its stream is open already or has ended. It is a 500 too as the
    /// response to another client's request. Observers are notified.
    ///
    /// With the `axum` feature it is an `IntoResponse`; see [`EventStream::into_response`] for other frameworks.
    pub fn into_stream(self) -> EventStream {
        self.client.keep_open();
        EventStream { client: self.client }
    }

    /// Returns the client's events one by one, for other protocols.
    ///
    /// Use it in a gRPC method or for a WebSocket.
    ///
    /// Dropping the events closes the client. They are the client's only reader: the layer adds nothing to the
    /// response's body.
    ///
    /// Call it before the handler returns. The exception is an upgraded connection: a 101, or a 2xx to `CONNECT`, as
    /// for WebSockets. There the client lives as long as any of its handles and keeps the slots that it
    /// [acquired](Self::acquire_slot), so the connection's task can call it.
    ///
    /// The events end at once if the client's stream is open already, has ended, or is refused by a
    /// [limit](crate::Limit). Then [`Events::refused`] returns why, and observers are notified. A stream that is open
    /// is not disturbed.
    ///
    /// The client's stream begins with this call: it is counted, it is present, and observers are notified. A refused
    /// stream never began. A HEAD request has no events, and nothing is refused.
    pub fn into_events(self) -> Events {
        if self.client.is_head() {
            self.client.note_reader_ended();
            return Events { reader: None, refused: None, taken: VecDeque::new() };
        }
        match Reader::open(&self.client) {
            Ok((reader, own)) => Events { reader: Some(reader), refused: None, taken: own.into() },
            Err(refused) => Events { reader: None, refused: Some(Box::new(refused)), taken: VecDeque::new() },
        }
    }
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientHandle").field(&self.client).finish()
    }
}

/// Shortens an id that is longer than any event's id. It cannot match an event; the beginning and the length are kept
/// for messages.
pub(crate) fn bounded(id: &str) -> Box<str> {
    if id.len() <= Event::MAX_ID {
        return id.into();
    }
    let shown: String = id.chars().take(64).collect();
    format!("{shown}… ({} bytes)", id.len()).into()
}
