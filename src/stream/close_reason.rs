//! Why a stream ended.

use std::fmt;

use crate::log::Outcome;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler's own body ended, and no subscription held the stream open.
    BodyEnded,
    /// All topics of the client ended, and each was finished: see [`Producer`](crate::Producer).
    TopicsEnded,
    /// All topics of the client ended, and at least one was cancelled.
    ///
    /// See [`Registry::cancel_producer`](crate::Registry::cancel_producer).
    TopicCancelled,
    /// All topics of the client ended, and at least one failed.
    ///
    /// See [`Producer::fail`](crate::Producer::fail).
    TopicFailed,
    /// The response body was dropped before its end.
    ///
    /// The client disconnected, or the HTTP server closed the connection.
    ClientDisconnected,
    /// The program closed the stream: [`ClientHandle::close`](crate::ClientHandle::close) was called.
    ByServer,
    /// The stream reached its maximum age: see [`SseLayer::max_age`](crate::SseLayer::max_age).
    MaxAge,
    /// The client's authorization expired: see [`ClientHandle::expire_at`](crate::ClientHandle::expire_at).
    AuthorizationExpired,
    /// The response to a long poll ended by itself: see [`LongPoll`](crate::LongPoll).
    PollEnded,
    /// The registry was drained: see [`Registry::drain`](crate::Registry::drain).
    Drained,
    /// A limit refused the stream.
    ///
    /// Only a client that is read with [`into_events`](crate::ClientHandle::into_events) has this reason. A response is
    /// refused before its stream begins.
    Refused,
    /// The program closed the stream with this reason.
    ///
    /// See [`ClientHandle::close_with`](crate::ClientHandle::close_with).
    Other(&'static str),
    /// The client fell behind what a topic retains.
    ///
    /// The topic's policy is [`SlowClientPolicy::Disconnect`](crate::SlowClientPolicy::Disconnect).
    FellBehind,
    /// The client stopped reading although events were waiting for it.
    ///
    /// See [`RegistryConfig::stalled_client_timeout`](crate::RegistryConfig::stalled_client_timeout).
    Stalled,
    /// The handler's own body failed.
    BodyFailed,
    /// The response was not an event stream.
    NoStream,
}

impl CloseReason {
    /// Returns the variant in snake_case; for [`Other`](Self::Other), its text.
    ///
    /// Logs, the `reason` label of metrics and [`Stats`](crate::Stats) as JSON use this word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::BodyEnded => "body_ended",
            Self::TopicsEnded => "topics_ended",
            Self::TopicCancelled => "topic_cancelled",
            Self::TopicFailed => "topic_failed",
            Self::ClientDisconnected => "client_disconnected",
            Self::ByServer => "by_server",
            Self::MaxAge => "max_age",
            Self::AuthorizationExpired => "authorization_expired",
            Self::PollEnded => "poll_ended",
            Self::Drained => "drained",
            Self::Refused => "refused",
            Self::Other(reason) => reason,
            Self::FellBehind => "fell_behind",
            Self::Stalled => "stalled",
            Self::BodyFailed => "body_failed",
            Self::NoStream => "no_stream",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other(reason) => reason,
            Self::BodyEnded => "the response body of the handler ended",
            Self::TopicsEnded => "all topics of the stream have ended",
            Self::TopicCancelled => "a topic of the stream was cancelled",
            Self::TopicFailed => "a topic of the stream failed",
            Self::ClientDisconnected => "the client disconnected",
            Self::ByServer => "the server closed the stream",
            Self::MaxAge => "the stream reached its maximum age",
            Self::AuthorizationExpired => "the client's authorization expired",
            Self::PollEnded => "the response to the long poll has ended",
            Self::Drained => "the server is draining its streams",
            Self::Refused => "a limit refused the stream",
            Self::FellBehind => "the client fell behind what a topic retains",
            Self::Stalled => "the client stalled: it stopped reading",
            Self::BodyFailed => "the response body of the handler failed",
            Self::NoStream => "the response was not an event stream",
        })
    }
}

#[cfg(test)]
impl CloseReason {
    /// Returns each variant once. The `match` does not compile without a new variant.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::BodyEnded), |reason| match reason {
            Self::BodyEnded => Some(Self::TopicsEnded),
            Self::TopicsEnded => Some(Self::TopicCancelled),
            Self::TopicCancelled => Some(Self::TopicFailed),
            Self::TopicFailed => Some(Self::ClientDisconnected),
            Self::ClientDisconnected => Some(Self::ByServer),
            Self::ByServer => Some(Self::MaxAge),
            Self::MaxAge => Some(Self::AuthorizationExpired),
            Self::AuthorizationExpired => Some(Self::PollEnded),
            Self::PollEnded => Some(Self::Drained),
            Self::Drained => Some(Self::Refused),
            Self::Refused => Some(Self::Other("of the program's own")),
            Self::Other(_) => Some(Self::FellBehind),
            Self::FellBehind => Some(Self::Stalled),
            Self::Stalled => Some(Self::BodyFailed),
            Self::BodyFailed => Some(Self::NoStream),
            Self::NoStream => None,
        })
    }
}

impl From<Outcome> for CloseReason {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Finished => Self::TopicsEnded,
            Outcome::Cancelled => Self::TopicCancelled,
            Outcome::Failed => Self::TopicFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_variant_in_snake_case() {
        for reason in CloseReason::all().filter(|reason| !matches!(reason, CloseReason::Other(_))) {
            let variant = format!("{reason:?}");
            let word = variant.char_indices().fold(String::new(), |word, (at, letter)| match letter.is_uppercase() {
                true if at > 0 => format!("{word}_{}", letter.to_ascii_lowercase()),
                _ => format!("{word}{}", letter.to_ascii_lowercase()),
            });
            assert_eq!(reason.as_str(), word);
        }
        assert_eq!(CloseReason::Other("logged_out").as_str(), "logged_out");
    }
}
