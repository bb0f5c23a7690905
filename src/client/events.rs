//! A client's events, one by one.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{reader::Reader, taking::Picked};
use crate::{
    event,
    limit::RefusedReason,
    log::{Entry, Gap, Position},
};

/// The events of one client, one by one, as a [`Stream`].
///
/// It ends when the client is closed. If it was [refused](Self::refused), it ends at once. An `Err` is a [`Gap`]; the
/// stream continues after it.
///
/// ```
/// use tokio_stream::StreamExt;
/// use tower_sse::{Event, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let client = registry.connect();
/// client.subscribe("orders")?;
/// let mut events = client.into_events();
///
/// registry.publish("orders", Event::data("17"))?;
/// if let Some(Ok(delivery)) = events.next().await {
///     assert_eq!((delivery.topic(), delivery.data().as_deref()), ("orders", Some("17")));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct Events {
    pub(super) reader: Option<Reader>,
    pub(super) refused: Option<Box<RefusedReason>>,
    pub(super) taken: VecDeque<Picked>,
}

impl Events {
    /// Returns why the client's stream was refused, or `None` if it was not.
    #[must_use]
    pub fn refused(&self) -> Option<&RefusedReason> {
        self.refused.as_deref()
    }
}

impl Stream for Events {
    type Item = Result<Delivery, Gap>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(reader) = &mut this.reader else { return Poll::Ready(None) };
        loop {
            if let Some(picked) = this.taken.pop_front() {
                reader.note_read();
                return Poll::Ready(Some(Ok(Delivery::new(&picked))));
            }
            match ready!(reader.poll_events(cx)) {
                Ok(taken) => {
                    this.taken.extend(taken.events);
                    if let Some(missing) = taken.gap {
                        return Poll::Ready(Some(Err(*missing)));
                    }
                }
                Err(reason) => {
                    reader.end(reason);
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// One event, as one client receives it.
///
/// It shares the bytes of the retained event. The accessors decode them at each call.
#[derive(Clone)]
pub struct Delivery {
    entry: Arc<Entry>,
    progress: Option<Arc<str>>,
}

impl Delivery {
    pub(crate) fn new(picked: &Picked) -> Self {
        Self { entry: Arc::clone(&picked.entry), progress: picked.progress.clone() }
    }

    /// Returns the topic of the event, or `$client` if it was [sent](crate::ClientHandle::send) to this client alone.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.entry.public_topic().unwrap_or("$client")
    }

    /// Returns the event's position in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.entry.position
    }

    /// Returns the id that this client resumes from after the event.
    ///
    /// `None` if the event has no data.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let id = self.entry.id()?;
        Some(self.progress.as_deref().unwrap_or(id))
    }

    /// Returns the event type, or `None` if the event has none.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        event::decode_type(&self.entry.wire)
    }

    /// Returns the data, with LF as line ends, or `None` if the event has no data.
    ///
    /// Cost: one line of data is not copied. An event without data is a comment or a reconnection time only.
    #[must_use]
    pub fn data(&self) -> Option<Cow<'_, str>> {
        event::decode_data(&self.entry.wire)
    }

    /// Returns the event's attribute of this type: see [`Event::attribute`](crate::Event::attribute).
    #[must_use]
    pub fn attribute<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.entry.audience.as_ref()?.attributes.get()
    }

    /// Returns the encoded event, with the id that it got when it was published.
    ///
    /// The bytes are shared, not copied.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.entry.wire
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Delivery");
        debug.field("topic", &self.topic()).field("position", &self.position()).field("id", &self.id());
        debug.field("encoded", self.encoded()).finish()
    }
}
