//! Appending, also above a place, again, and not to the end.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::log::{Log, Writer, both, now_ms, poll_once};
use crate::backplane::{AppendError, Place, Stored};

pub(super) async fn append_above_puts_the_block_above(log: &Log<'_>) {
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

pub(super) async fn append_above_a_place_below_the_end_appends(log: &Log<'_>) {
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

pub(super) async fn append_above_wakes_a_waiting_reader(log: &Log<'_>) {
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

pub(super) async fn many_appenders_lose_nothing(log: &Log<'_>) {
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

pub(super) async fn a_block_that_is_appended_again_is_read_as_it_is(log: &Log<'_>) {
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

pub(super) async fn a_dropped_append_leaves_the_whole_block_or_nothing(log: &Log<'_>) {
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
