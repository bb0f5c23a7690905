//! A client's events one by one.

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

/// The events of one client, as a [`Stream`].
///
/// It ends when the client is closed; one that is [refused](Self::refused) has none. An `Err` is a [`Gap`], after which it goes on.
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
    /// Why there are no events, if it was refused. `None`: it was not.
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

/// One event, as one client gets it.
///
/// It shares the bytes of the event as it is retained; what it says is read from them when it is asked.
#[derive(Clone)]
pub struct Delivery {
    entry: Arc<Entry>,
    progress: Option<Arc<str>>,
}

impl Delivery {
    pub(crate) fn new(picked: &Picked) -> Self {
        Self { entry: Arc::clone(&picked.entry), progress: picked.progress.clone() }
    }

    /// The topic that it was published on; of what was [sent](crate::ClientHandle::send) to this client alone, `$client`.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.entry.public_topic().unwrap_or("$client")
    }

    /// Where it stands in the registry's order.
    #[must_use]
    pub fn position(&self) -> Position {
        self.entry.position
    }

    /// The id that it has for this client: what to resume from. None if it has no data.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let id = self.entry.id()?;
        Some(self.progress.as_deref().unwrap_or(id))
    }

    /// Its event type, if it has one.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        event::decode_type(&self.entry.wire)
    }

    /// Its data, with LF as line ends: without a copy if it is one line. None if it is a comment or a reconnection time only.
    #[must_use]
    pub fn data(&self) -> Option<Cow<'_, str>> {
        event::decode_data(&self.entry.wire)
    }

    /// Its attribute of this type: see [`Event::attribute`](crate::Event::attribute).
    #[must_use]
    pub fn attribute<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.entry.audience.as_ref()?.attributes.get()
    }

    /// The event as it was encoded when it was published, its own id included. Shared, not copied.
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
