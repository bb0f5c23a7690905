//! Why a file cannot be used as a log.

use std::{
    error::Error,
    fmt,
    fs::OpenOptions,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;

use crate::backplane::{AppendError, BoxError, FollowError};

/// Why a file cannot be used as a log: see [`File::open`](super::File::open).
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// Another process has the file open, or another [`File`](super::File) of this process that is not a clone.
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a log of this crate. Nothing was written to it. If it is another program's SQLite database whose last writes wait in a
    /// write-ahead log, SQLite has moved them into the file.
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// The file is a log, and is damaged. To begin with an empty log, move the file and the one with `-wal` behind its name away.
    Torn {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// The log was written by another version of this crate.
    Version {
        /// The file.
        path: PathBuf,
        /// The version that the log has.
        version: i64,
    },
    /// The folder of the file does not exist.
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// The operating system does not permit this process to read and write the file.
    NotPermitted {
        /// The file.
        path: PathBuf,
        /// What the operating system or the store says.
        source: BoxError,
    },
    /// The disk has no room.
    Full {
        /// The file.
        path: PathBuf,
        /// What the store says.
        source: BoxError,
    },
    /// Reading or writing the file fails for another reason.
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system or the store says.
        source: BoxError,
    },
}

impl FileError {
    pub(super) fn foreign(path: &Path, found: impl Into<String>) -> Self {
        Self::Foreign { path: path.to_owned(), found: found.into() }
    }

    pub(super) fn torn(path: &Path, found: impl Into<String>) -> Self {
        Self::Torn { path: path.to_owned(), found: found.into() }
    }

    pub(super) fn io(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }

    /// What an error of SQLite means.
    pub(super) fn of_store(path: &Path, error: rusqlite::Error) -> Self {
        let owned = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path: owned },
            Some(ErrorCode::NotADatabase) => Self::foreign(path, "it is not a database"),
            Some(ErrorCode::DatabaseCorrupt) => Self::torn(path, error.to_string()),
            Some(ErrorCode::DiskFull) => Self::Full { path: owned, source: error.into() },
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::NotPermitted { path: owned, source: error.into() }
            }
            Some(ErrorCode::CannotOpen) => Self::of_opening(path, error),
            _ => Self::io(path, error),
        }
    }

    /// SQLite does not say why it cannot open a file, so the operating system is asked.
    fn of_opening(path: &Path, error: rusqlite::Error) -> Self {
        let owned = path.to_owned();
        if path.is_dir() {
            return Self::foreign(path, "it is a folder");
        }
        match OpenOptions::new().read(true).write(true).open(path).map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound) if folder(path).is_dir() => {
                Self::NotPermitted { path: owned, source: error.into() }
            }
            Err(ErrorKind::NotFound) => Self::NoFolder { path: owned },
            Err(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                Self::NotPermitted { path: owned, source: error.into() }
            }
            _ => Self::io(path, error),
        }
    }

    /// What the error means for a block that was to be appended.
    pub(super) fn of_append(self) -> AppendError {
        match self {
            Self::Full { .. } => AppendError::Full(self.into()),
            // After an error of the operating system, what was written may have reached the disk or not.
            Self::Io { .. } => AppendError::Unknown(self.into()),
            Self::Locked { .. } => AppendError::Away(self.into()),
            _ => AppendError::Refused(self.into()),
        }
    }

    /// What the error means for a reader.
    pub(super) fn of_follow(self) -> FollowError {
        match self {
            Self::Full { .. } | Self::Io { .. } | Self::Locked { .. } => FollowError::Away(self.into()),
            _ => FollowError::Refused(self.into()),
        }
    }
}

/// The folder that the file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { path } => {
                write!(f, "{} is open already, in another process or in this one", path.display())
            }
            Self::Foreign { path, found } => write!(f, "{} is not a log of this crate: {found}", path.display()),
            Self::Torn { path, found } => write!(f, "the log {} is damaged: {found}", path.display()),
            Self::Version { path, version } => write!(
                f,
                "the log {} has the version {version}, and this crate reads only version {}",
                path.display(),
                super::store::VERSION
            ),
            Self::NoFolder { path } => write!(f, "the folder of {} does not exist", path.display()),
            Self::NotPermitted { path, source } => {
                write!(f, "this process may not read and write {}: {source}", path.display())
            }
            Self::Full { path, source } => write!(f, "there is no room for {}: {source}", path.display()),
            Self::Io { path, source } => write!(f, "reading or writing {} fails: {source}", path.display()),
        }
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotPermitted { source, .. } | Self::Full { source, .. } | Self::Io { source, .. } => source.source(),
            Self::Locked { .. }
            | Self::Foreign { .. }
            | Self::Torn { .. }
            | Self::Version { .. }
            | Self::NoFolder { .. } => None,
        }
    }
}
