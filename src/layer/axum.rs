//! Axum support: `ClientHandle` as an extractor, `EventStream` and the errors as responses.

use std::convert::Infallible;

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::{
    client::{ClientHandle, SubscribeError},
    event::EventError,
    handle::EventStream,
    limit::RefusedReason,
    log::TopicError,
    record::RecordError,
    registry::{Error, ProducerError},
    stream::CloseReason,
    topics::PublishError,
};

/// Rejects with [`MissingLayer`] if no [`SseLayer`](crate::SseLayer) is around the route.
impl<S: Sync> FromRequestParts<S> for ClientHandle {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingLayer)
    }
}

/// Gives `None` if no [`SseLayer`](crate::SseLayer) is around the route.
impl<S: Sync> OptionalFromRequestParts<S> for ClientHandle {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// The rejection of a [`ClientHandle`] argument on a route without an [`SseLayer`](crate::SseLayer).
///
/// As a response: 500, with the message as the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingLayer;

impl std::fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no SseLayer is around this route: add one with Router::layer")
    }
}

impl std::error::Error for MissingLayer {}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// As a response: that of [`EventStream::into_response`].
///
/// The body of a refusal, and of a 410, is a sentence that says why.
impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let response = self.answer().unwrap_or_else(RefusedReason::into_response::<Body>);
        match response.extensions().get::<CloseReason>().map(ToString::to_string) {
            Some(sentence) => response.map(|_| Body::from(sentence)),
            None => response,
        }
    }
}

/// As a response: 429 or 503 with `retry-after`, or 500.
///
/// The body is the message. The extensions of the response contain the reason.
impl IntoResponse for RefusedReason {
    fn into_response(self) -> Response {
        Self::into_response::<Body>(self)
    }
}

/// As a response: [`Error::status`], with the message as the body.
///
/// A [`RefusedReason`] is its own response, with `retry-after`.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Self::into_response::<Body>(self)
    }
}

/// As a response: [`SubscribeError::status`], with the message as the body.
impl IntoResponse for SubscribeError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// As a response: [`PublishError::status`], with the message as the body.
impl IntoResponse for PublishError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// As a response: [`ProducerError::status`], with the message as the body.
impl IntoResponse for ProducerError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// As a response: [`RecordError::into_response`].
impl IntoResponse for RecordError {
    fn into_response(self) -> Response {
        Self::into_response::<Body>(self)
    }
}

/// As a response: [`EventError::status`], with the message as the body.
impl IntoResponse for EventError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// As a response: 400, with the message as the body.
impl IntoResponse for TopicError {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.to_string()).into_response()
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;
    use crate::Event;

    #[test]
    fn a_wrapped_error_has_the_response_of_its_inner_error() {
        let event = Event::data("").try_event("a\nb").unwrap_err();
        let json = Event::json(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
        let topic = crate::Registry::new().presence("").unwrap_err();
        let no_client = "nobody".parse::<crate::ClientId>().unwrap_err();
        let no_position = "nowhere".parse::<crate::Position>().unwrap_err();
        let all: [(Error, StatusCode); 7] = [
            (event.clone().into(), StatusCode::BAD_REQUEST),
            (PublishError::from(event).into(), StatusCode::BAD_REQUEST),
            (PublishError::from(json).into(), StatusCode::INTERNAL_SERVER_ERROR),
            (SubscribeError::from(topic).into(), StatusCode::BAD_REQUEST),
            (no_client.into(), StatusCode::BAD_REQUEST),
            (no_position.into(), StatusCode::BAD_REQUEST),
            (RefusedReason::Draining.into(), StatusCode::SERVICE_UNAVAILABLE),
        ];
        for (error, status) in all {
            assert_eq!(error.clone().into_response::<Body>().status(), status, "{error}");
        }
    }

    #[test]
    fn a_publish_error_has_the_response_of_its_event_error() {
        let error = Event::json(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
        let published = PublishError::from(error.clone());
        assert_eq!((published.to_string(), &published), (error.to_string(), &PublishError::Event(error)));
        let source = std::error::Error::source(&published).unwrap();
        assert!(source.is::<serde_json::Error>());
    }
}
