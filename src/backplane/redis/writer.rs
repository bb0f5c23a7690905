//! Appending.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, cmd};

use super::{
    connect::{Connection, Target, connect, text},
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
    /// How many bytes a block may have at the server that was connected last, if it tells.
    limit: Mutex<Option<usize>>,
}

#[derive(Default)]
struct Slot {
    /// It is taken out while a command runs. So if the future is dropped, the connection is dropped with it.
    open: Option<Open>,
    /// In which generation a connection was last opened.
    opened_in: Option<u64>,
    /// The last entry, if the next one has to get an id of the next millisecond.
    crowded: Option<Place>,
}

struct Open {
    connection: Connection,
    generation: u64,
    /// How many bytes a block may have.
    limit: usize,
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

    /// Returns how many bytes a block may have, as far as that is known.
    pub(super) fn limit(&self) -> usize {
        lock(&self.limit).unwrap_or(usize::MAX)
    }

    pub(super) async fn append(&self, target: &Target, block: &Block) -> Result<(), AppendError> {
        let mut slot = self.slot.lock().await;
        // As long as the server's clock is behind the last id, the server counts only the second number up, which has a bound.
        if let Some(place) = slot.crowded.take() {
            let of_next_ms = entry::id(Place { ms: place.ms + 1, seq: 0 });
            if matches!(self.send(&mut slot, target, &of_next_ms, block).await?, Appended::Yes) {
                return Ok(());
            }
        }
        self.send(&mut slot, target, "*", block).await.map(|_| ())
    }

    pub(super) async fn append_above(&self, target: &Target, place: Place, block: &Block) -> Result<(), AppendError> {
        let above = entry::id(entry::next(place));
        let appended = self.send(&mut *self.slot.lock().await, target, &above, block).await?;
        match appended {
            Appended::Yes => Ok(()),
            Appended::PlaceIsTaken => self.append(target, block).await,
        }
    }

    async fn send(&self, slot: &mut Slot, target: &Target, id: &str, block: &Block) -> Result<Appended, AppendError> {
        let generation = self.generation.load(Ordering::Relaxed);
        let usable = slot.open.take().filter(|open| open.generation == generation && !open.connection.is_closed());
        let mut open = match usable {
            Some(open) => open,
            None => {
                let mut connection = connect(target).await.map_err(Failure::before_append)?;
                let limit =
                    connection.largest_argument(target.response_timeout).await.map_err(Failure::before_append)?;
                *lock(&self.limit) = limit;
                let may_trim = slot.opened_in.replace(generation) != Some(generation);
                Open { connection, generation, limit: limit.unwrap_or(usize::MAX), may_trim }
            }
        };
        if block.encoded_len() > open.limit {
            let limit = open.limit;
            slot.open = Some(open);
            return Err(AppendError::TooLarge { limit });
        }
        let trim = (*lock(&self.trim)).filter(|_| open.may_trim);
        let connection = &mut open.connection;
        let command = append(target, id, block, trim);
        let result = match connection.ask(&command, target.response_timeout).await {
            Ok(id) => {
                let place = text(&id).and_then(|id| entry::place(&id));
                slot.crowded = place.filter(|place| place.seq >= entry::SEQ_BOUND / 2);
                Ok(Appended::Yes)
            }
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
