//! `ClientHandle` as an extractor; `EventStream` and the errors as responses.

use std::convert::Infallible;

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::{
    client::{ClientHandle, EventStream, SubscribeError},
    event::EventError,
    limit::RefusedReason,
    log::TopicError,
    registry::{Error, ProducerError},
    stream::CloseReason,
    topics::PublishError,
};

/// Refuses, with [`MissingLayer`], where no [`SseLayer`](crate::SseLayer) is around the route.
impl<S: Sync> FromRequestParts<S> for ClientHandle {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for ClientHandle {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// A handler asks for a [`ClientHandle`], and no [`SseLayer`](crate::SseLayer) is around its route. As a response: 500 and a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingLayer;

impl std::fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no SseLayer is around this route")
    }
}

impl std::error::Error for MissingLayer {}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// As [`EventStream::into_response`]; and one that is refused says so in a sentence.
impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let response = self.answer().unwrap_or_else(RefusedReason::into_response::<Body>);
        match response.extensions().get::<CloseReason>().map(ToString::to_string) {
            Some(sentence) => response.map(|_| Body::from(sentence)),
            None => response,
        }
    }
}

/// As a response: 429 or 503, with `retry-after` and a sentence, or 500 and a sentence; and itself in the extensions.
impl IntoResponse for RefusedReason {
    fn into_response(self) -> Response {
        Self::into_response::<Body>(self)
    }
}

/// As a response: 400 for a topic name that is none, 404 for a topic that is not there, 409 for a client that cannot have
/// it; and a sentence.
impl IntoResponse for SubscribeError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Topic(_) => StatusCode::BAD_REQUEST,
            Self::NoTopic { .. } => StatusCode::NOT_FOUND,
            Self::TooMany { .. } | Self::TooManyPatterns { .. } | Self::Over { .. } => StatusCode::CONFLICT,
        };
        (status, self.to_string()).into_response()
    }
}

/// As a response: 400 for a topic name that is invalid or an id that may not be, what an [`EventError`] is for a value that cannot be part of an event, 413 for an event that is too
/// large, 409 for a client that cannot have it
/// or a topic that does not take it; and a sentence.
impl IntoResponse for PublishError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Topic(_) | Self::IdToCome { .. } => StatusCode::BAD_REQUEST,
            Self::Event(error) => return error.into_response(),
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManySubscriptions { .. }
            | Self::Over { .. }
            | Self::Ended { .. }
            | Self::Replaced { .. }
            | Self::Cancelled { .. } => StatusCode::CONFLICT,
        };
        (status, self.to_string()).into_response()
    }
}

/// As a response: that of the error inside. A [`ResumeError`](crate::ResumeError) is a 409 and a sentence.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Event(error) => error.into_response(),
            Self::Topic(error) => error.into_response(),
            Self::Subscribe(error) => error.into_response(),
            Self::Publish(error) => error.into_response(),
            Self::Producer(error) => error.into_response(),
            Self::Resume(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
            Self::Refused(refused) => refused.into_response::<Body>(),
        }
    }
}

/// As a response: 400 and a sentence.
impl IntoResponse for TopicError {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.to_string()).into_response()
    }
}

/// As a response: 400 for a topic name that is none, 409 for a topic that has a producer; and a sentence.
impl IntoResponse for ProducerError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Topic(_) => StatusCode::BAD_REQUEST,
            Self::Busy { .. } => StatusCode::CONFLICT,
        };
        (status, self.to_string()).into_response()
    }
}

/// As a response: 400 for a value that cannot be sent, 500 for one that cannot be written as JSON; and a sentence.
impl IntoResponse for EventError {
    fn into_response(self) -> Response {
        let status = match self {
            #[cfg(feature = "json")]
            Self::Json(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::EventType { .. } | Self::Id { .. } | Self::IdWithoutData { .. } => StatusCode::BAD_REQUEST,
        };
        (status, self.to_string()).into_response()
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;
    use crate::Event;

    #[test]
    fn an_error_of_any_type_is_the_response_of_the_error_inside() {
        let event = Event::data("").try_event("a\nb").unwrap_err();
        let json = Event::json(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
        let topic = crate::Registry::new().presence("").unwrap_err();
        let all: [(Error, StatusCode); 5] = [
            (event.clone().into(), StatusCode::BAD_REQUEST),
            (PublishError::from(event).into(), StatusCode::BAD_REQUEST),
            (PublishError::from(json).into(), StatusCode::INTERNAL_SERVER_ERROR),
            (SubscribeError::from(topic).into(), StatusCode::BAD_REQUEST),
            (RefusedReason::Draining.into(), StatusCode::SERVICE_UNAVAILABLE),
        ];
        for (error, status) in all {
            assert_eq!(error.clone().into_response().status(), status, "{error}");
        }
    }

    #[test]
    fn a_publish_error_speaks_for_what_is_wrong_with_its_event() {
        let error = Event::json(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
        let published = PublishError::from(error.clone());
        assert_eq!((published.to_string(), &published), (error.to_string(), &PublishError::Event(error)));
        let source = std::error::Error::source(&published).unwrap();
        assert!(source.is::<serde_json::Error>());
    }
}
