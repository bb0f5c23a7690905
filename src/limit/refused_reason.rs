use std::{fmt, time::Duration};

use http::{Response, StatusCode};

use super::{key::LimitKey, refused_response::RefusedResponse};
use crate::stream::CloseReason;

/// Why a stream was refused.
///
/// The extensions of the refused response contain it, for outer layers. The message is a sentence for whoever sent the
/// request. It does not contain the key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedReason {
    /// As many streams are open as a [`Limit`](crate::Limit) allows.
    Full {
        /// The key whose streams are counted. `None`: the limit has no keys.
        key: Option<LimitKey>,
        /// How many streams may be open.
        limit: u32,
    },
    /// More streams began than the [rate](crate::Limit::rate) of a limit allows.
    RateLimited {
        /// The key whose streams are counted. `None`: the limit has no keys.
        key: Option<LimitKey>,
        /// The time until a stream may begin. `None`: the rate is 0.
        retry_in: Option<Duration>,
    },
    /// The registry is draining and accepts no new streams: see [`Registry::drain`](crate::Registry::drain).
    Draining,
    /// The request has no key for a limit that [counts by key](crate::Limit::per).
    ///
    /// The usual cause is a wrong order of layers. The guide has a chapter about it.
    MissingKey {
        /// The name of the key function, with its module, to find the limit by. The message does not contain it.
        by: &'static str,
    },
    /// The handler answered with the [`EventStream`](crate::EventStream) of another request's client.
    ///
    /// Or with that of a client of [`Registry::connect`](crate::Registry::connect), which has no request. Read such a
    /// client with [`into_events`](crate::ClientHandle::into_events).
    OtherClient,
    /// The client's stream is open already. A client has only one stream.
    Open,
    /// The client's stream has ended, or its request got another response.
    StreamEnded {
        /// Why the stream ended.
        reason: CloseReason,
    },
}

impl RefusedReason {
    /// Returns the status of the response.
    ///
    /// - 429: a limit with a key refused the stream.
    /// - 503: a limit without keys refused it, or the registry is draining.
    /// - 500: it is a mistake in the program.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Full { key: Some(_), .. } | Self::RateLimited { key: Some(_), .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Full { key: None, .. } | Self::RateLimited { key: None, .. } | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingKey { .. } | Self::OtherClient | Self::Open | Self::StreamEnded { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// Returns the reason as one word, for logs and the `reason` label of metrics.
    ///
    /// A word that ends in `_for_key` means that the limit has a key.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Full { key: None, .. } => "full",
            Self::Full { key: Some(_), .. } => "full_for_key",
            Self::RateLimited { key: None, .. } => "rate_limited",
            Self::RateLimited { key: Some(_), .. } => "rate_limited_for_key",
            Self::MissingKey { .. } => "missing_key",
            Self::Draining => "draining",
            Self::OtherClient => "other_client",
            Self::Open => "open",
            Self::StreamEnded { .. } => "stream_ended",
        }
    }

    /// Returns whether it is a mistake in the program, which waiting does not fix.
    pub(super) fn is_mistake(&self) -> bool {
        self.status() == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Makes the response that a layer gives by default.
    ///
    /// Use it in a handler that calls [`ClientHandle::acquire_slot`](crate::ClientHandle::acquire_slot). With the
    /// `axum` feature, the reason is an `IntoResponse`.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        RefusedResponse::status().response(&self, None).map(|_| B::from(self.to_string()))
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { key: None, limit: 0 } => f.write_str("event streams are disabled: the limit is 0"),
            Self::Full { key: Some(_), limit: 0 } => f.write_str("event streams are disabled for you: the limit is 0"),
            Self::Full { key: None, limit: 1 } => {
                f.write_str("the limit of 1 event stream is reached: try again later")
            }
            Self::Full { key: None, limit } => {
                write!(f, "the limit of {limit} event streams is reached: try again later")
            }
            Self::Full { key: Some(_), limit: 1 } => {
                f.write_str("your limit of 1 event stream is reached: close it first")
            }
            Self::Full { key: Some(_), limit } => {
                write!(f, "your limit of {limit} event streams is reached: close one first")
            }
            Self::RateLimited { key: None, .. } => {
                f.write_str("too many event streams are being opened: try again later")
            }
            Self::RateLimited { key: Some(_), .. } => f.write_str("you open event streams too fast: try again later"),
            Self::Draining => f.write_str("the server is shutting down and accepts no new event streams"),
            Self::MissingKey { .. } => f.write_str("the server has no key to count this event stream by"),
            Self::OtherClient => f.write_str("the response is the event stream of another client"),
            Self::Open => f.write_str("the client's event stream is open already"),
            Self::StreamEnded { reason } => write!(f, "the client's event stream has ended: {reason}"),
        }
    }
}

impl std::error::Error for RefusedReason {}

#[cfg(test)]
impl RefusedReason {
    /// Returns each reason once. The `match` does not compile without a new variant.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let key = || Some(LimitKey::from("key"));
        std::iter::successors(Some(Self::Full { key: None, limit: 1 }), move |refused| match refused {
            Self::Full { key: None, limit } => Some(Self::Full { key: key(), limit: *limit }),
            Self::Full { key: Some(_), .. } => Some(Self::RateLimited { key: None, retry_in: None }),
            Self::RateLimited { key: None, retry_in } => Some(Self::RateLimited { key: key(), retry_in: *retry_in }),
            Self::RateLimited { key: Some(_), .. } => Some(Self::MissingKey { by: "users" }),
            Self::MissingKey { .. } => Some(Self::Draining),
            Self::Draining => Some(Self::OtherClient),
            Self::OtherClient => Some(Self::Open),
            Self::Open => Some(Self::StreamEnded { reason: CloseReason::ClientDisconnected }),
            Self::StreamEnded { .. } => None,
        })
    }
}
