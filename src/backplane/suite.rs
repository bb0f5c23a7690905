//! A suite that checks an implementation of [`Backplane`].
//!
//! Run it from the tests of your engine. Each case checks one rule of the trait, on a log of its own.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::collections::HashMap;
//!
//! use tower_sse::backplane::{Backplane, BoxFuture, Memory, suite};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # tokio::time::pause();
//! let logs: Mutex<HashMap<String, Memory>> = Mutex::default();
//! suite::run(|name: &str| -> BoxFuture<'static, Arc<dyn Backplane>> {
//!     let engine = logs.lock().unwrap().entry(name.to_owned()).or_default().clone();
//!     Box::pin(async move { Arc::new(engine) as Arc<dyn Backplane> })
//! })
//! .await;
//! # }
//! ```
//!
//! The suite checks what an engine does while it works. Test on your own what your engine does when it cannot be reached, has no room, or is
//! killed.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    future::poll_fn,
    hash::{BuildHasher, Hasher, RandomState},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::{
    AppendError, Backplane, Block, BlockKey, BoxFuture, FollowError, Following, Mark, Place, Read, Stored, Tail,
};

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a call may take that does not wait for a block.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long a call may take that waits for a block that does not come.
const QUIET: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The largest block that the suite appends.
const LARGEST: usize = 8 << 20;

/// Runs all [`CASES`], one after the other.
///
/// `open` opens the log of a name. The first time that it is called with a name, the log must be empty. Later calls with the same name open
/// the same log again, as another process would. If only one process can have your engine's log, return a clone. The suite makes up the names
/// from `a` to `z`, `0` to `9`, `_` and `-`, with a random part, so that no two runs have a name in common.
///
/// It takes about ten seconds with an engine that answers within a millisecond, because some cases wait for a reader that has nothing to read.
/// It uses tokio's clock, and needs a runtime with time.
///
/// # Panics
///
/// Panics with the name of the case and a sentence that says which rule the engine breaks. A case that is not done after three minutes panics too.
pub async fn run<O>(open: O)
where
    O: Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync,
{
    for case in CASES {
        run_case(case, &open).await;
    }
}

/// Runs one of the [`CASES`], for example to find out why it fails.
///
/// `open` is as for [`run`].
///
/// # Panics
///
/// As [`run`]. It also panics if there is no case of this name.
pub async fn run_case<O>(case: &str, open: O)
where
    O: Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync,
{
    let log = Log { open: &open, case, name: format!("{case}-{:016x}", random()) };
    if timeout(PATIENCE, start(case, &log)).await.is_err() {
        log.fail(format_args!("it is not done after {} seconds", PATIENCE.as_secs()));
    }
}

macro_rules! cases {
    ($($case:ident,)*) => {
        /// The names of the cases, in the order in which [`run`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        async fn start(case: &str, log: &Log<'_>) {
            match case {
                $(stringify!($case) => $case(log).await,)*
                _ => log.fail("there is no case of this name"),
            }
        }
    };
}

cases! {
    blocks_are_read_as_they_were_appended,
    an_empty_body_is_a_block,
    every_byte_of_a_body_is_kept,
    the_numbers_of_a_block_are_kept,
    a_block_of_256_kib_is_kept,
    a_block_of_the_largest_size_is_kept,
    what_was_appended_can_be_read_at_once,
    places_grow_and_stay_within_their_bounds,
    at_ms_is_when_the_block_was_appended,
    the_first_next_returns_at_once,
    a_next_that_has_nothing_returns_none_after_about_a_second,
    is_newest_is_said_when_all_is_read_and_not_before,
    a_waiting_reader_wakes_when_a_block_is_appended,
    many_waiting_readers_wake,
    all_readers_read_the_same,
    a_next_that_is_dropped_misses_nothing,
    a_waiting_reader_can_be_dropped,
    a_reader_outlives_its_handle,
    reading_continues_behind_every_block,
    reading_continues_behind_the_newest_block,
    a_mark_with_another_key_does_not_continue,
    a_mark_with_another_place_does_not_continue,
    a_mark_of_an_empty_log_does_not_continue,
    a_mark_of_another_log_does_not_continue,
    append_above_puts_the_block_above,
    append_above_a_place_below_the_end_appends,
    append_above_wakes_a_waiting_reader,
    many_appenders_lose_nothing,
    a_block_that_is_appended_again_is_read_as_it_is,
    a_dropped_append_leaves_the_whole_block_or_nothing,
    trim_keeps_what_is_not_before_its_place,
    trim_of_everything_keeps_the_log_going,
    a_reader_that_is_behind_a_trim_reads_on,
    a_trimmed_mark_continues_only_if_its_block_is_there,
    five_thousand_blocks_are_read_in_order,
}

async fn blocks_are_read_as_they_were_appended(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let mut appended = Vec::new();
    for number in 0..20 {
        appended.push(writer.append(format!("block {number}")).await);
    }
    log.check_blocks(&log.read_all(&engine).await, &appended);
    let other = log.open().await;
    log.check_blocks(&log.read_all(&other).await, &appended);
}

async fn an_empty_body_is_a_block(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let appended = [writer.append("").await, writer.append("not empty").await, writer.append("").await];
    log.check_blocks(&log.read_all(&engine).await, &appended);
}

async fn every_byte_of_a_body_is_kept(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let all: Vec<u8> = (0..=255).collect();
    let mut appended = vec![writer.append(all).await];
    for byte in 0..=255_u8 {
        appended.push(writer.append(vec![byte; 3]).await);
    }
    log.check_blocks(&log.read_all(&engine).await, &appended);
}

async fn the_numbers_of_a_block_are_kept(log: &Log<'_>) {
    let engine = log.open().await;
    let mut appended = Vec::new();
    for (session, number, records) in [
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, u32::MAX),
        (u64::MAX, 1 << 63, 1),
        (1 << 63, u64::MAX, 1),
        (1, u64::MAX >> 1, 1000),
    ] {
        let key = BlockKey { session, number };
        let block = Block { key, records, body: format!("{session} {number} {records}").into() };
        // An engine may leave out a block whose key it has.
        if !appended.iter().any(|other: &Block| other.key == key) {
            log.append(&engine, &block).await;
            appended.push(block);
        }
    }
    log.check_blocks(&log.read_all(&engine).await, &appended);
}

async fn a_block_of_256_kib_is_kept(log: &Log<'_>) {
    let engine = log.open().await;
    if engine.max_block() >= 257 << 10 {
        large_blocks_are_kept(log, &engine, 256 << 10).await;
    }
}

async fn a_block_of_the_largest_size_is_kept(log: &Log<'_>) {
    let engine = log.open().await;
    let head = Block { key: BlockKey { session: 0, number: 0 }, records: 0, body: Bytes::new() }.encoded_len();
    let largest = engine.max_block().min(LARGEST);
    log.check(largest > head, "`max_block` has room for a block with a body");
    large_blocks_are_kept(log, &engine, largest - head).await;
}

async fn large_blocks_are_kept(log: &Log<'_>, engine: &Arc<dyn Backplane>, len: usize) {
    let mut writer = Writer::new(log, engine);
    let body = |factor: usize| (0..len).map(|at| (at.wrapping_mul(factor) >> 3).to_le_bytes()[0]).collect::<Vec<_>>();
    let appended =
        [writer.append(body(7)).await, writer.append("a small block between").await, writer.append(body(13)).await];
    log.check_blocks(&log.read_all(engine).await, &appended);
}

async fn what_was_appended_can_be_read_at_once(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut appended = Vec::new();
    for number in 0..10 {
        appended.push(writer.append(format!("block {number}")).await);
        log.check_blocks(&log.read_all(&other).await, &appended);
    }
}

async fn places_grow_and_stay_within_their_bounds(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let (mut one, mut two) = (Writer::new(log, &engine), Writer::new(log, &other));
    for number in 0..100 {
        one.append(format!("one {number}")).await;
        two.append(format!("two {number}")).await;
    }
    let read = log.read_all(&engine).await;
    log.check(read.len() == 200, format_args!("200 blocks were appended, and {} are read", read.len()));
    for pair in read.windows(2) {
        let (before, after) = (pair[0].place, pair[1].place);
        log.check(before < after, format_args!("a place is greater than all before: {after:?} comes after {before:?}"));
    }
    for stored in read {
        log.check_bounds(stored.place);
    }
}

async fn at_ms_is_when_the_block_was_appended(log: &Log<'_>) {
    let engine = log.open().await;
    Writer::new(log, &engine).append("now").await;
    let (now, hour) = (now_ms(), 3_600_000);
    for stored in log.read_all(&engine).await {
        let said = stored.at_ms;
        log.check(
            (now - hour..now + hour).contains(&said),
            format_args!("`at_ms` is {said}, more than an hour from this machine's clock, which says {now}"),
        );
    }
}

async fn the_first_next_returns_at_once(log: &Log<'_>) {
    let engine = log.open().await;
    log.first_next_is_quick(&engine, None).await;
    Writer::new(log, &engine).append("a block").await;
    log.first_next_is_quick(&engine, None).await;
    let newest = log.read_all(&engine).await.last().map(Stored::mark);
    log.first_next_is_quick(&engine, newest).await;
}

async fn a_next_that_has_nothing_returns_none_after_about_a_second(log: &Log<'_>) {
    let engine = log.open().await;
    let mut reader = log.read(&engine).await;
    reader.until_newest().await;
    for _ in 0..2 {
        let began = Instant::now();
        let read = reader.next().await;
        let took = began.elapsed();
        log.check(read.blocks.is_empty(), "nothing was appended, and a block is read");
        log.check(read.is_newest, "a read that waited and returns none is the newest");
        log.check(
            took >= QUIET.0 && took <= QUIET.1,
            format_args!("`next` waits about a second for a block, and it took {took:?}"),
        );
    }
}

async fn is_newest_is_said_when_all_is_read_and_not_before(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut appended = Vec::new();
    let mut early = log.read(&other).await;
    for round in 1..=3 {
        for number in 0..round * 700 {
            appended.push(writer.append(format!("round {round}, block {number}")).await);
        }
        // `until_newest` stops at the first read that says so.
        let mut late = log.read(&other).await;
        log.check_blocks(&late.until_newest().await, &appended);
        let rest = early.until_newest().await;
        log.check_blocks(&rest, &appended[appended.len() - round * 700..]);
    }
}

async fn a_waiting_reader_wakes_when_a_block_is_appended(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut reader = log.read(&other).await;
    reader.until_newest().await;
    let mut quickest = Duration::MAX;
    for number in 0..3 {
        // After a read that returned none, nothing of the one before can be left over.
        log.check(reader.next().await.blocks.is_empty(), "nothing was appended, and a block is read");
        let mut next = reader.tail.next();
        log.check(poll_once(&mut next).is_pending(), "`next` waits for a block if there is none");
        let append = async {
            // The engine has time to begin to wait.
            sleep(Duration::from_millis(50)).await;
            (writer.append(format!("block {number}")).await, Instant::now())
        };
        let ((read, returned), (block, appended)) = both(async { (next.await, Instant::now()) }, append).await;
        let read = read.unwrap_or_else(|error| log.fail(format_args!("reading fails: {error}")));
        log.check_blocks(&read.blocks, &[block]);
        quickest = quickest.min(returned.saturating_duration_since(appended));
    }
    log.check(
        quickest < AT_ONCE,
        format_args!("an append wakes a reader that waits, and the quickest of 3 took {quickest:?}"),
    );
}

async fn many_waiting_readers_wake(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut readers = Vec::new();
    for number in 0..20 {
        let mut reader = log.read(if number % 2 == 0 { &engine } else { &other }).await;
        reader.until_newest().await;
        readers.push(reader);
    }
    let mut waiting: Vec<_> = readers.iter_mut().map(|reader| reader.tail.next()).collect();
    for next in &mut waiting {
        log.check(poll_once(next).is_pending(), "`next` waits for a block if there is none");
    }
    let block = writer.append("for all").await;
    for next in waiting {
        let mut read = next.await.unwrap_or_else(|error| log.fail(format_args!("reading fails: {error}")));
        read.blocks.truncate(1);
        log.check_blocks(&read.blocks, std::slice::from_ref(&block));
    }
}

async fn all_readers_read_the_same(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let (mut one, mut two) = (log.read(&engine).await, log.read(&other).await);
    let (mut first, mut second) = (Writer::new(log, &engine), Writer::new(log, &other));
    let append = async {
        both(
            async {
                for number in 0..100 {
                    first.append(format!("first {number}")).await;
                }
            },
            async {
                for number in 0..100 {
                    second.append(format!("second {number}")).await;
                }
            },
        )
        .await;
    };
    let ((one, two), ()) = both(both(one.count(200), two.count(200)), append).await;
    let late = log.read_all(&engine).await;
    log.check(one == two, "two readers that read while blocks were appended read the same blocks at the same places");
    log.check(one == late, "a reader that comes later reads the same blocks at the same places");
}

async fn a_next_that_is_dropped_misses_nothing(log: &Log<'_>) {
    const BLOCKS: usize = 400;
    let (engine, other) = (log.open().await, log.open().await);
    let mut reader = log.read(&other).await;
    let mut writer = Writer::new(log, &engine);
    let append = async {
        let mut appended = Vec::new();
        for number in 0..BLOCKS {
            appended.push(writer.append(format!("block {number}")).await);
            if number % 20 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        appended
    };
    let read = async {
        let mut read = Vec::new();
        let mut dropped: u64 = 0;
        while read.len() < BLOCKS {
            // From dropping it after it was polled once to letting it finish.
            let wait = Duration::from_micros(match dropped % 16 {
                0 => 0,
                15 => 3_000_000,
                point => point * point * 30,
            });
            dropped += 1;
            if wait.is_zero() {
                let mut next = reader.tail.next();
                if let Poll::Ready(some) = poll_once(&mut next) {
                    drop(next);
                    read.extend(reader.check(some).blocks);
                }
                tokio::task::yield_now().await;
            } else if let Ok(some) = timeout(wait, reader.tail.next()).await {
                read.extend(reader.check(some).blocks);
            }
        }
        read
    };
    let (appended, read) = both(append, read).await;
    log.check_blocks(&read, &appended);
}

async fn a_waiting_reader_can_be_dropped(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let first = writer.append("the first").await;
    let mut stays = log.read(&other).await;
    log.check_blocks(&stays.until_newest().await, &[first]);
    for _ in 0..300 {
        let mut reader = log.read(&other).await;
        reader.until_newest().await;
        let mut next = reader.tail.next();
        log.check(poll_once(&mut next).is_pending(), "`next` waits for a block if there is none");
        drop(next);
        drop(reader);
    }
    let block = writer.append("after 300 readers were dropped").await;
    log.check_blocks(&stays.count(1).await, &[block]);
}

async fn a_reader_outlives_its_handle(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut reader = log.read(&other).await;
    drop(other);
    let mut writer = Writer::new(log, &engine);
    let mut appended = vec![writer.append("one").await];
    log.check_blocks(&reader.count(1).await, &appended);
    appended.push(writer.append("two").await);
    drop(writer);
    drop(engine);
    log.check_blocks(&reader.count(1).await, &appended[1..]);
    log.check(reader.next().await.blocks.is_empty(), "a reader whose handles are all dropped still waits");
}

async fn reading_continues_behind_every_block(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..50 {
        writer.append(format!("block {number}")).await;
    }
    let all = log.read_all(&engine).await;
    for (at, stored) in all.iter().enumerate() {
        let (continues, mut reader) = log.follow(&other, Some(stored.mark())).await;
        log.check(continues, "reading continues behind a block that is in the log");
        log.check_stored(&reader.until_newest().await, &all[at + 1..]);
    }
}

async fn reading_continues_behind_the_newest_block(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..5 {
        writer.append(format!("block {number}")).await;
    }
    let newest = log.read_all(&engine).await.last().map(Stored::mark);
    let (continues, mut reader) = log.follow(&other, newest).await;
    log.check(continues, "reading continues behind the newest block");
    let read = reader.next().await;
    log.check(read.blocks.is_empty() && read.is_newest, "there is nothing behind the newest block");
    let block = writer.append("the next one").await;
    log.check_blocks(&reader.count(1).await, &[block]);
}

async fn a_mark_with_another_key_does_not_continue(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    for number in 0..5 {
        writer.append(format!("block {number}")).await;
    }
    let all = log.read_all(&engine).await;
    for stored in &all {
        let (place, key) = (stored.place, stored.block.key);
        let session = BlockKey { session: key.session ^ 1, ..key };
        let number = BlockKey { number: key.number + 1, ..key };
        let another = all.iter().map(|other| other.block.key).find(|other| *other != key);
        for key in [Some(session), Some(number), another].into_iter().flatten() {
            log.begins_at_the_oldest(&engine, Mark { place, key }, "a block with another key", &all).await;
        }
    }
}

async fn a_mark_with_another_place_does_not_continue(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    for number in 0..5 {
        writer.append(format!("block {number}")).await;
    }
    let all = log.read_all(&engine).await;
    let used: HashSet<Place> = all.iter().map(|stored| stored.place).collect();
    for stored in &all {
        let (place, key) = (stored.place, stored.block.key);
        let places = [
            Place { seq: place.seq + 1, ..place },
            Place { ms: place.ms + 1, ..place },
            Place { ms: place.ms.saturating_sub(1), ..place },
            Place { ms: place.ms + 86_400_000, seq: 0 },
            Place::default(),
        ];
        for place in places.into_iter().filter(|place| !used.contains(place)) {
            log.begins_at_the_oldest(&engine, Mark { place, key }, "a block at another place", &all).await;
        }
        let another = all.iter().map(|other| other.place).find(|other| *other != place);
        if let Some(place) = another {
            log.begins_at_the_oldest(&engine, Mark { place, key }, "a block at the place of another block", &all).await;
        }
    }
}

async fn a_mark_of_an_empty_log_does_not_continue(log: &Log<'_>) {
    let engine = log.open().await;
    let mark = Mark { place: Place { ms: now_ms(), seq: 0 }, key: BlockKey { session: random(), number: 0 } };
    log.begins_at_the_oldest(&engine, mark, "a block of a log that is empty", &[]).await;
    let (_, mut reader) = log.follow(&engine, Some(mark)).await;
    let block = Writer::new(log, &engine).append("the first").await;
    log.check_blocks(&reader.count(1).await, &[block]);
}

async fn a_mark_of_another_log_does_not_continue(log: &Log<'_>) {
    let other = Log { name: format!("{}-other", log.name), ..*log };
    let (engine, other_engine) = (log.open().await, other.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut elsewhere = Writer::new(&other, &other_engine);
    for number in 0..3 {
        writer.append(format!("here {number}")).await;
        elsewhere.append(format!("elsewhere {number}")).await;
    }
    let (here, there) = (log.read_all(&engine).await, other.read_all(&other_engine).await);
    log.check(here.len() == 3 && there.len() == 3, "two logs of different names have nothing in common");
    for stored in there {
        log.begins_at_the_oldest(&engine, stored.mark(), "a block of another log", &here).await;
    }
}

async fn append_above_puts_the_block_above(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let above = |ms: u64, seq| Place { ms: now_ms() + ms, seq };
    let mut appended = Vec::new();
    // On a log that is empty; far above; in the same millisecond; at the last place of a millisecond.
    for place in [above(3_600_000, 0), above(86_400_000, 7), above(86_400_000, 1000), above(86_500_000, (1 << 22) - 1)]
    {
        appended.push(writer.append_above(place, "above").await);
        let last = log.newest(&other).await;
        log.check(
            last > place,
            format_args!("`append_above` of {place:?} puts the block above it, and it stands at {last:?}"),
        );
        appended.push(writer.append("behind it").await);
        let behind = log.newest(&other).await;
        log.check(behind > last, format_args!("later blocks stand above {last:?}, and one stands at {behind:?}"));
        let same = Place { seq: (behind.seq + 5).min((1 << 22) - 1), ..behind };
        appended.push(writer.append_above(same, "above, in the same millisecond").await);
        let last = log.newest(&other).await;
        log.check(last > same, format_args!("`append_above` of {same:?} puts the block above it, not at {last:?}"));
    }
    let mut second = Writer::new(log, &other);
    appended.push(second.append("by another handle").await);
    let read = log.read_all(&engine).await;
    log.check_blocks(&read, &appended);
    for stored in &read {
        log.check_bounds(stored.place);
        let (continues, _) = log.follow(&other, Some(stored.mark())).await;
        log.check(continues, "reading continues behind a block that was put above");
    }
}

async fn append_above_a_place_below_the_end_appends(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let mut appended = vec![writer.append_above(Place::default(), "above nothing").await];
    for number in 0..3 {
        appended.push(writer.append(format!("block {number}")).await);
    }
    let oldest = log.read_all(&engine).await.first().map(|stored| stored.place).unwrap_or_default();
    appended.push(writer.append_above(Place::default(), "above the least place").await);
    appended.push(writer.append_above(oldest, "above the oldest block").await);
    let newest = log.newest(&engine).await;
    appended.push(writer.append_above(newest, "above the newest block").await);
    appended.push(writer.append("the last").await);
    let read = log.read_all(&engine).await;
    log.check_blocks(&read, &appended);
    let (now, hour) = (now_ms(), 3_600_000);
    for stored in read {
        let place = stored.place;
        log.check(
            place.ms < now + hour || place.ms < 1 << 40,
            format_args!("a place that is below the end moves nothing, and a block stands at {place:?}"),
        );
    }
}

async fn append_above_wakes_a_waiting_reader(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut reader = log.read(&other).await;
    reader.until_newest().await;
    let place = Place { ms: now_ms() + 3_600_000, seq: 9 };
    let (read, block) = both(reader.count(1), writer.append_above(place, "above")).await;
    log.check_blocks(&read, &[block]);
    let block = writer.append("behind").await;
    log.check_blocks(&reader.count(1).await, &[block]);
}

async fn many_appenders_lose_nothing(log: &Log<'_>) {
    const APPENDERS: usize = 6;
    const BLOCKS: usize = 60;
    let mut appending = tokio::task::JoinSet::new();
    for appender in 0..APPENDERS {
        let engine = log.open().await;
        let mut writer = Writer::new(log, &engine);
        let bodies = (0..BLOCKS).map(|number| format!("appender {appender}, block {number}"));
        let blocks: Vec<_> = bodies.map(|body| writer.next_block(body)).collect();
        appending.spawn(async move {
            for block in &blocks {
                engine.append(block).await?;
            }
            Ok::<(), AppendError>(())
        });
    }
    while let Some(done) = appending.join_next().await {
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log.fail(format_args!("appending fails: {error}")),
            Err(error) => log.fail(format_args!("appending stops: {error}")),
        }
    }
    let read = log.read_all(&log.open().await).await;
    let mut numbers: HashMap<u64, Vec<(u64, Bytes)>> = HashMap::new();
    for Stored { block, .. } in log.without_repeats(read) {
        numbers.entry(block.key.session).or_default().push((block.key.number, block.body));
    }
    log.check(
        numbers.len() == APPENDERS && numbers.values().all(|blocks| blocks.len() == BLOCKS),
        "every block of every appender is there once",
    );
    for blocks in numbers.values() {
        log.check(blocks.is_sorted(), "the blocks of each appender stand in the order in which they were appended");
        for (number, (_, body)) in blocks.iter().enumerate() {
            log.check(body.ends_with(format!("block {number}").as_bytes()), "each block has its own body");
        }
    }
}

async fn a_block_that_is_appended_again_is_read_as_it_is(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let mut appended = Vec::new();
    for number in 0..5 {
        let block = writer.append(format!("block {number}")).await;
        log.append(&engine, &block).await;
        appended.push(block);
    }
    let read = log.without_repeats(log.read_all(&engine).await);
    log.check_blocks(&read, &appended);
}

async fn a_dropped_append_leaves_the_whole_block_or_nothing(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut tried = HashMap::new();
    for number in 0..50_u64 {
        let block = writer.next_block(vec![b'x'; 2000]);
        tried.insert(block.key, block.clone());
        let mut append = engine.append(&block);
        if poll_once(&mut append).is_pending() && number % 2 == 0 {
            let _ = timeout(Duration::from_micros(number * 20), append).await;
        }
    }
    let last = writer.append("the last").await;
    tried.insert(last.key, last.clone());
    let mut reader = log.read(&other).await;
    let mut found = Vec::new();
    while !found.contains(&last) {
        for stored in reader.next().await.blocks {
            let whole = tried.get(&stored.block.key) == Some(&stored.block);
            log.check(whole, "a block whose append was dropped is there as a whole, or not at all");
            found.push(stored.block);
        }
    }
}

async fn trim_keeps_what_is_not_before_its_place(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..100 {
        writer.append(format!("block {number}")).await;
    }
    let mut all = log.read_all(&engine).await;
    let mut may_be_removed = 0;
    for before in [0, 1, 30, 10, 99] {
        engine.trim(all[before].place);
        may_be_removed = may_be_removed.max(before);
        // An engine may remove with the next append, and in parts.
        for number in 0..3 {
            writer.append(format!("after the trim at {before}, block {number}")).await;
            let read = log.read_all(&other).await;
            all.extend(read.last().cloned());
            log.check(
                read.len() <= all.len() && read.len() >= all.len() - may_be_removed,
                format_args!(
                    "trim removes only blocks before its place: {} of {} blocks are read, and {may_be_removed} stand before it",
                    read.len(),
                    all.len(),
                ),
            );
            log.check_stored(&read, &all[all.len() - read.len()..]);
        }
    }
    engine.trim(Place::default());
    log.check(log.read_all(&other).await.ends_with(&all[99..]), "a trim before the least place removes nothing");
}

async fn trim_of_everything_keeps_the_log_going(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..10 {
        writer.append(format!("block {number}")).await;
    }
    let mut reader = log.read(&other).await;
    reader.until_newest().await;
    let newest = log.newest(&engine).await;
    engine.trim(Place { ms: newest.ms + 1, seq: 0 });
    let block = writer.append("after the trim").await;
    log.check_blocks(&reader.count(1).await, std::slice::from_ref(&block));
    let read = log.read_all(&other).await;
    let last = read.last();
    log.check(last.is_some_and(|stored| stored.block == block), "a block that is appended after a trim is there");
    let place = last.map(|stored| stored.place).unwrap_or_default();
    log.check(place > newest, format_args!("places grow over a trim, and {place:?} comes after {newest:?}"));
}

async fn a_reader_that_is_behind_a_trim_reads_on(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..10 {
        writer.append(format!("block {number}")).await;
    }
    let all = log.read_all(&engine).await;
    let (_, mut unread) = log.follow(&other, None).await;
    let (_, mut begun) = log.follow(&other, Some(all[2].mark())).await;
    engine.trim(all[6].place);
    let last = writer.append("the last").await;
    for reader in [&mut unread, &mut begun] {
        let mut read = Vec::new();
        while read.last().is_none_or(|stored: &Stored| stored.block != last) {
            read.extend(reader.next().await.blocks);
        }
        let places: HashSet<_> = read.iter().map(|stored| stored.place).collect();
        log.check(
            all[6..].iter().all(|stored| places.contains(&stored.place)),
            "a reader that has not read what is removed reads all that is retained",
        );
    }
}

async fn a_trimmed_mark_continues_only_if_its_block_is_there(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    for number in 0..20 {
        writer.append(format!("block {number}")).await;
    }
    let mut all = log.read_all(&engine).await;
    engine.trim(all[10].place);
    writer.append("after the trim").await;
    let oldest = log.read_all(&other).await;
    all.extend(oldest.last().cloned());
    for (at, stored) in all.iter().enumerate() {
        let (continues, mut reader) = log.follow(&other, Some(stored.mark())).await;
        let read = reader.until_newest().await;
        log.check(continues || at < 10, "reading continues behind a block that is not before the place of the trim");
        match continues {
            true => log.check_stored(&read, &all[at + 1..]),
            false => log.check_stored(&read, &all[all.len().saturating_sub(read.len())..]),
        }
        log.check(read.len() >= all.len() - at.max(10) - 1, "all that is not before the place of the trim is read");
    }
}

async fn five_thousand_blocks_are_read_in_order(log: &Log<'_>) {
    const BLOCKS: usize = 5000;
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut live = log.read(&other).await;
    let append = async {
        let mut appended = Vec::with_capacity(BLOCKS);
        for number in 0..BLOCKS {
            appended.push(writer.append(format!("block {number}")).await);
        }
        appended
    };
    let (read, appended) = both(live.count(BLOCKS), append).await;
    log.check_blocks(&read, &appended);
    log.check_stored(&log.read_all(&engine).await, &read);
}

/// One log, for one case.
#[derive(Clone)]
struct Log<'a> {
    open: &'a Open<'a>,
    case: &'a str,
    name: String,
}

type Open<'a> = dyn Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync + 'a;

impl Log<'_> {
    async fn open(&self) -> Arc<dyn Backplane> {
        (self.open)(&self.name).await
    }

    #[track_caller]
    fn fail(&self, rule: impl Display) -> ! {
        fail(self.case, rule)
    }

    #[track_caller]
    fn check(&self, holds: bool, rule: impl Display) {
        if !holds {
            self.fail(rule);
        }
    }

    async fn append(&self, engine: &Arc<dyn Backplane>, block: &Block) {
        if let Err(error) = engine.append(block).await {
            self.fail(format_args!("appending fails: {error}"));
        }
    }

    async fn follow(&self, engine: &Arc<dyn Backplane>, after: Option<Mark>) -> (bool, Reader<'_>) {
        let following = engine.follow(after.as_ref()).await;
        let Following { continues, tail } =
            following.unwrap_or_else(|error| self.fail(format_args!("following fails: {error}")));
        self.check(after.is_some() || !continues, "reading that begins at the oldest block does not continue");
        (continues, Reader { tail, case: self.case, last: None })
    }

    async fn read(&self, engine: &Arc<dyn Backplane>) -> Reader<'_> {
        self.follow(engine, None).await.1
    }

    async fn read_all(&self, engine: &Arc<dyn Backplane>) -> Vec<Stored> {
        self.read(engine).await.until_newest().await
    }

    async fn newest(&self, engine: &Arc<dyn Backplane>) -> Place {
        self.read_all(engine).await.last().map(|stored| stored.place).unwrap_or_default()
    }

    async fn first_next_is_quick(&self, engine: &Arc<dyn Backplane>, after: Option<Mark>) {
        // The quickest of three, as a machine can be busy.
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let (_, mut reader) = self.follow(engine, after).await;
            let began = Instant::now();
            reader.next().await;
            quickest = quickest.min(began.elapsed());
        }
        self.check(
            quickest < AT_ONCE,
            format_args!("the first `next` returns at once, and the quickest of 3 took {quickest:?}"),
        );
    }

    async fn begins_at_the_oldest(&self, engine: &Arc<dyn Backplane>, mark: Mark, whose: &str, all: &[Stored]) {
        let (continues, mut reader) = self.follow(engine, Some(mark)).await;
        self.check(!continues, format_args!("reading continues behind {whose}, {mark:?}, which is not in the log"));
        self.check_stored(&reader.until_newest().await, all);
    }

    /// Leaves out the blocks that are there already: an engine may keep a block twice that was appended twice.
    fn without_repeats(&self, read: Vec<Stored>) -> Vec<Stored> {
        let mut seen: HashMap<BlockKey, Block> = HashMap::new();
        let mut first = Vec::new();
        for stored in read {
            match seen.get(&stored.block.key) {
                Some(block) => self.check(*block == stored.block, "two blocks with the same key are the same block"),
                None => {
                    seen.insert(stored.block.key, stored.block.clone());
                    first.push(stored);
                }
            }
        }
        first
    }

    #[track_caller]
    fn check_bounds(&self, place: Place) {
        self.check(place.ms < 1 << 48, format_args!("`ms` is less than 2^48, and a place has {}", place.ms));
        self.check(place.seq < 1 << 22, format_args!("`seq` is less than 2^22, and a place has {}", place.seq));
    }

    /// Compares what was read with what was appended.
    #[track_caller]
    fn check_blocks(&self, read: &[Stored], appended: &[Block]) {
        let differs = read.iter().zip(appended).position(|(read, appended)| read.block != *appended);
        if let Some(at) = differs {
            let (read, appended) = (&read[at].block, &appended[at]);
            let bodies = if read.body == appended.body { "the same body" } else { "another body" };
            self.fail(format_args!(
                "block {at} was appended with {:?}, {} records and {} bytes, and is read with {:?}, {} records, {} bytes and {bodies}",
                appended.key, appended.records, appended.body.len(), read.key, read.records, read.body.len(),
            ));
        }
        self.check(
            read.len() == appended.len(),
            format_args!("{} blocks are read where {} were appended", read.len(), appended.len()),
        );
    }

    /// Compares what two readers read.
    #[track_caller]
    fn check_stored(&self, read: &[Stored], expected: &[Stored]) {
        let differs = read.iter().zip(expected).find(|(read, expected)| read != expected);
        if let Some((read, expected)) = differs {
            let (read, expected) = (read.mark(), expected.mark());
            self.fail(format_args!(
                "all read the same from a place on: {read:?} is read where {expected:?} was before"
            ));
        }
        self.check(
            read.len() == expected.len(),
            format_args!("all read the same from a place on: {} blocks are read, not {}", read.len(), expected.len()),
        );
    }
}

/// Appends the blocks of one session.
struct Writer<'a> {
    engine: Arc<dyn Backplane>,
    case: &'a str,
    session: u64,
    number: u64,
}

impl<'a> Writer<'a> {
    fn new(log: &Log<'a>, engine: &Arc<dyn Backplane>) -> Self {
        Self { engine: Arc::clone(engine), case: log.case, session: random(), number: 0 }
    }

    fn next_block(&mut self, body: impl Into<Bytes>) -> Block {
        let key = BlockKey { session: self.session, number: self.number };
        let records = 1 + u32::try_from(self.number % 3).unwrap_or_default();
        self.number += u64::from(records);
        Block { key, records, body: body.into() }
    }

    async fn append(&mut self, body: impl Into<Bytes>) -> Block {
        let block = self.next_block(body);
        if let Err(error) = self.engine.append(&block).await {
            fail(self.case, format_args!("appending fails: {error}"));
        }
        block
    }

    async fn append_above(&mut self, place: Place, body: impl Into<Bytes>) -> Block {
        let block = self.next_block(body);
        if let Err(error) = self.engine.append_above(place, &block).await {
            fail(self.case, format_args!("appending above {place:?} fails: {error}"));
        }
        block
    }
}

/// Reads a log, and checks of each read what holds for all.
struct Reader<'a> {
    tail: Box<dyn Tail>,
    case: &'a str,
    last: Option<Place>,
}

impl Reader<'_> {
    async fn next(&mut self) -> Read {
        let read = self.tail.next().await;
        self.check(read)
    }

    fn check(&mut self, read: Result<Read, FollowError>) -> Read {
        let read = read.unwrap_or_else(|error| fail(self.case, format_args!("reading fails: {error}")));
        for stored in &read.blocks {
            let place = stored.place;
            if let Some(last) = self.last.filter(|last| *last >= place) {
                fail(
                    self.case,
                    format_args!("a reader gets each place once, in order: {place:?} comes after {last:?}"),
                );
            }
            self.last = Some(place);
        }
        read
    }

    async fn until_newest(&mut self) -> Vec<Stored> {
        let mut all = Vec::new();
        loop {
            let read = self.next().await;
            all.extend(read.blocks);
            if read.is_newest {
                return all;
            }
        }
    }

    async fn count(&mut self, blocks: usize) -> Vec<Stored> {
        let mut all = Vec::new();
        while all.len() < blocks {
            all.extend(self.next().await.blocks);
        }
        all
    }
}

#[track_caller]
fn fail(case: &str, rule: impl Display) -> ! {
    panic!("{case}: {rule}")
}

fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Poll<T> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for two futures at once.
async fn both<A, B>(one: impl Future<Output = A>, two: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none() {
            first = ready_value(one.as_mut().poll(context));
        }
        if second.is_none() {
            second = ready_value(two.as_mut().poll(context));
        }
        match (first.take(), second.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            not_yet => {
                (first, second) = not_yet;
                Poll::Pending
            }
        }
    })
    .await
}

fn ready_value<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
