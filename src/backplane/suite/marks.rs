//! Where reading continues.

use std::collections::HashSet;

use super::log::{Log, Writer, now_ms, random};
use crate::backplane::{BlockKey, Mark, Place, Stored};

pub(super) async fn reading_continues_behind_every_block(log: &Log<'_>) {
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

pub(super) async fn reading_continues_behind_the_newest_block(log: &Log<'_>) {
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

pub(super) async fn a_mark_with_another_key_does_not_continue(log: &Log<'_>) {
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

pub(super) async fn a_mark_with_another_place_does_not_continue(log: &Log<'_>) {
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

pub(super) async fn a_mark_of_an_empty_log_does_not_continue(log: &Log<'_>) {
    let engine = log.open().await;
    let mark = Mark { place: Place { ms: now_ms(), seq: 0 }, key: BlockKey { session: random(), number: 0 } };
    log.begins_at_the_oldest(&engine, mark, "a block of a log that is empty", &[]).await;
    let (_, mut reader) = log.follow(&engine, Some(mark)).await;
    let block = Writer::new(log, &engine).append("the first").await;
    log.check_blocks(&reader.count(1).await, &[block]);
}

pub(super) async fn a_mark_of_another_log_does_not_continue(log: &Log<'_>) {
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
