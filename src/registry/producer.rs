//! Topics that one producer fills and ends.

use std::{borrow::Borrow, convert::Infallible, fmt, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_core::Stream;
use tokio::task::{JoinHandle, coop};

use super::producer_error::{ProducerError, SpawnFromError};
use crate::{
    client::Shared,
    event::Event,
    log::Outcome,
    sync::lock,
    topics::{Deferred, Feed, FeedState, Kept, Over, Production, PublishError, Receipt, Writer},
};

/// Who fills a topic and marks its end: an answer of a language model, the output of a job.
///
/// Its readers come, go and resume as on any topic. Whoever has read up to the end is through with the topic, and a
/// stream that is through with all of its topics ends. A reader that comes after the end gets what is retained, and the end.
/// Some time later the topic is forgotten: [`RegistryConfig::ended_topic_ttl`](crate::RegistryConfig::ended_topic_ttl).
///
/// # How it ends
///
/// A topic that is not whole never passes for one that is:
///
/// | what the program does | [`TopicState`](crate::TopicState) | last event | [`CloseReason`](crate::CloseReason) of its readers | who has had all and comes back |
/// |---|---|---|---|---|
/// | [`end`](Self::end), or the end of the stream of [`spawn_from`](Self::spawn_from) | `Ended` | none | `TopicsEnded` | 204 |
/// | [`finish`](Self::finish) | `Ended` | the program's | `TopicsEnded` | 204 |
/// | [`fail_with`](Self::fail_with) | `Failed` | the program's | `TopicFailed` | 410 |
/// | [`fail`](Self::fail), a drop without an end, a panic, a task that is aborted, an `Err` of the stream of [`try_spawn_from`](Self::try_spawn_from) | `Failed` | [`failed_event`](crate::RegistryConfig::failed_event) | `TopicFailed` | 410 |
/// | [`Registry::cancel_producer_with`](crate::Registry::cancel_producer_with) | `Cancelled` | the program's | `TopicCancelled` | 410 |
/// | [`Registry::cancel_producer`](crate::Registry::cancel_producer) | `Cancelled` | [`cancelled_event`](crate::RegistryConfig::cancelled_event) | `TopicCancelled` | 410 |
///
/// The last event and the end are one step: no reader gets the one without the other. The last event of a topic that failed or was cancelled
/// is for whoever has not had it, those included who subscribe with [`Start::Now`](crate::Start::Now) when it is over. It is an event
/// like any other: it has an id, filters are asked about it, and it can be evicted. The statuses are those of
/// [`EventStream`](crate::EventStream); both make a browser's `EventSource` stop for good. A stream of several topics
/// goes on until all have ended, and is failed or cancelled if one of them was.
///
/// ```
/// use tower_sse::{Event, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let tokens = tokio_stream::iter(["Once", " upon", " a", " time"].map(Event::data));
/// // It goes on whether or not anybody reads.
/// registry.start_producer("answers/42")?.spawn_from(tokens).await??;
/// # Ok(())
/// # }
/// ```
#[must_use = "a producer that is dropped without an end fails"]
pub struct Producer {
    shared: Arc<Shared>,
    topic: Arc<Feed>,
    production: Arc<Production>,
}

impl Producer {
    /// Fills a topic, and ends one that was there as far as its former producer goes. `replaces`: if there is another producer, that one may not write on.
    pub(crate) fn begin(shared: &Arc<Shared>, name: &str, replaces: bool) -> Result<Self, ProducerError> {
        let mut deferred = Deferred::default();
        let (mut order, topic) = shared.topics.topic(name, &mut deferred);
        let mut state = lock(&topic.state);
        if state.production.is_some() && !replaces {
            return Err(ProducerError::Busy { topic: name.to_owned() });
        }
        let production = Arc::new(Production::default());
        let mut other = None;
        order.hold(&topic, &mut state, |state| other = state.production.replace(Arc::clone(&production)));
        if let Some(Kept::Ending(ticket)) = state.kept.take() {
            order.ended.remove(ticket);
        }
        if other.is_none() {
            state.began = Some(order.last);
        }
        topic.set_end(None);
        if let Some(other) = &other {
            other.stop(Over::Replaced);
        }
        drop(state);
        drop(order);
        if let Some(other) = other {
            other.tell();
        }
        Ok(Self { shared: Arc::clone(shared), topic, production })
    }

    /// Stops whoever produces a topic, and ends it. `false`: nobody did.
    pub(crate) fn cancel(shared: &Shared, name: &str) -> bool {
        if let Some(event) = shared.topics.settings.cancelled_event.of(name) {
            if let Ok(was_produced) = Self::cancel_producer_with(shared, name, &event) {
                return was_produced;
            }
        }
        // There is no room for a last event, or it is not wanted.
        let mut deferred = Deferred::default();
        let order = shared.topics.order(&mut deferred);
        let Some(topic) = order.topic(name) else { return false };
        let state = lock(&topic.state);
        if state.production.is_none() {
            return false;
        }
        shared.topics.end(order, &topic, state, Outcome::Cancelled);
        true
    }

    /// The same with a last event.
    pub(crate) fn cancel_producer_with(shared: &Shared, name: &str, event: &Event) -> Result<bool, PublishError> {
        // Published as to any topic, which makes one where there is none.
        let mut deferred = Deferred::default();
        if shared.topics.order(&mut deferred).topic(name).is_none_or(|topic| lock(&topic.state).production.is_none()) {
            return Ok(false);
        }
        match shared.publish(name, event, Some(Writer::Canceller)) {
            Ok(_) => Ok(true),
            // Meanwhile.
            Err(PublishError::Ended { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.name()
    }

    /// Publishes an event on the topic.
    ///
    /// # Errors
    ///
    /// [`PublishError::Replaced`] or [`PublishError::Cancelled`] if it may not write on; else as [`Registry::publish`](crate::Registry::publish).
    pub fn publish(&self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.shared.publish(self.topic.name(), event.borrow(), Some(Writer::Producer(&self.production)))
    }

    /// Marks the end of the topic: it is whole.
    pub fn end(self) {
        self.end_as(Outcome::Whole);
    }

    /// Publishes the last event of the topic and marks the end, in one step: it is whole.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish). The topic lacks its last event then, so it has failed, as by [`fail`](Self::fail).
    pub fn finish(self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.publish_last(event.borrow(), Outcome::Whole)
    }

    /// Marks the end of a topic that is not whole, with the event that [`RegistryConfig::failed_event`](crate::RegistryConfig::failed_event) says as the last one.
    ///
    /// So does a producer that is dropped without an end.
    pub fn fail(self) {}

    /// The same, with an event of the program's as the last one: why it failed, say.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish). If the event is too large, the topic has failed nevertheless, as by [`fail`](Self::fail).
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
        self.shared.publish(self.topic.name(), event, Some(Writer::Last(&self.production, outcome)))
    }

    fn end_as(&self, outcome: Outcome) {
        let mut deferred = Deferred::default();
        let order = self.shared.topics.order(&mut deferred);
        let state = lock(&self.topic.state);
        if self.is_current(&state) {
            self.shared.topics.end(order, &self.topic, state, outcome);
        }
    }

    /// Whether the topic is its own to fill.
    fn is_current(&self, state: &FeedState) -> bool {
        state.production.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.production))
    }

    /// Waits until the producer may not write on, as it was [replaced](crate::Registry::replace_producer) or [cancelled](crate::Registry::cancel_producer), and says which.
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

    /// Publishes what comes from a stream, in a task of its own, and [ends](Self::end) the topic when the stream does. Nobody needs to wait for it.
    ///
    /// The stream is dropped as soon as the producer may not write on. If it panics, if the task is aborted, or if an event is too large, the topic
    /// has [failed](Self::fail).
    ///
    /// # Errors
    ///
    /// The task gives the error that stopped it: as [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`tokio::spawn`].
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

    /// The same for a stream that can fail: with its first `Err`, the topic has [failed](Self::fail).
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
    /// The task gives the error that stopped it: the stream's, or as [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// As [`pipe`](Self::spawn_from).
    pub fn try_spawn_from<S, E>(self, stream: S) -> JoinHandle<Result<(), SpawnFromError<E>>>
    where
        S: Stream<Item = Result<Event, E>> + Send + 'static,
        E: Send + 'static,
    {
        self.try_spawn_from_with(stream, |_| None)
    }

    /// The same, where the program says what the last event is that an `Err` ends the topic with. `None`: as with [`fail`](Self::fail).
    ///
    /// # Errors
    ///
    /// As [`try_spawn_from`](Self::try_spawn_from).
    ///
    /// # Panics
    ///
    /// As [`pipe`](Self::spawn_from).
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
                        // If it may not write on, or there is no room for that event, what stopped it is still the stream's error.
                        let _ = self.fail_with(event);
                    }
                }
                Err(SpawnFromError::Publish(_)) => {}
            }
            result
        })
    }

    /// Publishes what comes from a stream, up to its end.
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
                Some(item) => self.publish(event(item).map_err(SpawnFromError::Stream)?)?,
                None => return Ok(()),
            };
            coop::consume_budget().await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // One that has ended has nothing to say.
        if !self.is_current(&lock(&self.topic.state)) {
            return;
        }
        let event = self.shared.topics.settings.failed_event.of(self.topic.name());
        if event.is_none_or(|event| self.publish_last(&event, Outcome::Failed).is_err()) {
            // There is no room for a last event, or it is not wanted.
            self.end_as(Outcome::Failed);
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic()).finish_non_exhaustive()
    }
}
