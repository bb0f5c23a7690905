//! A server without room.

use tower_sse::backplane::{AppendError, Backplane};

use crate::{
    reader::{Reader, block},
    server::Server,
};

#[tokio::test]
async fn a_full_server_is_full_while_reading_goes_on_and_takes_blocks_again_when_there_is_room() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);

    let _: String = server.tell("CONFIG SET maxmemory 1");
    for _ in 0..2 {
        let error = engine.append(&block(2)).await.unwrap_err();
        assert!(matches!(&error, AppendError::Full(why) if why.to_string().contains("OOM")), "{error:?}");
        let error = engine.append_above(reader.mark.unwrap().place, &block(2)).await.unwrap_err();
        assert!(matches!(error, AppendError::Full(_)), "{error:?}");
    }
    assert!(reader.next().await.unwrap().is_empty());

    let _: String = server.tell("CONFIG SET maxmemory 0");
    engine.append(&block(2)).await.unwrap();
    assert_eq!(reader.numbers(1).await, [2]);
}

#[tokio::test]
async fn a_server_that_cannot_write_its_snapshot_is_full() {
    let server = Server::start(&["--save", "3600", "1", "--dbfilename", "snapshot"]);
    let engine = server.engine();
    engine.append(&block(1)).await.unwrap();
    // Whoever the user is, a file cannot take the place of a folder.
    std::fs::create_dir(server.folder().join("snapshot")).unwrap();
    let _: String = server.tell("BGSAVE");
    while !server.tell::<String>("INFO persistence").contains("rdb_last_bgsave_status:err") {
        tokio::task::yield_now().await;
    }
    let error = engine.append(&block(2)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Full(why) if why.to_string().contains("MISCONF")), "{error:?}");
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
}
