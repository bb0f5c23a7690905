use std::fmt;

use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};

use crate::full_body::FullBody;

/// Why a [`TopicsService`](crate::TopicsService) refused a request.
///
/// The response has the [`status`](Self::status) and a sentence as its body. Its extensions contain the error, for outer
/// layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicsError {
    /// The method is not `PUT`.
    NotPut,
    /// The content type is not `application/json`, or the body has a content coding.
    NotJson,
    /// The body is larger than [`TopicsService::max_body`](crate::TopicsService::max_body) allows.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The request names more topics than [`TopicsService::max_topics`](crate::TopicsService::max_topics) allows.
    TooManyTopics {
        /// The limit.
        limit: usize,
    },
    /// The body cannot be read, or is not the JSON that it should be.
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// No open stream has this id, or it does not belong to whoever sent the request.
    ///
    /// The client then opens a new stream with all of its topics.
    Gone,
}

impl TopicsError {
    /// Returns the status of the response.
    ///
    /// - 400: the body is invalid.
    /// - 404: no open stream has this id.
    /// - 405: the method is not `PUT`.
    /// - 413: the body is too large, or names too many topics.
    /// - 415: the body is no JSON by its headers.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotPut => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } | Self::TooManyTopics { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::Gone => StatusCode::NOT_FOUND,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    pub(super) fn into_response(self) -> Response<FullBody> {
        let mut response = response(self.status(), "text/plain; charset=utf-8", self.to_string());
        if self == Self::NotPut {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("PUT"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes a response that no cache keeps.
pub(super) fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<FullBody> {
    let mut response = Response::new(FullBody::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl fmt::Display for TopicsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPut => f.write_str("send the topics of the stream with PUT"),
            Self::NotJson => f.write_str("send the topics of the stream as application/json, without a content coding"),
            Self::TooLarge { limit } => write!(f, "the body is larger than {limit} bytes"),
            Self::TooManyTopics { limit } => write!(f, "a stream can have {limit} topics by this request"),
            Self::Invalid { message } => write!(f, "the body is invalid: {message}"),
            Self::Gone => f.write_str("no open stream has this id: open a new one with all topics"),
        }
    }
}

impl std::error::Error for TopicsError {}
