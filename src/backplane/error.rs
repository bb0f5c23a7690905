//! Why an engine does not append or read.

use std::{error::Error, fmt};

/// Any error of an engine.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a block was not appended: see [`Backplane::append`](super::Backplane::append).
#[derive(Debug)]
#[non_exhaustive]
pub enum AppendError {
    /// The block was not appended. Trying again may help: the engine cannot be reached, or is starting.
    Away(BoxError),
    /// Nobody knows whether the block was appended: the connection was lost before the answer.
    Unknown(BoxError),
    /// The block was not appended, because the engine has no room.
    Full(BoxError),
    /// The block was not appended, and will not be until somebody changes something: credentials, permissions, versions, configuration.
    Refused(BoxError),
    /// The block was not appended, and never will be: it is larger than what the engine takes. The publisher of its event is told, and the
    /// blocks behind it go on.
    TooLarge {
        /// How many bytes a block may have, as [`Block::encode`](super::Block::encode) gives them.
        limit: usize,
    },
}

/// Why the log cannot be read: see [`Backplane::follow`](super::Backplane::follow).
#[derive(Debug)]
#[non_exhaustive]
pub enum FollowError {
    /// Trying again may help: the engine cannot be reached, or is starting.
    Away(BoxError),
    /// It will not work until somebody changes something: credentials, permissions, versions, configuration.
    Refused(BoxError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(error) => write!(f, "the engine is away: {error}"),
            Self::Unknown(error) => write!(f, "the engine may have appended the block or not: {error}"),
            Self::Full(error) => write!(f, "the engine has no room: {error}"),
            Self::Refused(error) => write!(f, "the engine refuses: {error}"),
            Self::TooLarge { limit } => write!(f, "the engine takes no block of more than {limit} bytes"),
        }
    }
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(error) => write!(f, "the engine is away: {error}"),
            Self::Refused(error) => write!(f, "the engine refuses: {error}"),
        }
    }
}

impl Error for AppendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Away(error) | Self::Unknown(error) | Self::Full(error) | Self::Refused(error) => error.source(),
            Self::TooLarge { .. } => None,
        }
    }
}

impl Error for FollowError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Away(error) | Self::Refused(error) => error.source(),
        }
    }
}
