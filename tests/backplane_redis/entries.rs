//! What is in the stream, and how it is read.

use std::time::Duration;

use tokio::time::Instant;
use tower_sse::backplane::{Backplane, Block, FollowError, PlainEvent};

use crate::{
    reader::{Reader, append_at_last, block},
    server::Server,
};

#[tokio::test]
async fn an_event_of_another_publisher_is_read_among_the_blocks_in_order() {
    let server = Server::start(&[]);
    let engine = server.engine().stream("shop/events");
    engine.append(&block(1)).await.unwrap();
    let id: String = server.tell("XADD shop/events * topic a/b event x data hello");
    engine.append(&block(2)).await.unwrap();

    let mut reader = Reader::follow(&engine, None).await;
    let blocks = reader.blocks(3).await;
    assert_eq!((&blocks[0].block, &blocks[2].block), (&block(1), &block(2)));
    let event = &blocks[1];
    assert_eq!(format!("{}-{}", event.place.ms, event.place.seq), id);
    let plain = PlainEvent { topic: "a/b".to_owned(), event_type: Some("x".to_owned()), data: "hello".to_owned() };
    assert_eq!(event.block, Block::of_plain_event(&plain));

    // A reader continues behind it, too.
    let mut again = Reader::follow(&engine, Some(event.mark())).await;
    assert!(again.continues);
    assert_eq!(again.numbers(1).await, [2]);
}

#[tokio::test]
async fn other_entries_are_skipped_and_counted_and_reading_goes_on_behind_them() {
    let server = Server::start(&[]);
    let engine = server.engine();
    for number in 0..20 {
        let _: String = server.tell("XADD tower-sse * something else");
        engine.append(&block(number)).await.unwrap();
        let _: String = server.tell("XADD tower-sse * topic without-data");
    }
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(20).await, (0..20).collect::<Vec<_>>());
    // Those behind the last block.
    while engine.skipped() < 40 {
        assert!(reader.next().await.unwrap().is_empty());
    }
    assert_eq!(engine.skipped(), 40);
    engine.append(&block(20)).await.unwrap();
    assert_eq!(reader.numbers(1).await, [20]);
    assert_eq!(engine.skipped(), 40, "none of them is read twice");
}

#[tokio::test]
async fn a_block_of_another_version_stops_the_reader_behind_the_blocks_before_it() {
    let server = Server::start(&[]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    let id: String = server.tell(&format!("XADD tower-sse * block {}", "\x09".repeat(30)));
    engine.append(&block(2)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
    for _ in 0..2 {
        let error = reader.next().await.unwrap_err();
        assert!(matches!(&error, FollowError::Refused(why) if why.to_string().contains(&id)), "{error}");
        reader = Reader::follow(&engine, reader.mark).await;
        assert!(reader.continues);
    }
}

#[tokio::test]
async fn a_next_that_is_dropped_loses_no_block_and_repeats_none() {
    const BLOCKS: u64 = 1500;
    let server = Server::start(&[]);
    let (engine, writing) = (server.engine(), server.engine());
    let mut reader = Reader::follow(&engine, None).await;
    let writer = tokio::spawn(async move {
        for number in 0..BLOCKS {
            writing.append(&block(number)).await.unwrap();
        }
    });
    let (mut numbers, mut dropped) = (Vec::new(), 0);
    while numbers.last() != Some(&(BLOCKS - 1)) {
        let patience = async {
            for _ in 0..dropped % 5 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            read = reader.next() => numbers.extend(read.unwrap().iter().map(|stored| stored.block.key.number)),
            () = patience => dropped += 1,
        }
    }
    writer.await.unwrap();
    assert_eq!(numbers, (0..BLOCKS).collect::<Vec<_>>());
    assert!(dropped > 100, "{dropped} were dropped");
}

#[tokio::test]
async fn a_tail_that_is_dropped_closes_its_connection_at_once() {
    let server = Server::start(&[]);
    let engine = server.engine();
    let mut reader = Reader::follow(&engine, None).await;
    assert!(reader.next().await.unwrap().is_empty());
    let readers = || {
        server
            .tell::<String>("CLIENT LIST")
            .lines()
            .filter(|it| it.contains("flags=b") && it.contains("cmd=xread"))
            .count()
    };
    let waits_at_the_server = async {
        while readers() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = reader.next() => panic!("nothing came"),
        () = waits_at_the_server => {}
    }
    drop(reader);
    let begin = Instant::now();
    while readers() > 0 {
        tokio::task::yield_now().await;
        assert!(begin.elapsed() < Duration::from_millis(900), "the server would wait for a second");
    }
}

#[tokio::test]
async fn nothing_is_removed_by_a_connection_to_what_may_be_another_server_until_the_stream_is_followed() {
    let server = Server::start(&[]);
    let engine = server.engine();
    for number in 0..500 {
        engine.append(&block(number)).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    let blocks = reader.blocks(500).await;
    engine.append(&block(500)).await.unwrap();
    server.tell::<usize>("CLIENT KILL TYPE normal SKIPME yes");
    engine.trim(blocks[450].place);
    append_at_last(&engine, &block(501)).await;
    assert_eq!(server.tell::<usize>("XLEN tower-sse"), 502);
    let last = Reader::follow(&engine, None).await.blocks(502).await[501].mark();
    assert!(Reader::follow(&engine, Some(last)).await.continues);
    engine.trim(blocks[450].place);
    engine.append(&block(502)).await.unwrap();
    assert!(server.tell::<usize>("XLEN tower-sse") < 160);
}

#[tokio::test]
async fn blocks_before_the_trim_are_removed_with_the_next_append() {
    let server = Server::start(&[]);
    let engine = server.engine();
    for number in 0..500 {
        engine.append(&block(number)).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    let blocks = reader.blocks(500).await;
    engine.trim(blocks[450].place);
    engine.trim(blocks[10].place);
    assert_eq!(server.tell::<usize>("XLEN tower-sse"), 500);
    engine.append(&block(500)).await.unwrap();
    let left: usize = server.tell("XLEN tower-sse");
    assert!((51..=151).contains(&left), "{left}: only whole nodes of the stream are removed");
    let mut new = Reader::follow(&engine, None).await;
    assert_eq!(new.numbers(left).await.last(), Some(&500));
    assert_eq!(reader.numbers(1).await, [500]);
}

#[tokio::test]
async fn large_blocks_are_read_a_few_at_a_time() {
    let server = Server::start(&[]);
    let engine = server.engine();
    for number in 0..40 {
        let body = vec![7; 1 << 20].into();
        engine.append(&Block { body, ..block(number) }).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 40 {
        sizes.push(reader.next().await.unwrap().len());
    }
    assert!(sizes[1..].iter().all(|&size| size == 1), "{sizes:?}: a step has about 1 MiB once the size is known");
}

#[tokio::test]
async fn a_large_entry_at_the_begin_of_the_stream_is_not_sent_again_with_each_later_one() {
    let server = Server::start(&[]);
    let engine = server.engine();
    engine.append(&Block { body: vec![7; 1 << 20].into(), ..block(0) }).await.unwrap();
    for number in 1..500 {
        engine.append(&block(number)).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    reader.blocks(500).await;
    let sent = || {
        let stats: String = server.tell("INFO stats");
        let bytes = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        bytes.expect("Redis tells").trim().parse::<usize>().unwrap()
    };
    let before = sent();
    for number in 500..600 {
        engine.append(&block(number)).await.unwrap();
        assert_eq!(reader.numbers(1).await, [number]);
    }
    let sent = sent() - before;
    assert!(sent < 1 << 20, "{sent} bytes were sent for 100 small entries");
}
