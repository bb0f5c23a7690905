//! Connections that are cut, held or killed.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tower_sse::backplane::{AppendError, Backplane, FollowError};

use crate::{
    proxy::Proxy,
    reader::{Reader, append_at_last, block},
    server::Server,
};

#[tokio::test]
async fn after_a_cut_the_reader_continues_at_its_mark_and_appending_goes_on_by_itself() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let engine = proxy.engine();
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
    for number in 2..6 {
        proxy.cut();
        let error = reader.error().await;
        assert!(matches!(error, FollowError::Away(_)), "{error:?}");
        // The connection was found closed before anything was sent, so nothing is unknown.
        engine.append(&block(number)).await.unwrap();
        reader = Reader::follow(&engine, reader.mark).await;
        assert!(reader.continues);
        assert_eq!(reader.numbers(1).await, [number]);
    }
}

#[tokio::test]
async fn killed_connections_are_made_anew() {
    let server = Server::start(&[]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
    let killed: usize = server.tell("CLIENT KILL TYPE normal");
    assert!(killed >= 2, "{killed}");
    let error = reader.error().await;
    assert!(matches!(error, FollowError::Away(_)), "{error:?}");
    append_at_last(&engine, &block(2)).await;
    let mut reader = Reader::follow(&engine, reader.mark).await;
    assert!(reader.continues);
    assert_eq!(reader.new_numbers_to(2).await, [2]);
}

#[tokio::test]
async fn a_server_behind_a_black_hole_is_found_away_within_five_seconds_with_the_defaults() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let engine = proxy.engine();
    let mut reader = Reader::follow(&engine, None).await;
    engine.append(&block(1)).await.unwrap();
    assert_eq!(reader.numbers(1).await, [1]);

    proxy.hold_requests();
    proxy.hold_answers();
    let begin = Instant::now();
    let timed = async |error| (error, begin.elapsed());
    let block = block(2);
    let (appended, read) =
        tokio::join!(async { timed(engine.append(&block).await.unwrap_err().to_string()).await }, async {
            timed(reader.error().await.to_string()).await
        },);
    for (error, elapsed) in [appended, read] {
        assert!(elapsed < Duration::from_millis(5500), "{elapsed:?}: {error}");
    }
    // A new connection gets no answer either.
    let begin = Instant::now();
    let error = engine.append(&block).await.unwrap_err();
    assert!(matches!(error, AppendError::Away(_)), "{error:?}");
    assert!(begin.elapsed() < Duration::from_millis(5500), "{:?}", begin.elapsed());

    proxy.pass();
    append_at_last(&engine, &block).await;
    let mut reader = Reader::follow(&engine, reader.mark).await;
    assert!(reader.continues);
    assert_eq!(reader.new_numbers_to(2).await, [2]);
}

#[tokio::test]
async fn a_block_whose_answer_is_held_is_unknown_and_is_in_the_log() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let engine = proxy.engine().response_timeout(Duration::from_secs(1));
    engine.append(&block(1)).await.unwrap();
    proxy.hold_answers();
    let error = engine.append(&block(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Unknown(_)), "{error:?}");
    proxy.pass();
    engine.append(&block(3)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(3).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_block_that_is_cut_off_before_the_server_is_unknown_and_is_not_in_the_log() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let engine = proxy.engine().response_timeout(Duration::from_secs(1));
    engine.append(&block(1)).await.unwrap();
    proxy.hold_requests();
    let error = engine.append(&block(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Unknown(_)), "{error:?}");
    proxy.cut();
    proxy.pass();
    engine.append(&block(2)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(2).await, [1, 2]);
}

#[tokio::test]
async fn a_connection_that_is_cut_while_the_answer_is_awaited_makes_the_block_unknown_at_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let engine = proxy.engine();
    engine.append(&block(1)).await.unwrap();
    proxy.hold_answers();
    let begin = Instant::now();
    let two = block(2);
    let (appended, ()) = tokio::join!(engine.append(&two), async {
        while server.tell::<usize>("XLEN tower-sse") < 2 {
            tokio::task::yield_now().await;
        }
        proxy.cut();
    });
    assert!(matches!(appended, Err(AppendError::Unknown(_))), "{appended:?}");
    assert!(begin.elapsed() < Duration::from_secs(4), "the timeout was not needed");
}

#[tokio::test]
async fn paused_writes_come_late_and_reading_is_not_disturbed() {
    let server = Server::start(&[]);
    let engine = server.engine().response_timeout(Duration::from_secs(5));
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
    let begin = Instant::now();
    let _: String = server.tell("CLIENT PAUSE 3000 WRITE");
    let two = block(2);
    let (appended, numbers) = tokio::join!(engine.append(&two), reader.numbers(1));
    appended.unwrap();
    assert_eq!(numbers, [2]);
    assert!(begin.elapsed() > Duration::from_millis(2500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_stopped_server_makes_appends_unknown_and_the_reader_away_and_loses_nothing_when_it_goes_on() {
    let server = Server::start(&[]);
    let engine = server.engine();
    let mut reader = Reader::follow(&engine, None).await;
    engine.append(&block(1)).await.unwrap();
    assert_eq!(reader.numbers(1).await, [1]);
    server.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    let two = block(2);
    let (appended, read) = tokio::join!(engine.append(&two), reader.error());
    assert!(matches!(appended, Err(AppendError::Unknown(_))), "{appended:?}");
    assert!(matches!(read, FollowError::Away(_)), "{read:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    server.signal(Signal::SIGCONT);
    for number in 2..5 {
        append_at_last(&engine, &block(number)).await;
    }
    let mut reader = Reader::follow(&engine, reader.mark).await;
    assert!(reader.continues);
    assert_eq!(reader.new_numbers_to(4).await, [2, 3, 4]);
}

#[tokio::test]
async fn a_demoted_master_is_away_for_both_connections_until_the_name_leads_to_the_new_one() {
    let (old, new) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::to(old.port).await;
    let engine = proxy.engine().response_timeout(Duration::from_secs(1));
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);

    let _: String = new.tell(&format!("REPLICAOF 127.0.0.1 {}", old.port));
    while new.tell::<usize>("XLEN tower-sse") < 1 {
        tokio::task::yield_now().await;
    }
    let _: String = new.tell("REPLICAOF NO ONE");
    let _: String = old.tell(&format!("REPLICAOF 127.0.0.1 {}", new.port));
    let begin = Instant::now();
    let error = reader.error().await;
    assert!(matches!(error, FollowError::Away(_)), "{error:?}");
    for _ in 0..2 {
        let error = engine.append(&block(2)).await.unwrap_err();
        assert!(matches!(error, AppendError::Away(_)), "{error:?}");
    }
    let error = engine.follow(reader.mark.as_ref()).await.unwrap_err();
    assert!(matches!(error, FollowError::Away(_)), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    proxy.lead_to(new.port);
    engine.append(&block(2)).await.unwrap();
    let mut reader = Reader::follow(&engine, reader.mark).await;
    assert!(reader.continues);
    assert_eq!(reader.numbers(1).await, [2]);
}

#[tokio::test]
async fn a_master_that_was_demoted_between_two_reads_is_found_when_nothing_comes() {
    let server = Server::start(&[]);
    let engine = server.engine();
    let mut reader = Reader::follow(&engine, None).await;
    // It closes only connections that wait, and this one does not wait yet.
    let _: String = server.tell(&format!("REPLICAOF 127.0.0.1 {}", Server::free_port()));
    let begin = Instant::now();
    let error = reader.error().await;
    assert!(matches!(&error, FollowError::Away(why) if why.to_string().contains("not a master")), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn following_again_takes_the_appending_connection_to_the_new_server_too() {
    // The old master does not know that it is one no more, and its connections stay open.
    let (old, new) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::to(old.port).await;
    let engine = proxy.engine();
    engine.append(&block(1)).await.unwrap();
    proxy.lead_to(new.port);
    let mut reader = Reader::follow(&engine, None).await;
    engine.append(&block(2)).await.unwrap();
    assert_eq!(reader.numbers(1).await, [2]);
}
