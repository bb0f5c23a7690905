//! One error type for all errors of the crate.

use std::fmt;

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use super::producer_error::ProducerError;
use crate::{
    client::{ResumeError, SubscribeError},
    event::{EventError, InvalidClientId},
    limit::RefusedReason,
    log::{InvalidPosition, TopicError},
    topics::PublishError,
};

/// Any error of this crate. The other error types convert into it with `?`.
///
/// Use it in a handler that does several things. Its message is the message of the inner error.
/// [`into_response`](Self::into_response) makes a response of it, for any framework. With the `axum` feature it is an
/// `IntoResponse`.
///
/// A [`SpawnFromError`](crate::SpawnFromError) does not convert, because it can hold an error of your own stream.
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
    /// A value is not valid in an event.
    Event(EventError),
    /// The name of a topic or a pattern is invalid.
    Topic(TopicError),
    /// A subscription was refused.
    Subscribe(SubscribeError),
    /// An event was not published.
    Publish(PublishError),
    /// A producer was not started.
    Producer(ProducerError),
    /// A client cannot resume from an id.
    Resume(ResumeError),
    /// A stream was refused.
    Refused(RefusedReason),
    /// A text is not the id of a client.
    ClientId(InvalidClientId),
    /// A text is not a position.
    Position(InvalidPosition),
}

impl Error {
    /// Returns the status of an HTTP response for this error.
    ///
    /// A [`TopicError`], an [`InvalidClientId`] and an [`InvalidPosition`] are a 400, and a [`ResumeError`] is a 409. Any other error has a
    /// `status` of its own.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Event(error) => error.status(),
            Self::Topic(_) | Self::ClientId(_) | Self::Position(_) => StatusCode::BAD_REQUEST,
            Self::Subscribe(error) => error.status(),
            Self::Publish(error) => error.status(),
            Self::Producer(error) => error.status(),
            Self::Resume(_) => StatusCode::CONFLICT,
            Self::Refused(error) => error.status(),
        }
    }

    /// Makes a response: [`status`](Self::status), with the message as the body.
    ///
    /// For a [`RefusedReason`], it is the response of [`RefusedReason::into_response`], which has a `retry-after`.
    ///
    /// Use it without axum. There the error of a service is not a response: hyper closes the connection. The other
    /// errors of the crate have no such method, because each converts into this one: `Error::from(error)`.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        match self {
            Self::Refused(refused) => refused.into_response(),
            error => {
                let mut response = Response::new(B::from(error.to_string()));
                *response.status_mut() = error.status();
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, plain);
                response
            }
        }
    }

    fn inner(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Event(error) => error,
            Self::Topic(error) => error,
            Self::Subscribe(error) => error,
            Self::Publish(error) => error,
            Self::Producer(error) => error,
            Self::Resume(error) => error,
            Self::Refused(error) => error,
            Self::ClientId(error) => error,
            Self::Position(error) => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.inner(), f)
    }
}

impl std::error::Error for Error {
    /// Returns the source of the inner error, because the message is already the inner error's.
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

impl From<InvalidClientId> for Error {
    fn from(error: InvalidClientId) -> Self {
        Self::ClientId(error)
    }
}

impl From<InvalidPosition> for Error {
    fn from(error: InvalidPosition) -> Self {
        Self::Position(error)
    }
}
