//! What a handler holds of a client, and what it can answer with.

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

/// What a handler holds of a client: one request, and the event stream that it may become.
///
/// [`SseLayer`](crate::SseLayer) puts one into the extensions of every request; with the `axum` feature it is an
/// extractor too. It costs next to nothing until something is subscribed to or streamed. Clones are of the same client,
/// may be kept after the handler has answered, and do not keep the stream open; nor need they be kept for it to go on.
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

    /// The client's id, with which [`Registry::client`](crate::Registry::client) finds it. It is made when it is first asked for.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give, as `HashMap::new` does.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.client.id()
    }

    /// The client's `Last-Event-ID`, from the header or from a query parameter. If it has more than 256 bytes, this is its beginning.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.client.last_event_id()
    }

    /// Subscribes to a topic, or as a [`Subscription`] says.
    ///
    /// Before the stream begins, a client that came with a `Last-Event-ID` resumes after it. Otherwise a name alone starts
    /// with what is published from now on.
    ///
    /// It can be called at any time, from the handler or from elsewhere, also while the stream is open. An event that
    /// matches several of a client's subscriptions is delivered once.
    ///
    /// Of a name that the client is subscribed to already, what is asked for takes the place of what was asked for before, and the rest stays: a name alone
    /// changes nothing. A filter decides from now on, on all that has not been taken for the client, and no event is lost or repeated for it. Another
    /// start counts as if it had been said at once, before the stream begins. Later, one that is further back than the client has had everything from
    /// takes it back there, and it is told again what came since; any other start asks for nothing that it does not have.
    ///
    /// Cost: the first subscription to a pattern looks at the names of all topics, one that asks for what is already there also at the retained
    /// events of those that match. After that, a pattern costs nothing but a reference to each event.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if the name is invalid, if the client has as many subscriptions as it may have, or if its stream has ended.
    pub fn subscribe(&self, subscription: impl Into<Subscription>) -> Result<(), SubscribeError> {
        self.client.subscribe(subscription.into())
    }

    /// Subscribes to a topic, from `start` on unless the client resumes: see [`Start`].
    ///
    /// Events go out in position order, over all topics. Those of a later subscription that are older than what
    /// already went out do not move the client's position back: their ids say how far it is in which topic, so that a
    /// cut in the middle of catching up loses nothing and repeats nothing. There are three exceptions. With more than eight
    /// such subscriptions at once, and for events that the client had before by another subscription, a cut may repeat. And a
    /// subscription of which nothing went out yet leaves no trace in any id: after a cut it goes on where the others are.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_from(&self, name: impl AsRef<str>, start: Start) -> Result<(), SubscribeError> {
        self.subscribe(Subscription::to(name.as_ref()).from(start))
    }

    /// The names of the topics and patterns that the client is subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.client.subscriptions()
    }

    /// Ends a subscription, and returns whether there was one. Events of it that were not sent yet are not sent.
    ///
    /// If only its subscriptions held the stream open, the stream ends with the last of them.
    pub fn unsubscribe(&self, topic: impl AsRef<str>) -> bool {
        self.client.unsubscribe(topic.as_ref())
    }

    /// Sends an event to this client alone, in order with all other events.
    ///
    /// What is sent before the stream begins, a welcome say, goes out first: before all that the client's subscriptions have for it, and after a
    /// [snapshot](EventStream::snapshot). Its id on the wire then says where the client stands as its stream begins, so that a cut after it loses
    /// nothing of that; an id of its own is replaced.
    ///
    /// The event is lost if the client reconnects before it has it. What must survive a reconnect belongs on a topic.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the event is too large, if the client has as many subscriptions as it may have, or if its stream has ended.
    pub fn send(&self, event: impl std::borrow::Borrow<Event>) -> Result<Receipt, PublishError> {
        self.client.send(event.borrow())
    }

    /// How the client's resume goes, with its subscriptions so far. If there is a gap, a handler may want to send a snapshot.
    #[must_use]
    pub fn resume(&self) -> Resume {
        self.client.resume()
    }

    /// Resumes from this id: for a client that says what it had last elsewhere than in a `Last-Event-ID`, in a message of gRPC or of a
    /// WebSocket, say. It is an id as it went out, with [`Delivery::id`](crate::Delivery::id) for example, and counts as if the request had brought it. A blank one says nothing.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the client brought an id already, or if its stream has begun.
    pub fn resume_from(&self, id: impl AsRef<str>) -> Result<(), ResumeError> {
        match id.as_ref().trim() {
            "" => Ok(()),
            _ => self.client.resume_from(&bounded(id.as_ref())),
        }
    }

    /// The most events of one topic (or pattern) that the client gets of what it has missed: the newest ones, after a
    /// [gap](crate::Gap). It has to be said before the stream begins. Default: as the [layer](crate::SseLayer::resume_at_most) has it.
    ///
    /// Whoever may open a stream can say in a `Last-Event-ID` that they come from long ago. Without a bound they get all that
    /// is retained.
    pub fn resume_at_most(&self, events: u32) {
        self.client.bound_resume(events);
    }

    /// What is known of the client: what [`SseLayer::metadata`](crate::SseLayer::metadata) took from its request, and what was [inserted](Self::insert_metadata).
    ///
    /// Cost: a reference count.
    #[must_use]
    pub fn metadata(&self) -> Arc<Extensions> {
        self.client.metadata()
    }

    /// Adds to what is known of the client: one value of each type. For what is known only behind the layer, such as who
    /// has logged in.
    pub fn insert_metadata<T: Clone + Send + Sync + 'static>(&self, value: T) {
        let mut metadata = Extensions::new();
        metadata.insert(value);
        self.client.insert_metadata(&metadata);
    }

    /// Sends events without an event type with their topic as the event type, so that a page can tell the topics of one
    /// stream apart with `addEventListener`. It can be said at any time, and goes for the frames that are put together from then on. Default: as the layer has it.
    /// What is read with [`into_events`](Self::into_events) comes as it was published, and says its topic anyway.
    ///
    /// A page has to know the topics, as a browser drops events of a type that nobody listens to: with a pattern, an
    /// [array](Batching::as_array) says it better.
    pub fn topic_as_event_type(&self, on: bool) {
        self.client.restyle(|style| style.topic_as_event_type = on);
    }

    /// How long at least it is between two frames of this stream: see [`Batching`]. It can be said at any time: what waits for the interval of before goes out at
    /// once. Default: as the layer has it. What is read with [`into_events`](Self::into_events) does not wait.
    pub fn batch(&self, batching: Batching) {
        self.client.restyle(|style| style.batching = Some(batching));
    }

    /// Statistics of the client's stream: its age, what it got, and what it lost.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.client.stats()
    }

    /// Whether nothing is to come on any of its topics, as all were [finished](crate::Producer) and it had all of them: time for a
    /// 204, which [`EventStream`] is then of itself. `false` if one of them has failed or was cancelled: nobody has had all of it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.client.outcome() == Some(Outcome::Whole)
    }

    /// Ends the client's stream at the next boundary between two events, after what was published until now.
    ///
    /// A stream that has stalled in the middle of an event has no boundary to end at before its own body goes on.
    pub fn close(&self) {
        self.client.close(CloseReason::ByServer);
    }

    /// Ends the stream as [`close`](Self::close) does, with a reason of your own: [`closed`](Self::closed) returns it as
    /// [`CloseReason::Other`].
    ///
    /// If the stream is closed several times, the first reason counts.
    pub fn close_with(&self, reason: &'static str) {
        self.client.close(CloseReason::Other(reason));
    }

    /// Acquires a slot of each [limit](crate::Limit) that counts the client, or says which limit has none. Nothing happens if the client has its slots.
    ///
    /// A request that asks for an event stream has its slots before the handler runs. This is for handlers of other requests, such as
    /// a `POST` that is answered with a stream or a WebSocket, that would rather refuse before they begin than have their answer replaced. The slots are
    /// kept until the request is answered, and from then on by its stream, if it has one.
    ///
    /// # Errors
    ///
    /// [`RefusedReason`], which is a response with a `retry-after`.
    pub fn acquire_slot(&self) -> Result<(), RefusedReason> {
        self.client.acquire_slot()
    }

    /// Ends its stream at this time: when the token expires that it was opened with, say. `None`: at no time. Default: none.
    ///
    /// It can be said before the stream begins and while it is open, by whoever has just got a fresh token. The last word counts. The stream ends at a
    /// boundary, as [`CloseReason::AuthorizationExpired`], when it has what was published until then; in a time that is past, at once. A clock that is set meanwhile changes
    /// nothing: what counts is how long it is until then at this moment.
    pub fn expire_at(&self, time: impl Into<Option<SystemTime>>) {
        let time = time.into().map(|time| time.duration_since(SystemTime::now()).unwrap_or_default());
        self.client.expire(time);
    }

    /// Ends the client's stream after this time: see [`expire_at`](Self::expire_at).
    pub fn expire_after(&self, time: Duration) {
        self.client.expire(Some(time));
    }

    /// Whether its stream may go on for some time when the registry ends its streams: see [`Drain::finish_within`](crate::Drain::finish_within). For an answer that is being given.
    /// It can be said at any time; while the registry ends its streams, one that need not finish any more ends. Default: as the layer has it.
    pub fn finish_on_drain(&self, finish: bool) {
        self.client.finish_on_drain(finish);
    }

    /// Waits until the stream has ended, and returns why.
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

    /// The client's event stream, as an answer: open until the client leaves or is closed, with or without subscriptions.
    ///
    /// It is an answer to the client's own request. Any other, or one with the stream of a client that came with [no request](crate::Registry::connect), is
    /// open already, or is over, is a 500 that says so, with a [`RefusedReason`] in its extensions that observers are told of too.
    ///
    /// With the `axum` feature it is an `IntoResponse`; see [`EventStream::into_response`] for other frameworks.
    pub fn into_stream(self) -> EventStream {
        self.client.hold();
        EventStream { client: self.client }
    }

    /// The client's events one by one, for a handler that speaks something else than event streams: a method of a gRPC
    /// service that maps them to messages, a WebSocket.
    ///
    /// The client lives as long as this: it is over when it is dropped. It is the client's only reader; the layer then
    /// adds nothing to the response's body, whatever that is.
    ///
    /// It has to be called before the request is answered, but for a connection that goes on after the answer: where that is a 101, or a 2xx
    /// to `CONNECT`, as it is for WebSockets, a client lives as long as any of its handles, and keeps the slots that
    /// it [acquired](Self::acquire_slot). So the task of an upgraded connection can call it.
    ///
    /// Where there are no events to be had, as the client's stream is open already, is over, or is refused by a [limit](crate::Limit), this has
    /// ended before it begins, and [`Events::refused`] and observers say why. A stream that is open is not disturbed by it.
    ///
    /// Its stream begins with this call: from now on it is counted, present, and told to observers. One that is refused never was there. For a
    /// HEAD, there are no events either, and nothing is refused.
    pub fn into_events(self) -> Events {
        if self.client.is_head() {
            self.client.tell();
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

/// An id that is longer than any event's can lead nowhere: what is kept of it is for the client to see, and says so.
pub(crate) fn bounded(id: &str) -> Box<str> {
    if id.len() <= Event::MAX_ID {
        return id.into();
    }
    let shown: String = id.chars().take(64).collect();
    format!("{shown}… ({} bytes)", id.len()).into()
}
