use std::time::Duration;

/// Whether clients may poll, and how long a poll may wait.
///
/// A long poll is a request with `?wait=SECONDS`. Its response is the same event stream, from the same handler and with the
/// same ids, but it ends by itself, between two events:
///
/// - when it has sent an event of the registry, and no further event is pending;
/// - or else when the time is over.
///
/// The client then asks again, with the last id that it got. A client is a cursor, so between two polls nothing is held, and
/// nothing is missed or repeated. Use it for networks in which a proxy or a virus scanner shows nothing of a response before
/// its end.
///
/// Default: clients may poll, for at most 55 seconds, because common proxies cut a request after 60. A longer wait is
/// shortened. A `wait` that is not all digits is ignored. `wait=0` asks what the client has missed: the response has all
/// events until now, and ends.
///
/// - The response always has an id, if the client has a subscription: that of its last event, or that of a
///   [`PositionEvent`](crate::PositionEvent), also if the layer sends none otherwise. A poll without events is a 200. A 204
///   means as ever that nothing more can come.
/// - `cache-control` is `no-store`, unless the handler has set the header: see
///   [`SseLayer::cache_polls`](crate::SseLayer::cache_polls).
/// - While it waits, the poll is a stream: it counts in [limits](crate::Limit), gets heartbeats, and observers are told of its
///   beginning and its end. The end has the reason [`CloseReason::PollEnded`](crate::CloseReason::PollEnded), and no
///   [farewell](crate::SseLayer::farewell). A [rate](crate::Limit::rate) has to allow one poll for each event.
/// - In [presence lists](crate::Presence) a client that polls stays in between by the grace time.
/// - [`Batching`](crate::Batching) does not delay the events of a poll.
/// - A [snapshot](crate::EventStream::snapshot), and an event that was [sent](crate::ClientHandle::send) to the client before
///   its stream began, end the poll only if the client came without an id. Otherwise a handler that sends one to
///   everybody would end each poll at once.
/// - A handler's own body is sent too, as far as it is ready, and does not end the poll. At the end it is dropped.
///
/// The parameter is ignored if the client has no subscription and the handler's own body is not empty, because such a
/// stream could not be resumed. It is also ignored for a body with a `content-encoding`.
///
/// Cost: nothing for a client that does not ask. A poll costs what a new stream costs.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_sse::{
///     ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError, test_util::TestStream,
/// };
///
/// async fn news(client: ClientHandle) -> Result<EventStream, SubscribeError> {
///     client.subscribe("news")?;
///     Ok(client.into_stream())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let app: Router = Router::new().route("/news", get(news)).layer(SseLayer::new(&registry));
///
/// let seen = registry.position();
/// registry.publish("news", Event::data("it works"))?;
/// let poll = Request::get(format!("/news?wait=25&lastEventId={seen}")).body(Body::empty())?;
/// let events = TestStream::new(app.oneshot(poll).await?)?.collect_events().await?;
/// assert_eq!(events.len(), 1); // the response has ended
/// assert_eq!(events[0].last_event_id, registry.position().to_string()); // for the next poll
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongPoll {
    longest: Option<Duration>,
}

impl LongPoll {
    /// The default of the longest wait: 55 seconds.
    pub const DEFAULT_LONGEST: Duration = Duration::from_secs(55);

    /// Lets clients wait for at most this time.
    #[must_use]
    pub fn at_most(longest: Duration) -> Self {
        Self { longest: Some(longest) }
    }

    /// Ignores the parameter `wait`: every response is a stream.
    #[must_use]
    pub fn off() -> Self {
        Self { longest: None }
    }

    pub(super) fn bounded(self, wait: Option<Duration>) -> Option<Duration> {
        Some(wait?.min(self.longest?))
    }
}

impl Default for LongPoll {
    fn default() -> Self {
        Self::at_most(Self::DEFAULT_LONGEST)
    }
}
