//! Topics that one producer fills and ends.

use std::{fmt, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_core::Stream;
use tokio::{
    sync::Notify,
    task::{JoinHandle, coop},
};

use super::{
    PublishError, Receipt, TopicError,
    feed::{Feed, FeedState},
    shared::{Order, OrderGuard, Shared},
    waiters::ToWake,
};
use crate::{
    Event,
    sync::{Mutex, MutexGuard, lock},
};

/// Who fills a topic and marks its end: an answer of a language model, the output of a job.
///
/// Its readers come, go and resume as on any topic. Whoever has read up to the end is through with the topic, and a
/// stream that is through with all of its topics ends. A reader that comes after the end gets what is retained, and the end. One that
/// has nothing left to come is answered with a 204 by [`EventStream`](crate::EventStream), which is what makes a
/// browser's `EventSource` stop.
///
/// The topic ends when the producer does: with [`end`](Self::end), at the end of the stream that is [piped](Self::pipe)
/// into it, or when it is dropped. Some time later the topic is forgotten: [`RegistryConfig::forget_ended_after`](crate::RegistryConfig::forget_ended_after).
///
/// ```
/// use tower_sse::{Event, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let tokens = tokio_stream::iter(["Once", " upon", " a", " time"].map(Event::data));
/// // It goes on whether or not anybody reads.
/// registry.produce("answers/42")?.pipe(tokens).await??;
/// # Ok(())
/// # }
/// ```
#[must_use = "a producer that is dropped ends its topic"]
pub struct Producer {
    shared: Arc<Shared>,
    topic: Arc<Feed>,
    production: Arc<Production>,
}

/// How a topic is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicState {
    /// By whoever publishes on it.
    Open,
    /// By a [`Producer`].
    Produced,
    /// By nobody any more: its producer has ended it.
    Ended,
}

/// What a producer and its topic share.
#[derive(Debug, Default)]
pub(crate) struct Production {
    over: Mutex<Option<Over>>,
    changed: Notify,
}

/// Why a producer may not write on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Replaced,
    Cancelled,
    Ended,
}

impl Production {
    /// Why an event does not get on a topic.
    pub(super) fn refusal(by: Option<&Arc<Self>>, topic: &Feed, state: &FeedState) -> Option<PublishError> {
        match by {
            Some(by) => by.error(topic),
            None if topic.has_ended() && state.production.is_none() => {
                Some(PublishError::Ended { topic: topic.name().to_string() })
            }
            None => None,
        }
    }

    fn error(&self, topic: &Feed) -> Option<PublishError> {
        let topic = topic.name().to_string();
        lock(&self.over).map(|over| match over {
            Over::Replaced => PublishError::Replaced { topic },
            Over::Cancelled => PublishError::Cancelled { topic },
            Over::Ended => PublishError::Ended { topic },
        })
    }

    /// From now on nothing it writes is taken. Whoever waits for that is to be told when no lock is held.
    fn stop(&self, why: Over) {
        lock(&self.over).get_or_insert(why);
    }
}

impl Producer {
    /// Fills a topic, and ends one that was there as far as its former producer goes. `takes_over`: if there is another producer, that one may not write on.
    pub(super) fn begin(shared: &Arc<Shared>, name: &str, takes_over: bool) -> Result<Self, ProduceError> {
        let (order, topic) = shared.topic(name);
        let mut state = lock(&topic.state);
        if state.production.is_some() && !takes_over {
            return Err(ProduceError::Busy { topic: name.to_owned() });
        }
        let production = Arc::new(Production::default());
        let other = state.production.replace(Arc::clone(&production));
        topic.set_end(0);
        if let Some(other) = &other {
            other.stop(Over::Replaced);
        }
        drop(state);
        drop(order);
        if let Some(other) = other {
            other.changed.notify_waiters();
        }
        Ok(Self { shared: Arc::clone(shared), topic, production })
    }

    /// Stops whoever produces a topic, and ends it. `false`: nobody did.
    pub(super) fn cancel(shared: &Shared, name: &str) -> bool {
        let order = shared.order();
        let Some(topic) = order.topic(name) else { return false };
        let state = lock(&topic.state);
        let Some(production) = state.production.clone() else { return false };
        production.stop(Over::Cancelled);
        shared.end(order, &topic, state);
        production.changed.notify_waiters();
        true
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
    pub fn publish(&self, event: impl std::borrow::Borrow<Event>) -> Result<Receipt, PublishError> {
        self.shared.publish(self.topic.name(), event.borrow(), Some(&self.production))
    }

    /// Marks the end of the topic.
    pub fn end(self) {}

    /// Waits until the producer may not write on, as another one took over or it was cancelled, and says which.
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

    /// Publishes what comes from a stream, in a task of its own, and ends the topic when the stream does. Nobody needs to wait for it.
    ///
    /// The stream is dropped as soon as the producer may not write on.
    ///
    /// # Errors
    ///
    /// The task gives the error that stopped it: as [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`tokio::spawn`].
    pub fn pipe<S>(self, stream: S) -> JoinHandle<Result<(), PublishError>>
    where
        S: Stream<Item = Event> + Send + 'static,
    {
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let mut stopped = pin!(self.stopped());
            loop {
                let next = poll_fn(|cx| match stopped.as_mut().poll(cx) {
                    Poll::Ready(error) => Poll::Ready(Err(error)),
                    Poll::Pending => stream.as_mut().poll_next(cx).map(Ok),
                });
                match next.await? {
                    Some(event) => self.publish(event)?,
                    None => return Ok(()),
                };
                coop::consume_budget().await;
            }
        })
    }
}

impl Shared {
    /// Ends a topic, and unlocks it: whoever has read it up to here is through with it.
    fn end(&self, mut order: OrderGuard<'_>, topic: &Arc<Feed>, mut state: MutexGuard<'_, FeedState>) {
        order.number += 1;
        let end = order.number;
        state.log.end_at(end);
        state.production = None;
        topic.set_end(end);
        topic.reach(end);
        self.set_horizon(end);
        let forget_at = self.forget_at();
        if state.forget_at.replace(forget_at).is_none() {
            order.ended.push_back((forget_at, Arc::clone(topic)));
        }
        let mut to_wake = ToWake::default();
        topic.take_waiters(&mut state, &mut to_wake);
        drop(state);
        drop(order);
        to_wake.wake();
    }

    pub(super) fn forget_ended(&self, order: &mut Order) {
        while order.ended.front().is_some_and(|(at, _)| *at <= self.clock.now_ms()) {
            self.forget_oldest_ended(order, self.clock.now_ms());
        }
    }

    pub(super) fn forget_oldest_ended(&self, order: &mut Order, now_ms: u64) {
        let Some((_, topic)) = order.ended.pop_front() else { return };
        let mut state = lock(&topic.state);
        let Some(forget_at) = state.forget_at.take().filter(|_| topic.has_ended()) else {
            // Somebody began anew.
            return;
        };
        // It may have ended again since.
        let is_time = forget_at <= now_ms;
        while is_time && !state.log.is_empty() {
            order.evict_oldest_of(&mut state);
        }
        if is_time && state.subscribers == 0 {
            topic.set_end(0);
            self.forget_if_unused(order, &topic, &state);
            return;
        }
        // Of its subscribers, some have not looked yet.
        let forget_at = if is_time { self.forget_at() } else { forget_at };
        state.forget_at = Some(forget_at);
        drop(state);
        order.ended.push_back((forget_at, topic));
    }

    fn forget_at(&self) -> u64 {
        let after = u64::try_from(self.config.forget_ended_after.as_millis()).unwrap_or(u64::MAX);
        // At the earliest when the clock has gone on.
        self.clock.now_ms().saturating_add(after.max(1))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.production.stop(Over::Ended);
        let order = self.shared.order();
        let state = lock(&self.topic.state);
        let is_mine = state.production.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.production));
        if !is_mine {
            return;
        }
        self.shared.end(order, &self.topic, state);
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic()).finish_non_exhaustive()
    }
}

/// Why a topic was not given to a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProduceError {
    /// The name is none that a topic can have.
    Topic(TopicError),
    /// Another producer fills it.
    Busy {
        /// The topic's name.
        topic: String,
    },
}

impl fmt::Display for ProduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Busy { topic } => write!(f, "the topic {} has a producer already", crate::event::Quoted(topic)),
        }
    }
}

impl std::error::Error for ProduceError {}

impl From<TopicError> for ProduceError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}
