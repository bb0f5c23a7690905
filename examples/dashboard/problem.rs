//! The error response of the API: a status and a sentence.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tower_sse::Error;

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

/// For every error of `tower_sse`.
impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::of(error.into())
    }
}
