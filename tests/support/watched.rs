//! A stream that reports when it is dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower_sse::Event;

pub(crate) struct Watched {
    events: ReceiverStream<Event>,
    dropped: Arc<AtomicBool>,
}

impl Stream for Watched {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.events).poll_next(cx)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// A stream, the sender of its events, and whether it was dropped.
pub(crate) fn watched() -> (mpsc::Sender<Event>, Watched, Arc<AtomicBool>) {
    let (sender, events) = mpsc::channel(8);
    let dropped = Arc::new(AtomicBool::new(false));
    (sender, Watched { events: ReceiverStream::new(events), dropped: Arc::clone(&dropped) }, dropped)
}
