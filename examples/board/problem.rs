//! The error response of the API: a status and a sentence. And what texts from visitors have to be.

use axum::{
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tower_sse::Error;

pub(crate) struct Problem(Box<Response>);

pub(crate) fn problem(status: StatusCode, sentence: impl Into<String>) -> Problem {
    Problem::of((status, sentence.into()))
}

impl Problem {
    fn of(answer: impl IntoResponse) -> Self {
        Self(Box::new(answer.into_response()))
    }

    /// The client has to wait.
    pub(crate) fn too_fast() -> Self {
        Self::of((StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], "too many requests: wait a moment"))
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

/// A text of one line, without blanks at its ends and without control characters. It has 1 to `most` characters.
pub(crate) fn line_of_text(value: &Value, field: &str, most: usize) -> Result<String, Problem> {
    let text = value.as_str().map(str::trim).unwrap_or_default();
    let sentence = match text.chars().count() {
        0 => format!("{field} has to be a text"),
        length if length > most => format!("{field} has {length} characters, and may have {most}"),
        _ if text.chars().any(char::is_control) => format!("{field} has to be one line"),
        _ => return Ok(text.to_owned()),
    };
    Err(problem(StatusCode::UNPROCESSABLE_ENTITY, sentence))
}

/// A whole number that is not negative.
pub(crate) fn number(value: &Value, field: &str) -> Result<u64, Problem> {
    value.as_u64().ok_or_else(|| problem(StatusCode::UNPROCESSABLE_ENTITY, format!("{field} has to be a whole number")))
}
