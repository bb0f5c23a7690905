//! Peers that vanish without closing their connection, over real loopback sockets. The examples' socket options detect
//! them.
//!
//! Linux only: other systems do not detect all of them, and only on Linux can a test make a peer vanish.

use std::{convert::Infallible, fs, iter, net::SocketAddr, process::Stdio, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tower::service_fn;
use tower_layer::Layer;
use tower_sse::{ClientHandle, CloseReason, Event, Heartbeat, Registry, RegistryConfig, Retention, SseLayer};

use crate::{
    bodies::{self, AnyBody, AnyError, any, event_stream},
    client::{Client, VERSIONS, get},
    example::{Example, Server},
    listener::listen,
    sockets::Patience,
    time_limit::within_20_s,
};

static GATEWAY: Example = Example::named("gateway");
static DASHBOARD: Example = Example::named("dashboard");

/// Long enough for a live peer to answer pings on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_MS: &str = "3000";
const LARGE: usize = 1 << 16;
/// More events than the buffers of both sockets hold.
const EVENTS: u64 = 500;

#[tokio::test]
async fn a_frozen_peer_with_pending_events_is_disconnected_over_http_1_1() {
    within_20_s(async {
        let mut test_server = TestServer::open(Heartbeat::off()).await;
        let _peer = Peer::open(test_server.address, Version::HTTP_11, "/events").await;
        test_server.publish_too_much();
        test_server.disconnects_its_newest_client().await;
        assert!(test_server.registry.stats().delivered < EVENTS, "the peer stalled");
    })
    .await;
}

#[tokio::test]
async fn a_frozen_peer_with_a_pending_body_is_disconnected_over_http_1_1() {
    within_20_s(async {
        let mut test_server = TestServer::open(Heartbeat::off()).await;
        let _peer = Peer::open(test_server.address, Version::HTTP_11, "/flood").await;
        test_server.disconnects_its_newest_client().await;
    })
    .await;
}

/// A small HTTP/2 window fills up, and the peer's kernel has acknowledged all of it. A large one does not fill up
/// before TCP's window does.
#[tokio::test]
async fn a_frozen_peer_is_disconnected_over_http_2_with_any_windows() {
    let topic_or_body = ["/events", "/flood"];
    let cases = topic_or_body.into_iter().flat_map(|path| [(path, 0xffff), (path, MOST)]);
    within_20_s(all(cases.map(|(path, window)| async move {
        let mut test_server = TestServer::open(Heartbeat::off()).await;
        let _peer = Peer::open_http_2(test_server.address, path, window).await;
        test_server.publish_too_much();
        test_server.disconnects_its_newest_client().await;
    })))
    .await;
}

#[tokio::test]
async fn a_vanished_peer_is_disconnected_and_a_quiet_one_is_not() {
    let heartbeats = [Heartbeat::off(), Heartbeat::every(Duration::from_millis(100))];
    let cases = VERSIONS.into_iter().flat_map(|version| heartbeats.clone().map(|heartbeat| (version, heartbeat)));
    within_20_s(all(cases.map(|(version, heartbeat)| async move {
        let mut test_server = TestServer::open(heartbeat).await;
        let mut client = Client::connect(test_server.address, version).await;
        let mut quiet = client.send(get("/quiet")).await.unwrap();
        test_server.handles.recv().await.unwrap();

        let peer = Peer::open(test_server.address, version, "/quiet").await;
        peer.vanish().await;
        test_server.disconnects_its_newest_client().await;

        test_server.registry.publish("quiet", Event::data("still there")).unwrap();
        while !quiet.frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"data: still there\n") {}
    })))
    .await;
}

#[tokio::test]
async fn the_socket_options_are_set() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let socket = SockRef::from(&accepted);
    let seconds = Duration::from_secs;
    for (patience, [idle, interval, in_all]) in [
        (Patience::default(), [15, 5, 30].map(seconds)),
        (Patience::of(Duration::ZERO), [1, 1, 1].map(seconds)),
        (Patience::of(Duration::MAX), [1800, 600, 3600].map(seconds)),
    ] {
        patience.set_on(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(in_all));
    }
}

#[tokio::test]
async fn the_gateway_ends_the_upstream_request_of_a_vanished_client() {
    GATEWAY.executable();
    within_20_s(all(["0", "100"].map(|heartbeat_ms| async move {
        let (requests, mut arrived) = mpsc::unbounded_channel();
        let upstream = listen(move |socket| {
            let requests = requests.clone();
            let service = hyper::service::service_fn(move |_| {
                let (frames, body) = bodies::channel();
                requests.send(frames).unwrap();
                std::future::ready(Ok::<_, Infallible>(event_stream(body)))
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            async { _ = connection.await }
        })
        .await;
        let gateway = Gateway::start(upstream, heartbeat_ms).await;
        let vanishes = Peer::open(gateway.address, Version::HTTP_11, "/").await;
        let it_vanished = arrived.recv().await.unwrap();
        vanishes.vanish().await;
        let _froze = Peer::open(gateway.address, Version::HTTP_11, "/").await;
        let owed = arrived.recv().await.unwrap();
        let _froze_over_http_2 = Peer::open(gateway.address, Version::HTTP_2, "/").await;
        let owed_nothing = arrived.recv().await.unwrap();

        while owed.send(Ok(Frame::data(event()))).await.is_ok() {}
        it_vanished.closed().await;
        owed_nothing.closed().await;
    })))
    .await;
}

#[tokio::test]
async fn the_gateway_ends_its_response_if_the_upstream_has_vanished() {
    GATEWAY.executable();
    within_20_s(all(VERSIONS.map(|version| async move {
        let (vanishes, mut vanished) = mpsc::unbounded_channel();
        let upstream = listen(move |socket| {
            let vanishes = vanishes.clone();
            async move {
                let mut peer = Peer(socket);
                peer.read_head().await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: x\n\n";
                peer.0.write_all(head).await.unwrap();
                peer.vanish().await;
                vanishes.send(peer).unwrap();
            }
        })
        .await;
        let gateway = Gateway::start(upstream, "100").await;
        let mut client = Client::connect(gateway.address, version).await;
        let mut response = client.send(get("/")).await.unwrap();
        let _vanished = vanished.recv().await.unwrap();
        let mut heartbeats = 0;
        while let Ok(frame) = response.frame().await.expect("an error, and no end") {
            heartbeats += usize::from(frame.into_data().unwrap() == ":\n\n");
        }
        assert!(heartbeats > 1, "more than the opening");
    })))
    .await;
}

#[tokio::test]
async fn the_dashboard_no_longer_counts_a_vanished_client() {
    DASHBOARD.executable();
    within_20_s(all(["100", "3600000"].map(|heartbeat_ms| async move {
        let mut command = DASHBOARD.command();
        command.envs([("PORT", "0"), ("HEARTBEAT_MS", heartbeat_ms), ("GONE_AFTER_MS", PATIENCE_MS)]);
        let dashboard = Server::start(&mut command).await;
        let http = reqwest::Client::new();
        let stats = async || {
            let text = http.get(format!("{}/stats", dashboard.url)).send().await.unwrap().text().await.unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let peer = Peer::open(address_of(&dashboard), Version::HTTP_11, "/events?topic=quiet").await;
        assert_eq!(stats().await["clients"], 1);
        peer.vanish().await;
        while stats().await["clients"] != 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stats().await["closed_streams"]["client_disconnected"], 1);
    })))
    .await;
}

/// A server whose sockets have the same options as the gateway's. It does not drop stalled clients.
struct TestServer {
    address: SocketAddr,
    registry: Registry,
    /// The client handle of every request, in order.
    handles: mpsc::UnboundedReceiver<ClientHandle>,
    /// Each connection that has ended.
    over: mpsc::UnboundedReceiver<()>,
}

impl TestServer {
    /// The path is a topic. Only `/flood` is a body that is always ready.
    async fn open(heartbeat: Heartbeat) -> Self {
        let retention = Retention::default().bytes(2 * EVENTS as usize * LARGE);
        let config = RegistryConfig::default()
            .stalled_client_timeout(None)
            .total_retention(retention)
            .topic_retention(retention);
        let registry = Registry::with_config(config);
        let layer = SseLayer::new(&registry).heartbeat(heartbeat);
        let (seen, handles) = mpsc::unbounded_channel();
        let (ends, over) = mpsc::unbounded_channel();
        let patience = Patience::of(PATIENCE);
        let address = listen(move |socket| {
            patience.set_on(&socket);
            let mut server = auto::Builder::new(TokioExecutor::new());
            patience.ping(&mut server);
            let (seen, ends) = (seen.clone(), ends.clone());
            let service = layer.layer(service_fn(move |request: Request<Incoming>| {
                let client = request.extensions().get::<ClientHandle>().unwrap().clone();
                let response = answer(&client, request.uri().path());
                let _ = seen.send(client);
                std::future::ready(Ok::<_, Infallible>(response))
            }));
            async move {
                let _ = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).await;
                let _ = ends.send(());
            }
        })
        .await;
        Self { address, registry, handles, over }
    }

    fn publish_too_much(&self) {
        for _ in 0..EVENTS {
            self.registry.publish("events", Event::data("x".repeat(LARGE))).unwrap();
        }
    }

    /// Waits until the newest client is disconnected and its connection has ended.
    async fn disconnects_its_newest_client(&mut self) {
        let handle = self.handles.recv().await.unwrap();
        let others = self.registry.stats().clients - 1;
        assert_eq!(handle.closed().await, CloseReason::ClientDisconnected);
        assert_eq!(self.registry.stats().clients, others);
        self.over.recv().await.unwrap();
    }
}

fn answer(client: &ClientHandle, path: &str) -> Response<AnyBody> {
    if path == "/flood" {
        let frames = iter::repeat_with(|| Ok::<_, AnyError>(Frame::data(event())));
        return event_stream(any(StreamBody::new(tokio_stream::iter(frames))));
    }
    client.subscribe(path.trim_start_matches('/')).unwrap();
    client.clone().into_stream().into_response()
}

/// A large event.
fn event() -> Bytes {
    format!("data: {}\n\n", "x".repeat(LARGE)).into()
}

struct Gateway {
    address: SocketAddr,
    _server: Server,
}

impl Gateway {
    async fn start(upstream: SocketAddr, heartbeat_ms: &str) -> Self {
        let mut command = GATEWAY.command();
        command.args(["--listen", "127.0.0.1:0", "--upstream", &format!("http://{upstream}")]);
        command.args(["--heartbeat-ms", heartbeat_ms, "--gone-after-ms", PATIENCE_MS]).stderr(Stdio::null());
        let server = Server::start(&mut command).await;
        Self { address: address_of(&server), _server: server }
    }
}

fn address_of(server: &Server) -> SocketAddr {
    server.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// The largest window of HTTP/2.
const MOST: u32 = (1 << 31) - 1;

/// A frozen peer: it got the head of its response, and then neither reads nor writes. Its kernel still acknowledges
/// packets.
struct Peer(TcpStream);

impl Peer {
    async fn open(address: SocketAddr, version: Version, path: &str) -> Self {
        if version == Version::HTTP_2 {
            return Self::open_http_2(address, path, 0xffff).await;
        }
        let mut peer = Self(TcpStream::connect(address).await.unwrap());
        let request = format!("GET {path} HTTP/1.1\r\nhost: server.test\r\n\r\n");
        peer.0.write_all(request.as_bytes()).await.unwrap();
        peer.read_head().await;
        peer
    }

    async fn read_head(&mut self) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
    }

    /// The frames are written by hand, as HTTP/2 libraries answer pings in the background.
    async fn open_http_2(address: SocketAddr, path: &str, window: u32) -> Self {
        const HEADERS: u8 = 1;
        const SETTINGS: u8 = 4;
        const WINDOW_UPDATE: u8 = 8;
        const ACK: u8 = 1;
        const END_STREAM_AND_HEADERS: u8 = 1 | 4;
        let mut socket = TcpStream::connect(address).await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE is the fourth setting. The connection has a window of its own, which begins at
        // 65,535.
        let of_a_stream = [&[0, 4], &window.to_be_bytes()[..]].concat();
        let of_the_connection = window.saturating_sub(0xffff).to_be_bytes();
        // HPACK: the static table's `:method: GET` and `:scheme: http`, and `:path` and `:authority` with a value.
        let length = u8::try_from(path.len()).unwrap();
        let request = [&[0x82, 0x86, 0x04, length], path.as_bytes(), b"\x01\x06x.test"].concat();
        let mut all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &of_a_stream)[..]].concat();
        if of_the_connection != [0; 4] {
            all.extend(frame(WINDOW_UPDATE, 0, 0, &of_the_connection));
        }
        all.extend(frame(HEADERS, END_STREAM_AND_HEADERS, 1, &request));
        socket.write_all(&all).await.unwrap();
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            socket.read_exact(&mut vec![0; length]).await.unwrap();
            match kind {
                HEADERS => return Self(socket),
                SETTINGS if flags & ACK == 0 => socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap(),
                _ => {}
            }
        }
    }

    /// Cuts the peer off, like a pulled cable. It receives nothing from now on, so its kernel answers nothing.
    async fn vanish(&self) {
        // Unacknowledged bytes would be sent again, and the server would notice the peer.
        while self.has_unacknowledged() {
            tokio::task::yield_now().await;
        }
        // Packets start with a time to live of 64, unless the system is configured otherwise. This needs no privilege.
        setsockopt(&self.0, LeastTimeToLive, &255).unwrap();
    }

    fn has_unacknowledged(&self) -> bool {
        let (local, remote) = (self.0.local_addr().unwrap().port(), self.0.peer_addr().unwrap().port());
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let this = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
            fields[1].ends_with(&format!(":{local:04X}")) && fields[2].ends_with(&format!(":{remote:04X}"))
        });
        !this.expect("the socket is connected")[4].starts_with("00000000:")
    }
}

impl Drop for Peer {
    /// Lets the peer receive the reset. Otherwise its kernel keeps sending its end for a while.
    fn drop(&mut self) {
        let _ = setsockopt(&self.0, LeastTimeToLive, &0);
    }
}

sockopt_impl!(
    /// A packet with a lower time to live is dropped before TCP sees it.
    LeastTimeToLive, SetOnly, libc::IPPROTO_IP, libc::IP_MINTTL, i32
);

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Runs all cases at the same time, as each waits for a while.
async fn all<T: Future<Output = ()> + Send + 'static>(cases: impl IntoIterator<Item = T>) {
    let cases: JoinSet<()> = cases.into_iter().collect();
    cases.join_all().await;
}
