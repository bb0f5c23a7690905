use std::{fmt, time::Duration};

use http::{Response, StatusCode};

use super::{key::LimitKey, refused_response::RefusedResponse};
use crate::stream::CloseReason;

/// Why a stream was refused. It is in the extensions of the response, for layers further out.
///
/// Its message is a sentence for whoever sent the request, and does not tell the key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedReason {
    /// As many streams are open as a [`Limit`](crate::Limit) allows.
    Full {
        /// Whose streams. `None`: everybody's.
        key: Option<LimitKey>,
        /// How many may be open.
        limit: u32,
    },
    /// More streams begin than the [rate](crate::Limit::rate) of a limit allows.
    RateLimited {
        /// Whose streams. `None`: everybody's.
        key: Option<LimitKey>,
        /// How long it is until there is room for one. `None`: the rate is 0.
        retry_in: Option<Duration>,
    },
    /// The registry takes no new streams: see [`Registry::drain`](crate::Registry::drain).
    Draining,
    /// The request has no key for a limit that [counts by keys](crate::Limit::per), so that nobody can say whom its stream counts for. Mostly the layers
    /// are in the wrong [order](crate::guide::layers).
    MissingKey {
        /// The name of the function that was to say the key, with its module: whose limit it is. It is not in the message.
        by: &'static str,
    },
    /// A request was answered with the [`EventStream`](crate::EventStream) of a client that is not its own: of another request, or of
    /// [none](crate::Registry::connect). That one is for [`into_events`](crate::ClientHandle::into_events).
    OtherClient,
    /// The client's stream is open already: it has one reader, who gets all of its events.
    Open,
    /// The client's stream is over, or its request was answered with something else.
    Over {
        /// Why it is over.
        reason: CloseReason,
    },
}

impl RefusedReason {
    /// The status that says so: 429 if it is about this client, 500 if it is a mistake in the program, else 503.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Full { key: Some(_), .. } | Self::RateLimited { key: Some(_), .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Full { key: None, .. } | Self::RateLimited { key: None, .. } | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingKey { .. } | Self::OtherClient | Self::Open | Self::Over { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The reason in a word: in logs, and as the label of a metric. With `_for_key`, it is about this client's key.
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
            Self::Over { .. } => "over",
        }
    }

    /// Whether it is a mistake in the program, which no waiting mends.
    pub(super) fn is_mistake(&self) -> bool {
        self.status() == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// As a response: what a layer gives by default. For a handler that asks with [`ClientHandle::acquire_slot`](crate::ClientHandle::acquire_slot);
    /// with the `axum` feature, it is an `IntoResponse`.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        RefusedResponse::status().response(&self, None).map(|_| B::from(self.to_string()))
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { key: None, limit: 0 } => f.write_str("no event stream may be open"),
            Self::Full { key: Some(_), limit: 0 } => f.write_str("you may have no event stream open"),
            Self::Full { key: None, limit: 1 } => f.write_str("the one event stream that may be open is open"),
            Self::Full { key: None, limit } => write!(f, "all {limit} event streams that may be open are open"),
            Self::Full { key: Some(_), limit: 1 } => f.write_str("you have an event stream open, and may have one"),
            Self::Full { key: Some(_), limit } => {
                write!(f, "you have as many event streams open as you may have: {limit}")
            }
            Self::RateLimited { key: None, .. } => f.write_str("too many event streams begin at the moment"),
            Self::RateLimited { key: Some(_), .. } => f.write_str("you open event streams too fast"),
            Self::Draining => f.write_str("the server is about to stop and takes no new event streams"),
            Self::MissingKey { .. } => f.write_str("the server cannot tell whom this event stream counts for"),
            Self::OtherClient => f.write_str("the answer is the event stream of another client"),
            Self::Open => f.write_str("the client's event stream is open already"),
            Self::Over { reason } => write!(f, "the client's event stream is over: {reason}"),
        }
    }
}

impl std::error::Error for RefusedReason {}

#[cfg(test)]
impl RefusedReason {
    /// One of each. Whoever adds one is told by the compiler.
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
            Self::Open => Some(Self::Over { reason: CloseReason::ClientDisconnected }),
            Self::Over { .. } => None,
        })
    }
}
