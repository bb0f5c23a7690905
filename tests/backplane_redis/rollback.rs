//! A stream that has lost blocks.

use std::{fs, path::Path};

use tower_sse::backplane::{Backplane, FollowError, Place};

use crate::{
    reader::{Reader, append_at_last, block},
    server::{Server, WITH_AOF},
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn an_older_copy_is_found_by_the_mark_and_new_blocks_stand_above_the_lost_ones() {
    let mut server = Server::start(WITH_AOF);
    let engine = server.engine();
    for number in 1..=5 {
        engine.append(&block(number)).await.unwrap();
    }
    server.kill();
    let (files, backup) = (server.folder().join("appendonlydir"), server.folder().join("backup"));
    copy(&files, &backup);
    server.start_again();
    for number in 6..=10 {
        append_at_last(&engine, &block(number)).await;
    }
    let mut reader = Reader::follow(&engine, None).await;
    let blocks = reader.blocks(10).await;
    server.kill();
    fs::remove_dir_all(&files).unwrap();
    copy(&backup, &files);
    server.start_again();

    let lost = blocks[9].mark();
    let mut reader = Reader::follow(&engine, Some(lost)).await;
    assert!(!reader.continues);
    assert_eq!(reader.numbers(5).await, [1, 2, 3, 4, 5]);
    // A block that was not lost is still there.
    let mut earlier = Reader::follow(&engine, Some(blocks[3].mark())).await;
    assert!(earlier.continues);
    assert_eq!(earlier.numbers(1).await, [5]);

    engine.append_above(lost.place, &block(11)).await.unwrap();
    engine.append(&block(12)).await.unwrap();
    let new = reader.blocks(2).await;
    assert!(lost.place < new[0].place && new[0].place < new[1].place, "{lost:?} {new:?}");
    assert!(!Reader::follow(&engine, Some(lost)).await.continues);
}

#[tokio::test]
async fn places_stay_above_even_if_the_clock_of_the_new_server_is_behind() {
    let server = Server::start(&[]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    // An hour ahead of the server's clock, and at the end of the counter.
    let mut reader = Reader::follow(&engine, None).await;
    let ahead = Place { ms: reader.blocks(1).await[0].place.ms + 3_600_000, seq: (1 << 22) - 1 };
    engine.append_above(ahead, &block(2)).await.unwrap();
    engine.append(&block(3)).await.unwrap();
    // Another node has seen the same, and was slower.
    engine.append_above(ahead, &block(4)).await.unwrap();
    let places: Vec<_> = reader.blocks(3).await.iter().map(|stored| stored.place).collect();
    assert!(places.is_sorted_by(|one, other| one < other), "{places:?}");
    assert!(ahead < places[0], "{places:?}");
}

#[tokio::test]
async fn another_block_at_the_place_of_a_mark_is_not_taken_for_it() {
    let server = Server::start(&[]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    let mark = reader.blocks(1).await[0].mark();
    let _: i64 = server.tell("DEL tower-sse");
    let below = Place { ms: mark.place.ms - 1, seq: (1 << 22) - 1 };
    engine.append_above(below, &block(2)).await.unwrap();
    let mut reader = Reader::follow(&engine, Some(mark)).await;
    assert!(!reader.continues);
    let [stored] = &reader.blocks(1).await[..] else { panic!() };
    assert_eq!((stored.place, stored.block.key.number), (mark.place, 2));
}

#[tokio::test]
async fn a_removed_stream_is_found_by_the_mark() {
    for command in ["DEL tower-sse", "FLUSHALL", "XTRIM tower-sse MAXLEN 0"] {
        let server = Server::start(&[]);
        let engine = server.engine();
        for number in 1..4 {
            engine.append(&block(number)).await.unwrap();
        }
        let mut reader = Reader::follow(&engine, None).await;
        assert_eq!(reader.numbers(3).await, [1, 2, 3]);
        let _: redis::Value = server.tell(command);
        let mut again = Reader::follow(&engine, reader.mark).await;
        assert!(!again.continues, "{command}");
        assert!(again.next().await.unwrap().is_empty(), "{command}");

        // Readers that wait meanwhile get what is appended afterwards.
        engine.append(&block(4)).await.unwrap();
        assert_eq!(again.numbers(1).await, [4], "{command}");
        if command.starts_with("XTRIM") {
            // Nobody knows whether there was more than this one has read.
            assert!(matches!(reader.next().await, Err(FollowError::Away(_))));
        } else {
            assert_eq!(reader.numbers(1).await, [4], "{command}");
        }
    }
}

#[tokio::test]
async fn a_mark_that_was_trimmed_begins_at_the_oldest() {
    let server = Server::start(&[]);
    let engine = server.engine();
    for number in 1..=10 {
        engine.append(&block(number)).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    let blocks = reader.blocks(10).await;
    let _: i64 = server.tell("XTRIM tower-sse MAXLEN 4");
    let mut trimmed = Reader::follow(&engine, Some(blocks[2].mark())).await;
    assert!(!trimmed.continues);
    assert_eq!(trimmed.numbers(4).await, [7, 8, 9, 10]);
    let mut kept = Reader::follow(&engine, Some(blocks[6].mark())).await;
    assert!(kept.continues);
    assert_eq!(kept.numbers(3).await, [8, 9, 10]);
}
