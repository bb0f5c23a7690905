//! The log as a table of SQLite.
//!
//! Blocks are numbered without a gap, and each row has a checksum over all of it. So a row that is lost, moved or changed is found, also
//! where SQLite itself has no checksum.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use crc32fast::Hasher;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Statement, params};

use super::{Durability, FileError};
use crate::backplane::{AppendError, Block, Mark, Place, Read, Stored};

/// The version of the table, as `user_version` of the database.
pub(super) const VERSION: i64 = 1;

/// "tsse", as `application_id` of the database.
const APPLICATION: i64 = 0x7473_7365;

/// How many bytes a database has at least. SQLite takes a shorter file for a new one.
const HEAD: u64 = 512;

const TABLE: &str = "CREATE TABLE block (number INTEGER PRIMARY KEY, ms INTEGER NOT NULL, seq INTEGER NOT NULL, \
    at_ms INTEGER NOT NULL, checksum INTEGER NOT NULL, block BLOB NOT NULL)";

/// How many blocks, and about how many bytes, a reader gets at once.
const AT_ONCE: (usize, usize) = (1000, 1 << 20);

/// How many blocks one append removes at most, so that a long trim does not hold up the appends.
const TRIM_AT_ONCE: i64 = 256;

/// How large the write-ahead log becomes before its pages are moved to the database, in bytes.
const WAL: usize = 4 << 20;

/// The numbers of the blocks that the table has: from `oldest` to `newest`, or none if `oldest` is greater.
#[derive(Debug, Clone, Copy)]
struct Range {
    oldest: i64,
    newest: i64,
}

/// An open database that no other connection has.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    connection: Connection,
    range: Range,
    last: Place,
}

impl Database {
    /// Opens a database, or makes a new one, and checks all of it.
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Self, FileError> {
        let of_store = |error| FileError::of_store(path, error);
        let found = fs::metadata(path).ok();
        let length = found.as_ref().map_or(0, fs::Metadata::len);
        if found.is_some_and(|found| found.is_file()) && length > 0 && length < HEAD {
            return Err(FileError::foreign(path, format!("{length} bytes are too few for a database")));
        }
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        if length == 0 && fs::metadata(&wal).is_ok_and(|file| file.len() > 0) {
            return Err(FileError::torn(path, format!("it is empty, and {} is not", Path::new(&wal).display())));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(of_store)?;
        if connection.is_readonly(rusqlite::MAIN_DB).map_err(of_store)? {
            return Err(FileError::NotPermitted { path: path.to_owned(), source: "it can only be read".into() });
        }
        lock(&connection).map_err(of_store)?;
        match contents(&connection, path)? {
            Contents::Log => {}
            Contents::Nothing => create(&connection).map_err(of_store)?,
        }
        // Each commit is written to the write-ahead log, and a commit with FULL waits until the disk has it.
        let synchronous = match durability {
            Durability::EveryBlock => "FULL",
            Durability::Every(_) => "NORMAL",
        };
        let limit = WAL.to_string();
        let settings = [
            ("synchronous", synchronous),
            // macOS needs to be asked to wait for the disk and not only for its cache.
            ("fullfsync", "ON"),
            ("checkpoint_fullfsync", "ON"),
            ("wal_autocheckpoint", "0"),
            ("journal_size_limit", &limit),
            ("cell_size_check", "ON"),
        ];
        for (name, value) in settings {
            set(&connection, name, value).map_err(of_store)?;
        }
        check(&connection, path)?;
        let (range, last) = check_blocks(&connection, path)?;
        Ok(Self { path: path.to_owned(), connection, range, last })
    }

    pub(super) fn log(&self) -> Result<Log<'_>, FileError> {
        let prepare = |sql: &str| self.connection.prepare(sql).map_err(|error| FileError::of_store(&self.path, error));
        Ok(Log {
            path: &self.path,
            connection: &self.connection,
            insert: prepare("INSERT INTO block VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
            delete: prepare("DELETE FROM block WHERE number < ?1")?,
            select: prepare("SELECT * FROM block WHERE number >= ?1 ORDER BY number")?,
            range: self.range,
            last: self.last,
            keep_from: self.range.oldest,
            unsynced: 0,
        })
    }
}

/// The statements of an open database, and what is known of its blocks.
#[derive(Debug)]
pub(super) struct Log<'a> {
    path: &'a Path,
    connection: &'a Connection,
    insert: Statement<'a>,
    delete: Statement<'a>,
    select: Statement<'a>,
    range: Range,
    /// The place of the newest block.
    last: Place,
    /// Blocks with smaller numbers may be removed.
    keep_from: i64,
    /// How many bytes were appended since the last [`sync`](Self::sync).
    unsynced: usize,
}

impl Log<'_> {
    pub(super) fn newest(&self) -> i64 {
        self.range.newest
    }

    /// Appends a block above a place, and removes some of those that are not needed.
    pub(super) fn append(&mut self, above: Place, block: &Block, now_ms: u64) -> Result<(), AppendError> {
        let no_place = || AppendError::Refused("there is no place left that is below 2^48 milliseconds".into());
        let place = next_place(self.last.max(above), now_ms).ok_or_else(no_place)?;
        let row = Numbered { number: self.range.newest + 1, stored: (place, now_ms), encoded: block.encode() };
        let oldest = match self.write(&row) {
            // What is in the write-ahead log may fit into the database, and leave its room to the block.
            Err(FileError::Full { .. }) if self.sync().is_ok() => self.write(&row),
            other => other,
        };
        let oldest = oldest.map_err(FileError::of_append)?;
        self.range = Range { oldest, newest: row.number };
        self.last = place;
        self.unsynced += row.encoded.len() + 4096;
        Ok(())
    }

    /// Writes a row in one transaction with what is removed, and returns the number of the oldest row.
    fn write(&mut self, row: &Numbered) -> Result<i64, FileError> {
        let of_store = |error| FileError::of_store(self.path, error);
        let oldest = self.keep_from.min(self.range.oldest + TRIM_AT_ONCE).max(self.range.oldest);
        let transaction = self.connection.unchecked_transaction().map_err(of_store)?;
        if oldest > self.range.oldest {
            self.delete.execute([oldest]).map_err(of_store)?;
        }
        let (place, at_ms) = row.stored;
        let numbers = [Some(row.number), signed(place.ms), signed(place.seq), signed(at_ms)];
        let [number, ms, seq, at_ms] = numbers;
        let values = params![number, ms, seq, at_ms, row.checksum(), &row.encoded[..]];
        self.insert.execute(values).map_err(of_store)?;
        transaction.commit().map_err(of_store)?;
        Ok(oldest)
    }

    /// Reads the blocks behind a number.
    pub(super) fn read(&mut self, after: Option<i64>) -> Result<(Read, Option<i64>), FileError> {
        let first = after.map_or(self.range.oldest, |after| self.range.oldest.max(after + 1));
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        let of_store = |error| FileError::of_store(self.path, error);
        let mut next = first;
        if next <= self.range.newest {
            let mut rows = self.select.query([first]).map_err(of_store)?;
            while next <= self.range.newest && blocks.len() < AT_ONCE.0 && bytes < AT_ONCE.1 {
                let row = rows.next().map_err(of_store)?;
                let stored = checked(row, next, self.path)?;
                bytes += stored.block.encoded_len();
                blocks.push(stored);
                next += 1;
            }
        }
        let last = if next > first { Some(next - 1) } else { after };
        Ok((Read { is_newest: next > self.range.newest, blocks }, last))
    }

    /// Returns the number of a block that was read before, if it is still there.
    pub(super) fn find(&mut self, mark: &Mark) -> Result<Option<i64>, FileError> {
        let number = self.first_from(mark.place)?;
        if number > self.range.newest {
            return Ok(None);
        }
        let found = self.block(number)?;
        Ok((found.mark() == *mark).then_some(number))
    }

    /// Notes that the blocks before a place are not needed. The newest block stays, because the next place stands above it.
    pub(super) fn trim(&mut self, before: Place) -> Result<(), FileError> {
        let keep_from = self.first_from(before)?.min(self.range.newest);
        self.keep_from = self.keep_from.max(keep_from);
        Ok(())
    }

    /// Whether the write-ahead log is so large that its pages should be moved.
    pub(super) fn is_wal_large(&self) -> bool {
        self.unsynced > WAL
    }

    /// Makes all blocks durable, and moves them to the database.
    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        let moved = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (is_busy, pages, done): (i64, i64, i64) = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], moved)
            .map_err(|error| FileError::of_store(self.path, error))?;
        if is_busy != 0 || pages != done {
            return Err(FileError::io(self.path, format!("{done} of {pages} pages were moved to the database")));
        }
        self.unsynced = 0;
        Ok(())
    }

    /// The number of the first block that does not stand before a place.
    fn first_from(&mut self, place: Place) -> Result<i64, FileError> {
        let (mut low, mut high) = (self.range.oldest, self.range.newest + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.block(middle)?.place < place {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }

    fn block(&mut self, number: i64) -> Result<Stored, FileError> {
        let of_store = |error| FileError::of_store(self.path, error);
        let mut rows = self.select.query([number]).map_err(of_store)?;
        checked(rows.next().map_err(of_store)?, number, self.path)
    }
}

/// A block as a row.
struct Numbered {
    number: i64,
    stored: (Place, u64),
    encoded: Bytes,
}

impl Numbered {
    fn checksum(&self) -> u32 {
        let (place, at_ms) = self.stored;
        let mut hasher = Hasher::new();
        hasher.update(&self.number.to_be_bytes());
        for number in [place.ms, place.seq, at_ms] {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(&self.encoded);
        hasher.finalize()
    }
}

/// Takes the lock that keeps out other connections. It is held until this one is closed.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::ZERO)?;
    set(connection, "locking_mode", "EXCLUSIVE")?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

enum Contents {
    Log,
    Nothing,
}

/// Finds out what is in a database, without changing it.
fn contents(connection: &Connection, path: &Path) -> Result<Contents, FileError> {
    let of_store = |error| FileError::of_store(path, error);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(of_store);
    let schema = || {
        let mut statement = connection.prepare("SELECT coalesce(sql, name) FROM sqlite_master")?;
        let schema = statement.query_map([], |row| row.get::<_, String>(0))?;
        schema.collect::<rusqlite::Result<Vec<_>>>()
    };
    let (application, version, schema) =
        (pragma("application_id")?, pragma("user_version")?, schema().map_err(of_store)?);
    match (application, version, &schema[..]) {
        (0, 0, []) => Ok(Contents::Nothing),
        (APPLICATION, VERSION, [table]) if table == TABLE => Ok(Contents::Log),
        (APPLICATION, VERSION, other) => Err(FileError::torn(path, format!("its tables are {other:?}"))),
        (APPLICATION, version, _) => Err(FileError::Version { path: path.to_owned(), version }),
        _ => Err(FileError::foreign(path, "it is the database of another program")),
    }
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    set(connection, "journal_mode", "WAL")?;
    connection.execute_batch(&format!(
        "BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {TABLE}; COMMIT"
    ))
}

/// Some pragmas answer with their value, and some do not.
fn set(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, name, value, |_| Ok(())).optional().map(|_| ())
}

/// Checks the structure of the database.
fn check(connection: &Connection, path: &Path) -> Result<(), FileError> {
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found.map_err(|error| FileError::of_store(path, error))? {
        found if found == "ok" => Ok(()),
        found => Err(FileError::torn(path, found)),
    }
}

/// Checks every block, and that none is missing between others.
fn check_blocks(connection: &Connection, path: &Path) -> Result<(Range, Place), FileError> {
    let of_store = |error| FileError::of_store(path, error);
    let mut select = connection.prepare("SELECT * FROM block ORDER BY number").map_err(of_store)?;
    let mut rows = select.query([]).map_err(of_store)?;
    let (mut range, mut last): (Option<Range>, _) = (None, Place::default());
    while let Some(row) = rows.next().map_err(of_store)? {
        let number = match range {
            Some(Range { newest, .. }) => newest + 1,
            None => row.get(0).map_err(|error| FileError::torn(path, error.to_string()))?,
        };
        let place = checked(Some(row), number, path)?.place;
        if range.is_some() && place <= last {
            return Err(FileError::torn(path, format!("block {number} does not stand above the one before")));
        }
        last = place;
        range = Some(Range { oldest: range.map_or(number, |range| range.oldest), newest: number });
    }
    Ok((range.unwrap_or(Range { oldest: 1, newest: 0 }), last))
}

/// Makes a block of a row, if it is the row of this number and has its checksum.
fn checked(row: Option<&Row<'_>>, number: i64, path: &Path) -> Result<Stored, FileError> {
    let torn = |found: &str| FileError::torn(path, format!("block {number} {found}"));
    let row = row.ok_or_else(|| torn("is missing"))?;
    let values = || {
        let encoded = Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?);
        Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?], row.get(4)?, encoded))
    };
    let values: rusqlite::Result<(i64, [i64; 3], u32, Bytes)> = values();
    let (found, numbers, checksum, encoded) = values.map_err(|error| torn(&error.to_string()))?;
    if found != number {
        return Err(torn("is missing"));
    }
    let [ms, seq, at_ms] = numbers.map(|number| u64::try_from(number).unwrap_or_default());
    let row = Numbered { number, stored: (Place { ms, seq }, at_ms), encoded };
    if row.checksum() != checksum {
        return Err(torn("does not have its checksum"));
    }
    let block = Block::decode(&row.encoded).map_err(|error| torn(&error.to_string()))?;
    Ok(Stored { place: Place { ms, seq }, at_ms, block })
}

/// The place behind another, at or after a time. `None` if there is none left.
fn next_place(last: Place, now_ms: u64) -> Option<Place> {
    let place = match (now_ms > last.ms, last.seq.saturating_add(1)) {
        (true, _) => Place { ms: now_ms, seq: 0 },
        (false, seq) if seq < 1 << 22 => Place { ms: last.ms, seq },
        (false, _) => Place { ms: last.ms.saturating_add(1), seq: 0 },
    };
    (place.ms < 1 << 48).then_some(place)
}

fn signed(number: u64) -> Option<i64> {
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_grow_whatever_the_clock_does() {
        let place = |ms, seq| Place { ms, seq };
        assert_eq!(next_place(place(5, 3), 6), Some(place(6, 0)));
        assert_eq!(next_place(place(5, 3), 5), Some(place(5, 4)));
        assert_eq!(next_place(place(5, 3), 2), Some(place(5, 4)));
        assert_eq!(next_place(place(5, (1 << 22) - 1), 2), Some(place(6, 0)));
        assert_eq!(next_place(place((1 << 48) - 1, (1 << 22) - 1), 2), None);
        assert_eq!(next_place(place(u64::MAX, u64::MAX), 2), None);
    }
}
