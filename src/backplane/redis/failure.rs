//! What an error of Redis means for a block.

use std::{error::Error, fmt, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use crate::backplane::{AppendError, BoxError, FollowError};

/// Why a command did not work.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer came, or none that says whether the command was carried out.
    Lost(Problem),
    /// The command was not carried out. It may be later, by this server or by another.
    Away(Problem),
    /// The command was not carried out, for want of memory or of disk space.
    Full(Problem),
    /// The command was not carried out, and will not be until somebody changes something.
    Refused(Problem),
}

/// An error with the address of the server.
#[derive(Debug)]
pub(super) struct Problem {
    address: String,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis at {}: {}", self.address, self.what)
    }
}

impl Error for Problem {}

impl Problem {
    pub(super) fn new(address: &str, what: impl Into<String>) -> Self {
        Self { address: address.to_owned(), what: what.into() }
    }

    /// Whether the server refused an id, because the stream has one as great already.
    pub(super) fn is_about_id(&self) -> bool {
        self.what.contains("equal or smaller than the target stream top item")
    }
}

impl Failure {
    /// Decides by the error code that begins each error of a server.
    pub(super) fn from_redis(address: &str, error: &RedisError) -> Self {
        let detail = error.detail().unwrap_or_default();
        let what = match error.code() {
            Some(code) => format!("{code} {detail}"),
            None => error.to_string(),
        };
        let problem = Problem::new(address, what);
        match error.code() {
            // MISCONF: a snapshot to the disk failed, and Redis takes no writes until one succeeds. Reads still work, and the usual reason is
            // a full disk, so it is rather want of room than an engine that cannot be reached.
            Some("OOM" | "MISCONF") => Self::Full(problem),
            Some(
                "ASK" | "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MOVED" | "NOREPLICAS" | "READONLY"
                | "TRYAGAIN" | "UNBLOCKED",
            ) => Self::Away(problem),
            Some("CROSSSLOT" | "DENIED" | "NOAUTH" | "NOPERM" | "NOPROTO" | "WRONGPASS" | "WRONGTYPE") => {
                Self::Refused(problem)
            }
            Some("ERR") if detail.starts_with("max number of clients") => Self::Away(problem),
            Some("ERR") if is_permanent(detail) => Self::Refused(problem),
            // A proxy may answer with an error of its own after the server took the command.
            Some(_) => Self::Lost(problem),
            None => match error.kind() {
                ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => Self::Refused(problem),
                ErrorKind::RESP3NotSupported => Self::Refused(Problem::new(
                    address,
                    "the server is older than Redis 6.0, and this crate needs 6.2 or newer",
                )),
                // The other side does not speak TLS, or its certificate is not trusted.
                ErrorKind::Io if io_kind(error) == Some(io::ErrorKind::InvalidData) => Self::Refused(problem),
                _ => Self::Lost(problem),
            },
        }
    }

    /// For a command that would have appended a block.
    pub(super) fn of_append(self) -> AppendError {
        match self {
            Self::Lost(problem) => AppendError::Unknown(problem.into()),
            Self::Away(problem) => AppendError::Away(problem.into()),
            Self::Full(problem) => AppendError::Full(problem.into()),
            Self::Refused(problem) => AppendError::Refused(problem.into()),
        }
    }

    /// For a command that was sent before the block.
    pub(super) fn before_append(self) -> AppendError {
        match self {
            Self::Lost(problem) => AppendError::Away(problem.into()),
            other => other.of_append(),
        }
    }

    pub(super) fn of_follow(self) -> FollowError {
        match self {
            Self::Lost(problem) | Self::Away(problem) | Self::Full(problem) => {
                FollowError::Away(BoxError::from(problem))
            }
            Self::Refused(problem) => FollowError::Refused(problem.into()),
        }
    }
}

/// Whether an error with the general code is one that stays until somebody changes something.
fn is_permanent(detail: &str) -> bool {
    const BEGINNINGS: [&str; 11] = [
        "unknown command",
        "unknown subcommand",
        "syntax error",
        "wrong number of arguments",
        "invalid password",
        "invalid username",
        "AUTH",
        "Client sent AUTH",
        "DB index",
        "SELECT is not allowed",
        "The ID specified in XADD",
    ];
    // `redis` gives the answer to SELECT without its own code.
    BEGINNINGS.iter().any(|beginning| detail.starts_with(beginning)) || detail.contains("no permissions")
}

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    let source = error.source()?;
    let error = match source.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        Some(shared) => shared.downcast_ref::<io::Error>(),
        None => source.downcast_ref::<io::Error>(),
    };
    Some(error?.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The failure for this answer of a server.
    fn failure(answer: &str) -> Failure {
        let value = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
        Failure::from_redis("cache:6379", &value.extract_error().unwrap_err())
    }

    #[test]
    fn each_error_of_a_server_says_what_became_of_the_block() {
        for answer in [
            "BUSY Redis is busy running a script",
            "CLUSTERDOWN Hash slot not served",
            "ERR max number of clients reached",
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "MOVED 3999 127.0.0.1:6381",
            "NOREPLICAS Not enough good replicas to write.",
            "READONLY You can't write against a read only replica.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        ] {
            assert!(matches!(failure(answer).of_append(), AppendError::Away(_)), "{answer}");
            assert!(matches!(failure(answer).of_follow(), FollowError::Away(_)), "{answer}");
        }
        for answer in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        ] {
            assert!(matches!(failure(answer).of_append(), AppendError::Full(_)), "{answer}");
        }
        for answer in [
            "ERR AUTH <password> called without any password configured for the default user.",
            "ERR DB index is out of range",
            "ERR SELECT is not allowed in cluster mode",
            "ERR User shop has no permissions to run the 'select' command",
            "ERR syntax error",
            "ERR unknown command 'XADD', with args beginning with: ",
            "NOAUTH Authentication required.",
            "NOPERM User shop has no permissions to run the 'xadd' command",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ] {
            assert!(matches!(failure(answer).of_append(), AppendError::Refused(_)), "{answer}");
            assert!(matches!(failure(answer).of_follow(), FollowError::Refused(_)), "{answer}");
        }
        // A proxy may say so after the server has the command.
        let answer = "ERR upstream failure";
        assert!(matches!(failure(answer).of_append(), AppendError::Unknown(_)));
        assert!(matches!(failure(answer).before_append(), AppendError::Away(_)));
        assert!(matches!(failure(answer).of_follow(), FollowError::Away(_)));
    }

    #[test]
    fn an_error_names_the_server_and_its_words() {
        let error = failure("NOPERM User shop has no permissions").of_append();
        assert_eq!(error.to_string(), "the engine refuses: redis at cache:6379: NOPERM User shop has no permissions");
    }
}
