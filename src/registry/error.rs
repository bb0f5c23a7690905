//! One type for all errors.

use std::fmt;

use super::producer_error::ProducerError;
use crate::{
    client::{ResumeError, SubscribeError},
    event::EventError,
    limit::RefusedReason,
    log::TopicError,
    topics::PublishError,
};

/// Any error of this crate: each of the others becomes one with `?`.
///
/// It is for a handler that does several things. Its message is that of the error inside. With the `axum` feature it is a response: that of
/// the error inside.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use tower_sse::{ClientHandle, Error, Event, EventStream, segment};
///
/// async fn enter(client: ClientHandle, room: String) -> Result<EventStream, Error> {
///     let topic = format!("rooms/{}", segment(&room));
///     client.subscribe(&topic)?;
///     client.registry().publish(&topic, Event::data("somebody came").event("entered"))?;
///     let position = client.registry().position();
///     Ok(client.into_stream().snapshot(Event::json(&["who", "is", "there"])?, position))
/// }
/// # let _ = enter;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A value cannot be part of an event.
    Event(EventError),
    /// A name cannot be that of a topic or of a pattern.
    Topic(TopicError),
    /// A client was not subscribed.
    Subscribe(SubscribeError),
    /// An event was not published.
    Publish(PublishError),
    /// A topic was not given to a producer.
    Producer(ProducerError),
    /// A client does not resume.
    Resume(ResumeError),
    /// There is no room for a stream.
    Refused(RefusedReason),
}

impl Error {
    fn inner(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Event(error) => error,
            Self::Topic(error) => error,
            Self::Subscribe(error) => error,
            Self::Publish(error) => error,
            Self::Producer(error) => error,
            Self::Resume(error) => error,
            Self::Refused(error) => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.inner(), f)
    }
}

impl std::error::Error for Error {
    /// What is behind the error inside, for which this one speaks.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner().source()
    }
}

impl From<EventError> for Error {
    fn from(error: EventError) -> Self {
        Self::Event(error)
    }
}

impl From<TopicError> for Error {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

impl From<SubscribeError> for Error {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl From<ProducerError> for Error {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

impl From<ResumeError> for Error {
    fn from(error: ResumeError) -> Self {
        Self::Resume(error)
    }
}

impl From<RefusedReason> for Error {
    fn from(refused: RefusedReason) -> Self {
        Self::Refused(refused)
    }
}
