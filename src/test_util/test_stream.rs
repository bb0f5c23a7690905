//! Reads a response as a client does.

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

use super::{
    decoder::{Decoder, Item},
    received::{Received, ReceivedEvent},
};
use crate::stream::headers;

/// Reads an event stream as a client does.
///
/// It follows the rules of the [HTML
/// standard](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation). Other than a
/// client, it also returns the comments.
///
/// If a test drops it, the client disconnects. It buffers what it has read and not returned yet, without a limit.
pub struct TestStream<B> {
    head: Response<()>,
    body: Pin<Box<B>>,
    decoder: Decoder,
    items: VecDeque<Item>,
    has_ended: bool,
    last_event_id: String,
    retry: Option<Duration>,
}

impl<B: Body> TestStream<B> {
    /// Starts to read a response.
    ///
    /// # Errors
    ///
    /// [`NotAnEventStream`], which contains the response, if a client would not read it as an event stream: it has no
    /// success status, has the status 204, 205 or 206, has another content type, or is compressed. A browser's
    /// `EventSource` accepts only the status 200.
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
            items: VecDeque::new(),
            has_ended: false,
            last_event_id: String::new(),
            retry: None,
        })
    }

    /// Returns the headers of the response.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }

    /// Returns the `Last-Event-ID` that a client would send when it reconnects now.
    ///
    /// It depends on the items that were returned so far. Empty: the client sends no such header.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Returns how long a client waits before it reconnects.
    ///
    /// It depends on the items that were returned so far. `None`: the client uses its own time.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Waits for the next item. `None`: the stream has ended.
    ///
    /// # Errors
    ///
    /// The error of the body, after which the stream has ended too.
    pub async fn next(&mut self) -> Result<Option<Received>, B::Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the next event. `None`: the stream has ended.
    ///
    /// Comments and reconnection times are skipped. A [`PositionEvent`](crate::PositionEvent) with its default name is
    /// also skipped, because a page does not listen for it. [`next`](Self::next) returns all of them.
    ///
    /// # Errors
    ///
    /// The error of the body, after which the stream has ended too.
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

    /// Returns all items that are available without waiting.
    ///
    /// # Errors
    ///
    /// The error of the body.
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

    /// Returns all events that are available without waiting.
    ///
    /// It skips the same items as [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// The error of the body.
    pub fn ready_events(&mut self) -> Result<Vec<ReceivedEvent>, B::Error> {
        Ok(self.ready()?.into_iter().filter_map(to_page).collect())
    }

    /// Returns all items that come within this time, or until the stream ends.
    ///
    /// With tokio's clock paused, the time passes at once if nothing else is to be done.
    ///
    /// # Errors
    ///
    /// The error of the body.
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

    /// Returns all events until the stream ends.
    ///
    /// It skips the same items as [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// The error of the body.
    pub async fn collect_events(mut self) -> Result<Vec<ReceivedEvent>, B::Error> {
        let mut all = Vec::new();
        while let Some(event) = self.next_event().await? {
            all.push(event);
        }
        Ok(all)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Received>, B::Error>> {
        loop {
            match self.items.pop_front() {
                Some(Item::LastEventId(id)) => {
                    self.last_event_id = id;
                    continue;
                }
                Some(Item::Received(received)) => {
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
                        self.decoder.decode(&bytes, &mut self.items);
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

/// How often in a row a body may wake itself before it counts as waiting.
///
/// A body with much to send does this to let other tasks run.
const TURNS: usize = 10_000;

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the event if a page would get it.
fn to_page(received: Received) -> Option<ReceivedEvent> {
    match received {
        Received::Event(event) if event.event_type == "position" && event.data.is_empty() => None,
        Received::Event(event) => Some(event),
        Received::Comment(_) | Received::Retry(_) => None,
    }
}

impl<B> fmt::Debug for TestStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { items, has_ended, last_event_id, .. } = self;
        let mut debug = f.debug_struct("TestStream");
        debug.field("not_taken", items).field("has_ended", has_ended).field("last_event_id", last_event_id);
        debug.finish_non_exhaustive()
    }
}

/// The error of [`TestStream::new`]: a client would not read this response.
pub struct NotAnEventStream<B> {
    response: Box<Response<B>>,
}

impl<B> NotAnEventStream<B> {
    /// Returns the response.
    pub fn into_response(self) -> Response<B> {
        *self.response
    }
}

impl<B> fmt::Display for NotAnEventStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an event stream: {}", self.response.status())?;
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
