//! How readers read and wait.

use std::{task::Poll, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::log::{Log, Writer, both, poll_once};
use super::{AT_ONCE, QUIET};
use crate::backplane::Stored;

pub(super) async fn the_first_next_returns_at_once(log: &Log<'_>) {
    let engine = log.open().await;
    log.first_next_is_quick(&engine, None).await;
    Writer::new(log, &engine).append("a block").await;
    log.first_next_is_quick(&engine, None).await;
    let newest = log.read_all(&engine).await.last().map(Stored::mark);
    log.first_next_is_quick(&engine, newest).await;
}

pub(super) async fn a_next_that_has_nothing_returns_none_after_about_a_second(log: &Log<'_>) {
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

pub(super) async fn is_newest_is_said_when_all_is_read_and_not_before(log: &Log<'_>) {
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

pub(super) async fn a_waiting_reader_wakes_when_a_block_is_appended(log: &Log<'_>) {
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

pub(super) async fn many_waiting_readers_wake(log: &Log<'_>) {
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

pub(super) async fn all_readers_read_the_same(log: &Log<'_>) {
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

pub(super) async fn a_next_that_is_dropped_misses_nothing(log: &Log<'_>) {
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

pub(super) async fn a_waiting_reader_can_be_dropped(log: &Log<'_>) {
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

pub(super) async fn a_reader_outlives_its_handle(log: &Log<'_>) {
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
