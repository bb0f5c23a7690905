//! What a handle does with its client's stream: its metadata and settings, its begin and its end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Extensions;

use super::event_stream::EventStream;
use crate::{
    client::{ClientHandle, ClientStats},
    event::ClientId,
    limit::RefusedReason,
    log::Outcome,
    reader::Events,
    stream::{Batching, CloseReason},
};

impl ClientHandle {
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
    /// [array](Batching) fits better.
    pub fn topic_as_event_type(&self, on: bool) {
        self.client.change_style(|style| style.topic_as_event_type = on);
    }

    /// Sets the shortest time between two frames of this stream: see [`Batching`].
    ///
    /// Default: as the layer sets it.
    ///
    /// You can call it at any time. Events that wait for the former interval are then sent at once. It does not apply
    /// to [`into_events`](Self::into_events).
    pub fn batch(&self, batching: Batching) {
        self.client.change_style(|style| style.batching = Some(batching));
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
        Events::open(&self.client)
    }
}
