//! `ClientHandle` as an extractor; `EventStream` and the errors as responses.

use std::convert::Infallible;

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::{
    ClientHandle, CloseReason, EventError, EventStream, ProduceError, PublishError, Refused, SubscribeError, TopicError,
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
        let response = self.answer().unwrap_or_else(Refused::into_response::<Body>);
        match response.extensions().get::<CloseReason>().map(ToString::to_string) {
            Some(sentence) => response.map(|_| Body::from(sentence)),
            None => response,
        }
    }
}

/// As a response: 429 or 503, with `retry-after` and a sentence, or 500 and a sentence; and itself in the extensions.
impl IntoResponse for Refused {
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
            Self::TooMany { .. } | Self::Over { .. } => StatusCode::CONFLICT,
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

/// As a response: 400 and a sentence.
impl IntoResponse for TopicError {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.to_string()).into_response()
    }
}

/// As a response: 400 for a topic name that is none, 409 for a topic that has a producer; and a sentence.
impl IntoResponse for ProduceError {
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
