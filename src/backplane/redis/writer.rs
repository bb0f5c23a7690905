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
    slot: tokio::sync::Mutex<Slot>,
    /// How often the writer was told to connect anew.
    generation: AtomicU64,
    /// Entries before this place may be removed.
    trim: Mutex<Option<Place>>,
}

#[derive(Default)]
struct Slot {
    /// It is taken out while a command runs. So if the future is dropped, the connection is dropped with it.
    open: Option<Open>,
    /// In which generation a connection was last opened.
    opened_in: Option<u64>,
}

struct Open {
    connection: Connection,
    generation: u64,
    /// Whether the node has followed the stream since it lost a connection. If not, this may be another server, without what the node has read.
    may_trim: bool,
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
        let mut slot = self.slot.lock().await;
        let generation = self.generation.load(Ordering::Relaxed);
        let usable = slot.open.take().filter(|open| open.generation == generation && !open.connection.is_closed());
        let mut open = match usable {
            Some(open) => open,
            None => {
                let connection = connect(target).await.map_err(Failure::before_append)?;
                let may_trim = slot.opened_in.replace(generation) != Some(generation);
                Open { connection, generation, may_trim }
            }
        };
        let trim = (*lock(&self.trim)).filter(|_| open.may_trim);
        let connection = &mut open.connection;
        let command = append(target, id, block, trim);
        let result = match connection.ask(&command, target.response_timeout).await {
            Ok(_) => Ok(Appended::Yes),
            Err(Failure::Refused(problem)) if problem.is_about_id() => Ok(Appended::PlaceIsTaken),
            Err(failure @ Failure::Full(_)) => {
                // Without memory, the server refuses to append, and so to trim with it. It takes this, which can only free memory.
                if let Some(place) = trim {
                    let mut command = cmd("XTRIM");
                    trim_before(command.arg(&target.stream), place);
                    let _ = connection.ask(&command, target.response_timeout).await;
                }
                Err(failure)
            }
            Err(failure) => Err(failure),
        };
        // After any other error, the name is resolved and the server is checked again.
        if matches!(result, Ok(_) | Err(Failure::Full(_))) {
            slot.open = Some(open);
        }
        result.map_err(Failure::of_append)
    }
}

fn append(target: &Target, id: &str, block: &Block, trim: Option<Place>) -> Cmd {
    let mut command = cmd("XADD");
    command.arg(&target.stream);
    // It is sent each time, because one call removes a bounded number.
    trim.into_iter().for_each(|place| trim_before(&mut command, place));
    command.arg(id).arg(entry::FIELD).arg(&block.encode()[..]);
    command
}

/// Only whole nodes of the stream are removed, which costs next to nothing.
fn trim_before(command: &mut Cmd, place: Place) {
    command.arg("MINID").arg("~").arg(entry::id(place));
}
