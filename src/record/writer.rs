//! Reads a handler's body into a topic.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
};

use bytes::Bytes;
use http_body::Body;
use tokio::task::coop;

use super::{
    body::BoxError,
    config::{Config, FailedEvent},
    failure::RecordingFailure,
    table::Lead,
};
use crate::{
    event::{Event, EventDecoder, TooLong},
    registry::{Producer, Registry},
    stream::into_bytes,
    topics::PublishError,
};

/// Writes one recording. If it is dropped before the recording has ended, the recording fails.
pub(super) struct Writer<'a> {
    producer: Option<Producer>,
    failed_event: FailedEvent,
    lead: &'a Lead,
    config: &'a Config,
}

/// Why a body is read no further.
enum Stop {
    /// The body has ended.
    Ended,
    /// Nobody has read the recording for too long.
    Unread,
    /// The producer was cancelled or replaced.
    Stopped,
    Failed(RecordingFailure),
}

impl<'a> Writer<'a> {
    pub(super) fn new(producer: Producer, lead: &'a Lead, config: &'a Config) -> Self {
        Self { producer: Some(producer), failed_event: Arc::clone(&config.failed_event), lead, config }
    }

    /// Reads a body to its end, and ends the topic as the body has ended.
    pub(super) async fn record<B>(mut self, body: B)
    where
        B: Body<Error: Into<BoxError>>,
    {
        let Some(producer) = &self.producer else { return };
        match read(producer, self.lead, self.config, body).await {
            Stop::Failed(failure) => self.fail(&failure),
            stop => {
                let Some(producer) = self.producer.take() else { return };
                match stop {
                    Stop::Ended => producer.end(),
                    Stop::Unread => self.cancel(producer.topic()),
                    // Dropping the producer of a topic that has another one, or has ended, does nothing.
                    Stop::Stopped | Stop::Failed(_) => {}
                }
            }
        }
    }

    fn fail(&mut self, failure: &RecordingFailure) {
        let Some(producer) = self.producer.take() else { return };
        match self.last_event(failure) {
            // If the event cannot be published, the recording fails with the registry's event.
            Some(event) => drop(producer.fail_with(event)),
            None => producer.fail(),
        }
    }
}

impl Writer<'_> {
    fn cancel(&self, topic: &str) {
        let registry = self.lead.registry();
        let event = self.last_event(&RecordingFailure::Unread);
        let is_cancelled = event.is_some_and(|event| registry.cancel_producer_with(topic, event).is_ok());
        if !is_cancelled {
            registry.cancel_producer(topic);
        }
    }

    /// Asks the program for the last event. If the program panics, which it may do while another panic unwinds, it has none.
    fn last_event(&self, failure: &RecordingFailure) -> Option<Event> {
        catch_unwind(AssertUnwindSafe(|| (self.failed_event)(failure))).ok().flatten()
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.fail(&if thread::panicking() { RecordingFailure::Panicked } else { RecordingFailure::Stopped });
    }
}

/// Reads a body until it ends or is not wanted any more. Then the body is dropped.
async fn read<B>(producer: &Producer, lead: &Lead, config: &Config, body: B) -> Stop
where
    B: Body<Error: Into<BoxError>>,
{
    let mut body = pin!(body);
    let mut stopped = pin!(producer.stopped());
    let mut unread = pin!(lead.recording().unread(config.cancel_unread_after, lead.registry()));
    let limit = lead.registry().largest_event(producer.topic());
    let mut decoder = EventDecoder::new(limit);
    loop {
        let next = poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Stop::Stopped));
            }
            if unread.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Stop::Unread));
            }
            poll_data(body.as_mut(), cx)
        });
        let data = match next.await {
            Ok(data) => data,
            Err(stop) => return stop,
        };
        let mut piece = &data[..];
        loop {
            let event = match decoder.next(&mut piece) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(TooLong) => return Stop::Failed(RecordingFailure::EventTooLarge { limit }),
            };
            if let Err(stop) = publish(producer, event, lead.registry()).await {
                return stop;
            }
            coop::consume_budget().await;
        }
        // A body that is always ready may have no event.
        coop::consume_budget().await;
    }
}

/// Returns the next bytes of a body.
fn poll_data<B>(mut body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Result<Bytes, Stop>>
where
    B: Body<Error: Into<BoxError>>,
{
    loop {
        match ready!(body.as_mut().poll_frame(cx)) {
            None => return Poll::Ready(Err(Stop::Ended)),
            Some(Err(error)) => {
                let error: BoxError = error.into();
                return Poll::Ready(Err(Stop::Failed(RecordingFailure::Body(error.into()))));
            }
            Some(Ok(frame)) => {
                // Trailers are not recorded.
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Ok(into_bytes(data)));
                }
            }
        }
    }
}

async fn publish(producer: &Producer, event: Event, registry: &Registry) -> Result<(), Stop> {
    // An id of this registry stands for its position, which is not where the recorded event is. The event gets an id that is.
    let is_taken = event.own_id().is_some_and(|id| registry.is_position(id));
    let event = if is_taken { event.without_id() } else { event };
    producer.publish_or_wait(&event).await.map(drop).map_err(stop_of)
}

fn stop_of(error: PublishError) -> Stop {
    match error {
        PublishError::Replaced { .. } | PublishError::Cancelled { .. } => Stop::Stopped,
        error => Stop::Failed(error.into()),
    }
}
