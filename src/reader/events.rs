//! A client's events, one by one.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use super::poll::Reader;
use crate::{
    client::Client,
    limit::RefusedReason,
    log::Gap,
    reading::{Delivery, Picked},
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
    reader: Option<Reader>,
    refused: Option<Box<RefusedReason>>,
    taken: VecDeque<Picked>,
}

impl Events {
    /// Begins the client's stream, and reads it.
    pub(crate) fn open(client: &Arc<Client>) -> Self {
        if client.is_head() {
            client.note_reader_ended();
            return Self { reader: None, refused: None, taken: VecDeque::new() };
        }
        match Reader::open(client) {
            Ok((reader, own)) => Self { reader: Some(reader), refused: None, taken: own.into() },
            Err(refused) => Self { reader: None, refused: Some(Box::new(refused)), taken: VecDeque::new() },
        }
    }

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
                return Poll::Ready(Some(Ok(picked.delivery())));
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
