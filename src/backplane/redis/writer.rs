//! Appending.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, cmd};

use super::{
    connect::{Connection, Target, connect},
    entry,
    failure::Failure,
};
use crate::{
    backplane::{AppendError, Block, Place},
    sync::{Mutex, lock},
};

/// The connection that appends, and what it has to know.
#[derive(Default)]
pub(super) struct Writer {
    /// It is taken out while a command runs. So if the future is dropped, the connection is dropped with it.
    connection: tokio::sync::Mutex<Option<Open>>,
    /// How often the writer was told to connect anew.
    generation: AtomicU64,
    /// Entries before this place may be removed.
    trim: Mutex<Option<Place>>,
}

struct Open {
    connection: Connection,
    generation: u64,
}

/// How an append at a given place ended.
enum Appended {
    Yes,
    /// The stream has an id as great already, so that the server's own ids are above it.
    PlaceIsTaken,
}

impl Writer {
    /// Makes the next append connect anew, because the server may no longer be the right one. Until the node has read its stream, nothing is
    /// removed from it.
    pub(super) fn reconnect(&self) {
        *lock(&self.trim) = None;
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn trim(&self, before: Place) {
        let mut trim = lock(&self.trim);
        *trim = trim.max(Some(before));
    }

    pub(super) async fn append(&self, target: &Target, block: &Block) -> Result<(), AppendError> {
        self.send(target, "*", block).await.map(|_| ())
    }

    pub(super) async fn append_above(&self, target: &Target, place: Place, block: &Block) -> Result<(), AppendError> {
        match self.send(target, &entry::id(entry::next(place)), block).await? {
            Appended::Yes => Ok(()),
            Appended::PlaceIsTaken => self.append(target, block).await,
        }
    }

    async fn send(&self, target: &Target, id: &str, block: &Block) -> Result<Appended, AppendError> {
        let mut slot = self.connection.lock().await;
        let generation = self.generation.load(Ordering::Relaxed);
        let usable = slot.take().filter(|open| open.generation == generation && !open.connection.is_closed());
        let mut connection = match usable {
            Some(open) => open.connection,
            None => connect(target).await.map_err(Failure::before_append)?,
        };
        let command = self.command(target, id, block);
        let result = match connection.ask(&command, target.response_timeout).await {
            Ok(_) => Ok(Appended::Yes),
            Err(Failure::Refused(problem)) if problem.is_about_id() => Ok(Appended::PlaceIsTaken),
            Err(failure @ Failure::Full(_)) => {
                // Without memory, the server refuses to append, and so to trim with it. It takes this, which can only free memory.
                if let Some(trim) = self.trim_alone(target) {
                    let _ = connection.ask(&trim, target.response_timeout).await;
                }
                Err(failure)
            }
            Err(failure) => Err(failure),
        };
        // After any other error, the name is resolved and the server is checked again.
        if matches!(result, Ok(_) | Err(Failure::Full(_))) {
            *slot = Some(Open { connection, generation });
        }
        result.map_err(Failure::of_append)
    }

    fn trim_alone(&self, target: &Target) -> Option<Cmd> {
        let place = (*lock(&self.trim))?;
        let mut command = cmd("XTRIM");
        command.arg(&target.stream).arg("MINID").arg("~").arg(entry::id(place));
        Some(command)
    }

    fn command(&self, target: &Target, id: &str, block: &Block) -> Cmd {
        let mut command = cmd("XADD");
        command.arg(&target.stream);
        // Only whole nodes of the stream are removed, which costs next to nothing. It is sent each time, because one call removes a bounded
        // number.
        if let Some(place) = *lock(&self.trim) {
            command.arg("MINID").arg("~").arg(entry::id(place));
        }
        command.arg(id).arg(entry::FIELD).arg(&block.encode()[..]);
        command
    }
}
