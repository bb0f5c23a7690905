//! The error response of the API: a status and a sentence.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tower_sse::{EventError, InvalidClientId, PublishError, SubscribeError};

pub(crate) struct Problem(Box<Response>);

pub(crate) fn problem(status: StatusCode, sentence: impl Into<String>) -> Problem {
    Problem::of((status, sentence.into()))
}

impl Problem {
    fn of(answer: impl IntoResponse) -> Self {
        Self(Box::new(answer.into_response()))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        Self::of(error)
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        Self::of(error)
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        Self::of(error)
    }
}

impl From<InvalidClientId> for Problem {
    fn from(error: InvalidClientId) -> Self {
        problem(StatusCode::BAD_REQUEST, error.to_string())
    }
}
