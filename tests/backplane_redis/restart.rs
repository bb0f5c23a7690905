//! A server that is killed and starts again.

use tower_sse::backplane::{AppendError, Backplane, FollowError};

use crate::{
    reader::{Reader, append_at_last, block},
    server::{Server, WITH_AOF},
};

#[tokio::test]
async fn after_a_kill_and_a_restart_nothing_is_missed_and_nothing_is_forgotten() {
    kill_and_start_again(Server::start(WITH_AOF)).await;
}

#[tokio::test]
async fn after_a_kill_and_a_restart_of_valkey_nothing_is_missed_either() {
    kill_and_start_again(Server::start_valkey(WITH_AOF)).await;
}

async fn kill_and_start_again(mut server: Server) {
    let engine = server.engine();
    let mut reader = Reader::follow(&engine, None).await;
    let mut number = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            number += 1;
            engine.append(&block(number)).await.unwrap();
        }
        // Some of them, so that the others are still to be read.
        let first = number - 19;
        let mut last = reader.mark.map(|mark| mark.key.number);
        while last != Some(first) && last < Some(first) {
            last = reader.next().await.unwrap().last().map(|stored| stored.block.key.number).or(last);
        }
        let last = last.unwrap();
        server.kill();
        let error = reader.error().await;
        assert!(matches!(error, FollowError::Away(_)), "{error:?}");
        let error = engine.append(&block(number + 1)).await.unwrap_err();
        assert!(matches!(error, AppendError::Away(_) | AppendError::Unknown(_)), "{error:?}");
        server.start_again();
        number += 1;
        append_at_last(&engine, &block(number)).await;
        reader = Reader::follow_at_last(&engine, reader.mark).await;
        assert!(reader.continues);
        assert_eq!(reader.new_numbers_to(number).await, (last + 1..=number).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_server_that_is_killed_while_blocks_are_appended_keeps_each_that_it_acknowledged() {
    let mut server = Server::start(WITH_AOF);
    let engine = std::sync::Arc::new(server.engine());
    let (progress, mut acknowledged) = tokio::sync::watch::channel(0);
    let writing = std::sync::Arc::clone(&engine);
    let writer = tokio::spawn(async move {
        for number in 1..=600 {
            append_at_last(&*writing, &block(number)).await;
            progress.send_replace(number);
        }
    });
    for kills in 1..=3 {
        acknowledged.wait_for(|&number| number > kills * 150).await.unwrap();
        server.kill();
        server.start_again();
    }
    writer.await.unwrap();
    let mut reader = Reader::follow(&*engine, None).await;
    assert_eq!(reader.new_numbers_to(600).await, (1..=600).collect::<Vec<_>>());
}
