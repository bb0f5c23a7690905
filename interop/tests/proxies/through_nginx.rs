//! nginx in front of the dashboard.

use std::{
    convert::Infallible,
    fs,
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use axum::{
    Router,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
    routing::get as on_get,
};
use flate2::write::GzDecoder;
use http::{HeaderValue, Version, header::ACCEPT_ENCODING};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::broadcast,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower_sse::{Registry, SseLayer};

use crate::{
    Dashboard, Stream, address,
    client::{Client, VERSIONS, get},
    nginx::{Nginx, location},
    within_20_s,
};

/// The versions that nginx speaks to its upstream. 1.0 was the default for long, and is the default of Debian 12's
/// nginx.
const SPEAKS: [&str; 2] = ["proxy_http_version 1.0;", "proxy_http_version 1.1;"];

/// nginx as if the layer did not set the buffering header.
const UNHEARD: &str = "proxy_ignore_headers X-Accel-Buffering;";

/// How long a test waits for bytes that must not come.
const SILENCE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn each_event_comes_within_100_ms_through_the_default_buffering() {
    let mut dashboard = Dashboard::silent().await;
    for speaks in ["", SPEAKS[0], SPEAKS[1]] {
        let nginx = Nginx::with(dashboard.url(), speaks).await;
        let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
        assert_eq!(stream.response.headers()["cache-control"], "no-cache, no-transform");
        // nginx obeys the header and does not forward it.
        assert!(!stream.response.headers().contains_key("x-accel-buffering"));
        assert_in_time(speaks, async |n| {
            let (data, begun) = (format!("event {n}."), Instant::now());
            let (_, came) = tokio::join!(dashboard.publish("a", data.clone()), stream.has(&data));
            came - begun
        })
        .await;
    }
}

/// No event of a batch is delayed. A busy machine may be late by itself, so it has three attempts.
async fn assert_in_time(what: &str, mut publish: impl AsyncFnMut(u32) -> Duration) {
    let mut all = Vec::new();
    for batch in 0..3 {
        let mut worst = Duration::ZERO;
        for n in 0..50 {
            worst = worst.max(publish(batch * 50 + n).await);
        }
        eprintln!("{what} the slowest of 50 events came after {worst:?}");
        if worst < Duration::from_millis(100) {
            return;
        }
        all.push(worst);
    }
    panic!("{what} the slowest came after {all:?}");
}

/// Even the head of the response is held back, so an `EventSource` would not open.
#[tokio::test]
async fn without_the_header_nothing_comes_until_the_buffer_is_full() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), &format!("{UNHEARD} {}", SPEAKS[0])).await;
    let opening = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a");
    tokio::pin!(opening);
    dashboard.has_streams_while(1, &mut opening).await;
    dashboard.publish("a", "first").await;
    assert!(timeout(SILENCE, &mut opening).await.is_err(), "the head is held back");

    // The first buffer is 4,096 bytes, including the head.
    dashboard.publish("a", "x".repeat(4096)).await;
    let mut stream = opening.await;
    stream.has("data: first\n").await;

    // Each later buffer is held back, too.
    dashboard.publish("a", "second").await;
    assert!(stream.is_silent_for(SILENCE).await, "an event is held back");
    dashboard.publish("a", "x".repeat(4096)).await;
    stream.has("data: second\n").await;

    // The rest comes when the stream ends.
    dashboard.publish("a", "third").await;
    assert!(!stream.comes_within("data: third\n", SILENCE).await, "an event is held back");
    dashboard.end_streams().await;
    stream.has("data: third\n").await;
    stream.end().await.expect("a clean end");
}

/// Only a response that ends gets through. The same events, at the same time: a stream shows nothing of them.
#[tokio::test]
async fn without_the_header_long_polls_bring_the_events_that_a_stream_does_not_show() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), &format!("{UNHEARD} {}", SPEAKS[0])).await;
    let opening = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a");
    tokio::pin!(opening);
    dashboard.has_streams_while(1, &mut opening).await;
    let events = ["first", "second", "third", "fourth"];
    let polls = async {
        let mut id = String::new();
        for data in events {
            let target = format!("/events?topic=a&wait=25&lastEventId={id}");
            let poll = Stream::open(nginx.address, Version::HTTP_11, &target);
            tokio::pin!(poll);
            // The poll waits at the server. Nothing of it has come yet.
            dashboard.has_streams_while(2, &mut poll).await;
            dashboard.publish("a", data).await;
            let mut poll = within_20_s(poll).await;
            assert_eq!(poll.response.headers()["cache-control"], "no-store");
            poll.end().await.expect("a clean end");
            let got: Vec<String> = poll.messages().into_iter().map(|message| message.data).collect();
            assert_eq!(got, [data]);
            id = crate::spec::parse(&poll.bytes).last_event_id;
            dashboard.has_streams(1).await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut opening => panic!("the stream shows something"),
        () = polls => {}
    }
    dashboard.end_streams().await;
    let mut stream = within_20_s(opening).await;
    stream.end().await.expect("a clean end");
    let late: Vec<String> = stream.messages().into_iter().map(|message| message.data).collect();
    assert_eq!(late, events, "the stream shows everything when it ends");
}

/// nginx forwards chunks as they come, even with buffering. It delays the head until the first chunk, and a stream
/// sends one at once.
#[tokio::test]
async fn without_the_header_but_with_http_1_1_nothing_is_held_back() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), &format!("{UNHEARD} {}", SPEAKS[1])).await;
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    stream.has("event: position\n").await;
    for data in ["first", "second"] {
        dashboard.publish("a", data).await;
        stream.has(&format!("data: {data}\n")).await;
    }
}

/// nginx reads what its client does not, first into memory and then onto its disk. So the client never counts as slow.
#[tokio::test]
async fn without_the_header_the_buffer_hides_a_client_that_reads_nothing() {
    const SENT: u64 = 40 << 20;
    let mut dashboard = Dashboard::silent().await;
    for (directives, is_hidden) in [(SPEAKS[1].to_owned(), false), (format!("{UNHEARD} {}", SPEAKS[1]), true)] {
        let nginx = Nginx::with(dashboard.url(), &directives).await;
        let mut reads = Stream::open(address(dashboard.url()), Version::HTTP_11, "/events?topic=a").await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let mut reads_nothing = socket.connect(nginx.address).await.unwrap();
        reads_nothing.write_all(b"GET /events?topic=a HTTP/1.1\r\nhost: server.test\r\n\r\n").await.unwrap();
        dashboard.has_streams(2).await;
        for _ in 0..40 {
            dashboard.publish("a", "x".repeat(1 << 20)).await;
        }
        dashboard.publish("a", "the last one").await;
        reads.has("data: the last one\n").await;
        let until = Instant::now() + if is_hidden { Duration::from_secs(20) } else { SILENCE };
        let taken = loop {
            let clients = dashboard.ask("GET", "/clients", "").await;
            // The newer of the two clients.
            let taken = clients[1]["stats"]["bytes"].as_u64().unwrap();
            if taken > SENT || Instant::now() > until {
                break taken;
            }
        };
        eprintln!("{directives} {taken} bytes were taken for a client that reads nothing");
        assert_eq!(taken > SENT, is_hidden, "{taken}");
        drop((reads, reads_nothing));
        dashboard.has_streams(0).await;
    }
}

/// The same handler, with axum's own `Sse`, without the layer and with it.
#[tokio::test]
async fn nginx_holds_back_an_axum_stream_only_without_the_layer() {
    let (events, _) = broadcast::channel::<&str>(16);
    let handler = {
        let events = events.clone();
        on_get(async move || {
            let events = BroadcastStream::new(events.subscribe());
            let events = events.map(|data| Ok::<_, Infallible>(Event::default().data(data.unwrap())));
            Sse::new(events).keep_alive(KeepAlive::default())
        })
    };
    let layer = SseLayer::new(&Registry::new());
    let router = Router::new().route("/without", handler.clone()).route("/with", handler.layer(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());

    let nginx = Nginx::with(&server, SPEAKS[0]).await;
    let mut with = Stream::open(nginx.address, Version::HTTP_11, "/with").await;
    let without = Stream::open(nginx.address, Version::HTTP_11, "/without");
    tokio::pin!(without);
    while events.receiver_count() < 2 {
        assert!(timeout(Duration::from_millis(10), &mut without).await.is_err(), "its head is held back");
    }
    events.send("an event").unwrap();
    with.has("data: an event\n\n").await;
    assert!(timeout(SILENCE, &mut without).await.is_err(), "the whole stream is held back");
}

#[tokio::test]
async fn nginx_forwards_heartbeats_at_once() {
    let dashboard = Dashboard::start(&[("HEARTBEAT_MS", "100")]).await;
    let nginx = Nginx::before(dashboard.url()).await;
    let begun = StdInstant::now();
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    stream.has(&":\n\n".repeat(5)).await;
    assert!(begun.elapsed() > Duration::from_millis(450), "the heartbeats came one after the other");
}

#[tokio::test]
async fn a_stream_resumes_with_the_missed_events() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::before(dashboard.url()).await;
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    let seen = dashboard.publish("a", "seen").await;
    stream.has(&format!("id: {seen}\n\n")).await;
    drop(stream);
    dashboard.publish("a", "missed").await;

    let by_header = Stream::resume(nginx.address, Version::HTTP_11, "/events?topic=a", &seen).await;
    let by_query = format!("/events?topic=a&lastEventId={seen}");
    let by_query = Stream::open(nginx.address, Version::HTTP_11, &by_query).await;
    dashboard.publish("a", "live").await;
    for mut stream in [by_header, by_query] {
        stream.has("data: live\n").await;
        let messages = stream.messages();
        let data: Vec<_> = messages.iter().map(|message| message.data.as_str()).collect();
        assert_eq!(data[0], "missed", "{data:?}");
        assert!(data.iter().filter(|data| **data == "missed").count() == 1 && !data.contains(&"seen"), "{data:?}");
    }
}

#[tokio::test]
async fn a_read_timeout_ends_only_a_stream_without_heartbeats() {
    let silent = Dashboard::silent().await;
    let mut lively = Dashboard::start(&[("HEARTBEAT_MS", "300")]).await;
    let [nginx, nginx_before_lively] = [
        Nginx::with(silent.url(), "proxy_read_timeout 1s;").await,
        Nginx::with(lively.url(), "proxy_read_timeout 1s;").await,
    ];
    let opened = StdInstant::now();
    let mut kept = Stream::open(nginx_before_lively.address, Version::HTTP_11, "/events?topic=a").await;
    let mut cut = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    cut.end().await.expect_err("no clean end");
    let after = opened.elapsed();
    eprintln!("a silent stream was cut after {after:?}");
    assert!(after > Duration::from_millis(900), "{after:?}");
    // For several times as long.
    while opened.elapsed() < Duration::from_secs(4) {
        kept.next_heartbeat().await;
    }
    lively.publish("a", "still there").await;
    kept.has("data: still there\n").await;
}

/// nginx ignores `no-transform`. As it does not buffer, it flushes what it compresses.
#[tokio::test]
async fn nginx_compresses_despite_no_transform_and_events_are_still_in_time() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), "gzip on; gzip_types text/event-stream;").await;
    let mut request = get("/events?topic=a");
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let mut stream = Stream::of(&mut Client::connect(nginx.address, Version::HTTP_11).await, request).await;
    assert_eq!(stream.response.headers()["cache-control"], "no-cache, no-transform");
    assert_eq!(stream.response.headers()["content-encoding"], "gzip");
    let mut decoder = GzDecoder::new(Vec::new());
    assert_in_time("compressed,", async |n| {
        let (data, begun) = (format!("event {n}."), Instant::now());
        let coming = within_20_s(async {
            while !String::from_utf8_lossy(decoder.get_ref()).contains(&data) {
                decoder.write_all(&stream.next().await.expect("no end").expect("no error")).unwrap();
                decoder.flush().unwrap();
            }
            Instant::now()
        });
        let (_, came) = tokio::join!(dashboard.publish("a", data.clone()), coming);
        came - begun
    })
    .await;
}

#[tokio::test]
async fn nginx_serves_http_2_over_tls_and_uses_http_1_1_to_the_dashboard() {
    let mut dashboard = Dashboard::start(&[("HEARTBEAT_MS", "300")]).await;
    let certified = rcgen::generate_simple_self_signed(["proxy.test".to_owned()]).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&certificate, certified.cert.pem()).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let nginx = Nginx::start(|listen| {
        let files = format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display());
        let location = location("/", dashboard.url(), SPEAKS[1]);
        format!("server {{ listen {listen} ssl http2; {files} {location} }}")
    })
    .await;

    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(nginx.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let socket = connector.connect("proxy.test".try_into().unwrap(), socket).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let mut client = Client::Http2(sender);

    // More than the six connections that a browser opens to a server over HTTP/1.1.
    let mut streams = Vec::new();
    for n in 0..20 {
        let stream = Stream::of(&mut client, get(&format!("/events?topic=all&topic=own/{n}"))).await;
        assert_eq!(stream.response.version(), Version::HTTP_2);
        assert!(!stream.response.headers().contains_key("connection"));
        streams.push(stream);
    }
    assert_in_time("over HTTP/2 and TLS,", async |n| {
        let (data, begun, stream) = (format!("event {n}."), Instant::now(), &mut streams[n as usize % 20]);
        let topic = format!("own/{}", n % 20);
        let (_, came) = tokio::join!(dashboard.publish(&topic, data.clone()), stream.has(&data));
        came - begun
    })
    .await;
    dashboard.publish("all", "to all of them").await;
    for stream in &mut streams {
        stream.has("data: to all of them\n").await;
        stream.has(":\n\n").await;
    }
    drop(streams);
    dashboard.has_streams(0).await;
}

#[tokio::test]
async fn the_dashboard_sees_when_a_client_behind_nginx_leaves() {
    let mut dashboard = Dashboard::silent().await;
    for version in VERSIONS {
        let nginx = match version {
            Version::HTTP_2 => Nginx::with_http2(dashboard.url()).await,
            _ => Nginx::before(dashboard.url()).await,
        };
        let stream = Stream::open(nginx.address, version, "/events?topic=a").await;
        assert_eq!(dashboard.open_streams().await, 1);
        let left = StdInstant::now();
        drop(stream);
        dashboard.has_streams(0).await;
        eprintln!("over {version:?}, the client's stream ended after {:?}", left.elapsed());
    }
}

/// An HTTP/1.0 body ends with its connection, so nginx cannot detect the failure.
#[tokio::test]
async fn the_client_sees_a_server_failure_only_with_http_1_1_to_the_server() {
    for (speaks, is_told) in SPEAKS.into_iter().zip([false, true]) {
        let mut dashboard = Dashboard::silent().await;
        let nginx = Nginx::with(dashboard.url(), speaks).await;
        let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
        dashboard.server.process.kill().await.unwrap();
        assert_eq!(stream.end().await.is_err(), is_told, "{speaks}");
    }
}

/// nginx does not forward the header that it obeys.
#[tokio::test]
async fn the_outer_of_two_nginx_needs_its_own_configuration() {
    let mut dashboard = Dashboard::silent().await;
    let inner = Nginx::with(dashboard.url(), SPEAKS[0]).await;
    let inner_url = format!("http://{}", inner.address);
    let outer = Nginx::with(&inner_url, SPEAKS[0]).await;
    let opening = Stream::open(outer.address, Version::HTTP_11, "/events?topic=a");
    tokio::pin!(opening);
    dashboard.has_streams_while(1, &mut opening).await;
    dashboard.publish("a", "held").await;
    assert!(timeout(SILENCE, &mut opening).await.is_err(), "the outer nginx holds the head back");

    let told = Nginx::with(&inner_url, &format!("proxy_buffering off; {}", SPEAKS[0])).await;
    let passing_it_on = format!("proxy_pass_header X-Accel-Buffering; {}", SPEAKS[0]);
    let passing_it_on = Nginx::with(dashboard.url(), &passing_it_on).await;
    let hears_it = Nginx::with(&format!("http://{}", passing_it_on.address), SPEAKS[0]).await;
    for outer in [told, hears_it] {
        let mut stream = Stream::open(outer.address, Version::HTTP_11, "/events?topic=a").await;
        dashboard.publish("a", "at once").await;
        stream.has("data: at once\n").await;
    }
}

/// The old worker keeps the streams that it has. The new worker gets new connections.
#[tokio::test]
async fn a_reload_keeps_open_streams() {
    let mut dashboard = Dashboard::silent().await;
    for version in VERSIONS {
        let mut nginx = match version {
            Version::HTTP_2 => Nginx::with_http2(dashboard.url()).await,
            _ => Nginx::before(dashboard.url()).await,
        };
        let mut client = Client::connect(nginx.address, version).await;
        let mut old = Stream::of(&mut client, get("/events?topic=a")).await;
        nginx.signal(Signal::SIGHUP);
        nginx.logs(&["gracefully shutting down"]).await;
        let mut new = Stream::open(nginx.address, version, "/events?topic=a").await;
        if version == Version::HTTP_2 {
            within_20_s(client.send(get("/events?topic=a")))
                .await
                .expect_err("the connection accepts no more requests");
        }
        dashboard.publish("a", "after the reload").await;
        for stream in [&mut old, &mut new] {
            stream.has("data: after the reload\n").await;
        }
        // The old worker runs until the last of its streams has ended.
        dashboard.end_streams().await;
        nginx.logs(&["exited with code 0"]).await;
        old.end().await.expect("a clean end");
    }
}

#[tokio::test]
async fn a_shutdown_timeout_ends_old_streams_which_resume_at_the_new_worker() {
    let mut dashboard = Dashboard::silent().await;
    for version in VERSIONS {
        let mut nginx = Nginx::start_with("worker_shutdown_timeout 1s;", |listen| {
            let http2 = if version == Version::HTTP_2 { "http2" } else { "" };
            format!("server {{ listen {listen} {http2}; {} }}", location("/", dashboard.url(), ""))
        })
        .await;
        let mut stream = Stream::open(nginx.address, version, "/events?topic=a").await;
        let seen = dashboard.publish("a", "seen").await;
        stream.has(&format!("id: {seen}\n\n")).await;
        let told = StdInstant::now();
        nginx.signal(Signal::SIGHUP);
        nginx.logs(&["gracefully shutting down"]).await;
        let end = stream.end().await;
        eprintln!("over {version:?}, the stream ended {:?} after the reload: {end:?}", told.elapsed());
        assert!(end.is_err() && told.elapsed() > Duration::from_millis(900), "{end:?}");
        nginx.logs(&["exited with code 0"]).await;

        dashboard.publish("a", "missed").await;
        let mut stream = Stream::resume(nginx.address, version, "/events?topic=a", &seen).await;
        stream.has("data: missed\n").await;
        assert_eq!(stream.messages().len(), 1);
    }
}

/// One connection to the client and one to the server. A worker has 512 by default, which include its listening
/// sockets.
#[tokio::test]
async fn a_stream_takes_two_connections_of_a_worker() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::before(dashboard.url()).await;
    let mut streams = Vec::new();
    let refused = loop {
        let mut client = Client::connect(nginx.address, Version::HTTP_11).await;
        match within_20_s(client.send(get("/events?topic=a"))).await {
            Ok(response) if response.status() == 200 => streams.push(response),
            Ok(response) => break response.status().to_string(),
            Err(error) => break error.to_string(),
        }
        assert!(streams.len() < 300, "nginx refuses further streams");
    };
    eprintln!("{} streams, and then: {refused}", streams.len());
    assert!((240..256).contains(&streams.len()), "{}", streams.len());
    assert_eq!(dashboard.open_streams().await, streams.len() as u64);
}

#[tokio::test]
async fn a_limit_per_address_counts_each_client_of_nginx_separately() {
    let mut dashboard = Dashboard::start(&[("MAX_STREAMS_PER_ADDRESS", "1"), ("PROXIES", "1")]).await;
    let forwarded = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = Nginx::with(dashboard.url(), forwarded).await;
    let mut streams = Vec::new();
    for (from, status) in [("127.0.0.2:0", 200), ("127.0.0.3:0", 200), ("127.0.0.2:0", 429)] {
        let mut request = get("/events?topic=a");
        // An address that a client claims does not count.
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        let response = within_20_s(client_at(from, nginx.address).await.send(request)).await.unwrap();
        assert_eq!(response.status(), status, "{from}");
        streams.push(response);
    }
    assert_eq!(dashboard.open_streams().await, 2);
}

async fn client_at(from: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    let socket = TokioIo::new(socket.connect(to).await.unwrap());
    let (sender, connection) = hyper::client::conn::http1::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    Client::Http1(sender)
}

#[tokio::test]
async fn a_gateway_behind_nginx_keeps_a_silent_stream_alive() {
    let mut dashboard = Dashboard::silent().await;
    let gateway = crate::gateways::gateway(dashboard.url(), &["--heartbeat-ms", "100"]).await;
    let nginx = Nginx::with(&gateway.url, "proxy_read_timeout 1s;").await;
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    let opened = StdInstant::now();
    while opened.elapsed() < Duration::from_secs(2) {
        stream.next_heartbeat().await;
    }
    assert_in_time("nginx and the gateway:", async |n| {
        let (data, begun) = (format!("event {n}."), Instant::now());
        let (_, came) = tokio::join!(dashboard.publish("a", data.clone()), stream.has(&data));
        came - begun
    })
    .await;
    let seen = crate::spec::parse(&stream.bytes).last_event_id;
    drop(stream);
    dashboard.has_streams(0).await;
    dashboard.publish("a", "missed").await;
    let mut stream = Stream::resume(nginx.address, Version::HTTP_11, "/events?topic=a", &seen).await;
    stream.has("data: missed\n").await;
}

/// nginx removes the header. The gateway's layer sets it again for the outer nginx.
#[tokio::test]
async fn nginx_on_both_sides_of_a_gateway_buffers_nothing() {
    let mut dashboard = Dashboard::silent().await;
    let inner = Nginx::with(dashboard.url(), SPEAKS[0]).await;
    let gateway = crate::gateways::gateway(&format!("http://{}", inner.address), &[]).await;
    let mut direct = Stream::open(address(&gateway.url), Version::HTTP_11, "/events?topic=a").await;
    assert_eq!(direct.response.headers()["x-accel-buffering"], "no");
    let outer = Nginx::with(&gateway.url, SPEAKS[0]).await;
    let mut stream = Stream::open(outer.address, Version::HTTP_11, "/events?topic=a").await;
    dashboard.publish("a", "at once").await;
    direct.has("data: at once\n").await;
    stream.has("data: at once\n").await;
}

/// The server announces the limit itself.
#[tokio::test]
async fn an_http_2_connection_of_nginx_has_128_streams_and_the_next_one_waits() {
    let dashboard = Dashboard::silent().await;
    let nginx = Nginx::start_with("", |listen| {
        format!("server {{ listen {listen} http2; {} }}", location("/", dashboard.url(), ""))
    })
    .await;
    let mut client = Client::connect(nginx.address, Version::HTTP_2).await;
    let mut streams = Vec::new();
    for _ in 0..128 {
        streams.push(Stream::of(&mut client, get("/events?topic=a")).await);
    }
    let next = Stream::of(&mut client, get("/events?topic=a"));
    tokio::pin!(next);
    assert!(timeout(SILENCE, &mut next).await.is_err(), "the next stream waits");
    streams.pop();
    next.await;
}

#[tokio::test]
async fn the_guides_configuration_works_as_described() {
    let guide = include_str!("../../../src/guide/proxies.md");
    let (_, configuration) = guide.split_once("```nginx\n").unwrap();
    let (configuration, _) = configuration.split_once("```").unwrap();
    let (main, http) = configuration.split_once("http {").unwrap();
    let (http, _) = http.rsplit_once('}').unwrap();
    assert!(http.contains("127.0.0.1:3000") && http.contains("127.0.0.1:8080"));

    let mut dashboard = Dashboard::start(&[("MAX_STREAMS_PER_ADDRESS", "300"), ("PROXIES", "1")]).await;
    let upstream = dashboard.url().trim_start_matches("http://").to_owned();
    let listening =
        |listen: SocketAddr| http.replace("127.0.0.1:3000", &upstream).replace("127.0.0.1:8080", &listen.to_string());
    let nginx = Nginx::start_with(main, listening).await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        streams.push(Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await);
    }
    let refused = client_at("127.0.0.1:0", nginx.address).await.send(get("/events?topic=a")).await.unwrap();
    assert_eq!(refused.status(), 429);
    let mut other = Stream::of(&mut client_at("127.0.0.2:0", nginx.address).await, get("/events?topic=a")).await;
    dashboard.publish("a", "to all").await;
    for stream in streams.iter_mut().chain([&mut other]) {
        stream.has("data: to all\n").await;
    }
    dashboard.server.process.kill().await.unwrap();
    assert!(other.end().await.is_err(), "no clean end");
}

#[tokio::test]
async fn a_dashboard_that_stops_sends_its_farewell_through_nginx() {
    for speaks in SPEAKS {
        let mut dashboard = Dashboard::start(&[("DRAIN_MS", "200")]).await;
        let nginx = Nginx::with(dashboard.url(), speaks).await;
        let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
        crate::example::signal(&dashboard.server.process, Signal::SIGTERM);
        stream.has("event: restart\n").await;
        stream.end().await.expect("a clean end");
        assert!(stream.text().contains("retry: "), "{}", stream.text());
        assert!(within_20_s(dashboard.server.process.wait()).await.unwrap().success());
    }
}

/// An `EventSource` that gets a 502 gives up for good. The guide's configuration returns a stream instead.
#[tokio::test]
async fn nginx_can_tell_clients_to_reconnect_while_the_server_is_down() {
    let guide = include_str!("../../../src/guide/proxies.md");
    let (_, snippet) = guide.rsplit_once("```nginx\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    assert!(snippet.contains("127.0.0.1:3000"));

    let mut dashboard = Dashboard::silent().await;
    let upstream = dashboard.url().trim_start_matches("http://").to_owned();
    let plain = Nginx::before(dashboard.url()).await;
    let told = Nginx::start(|listen| {
        format!("server {{ listen {listen}; {} }}", snippet.replace("127.0.0.1:3000", &upstream))
    })
    .await;
    let mut stream = Stream::open(told.address, Version::HTTP_11, "/events?topic=a").await;
    dashboard.publish("a", "as ever").await;
    stream.has("data: as ever\n").await;
    dashboard.server.process.kill().await.unwrap();

    let mut client = Client::connect(plain.address, Version::HTTP_11).await;
    assert_eq!(within_20_s(client.send(get("/events?topic=a"))).await.unwrap().status(), 502);
    let mut stream = Stream::open(told.address, Version::HTTP_11, "/events?topic=a").await;
    stream.end().await.expect("a clean end");
    assert_eq!(stream.text(), "retry: 3000\n\n");
}
