//! One type for all errors.

use std::fmt;

use super::produce_error::ProduceError;
use crate::{
    client::{ResumeError, SubscribeError},
    event::EventError,
    limit::Refused,
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
///     client.registry().publish(&topic, Event::data("somebody came").event("entered")?)?;
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
    Produce(ProduceError),
    /// A client does not resume.
    Resume(ResumeError),
    /// There is no room for a stream.
    Refused(Refused),
}

impl Error {
    fn inner(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Event(error) => error,
            Self::Topic(error) => error,
            Self::Subscribe(error) => error,
            Self::Publish(error) => error,
            Self::Produce(error) => error,
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

impl From<ProduceError> for Error {
    fn from(error: ProduceError) -> Self {
        Self::Produce(error)
    }
}

impl From<ResumeError> for Error {
    fn from(error: ResumeError) -> Self {
        Self::Resume(error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}
