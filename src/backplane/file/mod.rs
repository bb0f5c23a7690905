//! A log in a file of this machine.

mod error;
mod store;
mod worker;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

pub use self::error::FileError;
use self::worker::{Request, STOPPED, Worker};
use super::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Place, Read, Tail};

/// A log in a file of this machine, so that one process remembers its events over a restart.
///
/// Clones share the log. Only one process can have the file open.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::backplane::{Durability, File, FileConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("tower-sse-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("events.db");
/// let engine = File::open(&path)?;
/// # drop(engine);
///
/// let config = FileConfig::default().durability(Durability::EveryBlock);
/// let engine = File::open_with(&path, config)?;
/// # drop(engine);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
///
/// # What is kept
///
/// A block whose [`append`](Backplane::append) returned is kept when the process is killed. A power loss or a crash of the operating system
/// can lose the newest blocks: [`FileConfig::durability`] says how many. What remains is always the log up to some block.
///
/// Places never go back, also if the clock does, and also over a restart.
///
/// # Files
///
/// The file is a database of SQLite, with a second file beside it that has `-wal` behind its name. Both belong together: copy, move and
/// remove them together, and only while no process has them open. The events are in them as they were published, and not encrypted. The
/// permissions of the files are those of any new file, so set a umask if others may not read them.
///
/// SQLite locks the file with the locks of the operating system. On Unix, these are lost if the same process opens and closes the file by
/// other means. The file has to be on a disk of this machine, because locks are not reliable on network file systems.
///
/// # Room
///
/// The file grows until [`trim`](Backplane::trim) lets it remove old blocks. Their room is used again, so the file stays about as large as
/// what was retained at most, but it does not shrink. The second file takes another 4 MiB and the largest block.
///
/// If the disk has no room, `append` returns [`AppendError::Full`], and nothing of the block is kept. The log goes on when there is room. A
/// trim may need room too, so leave some beside what is retained.
///
/// # Why SQLite
///
/// Its commits survive the end of the process without waiting for the disk, which those of `redb` do not, and with a log from which the
/// oldest is always removed its files stay as large as what is retained, which those of `fjall` do not.
///
/// # Runtime
///
/// The file has a thread of its own, and blocks no runtime. Opening the file, and dropping the last of its clones and readers, waits for
/// that thread. Reading needs the time driver of tokio. Building the feature `file` compiles SQLite, and needs a C compiler.
#[derive(Debug, Clone)]
pub struct File {
    worker: Arc<Worker>,
}

/// How to open a [`File`].
///
/// Every setting has a default. The setters take and return the configuration by value.
#[derive(Debug, Clone, Default)]
pub struct FileConfig {
    durability: Durability,
}

/// When blocks are durable, so that they survive a power loss.
///
/// Blocks survive the end of the process in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Each block, before its `append` returns. A power loss loses no block.
    ///
    /// Cost: each append waits for the disk.
    EveryBlock,
    /// All blocks, this long after the first that is not durable. A power loss loses the blocks of about this time.
    ///
    /// If the disk fails to make them durable, `append` returns an error until it works.
    Every(Duration),
}

impl FileConfig {
    /// Sets when blocks are durable.
    ///
    /// Default: [`Durability::Every`] second.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

impl Default for Durability {
    fn default() -> Self {
        Self::Every(Duration::from_secs(1))
    }
}

impl File {
    /// Opens the log in a file, or makes a new one if there is no file.
    ///
    /// It does not make the folder.
    ///
    /// Cost: it reads and checks the whole file, and blocks the thread meanwhile. Measured on two cores of an AMD EPYC, it takes about 60 ms
    /// for 100,000 blocks of 230 bytes, and for 5,700 blocks of 11,500 bytes.
    ///
    /// # Errors
    ///
    /// [`FileError`] says what is wrong with the file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_with(path, FileConfig::default())
    }

    /// Opens the log in a file as [`open`](Self::open) does, with a configuration.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: impl Into<PathBuf>, config: FileConfig) -> Result<Self, FileError> {
        Ok(Self { worker: Arc::new(Worker::start(path.into(), config)?) })
    }
}

impl Backplane for File {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn append_above<'a>(&'a self, above: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            let (length, limit) = (block.encoded_len(), self.max_block());
            if length > limit {
                return Err(AppendError::Refused(format!("a block of {length} bytes is above {limit}").into()));
            }
            let block = block.clone();
            let appended = self.worker.ask(|reply| Request::Append { above, block, reply }).await;
            appended.unwrap_or_else(|| Err(AppendError::Unknown(STOPPED.into())))
        })
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(async move {
            let after = match after.copied() {
                Some(mark) => answered(self.worker.ask(|reply| Request::Find { mark, reply }).await)?,
                None => None,
            };
            let worker = Arc::clone(&self.worker);
            let tail = FileTail { newest: worker.newest.clone(), worker, after, has_read: false };
            Ok(Following { continues: after.is_some(), tail: Box::new(tail) })
        })
    }

    fn trim(&self, before: Place) {
        self.worker.tell(Request::Trim { before });
    }
}

/// How long a reader waits for a block before it returns none.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct FileTail {
    worker: Arc<Worker>,
    newest: watch::Receiver<i64>,
    /// The number of the block that was read last.
    after: Option<i64>,
    has_read: bool,
}

impl FileTail {
    async fn read(&mut self) -> Result<Read, FollowError> {
        let after = self.after;
        let (read, last) = answered(self.worker.ask(|reply| Request::Read { after, reply }).await)?;
        (self.after, self.has_read) = (last, true);
        Ok(read)
    }
}

impl Tail for FileTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            let quiet = Instant::now() + QUIET;
            loop {
                let newest = *self.newest.borrow_and_update();
                if !self.has_read || self.after.unwrap_or_default() < newest {
                    return self.read().await;
                }
                match timeout_at(quiet, self.newest.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(FollowError::Refused(STOPPED.into())),
                    Err(_) => return Ok(Read { blocks: Vec::new(), is_newest: *self.newest.borrow() == newest }),
                }
            }
        })
    }
}

/// What the thread says to a reader.
fn answered<T>(answer: Option<Result<T, FileError>>) -> Result<T, FollowError> {
    answer.unwrap_or_else(|| Err(FileError::io(Path::new("the log"), STOPPED))).map_err(FileError::of_follow)
}
