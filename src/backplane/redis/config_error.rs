//! Settings that cannot work.

use std::{error::Error, fmt};

/// The error for settings of [`Redis`](super::Redis) that cannot work.
///
/// It contains no password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// The URL is invalid.
    Url {
        /// The URL, without its password and its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no URL of a Sentinel.
    NoSentinel,
    /// A certificate or a key cannot be read.
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for RedisConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, reason } => write!(f, "the Redis URL {url:?} is invalid: {reason}"),
            Self::NoSentinel => write!(f, "the list of Sentinels is empty"),
            Self::Certificate { reason } => write!(f, "a certificate or key cannot be read: {reason}"),
        }
    }
}

impl Error for RedisConfigError {}
