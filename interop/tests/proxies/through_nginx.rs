//! nginx before the dashboard.

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

/// What nginx speaks to the server behind it: 1.0 was its default for long, and is in the one that Debian 12 has.
const SPEAKS: [&str; 2] = ["proxy_http_version 1.0;", "proxy_http_version 1.1;"];

/// As if no layer had said anything about buffering.
const UNHEARD: &str = "proxy_ignore_headers X-Accel-Buffering;";

/// How long something is waited for that does not come.
const SILENCE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn each_event_comes_within_100_ms_through_the_default_buffering() {
    let mut dashboard = Dashboard::silent().await;
    for speaks in ["", SPEAKS[0], SPEAKS[1]] {
        let nginx = Nginx::with(dashboard.url(), speaks).await;
        let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
        assert_eq!(stream.response.headers()["cache-control"], "no-cache, no-transform");
        // nginx obeys it, and keeps it.
        assert!(!stream.response.headers().contains_key("x-accel-buffering"));
        assert_in_time(speaks, async |n| {
            let (data, begun) = (format!("event {n}."), Instant::now());
            let (_, came) = tokio::join!(dashboard.publish("a", data.clone()), stream.has(&data));
            came - begun
        })
        .await;
    }
}

/// Nothing is held, over a batch of events. A machine with much to do may be late by itself, and so has three tries.
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

/// Not even the head of the answer comes: an `EventSource` would not open.
#[tokio::test]
async fn without_the_header_nothing_comes_before_the_buffer_is_full() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), &format!("{UNHEARD} {}", SPEAKS[0])).await;
    let opening = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a");
    tokio::pin!(opening);
    dashboard.has_streams_while(1, &mut opening).await;
    dashboard.publish("a", "first").await;
    assert!(timeout(SILENCE, &mut opening).await.is_err(), "the head is held");

    // 4,096 bytes, head and all, are its first buffer.
    dashboard.publish("a", "x".repeat(4096)).await;
    let mut stream = opening.await;
    stream.has("data: first\n").await;

    // And then each next one.
    dashboard.publish("a", "second").await;
    assert!(stream.is_silent_for(SILENCE).await, "an event is held");
    dashboard.publish("a", "x".repeat(4096)).await;
    stream.has("data: second\n").await;

    // Or it ends.
    dashboard.publish("a", "third").await;
    assert!(!stream.comes_within("data: third\n", SILENCE).await, "an event is held");
    dashboard.end_streams().await;
    stream.has("data: third\n").await;
    stream.end().await.expect("a clean end");
}

/// Chunks are passed on as they come, whatever the buffering. The head waits for the first, with which a stream begins at once.
#[tokio::test]
async fn without_the_header_but_with_http_1_1_nothing_is_held() {
    let mut dashboard = Dashboard::silent().await;
    let nginx = Nginx::with(dashboard.url(), &format!("{UNHEARD} {}", SPEAKS[1])).await;
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    stream.has("event: position\n").await;
    for data in ["first", "second"] {
        dashboard.publish("a", data).await;
        stream.has(&format!("data: {data}\n")).await;
    }
}

/// It takes what a client does not read, first into memory and then onto its disk, and the client never counts as slow.
#[tokio::test]
async fn without_the_header_a_client_that_reads_nothing_is_hidden_by_the_buffer() {
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
            // The younger one.
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

/// The same handler, axum's own `Sse`, without and with the layer.
#[tokio::test]
async fn a_stream_of_axum_is_held_without_the_layer_and_not_with_it() {
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
        assert!(timeout(Duration::from_millis(10), &mut without).await.is_err(), "its head is held");
    }
    events.send("an event").unwrap();
    with.has("data: an event\n\n").await;
    assert!(timeout(SILENCE, &mut without).await.is_err(), "all of it is held");
}

#[tokio::test]
async fn heartbeats_pass() {
    let dashboard = Dashboard::start(&[("HEARTBEAT_MS", "100")]).await;
    let nginx = Nginx::before(dashboard.url()).await;
    let begun = StdInstant::now();
    let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
    stream.has(&":\n\n".repeat(5)).await;
    assert!(begun.elapsed() > Duration::from_millis(450), "one after the other");
}

#[tokio::test]
async fn a_stream_is_resumed_with_what_it_missed() {
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
async fn a_read_timeout_ends_a_silent_stream_and_not_one_with_heartbeats() {
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
    // For a while that is several times as long.
    while opened.elapsed() < Duration::from_secs(4) {
        kept.next_heartbeat().await;
    }
    lively.publish("a", "still there").await;
    kept.has("data: still there\n").await;
}

/// nginx does not look at `no-transform`. As nothing is buffered, it flushes what it compresses.
#[tokio::test]
async fn nginx_compresses_in_spite_of_no_transform_and_each_event_comes_in_time_even_so() {
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
async fn http_2_over_tls_to_the_client_and_http_1_1_to_the_dashboard() {
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

    // More than the six connections that a browser has for a server over HTTP/1.1.
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
async fn a_client_that_leaves_is_gone_at_the_dashboard_too() {
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
        eprintln!("over {version:?}, it was gone after {:?}", left.elapsed());
    }
}

/// HTTP/1.0 ends a body with its connection, so nginx cannot know.
#[tokio::test]
async fn that_a_server_broke_is_seen_by_the_client_only_with_http_1_1_between() {
    for (speaks, is_told) in SPEAKS.into_iter().zip([false, true]) {
        let mut dashboard = Dashboard::silent().await;
        let nginx = Nginx::with(dashboard.url(), speaks).await;
        let mut stream = Stream::open(nginx.address, Version::HTTP_11, "/events?topic=a").await;
        dashboard.server.process.kill().await.unwrap();
        assert_eq!(stream.end().await.is_err(), is_told, "{speaks}");
    }
}

/// What it is told by the server, it does not tell others.
#[tokio::test]
async fn of_two_nginx_in_a_row_the_outer_one_has_to_be_told_itself() {
    let mut dashboard = Dashboard::silent().await;
    let inner = Nginx::with(dashboard.url(), SPEAKS[0]).await;
    let inner_url = format!("http://{}", inner.address);
    let outer = Nginx::with(&inner_url, SPEAKS[0]).await;
    let opening = Stream::open(outer.address, Version::HTTP_11, "/events?topic=a");
    tokio::pin!(opening);
    dashboard.has_streams_while(1, &mut opening).await;
    dashboard.publish("a", "held").await;
    assert!(timeout(SILENCE, &mut opening).await.is_err(), "the outer one holds it");

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

/// The old worker stays for the streams that it has, and the new one takes what comes.
#[tokio::test]
async fn a_reload_leaves_open_streams_alone() {
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
            within_20_s(client.send(get("/events?topic=a"))).await.expect_err("the connection takes no more");
        }
        dashboard.publish("a", "after the reload").await;
        for stream in [&mut old, &mut new] {
            stream.has("data: after the reload\n").await;
        }
        // It is there until the last of them has ended.
        dashboard.end_streams().await;
        nginx.logs(&["exited with code 0"]).await;
        old.end().await.expect("a clean end");
    }
}

#[tokio::test]
async fn a_shutdown_timeout_ends_the_streams_of_the_old_worker_and_they_resume_at_the_new_one() {
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

/// One to the client and one to the server, of 512 that a worker has by default, the one that it listens on among them.
#[tokio::test]
async fn a_stream_takes_two_of_a_workers_connections() {
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
        assert!(streams.len() < 300, "there is no end of them");
    };
    eprintln!("{} streams, and then: {refused}", streams.len());
    assert!((240..256).contains(&streams.len()), "{}", streams.len());
    assert_eq!(dashboard.open_streams().await, streams.len() as u64);
}

#[tokio::test]
async fn a_limit_per_address_counts_the_clients_of_nginx_each_by_itself() {
    let mut dashboard = Dashboard::start(&[("MAX_STREAMS_PER_ADDRESS", "1"), ("PROXIES", "1")]).await;
    let forwarded = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = Nginx::with(dashboard.url(), forwarded).await;
    let mut streams = Vec::new();
    for (from, status) in [("127.0.0.2:0", 200), ("127.0.0.3:0", 200), ("127.0.0.2:0", 429)] {
        let mut request = get("/events?topic=a");
        // What a client claims does not count.
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

/// nginx takes the header off, and the gateway's layer puts it there again for who is before it.
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

/// It says by itself how many there may be.
#[tokio::test]
async fn an_http_2_connection_has_128_streams_and_the_next_one_waits() {
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
    assert!(timeout(SILENCE, &mut next).await.is_err(), "there are more");
    streams.pop();
    next.await;
}

#[tokio::test]
async fn the_configuration_of_the_guide_does_what_it_says() {
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
async fn a_dashboard_that_stops_says_goodbye_through_nginx() {
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

/// An `EventSource` that gets a 502 gives up for good. The guide says how it gets a stream instead.
#[tokio::test]
async fn while_the_server_is_away_nginx_can_tell_clients_to_come_back() {
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
