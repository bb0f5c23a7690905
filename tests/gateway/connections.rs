//! Clients that send nothing or little. `tests/siege` has a thousand of them.

use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{Gateway, bodies::any, client::get, raw, read_until, upstream, within_20_s};

const A_SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_connection_on_which_no_request_arrives_is_closed() {
    within_20_s(async {
        let gateway = Gateway::start("http://127.0.0.1:9", &["--gone-after-ms", "1000"]).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        for opening in [
            b"".to_vec(),
            b"G".to_vec(),
            b"PRI".to_vec(),
            b"GET / HTTP/1.1\r\nhost: x.test\r\nx-half".to_vec(),
            preface[..12].to_vec(),
            preface.to_vec(),
            [preface, &settings[..]].concat(),
        ] {
            let begun = Instant::now();
            let mut socket = TcpStream::connect(gateway.address).await.unwrap();
            socket.write_all(&opening).await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
            let time = begun.elapsed();
            assert!(time > A_SECOND * 9 / 10 && time < A_SECOND * 2, "{time:?} after {opening:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_a_slow_head_is_closed() {
    within_20_s(async {
        let gateway = Gateway::start("http://127.0.0.1:9", &["--gone-after-ms", "1000"]).await;
        let begun = Instant::now();
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while socket.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() < A_SECOND * 3, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_response_may_take_longer_than_a_head_and_idle_connections_close_cleanly() {
    within_20_s(async {
        let upstream = upstream(|_| async {
            sleep(A_SECOND * 3).await;
            Response::new(any(Full::from("late")))
        })
        .await;
        let gateway = Gateway::start(&upstream, &["--gone-after-ms", "1000"]).await;
        let mut socket = raw(gateway.address, "GET / HTTP/1.1\r\nhost: x.test\r\n\r\n").await;
        let head = read_until(&mut socket, "\r\n\r\nlate").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let begun = Instant::now();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        assert!(begun.elapsed() < A_SECOND * 3, "{:?}", begun.elapsed());

        let socket = TokioIo::new(TcpStream::connect(gateway.address).await.unwrap());
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "late");
        let begun = Instant::now();
        connection.await.unwrap().expect("the client is told of the end");
        assert!(begun.elapsed() < A_SECOND * 3, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn new_answers_give_those_that_nobody_takes_no_more_time() {
    within_20_s(async {
        let upstream = upstream(|_| async { Response::new(any(Full::from("here"))) }).await;
        let gateway = Gateway::start(&upstream, &["--gone-after-ms", "1000"]).await;
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE is 0. Then a CONNECT to `a` every 100 ms, and each time a reset of the one before.
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x01, 1, b'a'];
        socket.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &get].concat()).await.unwrap();
        let begun = Instant::now();
        for stream in (3..).step_by(2) {
            let connect = [&[0, 0, 12, 1, 5, 0, 0, 0, stream, 0x02, 7][..], b"CONNECT", &[0x01, 1, b'a']].concat();
            let reset = [0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8];
            if socket.write_all(&connect).await.is_err() {
                break;
            }
            sleep(A_SECOND / 10).await;
            if socket.write_all(&reset).await.is_err() {
                break;
            }
            assert!(begun.elapsed() < A_SECOND * 3, "{:?}", begun.elapsed());
        }
        assert!(begun.elapsed() > A_SECOND * 9 / 10, "{:?}", begun.elapsed());
    })
    .await;
}
