//! The gateway with 512 file descriptors.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{Arc, Mutex},
};

use http::{Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Collected, Full};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::{
    alone,
    bodies::{any, channel, event_stream},
    client::{Client, VERSIONS, get, request},
    example::{Example, Server},
    other_address::{OTHER, client_from},
    siege::{self, Siege, Times},
    upstream::upstream,
};

static GATEWAY: Example = Example::named("gateway");

/// A gateway that has fewer file descriptors than the attackers have connections.
async fn with_few_files(upstream: &str, flags: &[&str]) -> (Server, SocketAddr) {
    let mut command = siege::with_few_files(GATEWAY.executable());
    command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]).args(flags);
    let server = Server::start(command.stderr(Stdio::null())).await;
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn other_clients_are_served_within_a_second_during_a_siege() {
    alone(&GATEWAY, async {
        let (frames, body) = channel();
        let body = Arc::new(Mutex::new(Some(body)));
        let upstream = upstream(move |request| {
            let stream = (request.uri().path() == "/stream").then(|| body.lock().unwrap().take()).flatten();
            async move {
                match stream {
                    Some(stream) => event_stream(stream),
                    // The attackers' bodies break. A panic for each would delay this thread longer than the test allows
                    // a good client to wait.
                    None => {
                        let body = request.into_body().collect().await.map(Collected::to_bytes);
                        Response::new(any(Full::from(body.unwrap_or_default())))
                    }
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
                let mut client = Client::connect(address, version).await;
                siege::way().await;
                let response = client.send(get("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                times.note(begun.elapsed());
            }
        }
        times.are_within_a_second();
        assert!(siege.left() > 100, "{} are left", siege.left());
        // A response that has begun is not ended for another request.
        frames.send(Ok(Frame::data("data: still here\n\n".into()))).await.unwrap();
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "data: still here\n\n");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_connections_of_one_kind_keep_no_other_client_out() {
    alone(&GATEWAY, async {
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
async fn requests_without_bodies_that_are_renewed_keep_out_nobody_whose_head_is_under_way() {
    alone(&GATEWAY, async {
        let upstream = upstream(|request| async {
            let _ = request.into_body().collect().await;
            Response::new(any(Full::from("here")))
        })
        .await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        siege::renewals_keep_nobody_out(address, ("/", "/"), (siege::FILES / 2, 60)).await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn streams_of_few_addresses_leave_connections_for_a_503_to_the_others() {
    alone(&GATEWAY, async {
        let upstream = upstream(|_| async {
            let (frames, body) = channel();
            std::mem::forget(frames);
            event_stream(body)
        })
        .await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        let mut streams = Vec::new();
        let addresses = (0..25).map(|last| Ipv4Addr::new(127, 0, 2, last + 1)).cycle();
        for own in addresses.take(25 * 20) {
            let mut client = client_from(own, address, Version::HTTP_11).await;
            let stream = client.send(get("/")).await.unwrap();
            assert!([200, 503].contains(&stream.status().as_u16()), "{}", stream.status());
            streams.push((stream, client));
        }
        for version in VERSIONS {
            for _ in 0..5 {
                let mut client = client_from(OTHER, address, version).await;
                siege::way().await;
                assert_eq!(client.send(get("/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_takes_keep_nobody_out() {
    alone(&GATEWAY, async {
        let upstream = upstream(|_| async { Response::new(any(Full::from("here"))) }).await;
        let (_server, address) = with_few_files(&upstream, &[]).await;
        // An HTTP/2 client that sends a whole GET, gives its streams no window, and never opens one.
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
        // The address of these connections has used up its share. While the last of them get their responses, the
        // gateway has no room either.
        while siege::get_from(OTHER, address, "/").await.is_err() {}
        let mut times = Times::default();
        for _ in 0..20 {
            let (time, status) = siege::get_from(OTHER, address, "/").await.unwrap();
            assert_eq!(status, "HTTP/1.1 200 OK");
            times.note(time);
        }
        times.are_within_a_second();
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_silent_connections_ends_no_upload() {
    alone(&GATEWAY, async {
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
            // The upload has begun when this request is answered.
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
async fn slow_bodies_over_few_http_2_connections_keep_no_other_client_out() {
    alone(&GATEWAY, async {
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
        // Each takes a connection to the upstream, and their address has a quarter of the 196 that there are. Its requests
        // take each other's places, and nobody else's.
        let (_frames, first) = uploads.remove(0);
        assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut times = Times::default();
        for version in VERSIONS {
            for _ in 0..20 {
                let begun = Instant::now();
                let post = request("POST", "/", any(Full::from("whole")));
                let mut client = client_from(OTHER, address, version).await;
                siege::way().await;
                let response = client.send(post).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "whole");
                times.note(begun.elapsed());
            }
        }
        times.are_within_a_second();
    })
    .await;
}
