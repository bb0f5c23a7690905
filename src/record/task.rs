//! The task of a recording: it runs the handler, and then reads the handler's body.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use http::{Response, response::Parts};
use http_body::Body;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    answer::subscribe,
    body::BoxError,
    config::Config,
    head::{self, Head},
    table::Lead,
    writer::Writer,
};
use crate::{
    client::{ClientHandle, SubscribeError},
    registry::{Producer, ProducerError},
};

/// What the first request is answered with.
pub(super) enum Answer<B, E> {
    /// The handler's own response, which is not recorded.
    Untouched(Result<Response<B>, E>),
    /// A recording has begun. The head of the handler's response, and whether the client is subscribed to the
    /// recording.
    Recorded(Box<Parts>, Result<(), SubscribeError>),
}

/// One run of a handler.
pub(super) struct Job<B, E> {
    pub(super) lead: Lead,
    /// The client of the first request.
    pub(super) client: ClientHandle,
    pub(super) config: Arc<Config>,
    pub(super) reply: oneshot::Sender<Answer<B, E>>,
}

impl<B, E> Job<B, E>
where
    B: Body<Error: Into<BoxError>>,
{
    pub(super) async fn run<F>(self, handler: F)
    where
        F: Future<Output = Result<Response<B>, E>>,
    {
        let Self { lead, client, config, reply } = self;
        let Some(answered) = until_unwanted(&lead, &config, handler).await else { return };
        let is_recordable = answered.as_ref().is_ok_and(head::is_recordable);
        let producer = if is_recordable { start_producer(&lead).await } else { None };
        let (response, producer) = match (answered, producer) {
            (Ok(response), Some(producer)) => (response, producer),
            (answered, _) => {
                // Before the answer, so that the key is free for whoever has the answer.
                drop(lead);
                let _ = reply.send(Answer::Untouched(answered));
                return;
            }
        };
        // Before anything is read, so that the first reader finds the topic, however soon it ends.
        let subscribed = subscribe(&client, producer.topic(), false);
        drop(client);
        let (first, body) = response.into_parts();
        if !lead.recording().has_head(Head::again(&first)) {
            lead.registry().cancel_producer(producer.topic());
            return;
        }
        let _ = reply.send(Answer::Recorded(Box::new(first), subscribed));
        Writer::new(producer, &lead, &config).record(body).await;
        // The end is known to this process only when it was read back from a backplane.
        lead.registry().flushed().await;
    }
}

/// Waits for the handler's response. `None`: nobody waits for it any more, or it was cancelled, so the handler was dropped.
async fn until_unwanted<F: Future>(lead: &Lead, config: &Config, handler: F) -> Option<F::Output> {
    let mut handler = pin!(handler);
    let mut unread = pin!(lead.recording().unread(config.cancel_unread_after, lead.registry()));
    let mut cancelled = pin!(lead.recording().cancelled());
    poll_fn(|cx| {
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(answered) = handler.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        unread.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Starts the producer of a recording. `None`: something else produces the topic.
async fn start_producer(lead: &Lead) -> Option<Producer> {
    loop {
        match lead.registry().start_recording(&lead.recording().topic) {
            Ok(producer) => return Some(producer),
            Err(ProducerError::OutboxFull { .. }) => lead.registry().outbox_may_have_room().await,
            Err(ProducerError::Busy { .. } | ProducerError::Topic(_)) => return None,
        }
    }
}

/// Spawns a task, within the span of the request if the crate knows of spans.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
    #[cfg(feature = "tracing")]
    let task = tracing::Instrument::in_current_span(task);
    tokio::spawn(task)
}
