//! The share of the gateway that one client can take, and how other clients fare.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header::RETRY_AFTER};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use crate::{
    GATEWAY, Gateway,
    bodies::{AnyBody, any, channel, event_stream},
    client::{Client, VERSIONS, get, request},
    other_address::{OTHER, client_from},
    upstream, within_20_s,
};

/// An upstream that reports each request. `/hang` gets no response, `/stream` one without an end.
async fn hanging_upstream() -> (String, mpsc::UnboundedReceiver<()>) {
    let (come, arrived) = mpsc::unbounded_channel();
    let upstream = upstream(move |request: Request<_>| {
        let come = come.clone();
        async move {
            match request.uri().path() {
                "/hang" => {
                    come.send(()).unwrap();
                    pending().await
                }
                "/stream" => {
                    come.send(()).unwrap();
                    event_stream(channel_without_end())
                }
                _ => Response::new(AnyBody::default()),
            }
        }
    });
    (upstream.await, arrived)
}

fn channel_without_end() -> AnyBody {
    let (frames, body) = channel();
    std::mem::forget(frames);
    body
}

/// A gateway that has so many places, and a few connections more.
async fn with_places(places: usize, upstream: &str, flags: &[&str]) -> Gateway {
    let connections = (places..).find(|connections| connections - connections / 8 == places).unwrap();
    let mut command = Command::new("sh");
    let limit = format!("ulimit -n {} && exec \"$0\" \"$@\"", 64 + 2 * connections);
    command.args(["-c", &limit]).arg(GATEWAY.executable()).stdin(Stdio::null()).kill_on_drop(true);
    command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]).args(flags);
    Gateway::started(command).await
}

/// Sends many requests over one HTTP/2 connection. The responses and the connection are held.
fn send_at_once(client: &Client, number: usize, target: &str) -> JoinSet<hyper::Result<Response<Incoming>>> {
    let Client::Http2(sender) = client else { panic!("HTTP/2") };
    let requests = (0..number).map(|_| {
        let (mut sender, request) = (sender.clone(), get(target));
        async move {
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    requests.collect()
}

async fn status(client: &mut Client, target: &str) -> StatusCode {
    client.send(get(target)).await.unwrap().status()
}

#[tokio::test]
async fn a_client_with_many_http_2_requests_keeps_no_other_client_out() {
    within_20_s(async {
        for target in ["/hang", "/stream"] {
            let (upstream, mut arrived) = hanging_upstream().await;
            // By default, an address may have 25.
            let gateway = with_places(100, &upstream, &[]).await;
            let mut held = Vec::new();
            for _ in 0..8 {
                let client = client_from(Ipv4Addr::LOCALHOST, gateway.address, Version::HTTP_2).await;
                let requests = send_at_once(&client, 50, target);
                held.push((client, requests));
            }
            for _ in 0..25 {
                arrived.recv().await.unwrap();
            }
            for version in VERSIONS {
                let begun = Instant::now();
                let mut other = client_from(OTHER, gateway.address, version).await;
                assert_eq!(status(&mut other, "/").await, StatusCode::OK, "{version:?} {target}");
                assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

                let mut own = client_from(Ipv4Addr::LOCALHOST, gateway.address, version).await;
                let begun = Instant::now();
                let response = own.send(get("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "{version:?} {target}");
                assert_eq!(response.headers()[RETRY_AFTER], "1");
                assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            }
            assert!(arrived.is_empty(), "the upstream got more requests than the client's share");
            // An address may use its share again when its earlier requests have ended.
            drop(held);
            let mut own = client_from(Ipv4Addr::LOCALHOST, gateway.address, Version::HTTP_11).await;
            while status(&mut own, "/").await != StatusCode::OK {}
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_has_a_share_and_its_next_stream_is_refused() {
    within_20_s(async {
        let (upstream, mut arrived) = hanging_upstream().await;
        let gateway = Gateway::start(&upstream, &["--requests-per-connection", "3"]).await;
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        // GET /hang http a, from a client that has not read the server's settings yet.
        let mut opening = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for stream in [1, 3, 5, 7] {
            opening.extend([0, 0, 12, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x04, 5]);
            opening.extend(b"/hang");
            opening.extend([0x01, 1, b'a']);
        }
        socket.write_all(&opening).await.unwrap();
        let (mut most, mut refused) = (None, None);
        while most.is_none() || refused.is_none() {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            socket.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                // SETTINGS_MAX_CONCURRENT_STREAMS
                (4, 0) => most = payload.chunks(6).find(|one| one[1] == 3).map(|one| one[2..].to_vec()),
                // RST_STREAM: REFUSED_STREAM
                (3, _) => refused = Some((head[8], payload)),
                _ => {}
            }
        }
        assert_eq!((most, refused), (Some(vec![0, 0, 0, 3]), Some((7, vec![0, 0, 0, 7]))));
        for _ in 0..3 {
            arrived.recv().await.unwrap();
        }
        for version in VERSIONS {
            assert_eq!(status(&mut gateway.client(version).await, "/").await, StatusCode::OK);
        }
        assert!(arrived.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxys_client_address_counts_and_ipv6_counts_by_network() {
    within_20_s(async {
        let (upstream, mut arrived) = hanging_upstream().await;
        let trusting =
            Gateway::start(&upstream, &["--requests-per-address", "2", "--trusted-proxy", "127.0.0.1"]).await;
        let mut client = trusting.client(Version::HTTP_2).await;
        let from = |said: &'static str, target: &str| {
            let mut request = get(target);
            request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static(said));
            request
        };
        let Client::Http2(sender) = &client else { unreachable!() };
        for said in ["2001:db8::1", "2001:db8::2:3", "192.0.2.1, 198.51.100.1", "::ffff:198.51.100.1, 127.0.0.1"] {
            tokio::spawn(sender.clone().send_request(from(said, "/hang")));
            arrived.recv().await.unwrap();
        }
        for (said, expected) in [
            ("2001:db8::4", 429),
            ("198.51.100.1", 429),
            // Addresses that the client itself sent do not count.
            ("192.0.2.1, 198.51.100.1", 429),
            ("2001:db8:0:1::1", 200),
            ("192.0.2.1", 200),
            ("nonsense", 200),
        ] {
            assert_eq!(client.send(from(said, "/")).await.unwrap().status(), expected, "{said}");
        }

        // A proxy that is not trusted counts as the client.
        let trusting_none = Gateway::start(&upstream, &["--requests-per-address", "1"]).await;
        for version in VERSIONS {
            let held = trusting_none.client(Version::HTTP_2).await;
            let requests = send_at_once(&held, 1, "/hang");
            arrived.recv().await.unwrap();
            let mut client = trusting_none.client(version).await;
            assert_eq!(client.send(from("192.0.2.9", "/")).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
            drop((held, requests));
            while status(&mut client, "/").await != StatusCode::OK {}
        }
    })
    .await;
}

const NO_SHARES: [&str; 4] = ["--requests-per-address", "1000", "--requests-per-connection", "1000"];

#[tokio::test]
async fn a_full_gateway_answers_503_with_a_retry_after() {
    within_20_s(async {
        let (upstream, mut arrived) = hanging_upstream().await;
        let gateway = with_places(10, &upstream, &NO_SHARES).await;
        let stranger = gateway.client(Version::HTTP_2).await;
        let _held = send_at_once(&stranger, 10, "/hang");
        for _ in 0..10 {
            arrived.recv().await.unwrap();
        }
        for version in VERSIONS {
            let response = client_from(OTHER, gateway.address, version).await.send(get("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "The gateway has as many requests as it can take.\n");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_is_ended_for_another_request_gets_a_503() {
    within_20_s(async {
        let (come, mut arrived) = mpsc::unbounded_channel();
        let upstream = upstream(move |request: Request<Incoming>| {
            let come = come.clone();
            async move {
                come.send(()).unwrap();
                match request.into_body().collect().await {
                    Ok(_) => Response::new(AnyBody::default()),
                    Err(_) => pending().await,
                }
            }
        })
        .await;
        for (flags, most) in
            [(&NO_SHARES[..], 10), (&["--requests-per-address", "2", "--requests-per-connection", "2"], 2)]
        {
            for version in VERSIONS {
                let mut gateway = with_places(10, &upstream, flags).await;
                let Client::Http2(sender) = gateway.client(Version::HTTP_2).await else { unreachable!() };
                let mut uploads = Vec::new();
                for _ in 0..most {
                    let (frames, body) = channel();
                    let upload = tokio::spawn(sender.clone().send_request(request("POST", "/up", body)));
                    frames.send(Ok(Frame::data("half".into()))).await.unwrap();
                    arrived.recv().await.unwrap();
                    uploads.push((frames, upload));
                }
                assert_eq!(status(&mut gateway.client(version).await, "/").await, StatusCode::OK);
                arrived.recv().await.unwrap();
                let (_frames, oldest) = uploads.remove(0);
                let response = oldest.await.unwrap().unwrap();
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(response.headers()[RETRY_AFTER], "1");
                let line = gateway.stderr.next_line().await.unwrap().unwrap();
                assert!(line.starts_with("gateway: POST /up: 503 Service Unavailable, by the gateway: "), "{line}");
            }
        }
    })
    .await;
}

/// A client of HTTP/2 whose window never opens, with so many requests.
async fn shut_windows(from: Ipv4Addr, gateway: SocketAddr, requests: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut socket = socket.connect(gateway).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    socket.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()).await.unwrap();
    for number in 0..requests {
        socket.write_all(&shut_get(number)).await.unwrap();
    }
    socket
}

/// GET / http a.
fn shut_get(number: u8) -> [u8; 15] {
    [0, 0, 6, 1, 5, 0, 0, 0, 2 * number + 1, 0x82, 0x86, 0x84, 0x01, 1, b'a']
}

#[tokio::test]
async fn answers_that_nobody_takes_make_room_when_a_place_is_needed() {
    within_20_s(async {
        let upstream = upstream(|_| async { Response::new(any(Full::from("here"))) }).await;
        let gateway = with_places(100, &upstream, &[]).await;
        let enemies = (10..15).map(|last| Ipv4Addr::new(127, 0, 0, last));
        let mut sockets = Vec::new();
        // Each address may have 25 by default, and each connection 12.
        for enemy in enemies.clone().chain(enemies) {
            sockets.push(shut_windows(enemy, gateway.address, 12).await);
        }
        let one_of_them = Ipv4Addr::new(127, 0, 0, 10);
        // Until the upstream has answered all of them, the gateway is truly busy.
        let mut first = client_from(Ipv4Addr::LOCALHOST, gateway.address, VERSIONS[0]).await;
        while status(&mut first, "/").await != StatusCode::OK {}
        for number in 12..32 {
            for version in VERSIONS {
                let mut other = client_from(Ipv4Addr::LOCALHOST, gateway.address, version).await;
                assert_eq!(status(&mut other, "/").await, StatusCode::OK, "{version:?} {number}");
            }
            // New ones give those that are there no more time.
            for socket in &mut sockets {
                let reset = [0, 0, 4, 3, 0, 0, 0, 0, 2 * (number - 12) + 1, 0, 0, 0, 8];
                socket.write_all(&[&reset[..], &shut_get(number)].concat()).await.unwrap();
            }
        }
        // Whoever comes from the same address has to wait until theirs have not been taken for a second.
        let begun = Instant::now();
        let mut own = client_from(one_of_them, gateway.address, Version::HTTP_11).await;
        while status(&mut own, "/").await != StatusCode::OK {}
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_response_that_has_begun_is_not_ended_and_delays_no_other_request() {
    within_20_s(async {
        // Responds before the request body has arrived.
        let upstream = upstream(|request: Request<Incoming>| async { Response::new(any(request.into_body())) }).await;
        let gateway = Gateway::start(&upstream, &["--requests-per-address", "1"]).await;
        for version in VERSIONS {
            let (frames, body) = channel();
            let mut client = gateway.client(Version::HTTP_2).await;
            frames.send(Ok(Frame::data("half".into()))).await.unwrap();
            let mut response = client.send(request("POST", "/", body)).await.unwrap();
            assert_eq!(crate::next_data(&mut response).await.unwrap(), "half");
            let begun = Instant::now();
            assert_eq!(status(&mut gateway.client(version).await, "/").await, StatusCode::TOO_MANY_REQUESTS);
            assert!(begun.elapsed() < Duration::from_millis(900), "the request waited {:?} for room", begun.elapsed());
            frames.send(Ok(Frame::data("whole".into()))).await.unwrap();
            assert_eq!(crate::next_data(&mut response).await.unwrap(), "whole");
            drop((frames, response, client));
            while status(&mut gateway.client(version).await, "/").await != StatusCode::OK {}
        }
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_gateway_without_free_files_answers_503_and_not_502() {
    within_20_s(async {
        let (upstream, _arrived) = hanging_upstream().await;
        for version in VERSIONS {
            let mut gateway = Gateway::start(&upstream, &["--host", "server.test"]).await;
            let mut client = gateway.client(version).await;
            // This request is refused without a connection to the upstream. Now the gateway has opened all files that
            // it needs.
            let refused = Request::get("http://other.test/").body(AnyBody::default()).unwrap();
            assert_eq!(client.send(refused).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
            let id = gateway.server.process.id().unwrap();
            let files = format!("/proc/{id}/fd");
            let next = (0..).find(|number| std::fs::read_link(format!("{files}/{number}")).is_err()).unwrap();
            let limit = Command::new("prlimit").args([format!("--pid={id}"), format!("--nofile={next}")]).status();
            assert!(limit.await.unwrap().success());
            assert_eq!(status(&mut client, "/").await, StatusCode::SERVICE_UNAVAILABLE);
            let line = gateway.stderr.next_line().await.unwrap().unwrap();
            assert!(line.starts_with("gateway: GET /: 503 Service Unavailable, by the gateway: "), "{line}");
        }
    })
    .await;
}
