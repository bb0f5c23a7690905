//! What a trim removes, and a long log.

use std::collections::HashSet;

use super::log::{Log, Writer, both};
use crate::backplane::{Place, Stored};

pub(super) async fn trim_keeps_what_is_not_before_its_place(log: &Log<'_>) {
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

pub(super) async fn trim_of_everything_keeps_the_log_going(log: &Log<'_>) {
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

pub(super) async fn a_reader_that_is_behind_a_trim_reads_on(log: &Log<'_>) {
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

pub(super) async fn a_trimmed_mark_continues_only_if_its_block_is_there(log: &Log<'_>) {
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

pub(super) async fn five_thousand_blocks_are_read_in_order(log: &Log<'_>) {
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
