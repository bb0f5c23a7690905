//! The thread that has the database.
//!
//! SQLite blocks, so it has a thread of its own: a call costs two changes of thread, which take as long as with `spawn_blocking`, and the
//! thread can also make blocks durable when nobody calls.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{oneshot, watch};

use super::{
    Durability, FileConfig, FileError,
    store::{Database, Log},
};
use crate::backplane::{AppendError, Block, Mark, Place, Read};

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    Append { above: Place, block: Block, reply: oneshot::Sender<Result<(), AppendError>> },
    Find { mark: Mark, reply: oneshot::Sender<Result<Option<i64>, FileError>> },
    Read { after: Option<i64>, reply: oneshot::Sender<Result<(Read, Option<i64>), FileError>> },
    Trim { before: Place },
}

/// The thread, and how to ask it. When it is dropped, it waits until the file is closed.
#[derive(Debug)]
pub(super) struct Worker {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    /// The number of the newest block.
    pub(super) newest: watch::Receiver<i64>,
}

impl Worker {
    /// Starts the thread, and waits until it has opened the file.
    pub(super) fn start(path: PathBuf, config: FileConfig) -> Result<Self, FileError> {
        let (requests, received) = channel();
        let (opened, is_open) = channel();
        let (newest_sender, newest) = watch::channel(0);
        let file = path.clone();
        let run = move || {
            let database = match Database::open(&path, config.durability) {
                Ok(database) => database,
                Err(error) => return drop(opened.send(Err(error))),
            };
            match database.log() {
                Ok(log) => {
                    newest_sender.send_replace(log.newest());
                    let _ = opened.send(Ok(()));
                    Thread { log, newest: newest_sender, config, due: None, is_overdue: false }.run(&received);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        let builder = thread::Builder::new().name("tower-sse-file".to_owned());
        let thread = builder.spawn(run).map_err(|error| FileError::io(&file, error))?;
        let worker = Self { requests: Some(requests), thread: Some(thread), newest };
        is_open.recv().unwrap_or_else(|_| Err(FileError::io(&file, STOPPED))).map(|()| worker)
    }

    /// Asks the thread. `None` if the thread has stopped, which it does only if it panicked.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply));
        answer.await.ok()
    }

    /// Asks the thread for something that has no answer.
    pub(super) fn tell(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// What is said if the thread has panicked.
pub(super) const STOPPED: &str = "the thread that has the file has stopped";

struct Thread<'a> {
    log: Log<'a>,
    newest: watch::Sender<i64>,
    config: FileConfig,
    /// When the blocks have to be made durable that are not.
    due: Option<Instant>,
    /// Whether blocks could not be made durable when it was time.
    is_overdue: bool,
}

impl Thread<'_> {
    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let request = match self.due {
                Some(due) => requests.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.log.is_wal_large() || self.due.is_some_and(|due| due <= Instant::now()) {
                let _ = self.sync();
            }
        }
        let _ = self.log.sync();
    }

    /// Answers. Nobody may wait for the answer any more.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Append { above, block, reply } => {
                let appended = self.append(above, &block);
                self.newest.send_replace(self.log.newest());
                let _ = reply.send(appended);
            }
            Request::Find { mark, reply } => {
                let _ = reply.send(self.log.find(&mark));
            }
            Request::Read { after, reply } => {
                let _ = reply.send(self.log.read(after));
            }
            // If it fails, reading and appending fail, and say why.
            Request::Trim { before } => {
                let _ = self.log.trim(before);
            }
        }
    }

    fn append(&mut self, above: Place, block: &Block) -> Result<(), AppendError> {
        // No more than what may be lost is ever not durable.
        if self.is_overdue {
            self.sync().map_err(|error| match error {
                FileError::Full { .. } => AppendError::Full(error.into()),
                error => AppendError::Away(error.into()),
            })?;
        }
        self.log.append(above, block, now_ms())?;
        if let Durability::Every(time) = self.config.durability {
            self.due = self.due.or_else(|| Instant::now().checked_add(time));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), FileError> {
        let synced = self.log.sync();
        self.is_overdue = synced.is_err();
        self.due = synced.is_err().then(|| Instant::now() + RETRY);
        synced
    }
}

/// When the thread tries again to make blocks durable, if it failed.
const RETRY: Duration = Duration::from_secs(1);

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
