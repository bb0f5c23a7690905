//! Why a request has no recording.

use std::fmt;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use crate::{client::SubscribeError, log::TopicError};

/// Why [`RecordLayer`](crate::RecordLayer) refuses a request.
///
/// As a response: [`status`](Self::status), with the message as the body. The extensions of the response contain the
/// error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The key of the request is invalid.
    InvalidKey {
        /// What is wrong with the key.
        reason: &'static str,
    },
    /// The topic that the program names for the request is invalid.
    Topic(TopicError),
    /// Another request has used the key: its [fingerprint](crate::RecordLayer::fingerprint) is another one.
    OtherRequest,
    /// There is no recording, and the request may only [join](crate::RecordLayer::join_only) one.
    NoRecording,
    /// [So many](crate::RecordLayer::running_at_most) recordings are being made.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The client cannot read the recording.
    Subscribe(SubscribeError),
    /// No [`SseLayer`](crate::SseLayer) of the same registry is around the layer.
    MissingLayer,
    /// The task of the handler was stopped before it had an answer, for example because its runtime ended.
    Stopped,
    /// The program has [cancelled](crate::RecordLayer::cancel) the handler before it had an answer.
    Cancelled,
}

impl RecordError {
    /// Returns the status of an HTTP response for this error.
    ///
    /// - 400: the key or the topic name is invalid.
    /// - 404: there is no recording.
    /// - 410: the program has cancelled the handler.
    /// - 422: another request has used the key.
    /// - 503, with `retry-after`: too many recordings are being made, or the handler was stopped.
    /// - 500: a layer is missing.
    /// - Otherwise as [`SubscribeError::status`].
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidKey { .. } | Self::Topic(_) => StatusCode::BAD_REQUEST,
            Self::NoRecording => StatusCode::NOT_FOUND,
            Self::Cancelled => StatusCode::GONE,
            Self::OtherRequest => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany { .. } | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::Subscribe(error) => error.status(),
            Self::MissingLayer => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Makes the response that the layer gives.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // The same request may have another answer later.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, Self::RETRY_AFTER_SECONDS.into());
        }
        response.extensions_mut().insert(self);
        response
    }

    const RETRY_AFTER_SECONDS: u32 = 5;
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey { reason } => write!(f, "the key of the request {reason}"),
            Self::Topic(error) => error.fmt(f),
            Self::OtherRequest => f.write_str("another request has used the key: send a new key with a new request"),
            Self::NoRecording => f.write_str("there is no such recording, or no longer"),
            Self::TooMany { limit } => write!(f, "{limit} answers are being made: try again later"),
            Self::Subscribe(error) => error.fmt(f),
            Self::MissingLayer => f.write_str("no SseLayer of the same registry is around this RecordLayer: add one"),
            Self::Cancelled => f.write_str("the answer was cancelled"),
            Self::Stopped => f.write_str("the handler was stopped before it had an answer: try again later"),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<TopicError> for RecordError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}
