//! What a client sees of a response: for tests of one's own handlers.
//!
//! A [`TestStream`] reads the response of a service that is called in the same task: no socket, no client, no
//! sleep. The crate's clock is tokio's, so that in a test whose clock is paused hours pass in no time: heartbeats, the
//! [ages](crate::SseLayer::max_age) of streams, the ages of events, the window of a [drain](crate::Registry::drain).
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, routing::get};
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_sse::{
//!     ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError,
//!     test_util::{Received, TestStream},
//! };
//!
//! async fn news(client: ClientHandle) -> Result<EventStream, SubscribeError> {
//!     client.subscribe("news")?;
//!     Ok(client.into_stream())
//! }
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::time::pause();
//! let registry = Registry::new();
//! let app: Router = Router::new().route("/news", get(news)).layer(SseLayer::new(&registry));
//!
//! let response = app.clone().oneshot(Request::get("/news").body(Body::empty())?).await?;
//! let mut stream = TestStream::new(response)?;
//! assert_eq!(registry.stats().clients, 1);
//!
//! registry.publish("news", Event::data("it works").event("headline"))?;
//! let event = stream.next_event().await?.expect("the stream goes on");
//! assert_eq!((event.event_type.as_str(), event.data.as_str()), ("headline", "it works"));
//!
//! // A minute of silence.
//! let heartbeats = stream.received_within(Duration::from_secs(60)).await?;
//! assert!(heartbeats.iter().all(|it| *it == Received::Comment(String::new())) && heartbeats.len() >= 3);
//!
//! // The client leaves, misses something, and comes back.
//! let last_event_id = stream.last_event_id().to_owned();
//! drop(stream);
//! registry.publish("news", Event::data("missed"))?;
//! let request = Request::get("/news").header("last-event-id", last_event_id).body(Body::empty())?;
//! let mut stream = TestStream::new(app.oneshot(request).await?)?;
//! assert_eq!(stream.ready_events()?[0].data, "missed");
//! # Ok(())
//! # }
//! ```

mod decoder;

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Buf;
use http::{HeaderMap, Response, header::CONTENT_TYPE};
use http_body::Body;
use tokio::time::{Instant, timeout_at};

use self::decoder::{Decoder, Said};
use crate::stream::headers;

/// An event stream, as a client reads it: by the rules of the
/// [HTML standard](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and with the comments,
/// which clients hide.
///
/// Dropping it is the client that leaves. What it has read and not given yet is kept, without a bound.
pub struct TestStream<B> {
    head: Response<()>,
    body: Pin<Box<B>>,
    decoder: Decoder,
    said: VecDeque<Said>,
    has_ended: bool,
    last_event_id: String,
    retry: Option<Duration>,
}

/// Something that came in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// An event that a client dispatches.
    Event(ReceivedEvent),
    /// A comment line, without its colon and one space after it. A default [`Heartbeat`](crate::Heartbeat) is an empty one.
    Comment(String),
    /// A reconnection time.
    Retry(Duration),
}

/// An event as a client dispatches it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedEvent {
    /// Its type: `message` where the stream says none.
    pub event_type: String,
    /// Its data, with LF between lines.
    pub data: String,
    /// Its own id; where it has none, that of the last event that had one; empty if none had.
    pub last_event_id: String,
}

impl ReceivedEvent {
    /// Its data as JSON.
    ///
    /// # Errors
    ///
    /// If it is no such value.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(&self.data)
    }
}

impl<B: Body> TestStream<B> {
    /// Begins to read a response.
    ///
    /// # Errors
    ///
    /// [`NotAnEventStream`] if a client would not: its status is no success or a 204, 205 or 206, it has another content type, or it is compressed.
    /// It has the response in it. A browser's `EventSource` takes no other status than 200.
    pub fn new(response: Response<B>) -> Result<Self, NotAnEventStream<B>> {
        let is_event_stream = headers::is_event_stream(response.status(), response.headers());
        if !is_event_stream || headers::is_encoded(response.headers()) {
            return Err(NotAnEventStream { response: Box::new(response) });
        }
        let (head, body) = response.into_parts();
        Ok(Self {
            head: Response::from_parts(head, ()),
            body: Box::pin(body),
            decoder: Decoder::default(),
            said: VecDeque::new(),
            has_ended: false,
            last_event_id: String::new(),
            retry: None,
        })
    }

    /// The response's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }

    /// What a client that comes back says in `Last-Event-ID`, by what was taken so far. Empty: it says nothing.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long a client waits before it comes back, by what was taken so far. `None`: as long as it likes.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Waits for what comes next, whatever it is. `None`: the stream has ended.
    ///
    /// # Errors
    ///
    /// The body's own, which is also an end.
    pub async fn next(&mut self) -> Result<Option<Received>, B::Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the next event. Comments and reconnection times are passed over, and so is a [`PositionEvent`](crate::PositionEvent) by
    /// its default name, as a page does that does not listen to it: [`next`](Self::next) gives all. `None`: the stream has ended.
    ///
    /// # Errors
    ///
    /// The body's own, which is also an end.
    pub async fn next_event(&mut self) -> Result<Option<ReceivedEvent>, B::Error> {
        loop {
            match self.next().await? {
                Some(received) => {
                    if let Some(event) = to_page(received) {
                        return Ok(Some(event));
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// All that can be had without waiting.
    ///
    /// # Errors
    ///
    /// The body's own.
    pub fn ready(&mut self) -> Result<Vec<Received>, B::Error> {
        let mut all = Vec::new();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..TURNS {
            while let Poll::Ready(received) = self.poll_next(&mut Context::from_waker(&waker)) {
                match received? {
                    Some(received) => all.push(received),
                    None => return Ok(all),
                }
            }
            if !woken.0.swap(false, Ordering::Relaxed) {
                break;
            }
        }
        Ok(all)
    }

    /// All events that can be had without waiting, of those that [`next_event`](Self::next_event) gives.
    ///
    /// # Errors
    ///
    /// The body's own.
    pub fn ready_events(&mut self) -> Result<Vec<ReceivedEvent>, B::Error> {
        Ok(self.ready()?.into_iter().filter_map(to_page).collect())
    }

    /// All that comes in this time, or until the stream ends. Where tokio's clock is paused and nothing else is to be done, the time
    /// passes at once.
    ///
    /// # Errors
    ///
    /// The body's own.
    pub async fn received_within(&mut self, time: Duration) -> Result<Vec<Received>, B::Error> {
        let end = Instant::now() + time;
        let mut all = Vec::new();
        while let Ok(received) = timeout_at(end, self.next()).await {
            match received? {
                Some(received) => all.push(received),
                None => break,
            }
        }
        Ok(all)
    }

    /// All events until the stream ends, of those that [`next_event`](Self::next_event) gives.
    ///
    /// # Errors
    ///
    /// The body's own.
    pub async fn collect_events(mut self) -> Result<Vec<ReceivedEvent>, B::Error> {
        let mut all = Vec::new();
        while let Some(event) = self.next_event().await? {
            all.push(event);
        }
        Ok(all)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Received>, B::Error>> {
        loop {
            match self.said.pop_front() {
                Some(Said::LastEventId(id)) => {
                    self.last_event_id = id;
                    continue;
                }
                Some(Said::Received(received)) => {
                    if let Received::Retry(delay) = &received {
                        self.retry = Some(*delay);
                    }
                    return Poll::Ready(Ok(Some(received)));
                }
                None => {}
            }
            if self.has_ended {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        let bytes = data.copy_to_bytes(data.remaining());
                        self.decoder.decode(&bytes, &mut self.said);
                    }
                }
                Some(Err(error)) => {
                    self.has_ended = true;
                    return Poll::Ready(Err(error));
                }
                None => self.has_ended = true,
            }
        }
    }
}

/// How often in a row a body may give others their turn, as one does that has much, before it counts as one that waits.
const TURNS: usize = 10_000;

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a page hears of.
fn to_page(received: Received) -> Option<ReceivedEvent> {
    match received {
        Received::Event(event) if event.event_type == "position" && event.data.is_empty() => None,
        Received::Event(event) => Some(event),
        Received::Comment(_) | Received::Retry(_) => None,
    }
}

impl<B> fmt::Debug for TestStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, has_ended, last_event_id, .. } = self;
        let mut debug = f.debug_struct("TestStream");
        debug.field("not_taken", said).field("has_ended", has_ended).field("last_event_id", last_event_id);
        debug.finish_non_exhaustive()
    }
}

/// A response that no client takes for an event stream.
pub struct NotAnEventStream<B> {
    response: Box<Response<B>>,
}

impl<B> NotAnEventStream<B> {
    /// The response.
    pub fn into_response(self) -> Response<B> {
        *self.response
    }
}

impl<B> fmt::Display for NotAnEventStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no event stream: {}", self.response.status())?;
        match self.response.headers().get(CONTENT_TYPE) {
            Some(content_type) => write!(f, " with the content type {content_type:?}")?,
            None => write!(f, " without a content type")?,
        }
        match headers::is_encoded(self.response.headers()) {
            true => write!(f, ", and compressed"),
            false => Ok(()),
        }
    }
}

impl<B> fmt::Debug for NotAnEventStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotAnEventStream({self})")
    }
}

impl<B> std::error::Error for NotAnEventStream<B> {}
