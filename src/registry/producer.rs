//! A producer: the one publisher of a topic, which marks the topic's end.

use std::{borrow::Borrow, convert::Infallible, fmt, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_core::Stream;
use tokio::task::{JoinHandle, coop};

use super::producer_error::{ProducerError, SpawnFromError};
use crate::{
    client::{NotBegun, Shared},
    event::Event,
    log::Outcome,
    topics::{Production, PublishError, Receipt, Writer},
};

/// The one publisher of a topic, which marks the topic's end.
///
/// Use it for an LLM answer or a job's output.
///
/// Clients read the topic, disconnect and resume as on any other topic. When a client has read a topic to its end, that
/// subscription is complete. A stream ends when all its topics are complete. A client that subscribes after the end
/// gets the retained events, and then the end. The registry forgets the topic after
/// [`RegistryConfig::ended_topic_ttl`](crate::RegistryConfig::ended_topic_ttl).
///
/// # How it ends
///
/// An incomplete topic never looks like a complete one:
///
/// | what the application does | [`TopicState`](crate::TopicState) | last event | [`CloseReason`](crate::CloseReason) of the readers | status for a client that reconnects after the end |
/// |---|---|---|---|---|
/// | [`end`](Self::end), or the end of the stream of [`spawn_from`](Self::spawn_from) | `Ended` | none | `TopicsEnded` | 204 |
/// | [`finish`](Self::finish) | `Ended` | your own | `TopicsEnded` | 204 |
/// | [`fail_with`](Self::fail_with) | `Failed` | your own | `TopicFailed` | 410 |
/// | [`fail`](Self::fail), a drop without an end, a panic, an aborted task, an `Err` from the stream of [`try_spawn_from`](Self::try_spawn_from) | `Failed` | [`failed_event`](crate::RegistryConfig::failed_event) | `TopicFailed` | 410 |
/// | [`Registry::cancel_producer_with`](crate::Registry::cancel_producer_with) | `Cancelled` | your own | `TopicCancelled` | 410 |
/// | [`Registry::cancel_producer`](crate::Registry::cancel_producer) | `Cancelled` | [`cancelled_event`](crate::RegistryConfig::cancelled_event) | `TopicCancelled` | 410 |
///
/// The last event and the end are one step: no reader gets one without the other. The last event of a failed or
/// cancelled topic reaches every client that has not read it, also a client that subscribes with
/// [`Start::Now`](crate::Start::Now) after the end. It is an event like any other: it has an id, filters decide on it,
/// and it can be evicted. [`EventStream`](crate::EventStream) returns the statuses; both make a browser's `EventSource`
/// stop for good. A stream of several topics ends when all of them have ended. Its close reason is the worst of their
/// ends: failed, then cancelled, then complete.
///
/// ```
/// use tower_sse::{Event, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let tokens = tokio_stream::iter(["Once", " upon", " a", " time"].map(Event::data));
/// // The producer continues whether or not a client reads.
/// registry.start_producer("answers/42")?.spawn_from(tokens).await??;
/// # Ok(())
/// # }
/// ```
#[must_use = "a producer that is dropped without an end fails"]
pub struct Producer {
    shared: Arc<Shared>,
    topic: Box<str>,
    production: Arc<Production>,
}

impl Producer {
    /// Starts a producer for a topic. `replaces`: if the topic has another producer, that one is stopped.
    pub(crate) fn begin(shared: &Arc<Shared>, name: &str, replaces: bool) -> Result<Self, ProducerError> {
        let production = shared.begin_production(name, replaces).map_err(|error| match error {
            NotBegun::Produced => ProducerError::Busy { topic: name.to_owned() },
            NotBegun::OutboxFull => ProducerError::OutboxFull { topic: name.to_owned() },
        })?;
        Ok(Self { shared: Arc::clone(shared), topic: name.into(), production })
    }

    /// Stops the producer of a topic and ends the topic. Returns `false` if the topic has no producer.
    pub(crate) fn cancel(shared: &Shared, name: &str) -> bool {
        if let Some(event) = shared.topics.settings.cancelled_event.of(name) {
            if let Ok(was_produced) = Self::cancel_producer_with(shared, name, &event) {
                return was_produced;
            }
        }
        // The last event is too large, or the configuration has none.
        shared.cancel_without_event(name)
    }

    /// As `cancel`, with a last event.
    pub(crate) fn cancel_producer_with(shared: &Shared, name: &str, event: &Event) -> Result<bool, PublishError> {
        // Checked first, because `publish` creates a topic that does not exist.
        if !shared.is_produced(name) {
            return Ok(false);
        }
        match shared.publish(name, event, Some(Writer::Canceller)) {
            Ok(_) => Ok(true),
            // The topic has ended meanwhile.
            Err(PublishError::Ended { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes an event on the topic.
    ///
    /// # Errors
    ///
    /// [`PublishError::Replaced`] or [`PublishError::Cancelled`] if the producer was stopped; otherwise as
    /// [`Registry::publish`](crate::Registry::publish).
    pub fn publish(&self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.shared.publish(&self.topic, event.borrow(), Some(Writer::Producer(&self.production)))
    }

    /// Publishes an event as `publish`, and waits while too many events are on their way to the backplane.
    pub(crate) async fn publish_or_wait(&self, event: &Event) -> Result<Receipt, PublishError> {
        loop {
            match self.publish(event) {
                Err(PublishError::Busy) => self.shared.outbox_may_have_room().await,
                result => return result,
            }
        }
    }

    /// Marks the end of a complete topic, without a last event.
    pub fn end(self) {
        self.end_as(Outcome::Finished);
    }

    /// Publishes the last event of a complete topic and marks its end.
    ///
    /// The event and the end are one step.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish). The topic is then incomplete and fails, as by [`fail`](Self::fail).
    pub fn finish(self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.publish_last(event.borrow(), Outcome::Finished)
    }

    /// Marks the end of an incomplete topic.
    ///
    /// The last event is that of [`RegistryConfig::failed_event`](crate::RegistryConfig::failed_event).
    ///
    /// A producer that is dropped without an end does the same.
    pub fn fail(self) {}

    /// Marks the end of an incomplete topic, with your own last event.
    ///
    /// The event says why the topic failed, for example.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish). If the event is too large, the topic fails all the same, as by
    /// [`fail`](Self::fail).
    ///
    /// ```
    /// use tower_sse::{Event, Registry, TopicState};
    ///
    /// let registry = Registry::new();
    /// let answer = registry.start_producer("answers/42")?;
    /// answer.publish(Event::data("Once"))?;
    /// answer.fail_with(Event::data("the model is overloaded").event("failed"))?;
    /// assert_eq!(registry.topic_state("answers/42"), Some(TopicState::Failed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail_with(self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.publish_last(event.borrow(), Outcome::Failed)
    }

    fn publish_last(&self, event: &Event, outcome: Outcome) -> Result<Receipt, PublishError> {
        self.shared.publish_last(&self.topic, event, &self.production, outcome)
    }

    fn end_as(&self, outcome: Outcome) {
        self.shared.end_production(&self.topic, &self.production, outcome);
    }

    /// Waits until the producer is stopped, and returns why.
    ///
    /// The error is [`PublishError::Replaced`] after [`replace_producer`](crate::Registry::replace_producer), and
    /// [`PublishError::Cancelled`] after [`cancel_producer`](crate::Registry::cancel_producer). With a backplane it is
    /// [`PublishError::Ended`] if the other processes have ended the topic, because this one did not answer for too long.
    pub async fn stopped(&self) -> PublishError {
        loop {
            let mut changed = pin!(self.production.changed.notified());
            changed.as_mut().enable();
            if let Some(error) = self.production.error(&self.topic) {
                return error;
            }
            changed.await;
        }
    }

    /// Publishes the events of a stream in a new task.
    ///
    /// The topic [ends](Self::end) when the stream ends.
    ///
    /// You need not await the task. While too many events wait for the [backplane](crate::backplane), the task waits too.
    ///
    /// The task drops the stream as soon as the producer is stopped. The topic [fails](Self::fail) if the stream
    /// panics, if the task is aborted, or if an event is too large.
    ///
    /// # Errors
    ///
    /// The task returns the error that stopped it, as [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn spawn_from<S>(self, stream: S) -> JoinHandle<Result<(), PublishError>>
    where
        S: Stream<Item = Event> + Send + 'static,
    {
        tokio::spawn(async move {
            match self.write(stream, Ok::<_, Infallible>).await {
                Ok(()) => self.end(),
                Err(SpawnFromError::Publish(error)) => return Err(error),
                Err(SpawnFromError::Stream(never)) => match never {},
            }
            Ok(())
        })
    }

    /// Publishes the events of a stream that can fail, in a new task.
    ///
    /// The first `Err` ends the topic: it [fails](Self::fail). Otherwise as [`spawn_from`](Self::spawn_from).
    ///
    /// ```
    /// use tower_sse::{Event, SpawnFromError, Registry, TopicState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = Registry::new();
    /// let tokens = tokio_stream::iter([Ok(Event::data("Once")), Err("the model is overloaded")]);
    /// let result = registry.start_producer("answers/42")?.try_spawn_from(tokens).await?;
    /// assert_eq!(result, Err(SpawnFromError::Stream("the model is overloaded")));
    /// assert_eq!(registry.topic_state("answers/42"), Some(TopicState::Failed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The task returns the error that stopped it: the stream's own error, or an error of [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// As [`spawn_from`](Self::spawn_from).
    pub fn try_spawn_from<S, E>(self, stream: S) -> JoinHandle<Result<(), SpawnFromError<E>>>
    where
        S: Stream<Item = Result<Event, E>> + Send + 'static,
        E: Send + 'static,
    {
        self.try_spawn_from_with(stream, |_| None)
    }

    /// As [`try_spawn_from`](Self::try_spawn_from), and turns the stream's `Err` into the last event of the topic.
    ///
    /// If the function returns `None`, the topic ends as with [`fail`](Self::fail).
    ///
    /// # Errors
    ///
    /// As [`try_spawn_from`](Self::try_spawn_from).
    ///
    /// # Panics
    ///
    /// As [`spawn_from`](Self::spawn_from).
    pub fn try_spawn_from_with<S, E, F>(self, stream: S, last_event: F) -> JoinHandle<Result<(), SpawnFromError<E>>>
    where
        S: Stream<Item = Result<Event, E>> + Send + 'static,
        E: Send + 'static,
        F: FnOnce(&E) -> Option<Event> + Send + 'static,
    {
        tokio::spawn(async move {
            let result = self.write(stream, |item| item).await;
            match &result {
                Ok(()) => self.end(),
                Err(SpawnFromError::Stream(error)) => {
                    if let Some(event) = last_event(error) {
                        // The stream's error is returned, even if the producer was stopped or the event is too large.
                        let _ = self.fail_with(event);
                    }
                }
                Err(SpawnFromError::Publish(_)) => {}
            }
            result
        })
    }

    /// Publishes the events of a stream until the stream ends.
    async fn write<S, E>(&self, stream: S, event: impl Fn(S::Item) -> Result<Event, E>) -> Result<(), SpawnFromError<E>>
    where
        S: Stream,
    {
        let mut stream = pin!(stream);
        let mut stopped = pin!(self.stopped());
        loop {
            let next = poll_fn(|cx| match stopped.as_mut().poll(cx) {
                Poll::Ready(error) => Poll::Ready(Err(error)),
                Poll::Pending => stream.as_mut().poll_next(cx).map(Ok),
            });
            match next.await? {
                Some(item) => self.publish_or_wait(&event(item).map_err(SpawnFromError::Stream)?).await?,
                None => return Ok(()),
            };
            coop::consume_budget().await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // The topic has ended already, or has another producer.
        if !self.shared.is_current(&self.topic, &self.production) {
            return;
        }
        let event = self.shared.topics.settings.failed_event.of(&self.topic);
        if event.is_none_or(|event| self.publish_last(&event, Outcome::Failed).is_err()) {
            // The last event is too large, or the configuration has none.
            self.end_as(Outcome::Failed);
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic()).finish_non_exhaustive()
    }
}
