//! A real Sentinel that fails over.

use nix::sys::signal::Signal;
use tower_sse::backplane::{AppendError, Backplane, FollowError, Redis};

use crate::{
    reader::{Reader, append_at_last, block},
    server::Server,
};

#[tokio::test]
async fn after_a_failover_by_sentinel_the_reader_continues_at_the_new_master() {
    let mut master = Server::start(&[]);
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    let sentinel = Server::start(&["--sentinel"]);
    let _: String = sentinel.tell(&format!("SENTINEL MONITOR shop 127.0.0.1 {} 1", master.port));
    for setting in ["down-after-milliseconds 500", "failover-timeout 2000"] {
        let _: String = sentinel.tell(&format!("SENTINEL SET shop {setting}"));
    }

    let nobody = format!("redis://127.0.0.1:{}", Server::free_port());
    let stranger = Server::start(&["--sentinel"]);
    let engine = Redis::at("redis://shop").unwrap().sentinels([nobody, stranger.url(), sentinel.url()]).unwrap();
    for number in 1..=3 {
        engine.append(&block(number)).await.unwrap();
    }
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(3).await, [1, 2, 3]);
    while !sentinel.tell::<String>("INFO sentinel").contains("slaves=1") || replica.tell::<usize>("XLEN tower-sse") < 3
    {
        tokio::task::yield_now().await;
    }

    master.kill();
    let error = reader.error().await;
    assert!(matches!(error, FollowError::Away(_)), "{error:?}");
    append_at_last(&engine, &block(4)).await;
    let mut reader = Reader::follow_at_last(&engine, reader.mark).await;
    assert!(reader.continues);
    assert_eq!(reader.new_numbers_to(4).await, [4]);
    assert_eq!(replica.tell::<usize>("XLEN tower-sse"), 4);
}

#[tokio::test]
async fn a_sentinel_that_does_not_answer_is_passed_over() {
    let master = Server::start(&[]);
    let [stopped, sentinel] = [0, 1].map(|_| Server::start(&["--sentinel"]));
    let _: String = sentinel.tell(&format!("SENTINEL MONITOR shop 127.0.0.1 {} 1", master.port));
    stopped.signal(Signal::SIGSTOP);
    let engine = Redis::at("redis://shop").unwrap().sentinels([stopped.url(), sentinel.url()]).unwrap();
    engine.append(&block(1)).await.unwrap();
    assert_eq!(master.tell::<usize>("XLEN tower-sse"), 1);
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_refused_and_sentinels_that_do_not_answer_are_away() {
    let mut sentinel = Server::start(&["--sentinel"]);
    let engine = Redis::at("redis://shop").unwrap().sentinels([sentinel.url()]).unwrap();
    let error = engine.append(&block(1)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Refused(why) if why.to_string().contains("shop")), "{error:?}");
    sentinel.kill();
    let error = engine.append(&block(1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Away(_)), "{error:?}");
}
