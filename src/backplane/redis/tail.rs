//! Reading.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Value, cmd};

use super::{
    connect::{Connection, Target, connect, text},
    entry::{self, Entry, Unreadable},
    failure::{Failure, Problem},
};
use crate::backplane::{BoxFuture, FollowError, Following, Mark, Place, Read, Tail};

/// How long the server waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(1);

/// How much later the answer may come.
const BLOCK_GRACE: Duration = Duration::from_secs(2);

/// About how many bytes one answer has.
const STEP: usize = 1 << 20;

/// The most entries in one answer: so that a step is not too large when small entries are followed by large ones.
const MOST: usize = 512;

/// How many entries the first answer has, when nothing is known of their size. Over a slow network, one large one may take long enough.
const FIRST: usize = 1;

/// How many times as many entries an answer may have as the one before.
const GROWTH: usize = 8;

/// How many entries other programs may append between two commands of one pipeline.
const MEANWHILE: usize = 256;

/// Opens a connection and begins to read.
pub(super) async fn follow(
    target: Arc<Target>,
    after: Option<Mark>,
    skipped: Arc<AtomicU64>,
) -> Result<Following, FollowError> {
    let mut connection = connect(&target).await.map_err(Failure::of_follow)?;
    let anchor = match after {
        Some(mark) if is_there(&mut connection, &target, &mark).await.map_err(Failure::of_follow)? => Some(mark.place),
        _ => None,
    };
    let tail = RedisTail {
        connection,
        target,
        after: anchor.unwrap_or_default(),
        at_newest: false,
        count: FIRST,
        pending: None,
        skipped,
    };
    Ok(Following { continues: anchor.is_some(), tail: Box::new(tail) })
}

/// Whether the stream has an entry at this place or before it.
async fn reaches_back(connection: &mut Connection, target: &Target, place: Place) -> Result<bool, Failure> {
    let mut command = cmd("XRANGE");
    command.arg(&target.stream).arg("-").arg(entry::id(place)).arg("COUNT").arg(1);
    let answer = connection.ask(&command, target.response_timeout).await?;
    Ok(!entry::of_range(answer).map_err(|why| unreadable(connection, &why))?.is_empty())
}

/// Whether entries were removed from the stream since it was made. A server before Redis 7 does not tell, nor one that does not permit the question.
async fn was_trimmed(connection: &mut Connection, target: &Target) -> Result<bool, Failure> {
    let mut command = cmd("XINFO");
    command.arg("STREAM").arg(&target.stream);
    let answer = match connection.ask(&command, target.response_timeout).await {
        Err(Failure::Refused(_)) => return Ok(false),
        answer => answer?,
    };
    let number = |name: &str| {
        let (_, value) = answer.as_map_iter()?.find(|(key, _)| text(key).is_some_and(|key| key == name))?;
        match value {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    };
    Ok(number("entries-added") > number("length"))
}

/// Whether the stream has exactly this block at exactly this place.
async fn is_there(connection: &mut Connection, target: &Target, mark: &Mark) -> Result<bool, Failure> {
    let id = entry::id(mark.place);
    let mut command = cmd("XRANGE");
    command.arg(&target.stream).arg(&id).arg(&id);
    let answer = connection.ask(&command, target.response_timeout).await?;
    let found = entry::of_range(answer).map_err(|why| unreadable(connection, &why))?;
    let Some(found) = found.into_iter().next() else { return Ok(false) };
    Ok(matches!(Entry::read(found), Ok((Entry::Block(stored), _)) if stored.mark() == *mark))
}

fn unreadable(connection: &Connection, why: &Unreadable) -> Failure {
    Failure::Refused(Problem::new(&connection.address, why.describe()))
}

struct RedisTail {
    connection: Connection,
    target: Arc<Target>,
    /// The last entry that was returned.
    after: Place,
    /// Whether the last answer reached the end of the stream. The next read then waits for an entry.
    at_newest: bool,
    /// How many entries to ask for.
    count: usize,
    /// The read that has been sent. It is kept here, and not in the future of `next`, so that its answer is not lost with that future.
    pending: Option<BoxFuture<'static, Result<Vec<Value>, Failure>>>,
    skipped: Arc<AtomicU64>,
}

impl RedisTail {
    /// Reads, and looks whether entries between the last read and this one may be gone: whether the stream still has an entry at or before the
    /// last one that was read.
    ///
    /// A program that trims with `MAXLEN` can remove entries before they are read. The events of other programs have no numbers by which one
    /// would see that, and neither does the last block of a node that has ended. A stream that was deleted begins anew, with nothing removed.
    ///
    /// The length of the stream tells in most reads that there is such an entry, and costs less than to ask for one.
    fn read(&self) -> BoxFuture<'static, Result<Vec<Value>, Failure>> {
        let mut connection = self.connection.clone();
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(self.count);
        let waits = self.at_newest;
        if waits {
            command.arg("BLOCK").arg(BLOCK.as_millis());
        }
        command.arg("STREAMS").arg(&self.target.stream).arg(entry::id(self.after));
        let mut length = cmd("XLEN");
        length.arg(&self.target.stream);
        let (target, after, asked) = (Arc::clone(&self.target), self.after, self.count);
        Box::pin(async move {
            let within = if waits { BLOCK + BLOCK_GRACE } else { target.response_timeout };
            let (answer, length) = connection.ask_both(&command, &length, within).await?;
            if waits && answer == Value::Nil {
                connection.check_role(target.response_timeout).await?;
            }
            let entries = entry::of_read(answer).map_err(|why| unreadable(&connection, &why))?;
            let has_all = entries.len() < asked;
            let has_more = matches!(length, Value::Int(length) if length as usize > entries.len() + MEANWHILE);
            if after == Place::default() || entries.is_empty() || (has_all && has_more) {
                return Ok(entries);
            }
            let is_plain = |entry: &Value| !entry::is_block(entry);
            if !reaches_back(&mut connection, &target, after).await?
                && (entries.iter().any(is_plain) || was_trimmed(&mut connection, &target).await?)
            {
                let what = "the stream was trimmed before it was read";
                return Err(Failure::Away(Problem::new(&connection.address, what)));
            }
            Ok(entries)
        })
    }

    /// Takes the entries of an answer. Nothing waits here, so that the place is only changed if the blocks are returned.
    fn take(&mut self, entries: Vec<Value>) -> Result<Read, Failure> {
        let (number, asked) = (entries.len(), self.count);
        let mut read = Read { blocks: Vec::with_capacity(number), is_newest: number < asked };
        let mut bytes = 0;
        for found in entries {
            match Entry::read(found) {
                Ok((entry, size)) => {
                    bytes += size;
                    self.after = entry.place();
                    match entry {
                        Entry::Block(stored) => read.blocks.push(stored),
                        Entry::Other(_) => {
                            self.skipped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                // The next read begins with this entry.
                Err(_) if !read.blocks.is_empty() => {
                    read.is_newest = false;
                    break;
                }
                Err(why) => return Err(unreadable(&self.connection, &why)),
            }
        }
        if let Some(mean) = bytes.checked_div(number) {
            self.count = (STEP / mean.max(1)).clamp(1, MOST.min(asked * GROWTH));
        }
        self.at_newest = read.is_newest;
        Ok(read)
    }
}

impl Tail for RedisTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            let read = self.pending.take().unwrap_or_else(|| self.read());
            let entries = self.pending.insert(read).await;
            self.pending = None;
            entries.and_then(|entries| self.take(entries)).map_err(Failure::of_follow)
        })
    }
}

impl fmt::Debug for RedisTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTail")
            .field("server", &self.connection.address)
            .field("stream", &self.target.stream)
            .field("after", &self.after)
            .field("at_newest", &self.at_newest)
            .finish_non_exhaustive()
    }
}
