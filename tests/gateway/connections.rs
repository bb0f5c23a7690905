//! Clients that send nothing, or little.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Collected, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    GATEWAY, Gateway,
    bodies::{any, channel, event_stream},
    client::{Client, VERSIONS, get, request},
    example::Server,
    next_data, raw, read_until,
    siege::{self, Siege, Times},
    upstream, within_20_s,
};

const A_SECOND: Duration = Duration::from_secs(1);

/// A gateway that has fewer file descriptors than its enemies have connections.
async fn with_few_files(upstream: &str, flags: &[&str]) -> (Server, SocketAddr) {
    let mut command = siege::with_few_files(GATEWAY.executable());
    command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]).args(flags);
    let server = Server::start(command.stderr(Stdio::null())).await;
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn beside_1000_silent_slow_trickling_and_half_open_connections_others_are_served_within_a_second() {
    within_20_s(async {
        let (frames, body) = channel();
        let body = Arc::new(Mutex::new(Some(body)));
        let upstream = upstream(move |request| {
            let stream = (request.uri().path() == "/stream").then(|| body.lock().unwrap().take()).flatten();
            async move {
                match stream {
                    Some(stream) => event_stream(stream),
                    None => Response::new(any(Full::from(request.into_body().collect().await.unwrap().to_bytes()))),
                }
            }
        })
        .await;
        let (_server, address) = with_few_files(&upstream, &["--heartbeat-ms", "0"]).await;
        let mut stream = Client::connect(address, Version::HTTP_11).await.send(get("/stream")).await.unwrap();

        let mut siege = Siege::lay(address, "/").await;
        let mut times = Times::default();
        for _ in 0..20 {
            let (time, status) = siege::get(address, "/").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            times.note(time);
            for version in VERSIONS {
                let begun = Instant::now();
                let response = Client::connect(address, version).await.send(get("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                times.note(begun.elapsed());
            }
        }
        times.are_within_a_second();
        assert!(siege.left() > 100, "{} are left", siege.left());
        // Whoever is being answered makes room for nobody.
        frames.send(Ok(Frame::data("data: still here\n\n".into()))).await.unwrap();
        assert_eq!(next_data(&mut stream).await.unwrap(), "data: still here\n\n");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_connections_of_any_one_kind_keep_nobody_out_either() {
    within_20_s(async {
        let upstream = upstream(|_| async { Response::new(any(Full::from("here"))) }).await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        Siege::lay_each(address, "/", async |_siege| {
            let mut times = Times::default();
            for _ in 0..5 {
                let (time, status) = siege::get(address, "/").await;
                assert_eq!(status, "HTTP/1.1 200 OK");
                times.note(time);
            }
            times.are_within_a_second();
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_takes_keep_nobody_out() {
    within_20_s(async {
        let upstream = upstream(|_| async { Response::new(any(Full::from("here"))) }).await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        // An HTTP/2 client whose streams have no window, and that never opens one: a whole GET.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let no_window = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x01, 1, b'a'];
        let opening = [&preface[..], &no_window, &get].concat();
        let mut clients = Vec::new();
        for _ in 0..siege::FILES {
            if let Ok(mut socket) = TcpStream::connect(address).await {
                let _ = socket.write_all(&opening).await;
                clients.push(socket);
            }
        }
        // While the last of them are being answered, there is no room.
        while siege::try_get(address, "/").await.is_err() {
            sleep(A_SECOND / 20).await;
        }
        let mut times = Times::default();
        for _ in 0..20 {
            let (time, status) = siege::get(address, "/").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            times.note(time);
        }
        times.are_within_a_second();
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_silent_connections_takes_no_place_of_a_body_that_is_arriving() {
    within_20_s(async {
        let upstream = upstream(|request| async {
            let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
            Response::new(any(Full::from(body)))
        })
        .await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let mut client = Client::connect(address, version).await;
            let upload = tokio::spawn(async move { client.send(request("POST", "/", body)).await });
            frames.send(Ok(Frame::data("first, ".into()))).await.unwrap();
            // So it has begun.
            siege::get(address, "/").await;
            let mut silent = Vec::new();
            for _ in 0..siege::FILES {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            assert_eq!(siege::get(address, "/").await.1, "HTTP/1.1 200 OK");
            frames.send(Ok(Frame::data("second".into()))).await.unwrap();
            drop(frames);
            let response = upload.await.unwrap().unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first, second");
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_that_trickle_over_few_connections_of_http_2_keep_nobody_out() {
    within_20_s(async {
        let upstream = upstream(|request| async {
            let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
            Response::new(any(Full::from(body)))
        })
        .await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        let mut uploads = Vec::new();
        for _ in 0..4 {
            let mut client = Client::connect(address, Version::HTTP_2).await;
            for _ in 0..100 {
                let (frames, body) = channel();
                frames.send(Ok(Frame::data("x".into()))).await.unwrap();
                let Client::Http2(sender) = &mut client else { unreachable!() };
                sender.ready().await.unwrap();
                uploads.push((frames, tokio::spawn(sender.send_request(request("POST", "/", body)))));
            }
        }
        // Each takes a connection to the upstream, and there are no more than 224.
        let (_frames, first) = uploads.remove(0);
        assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        let mut times = Times::default();
        for version in VERSIONS {
            for _ in 0..20 {
                let begun = Instant::now();
                let post = request("POST", "/", any(Full::from("whole")));
                let response = Client::connect(address, version).await.send(post).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "whole");
                times.note(begun.elapsed());
            }
        }
        times.are_within_a_second();
    })
    .await;
}

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
async fn a_head_that_trickles_is_given_up_as_well() {
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
async fn an_answer_may_take_longer_than_a_head_and_an_idle_connection_is_closed_in_order_after_it() {
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
        connection.await.unwrap().expect("it is told of the end");
        assert!(begun.elapsed() < A_SECOND * 3, "{:?}", begun.elapsed());
    })
    .await;
}
