//! What is appended is read as it was.

use std::sync::Arc;

use bytes::Bytes;

use super::LARGEST;
use super::log::{Log, Writer, now_ms};
use crate::backplane::{Backplane, Block, BlockKey};

pub(super) async fn blocks_are_read_as_they_were_appended(log: &Log<'_>) {
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

pub(super) async fn an_empty_body_is_a_block(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let appended = [writer.append("").await, writer.append("not empty").await, writer.append("").await];
    log.check_blocks(&log.read_all(&engine).await, &appended);
}

pub(super) async fn every_byte_of_a_body_is_kept(log: &Log<'_>) {
    let engine = log.open().await;
    let mut writer = Writer::new(log, &engine);
    let all: Vec<u8> = (0..=255).collect();
    let mut appended = vec![writer.append(all).await];
    for byte in 0..=255_u8 {
        appended.push(writer.append(vec![byte; 3]).await);
    }
    log.check_blocks(&log.read_all(&engine).await, &appended);
}

pub(super) async fn the_numbers_of_a_block_are_kept(log: &Log<'_>) {
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

pub(super) async fn a_block_of_256_kib_is_kept(log: &Log<'_>) {
    let engine = log.open().await;
    if engine.max_block() >= 257 << 10 {
        large_blocks_are_kept(log, &engine, 256 << 10).await;
    }
}

pub(super) async fn a_block_of_the_largest_size_is_kept(log: &Log<'_>) {
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

pub(super) async fn what_was_appended_can_be_read_at_once(log: &Log<'_>) {
    let (engine, other) = (log.open().await, log.open().await);
    let mut writer = Writer::new(log, &engine);
    let mut appended = Vec::new();
    for number in 0..10 {
        appended.push(writer.append(format!("block {number}")).await);
        log.check_blocks(&log.read_all(&other).await, &appended);
    }
}

pub(super) async fn places_grow_and_stay_within_their_bounds(log: &Log<'_>) {
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

pub(super) async fn at_ms_is_when_the_block_was_appended(log: &Log<'_>) {
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
