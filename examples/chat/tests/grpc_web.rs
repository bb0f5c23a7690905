//! Tests gRPC-web over HTTP/1.1: the bytes are the same with the layer and without it. Also the tests that need their
//! own registry.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, time::Duration};

use axum::{Extension, Router, extract::Request, middleware::Next};
use bytes::{BufMut, Bytes, BytesMut};
use chat::proto::{JoinRequest, MembersRequest, Said, SayRequest, Update, update::What};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower_sse::{CloseReason, Drain, Event, Heartbeat, Registry, RegistryConfig, Retention, SseLayer};

mod support;
use support::{connect, heard, join, join_after, say, within};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// One server with the layer, and one without it. In the second, other code puts a handle into the extensions.
async fn both(registry: &Registry) -> [SocketAddr; 2] {
    let heartbeat = Heartbeat::every(Duration::from_millis(3));
    let with = chat::routes(registry).layer(SseLayer::new(registry).heartbeat(heartbeat));
    let without = chat::routes(registry)
        .layer(axum::middleware::from_fn(
            async |Extension(registry): Extension<Registry>, mut request: Request, next: Next| {
                request.extensions_mut().insert(registry.connect());
                next.run(request).await
            },
        ))
        .layer(Extension(registry.clone()));
    [serve(with).await, serve(without).await]
}

/// A connection, and all bytes that it received.
struct Peer {
    socket: TcpStream,
    all: Vec<u8>,
}

impl Peer {
    async fn call(address: SocketAddr, method: &str, content_type: &str, message: &impl Message) -> Self {
        Self::call_with(address, method, content_type, message, "").await
    }

    async fn call_with(
        address: SocketAddr,
        method: &str,
        content_type: &str,
        message: &impl Message,
        more: &str,
    ) -> Self {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(message.encoded_len().try_into().unwrap());
        message.encode(&mut body).unwrap();
        let mut body = body.freeze();
        if content_type == TEXT {
            body = base64(&body);
        }
        let head = format!(
            "POST /chat.Chat/{method} HTTP/1.1\r\nhost: server.test\r\ncontent-type: {content_type}\r\n\
             accept: {content_type}\r\nx-grpc-web: 1\r\n{more}content-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        Self { socket, all: Vec::new() }
    }

    /// Reads until the received bytes end with this.
    async fn until(&mut self, end: &[u8]) {
        within(async {
            while !self.all.ends_with(end) {
                let count = self.socket.read_buf(&mut self.all).await.unwrap();
                assert!(count > 0, "the connection ends after {:?}", Bytes::copy_from_slice(&self.all));
            }
        })
        .await;
    }

    /// All received bytes without the time of day.
    fn seen(&self) -> String {
        let (head, body) = self.all.split_at(self.all.windows(4).position(|it| it == b"\r\n\r\n").unwrap());
        let head = std::str::from_utf8(head).unwrap();
        let (dates, head): (Vec<_>, Vec<_>) = head.lines().partition(|line| line.starts_with("date: "));
        assert_eq!(dates.len(), 1, "{head:?}");
        format!("{}{:?}", head.join("\n"), Bytes::copy_from_slice(body))
    }
}

/// Base64 in the standard alphabet, with padding.
fn base64(bytes: &[u8]) -> Bytes {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let quad = |chunk: &[u8]| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        [18, 12, 6, 0].map(|shift| bits >> shift & 63).into_iter().enumerate().map(move |(at, six)| (at, six as usize))
    };
    let padded = |chunk: &[u8]| {
        let length = chunk.len();
        quad(chunk).map(|(at, six)| if at <= length { ALPHABET[six] } else { b'=' }).collect::<Vec<_>>()
    };
    bytes.chunks(3).flat_map(padded).collect()
}

fn frame(message: &impl Message) -> Vec<u8> {
    let length: u32 = message.encoded_len().try_into().unwrap();
    [&[0][..], &length.to_be_bytes(), &message.encode_to_vec()].concat()
}

/// One piece of a body as an HTTP/1.1 chunk.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:X}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[tokio::test]
async fn a_stream_over_grpc_web_has_the_same_bytes_with_the_layer() {
    for content_type in [BINARY, TEXT] {
        let registry = chat::registry(RegistryConfig::default());
        let mut peers = Vec::new();
        for address in both(&registry).await {
            let request = JoinRequest { room: "lobby".into(), name: "ada".into() };
            let mut peer = Peer::call(address, "Join", content_type, &request).await;
            peer.until(b"\r\n\r\n").await;
            peers.push(peer);
        }
        // First one request at a time, then many at once.
        for text in ["one", "∀ two\nand a half", &"x".repeat(100_000)] {
            let said = Said { name: "cy".into(), text: text.into() };
            let receipt = registry.publish("rooms/lobby", Event::json(&said).unwrap()).unwrap();
            assert_eq!(receipt.subscribers(), 2);
            let update = Update { id: receipt.position().unwrap().to_string(), what: Some(What::Said(said)) };
            let message = frame(&update);
            let sent = if content_type == TEXT { chunk(&base64(&message)) } else { chunk(&message) };
            for peer in &mut peers {
                peer.until(&sent).await;
            }
        }
        for client in registry.clients() {
            client.close();
        }
        for peer in &mut peers {
            peer.until(b"\r\n0\r\n\r\n").await;
        }
        let [with, without] = &peers[..] else { unreachable!("there are two") };
        assert_eq!(with.seen(), without.seen());
        assert!(with.seen().contains(content_type), "{}", with.seen());
        assert!(!with.seen().contains("x-accel-buffering"));
    }
}

#[tokio::test]
async fn unary_calls_over_grpc_web_have_the_same_bytes_with_the_layer() {
    let registry = chat::registry(RegistryConfig::default());
    let servers = both(&registry).await;
    let mut grpc = connect(&format!("http://{}", servers[0])).await;
    let _here = join(&mut grpc, "lobby", "ada").await.unwrap();
    for content_type in [BINARY, TEXT] {
        let mut seen = Vec::new();
        for address in servers {
            let mut peer = Peer::call(address, "Members", content_type, &MembersRequest { room: "lobby".into() }).await;
            peer.until(b"0\r\n\r\n").await;
            let mut refused = Peer::call(address, "Members", content_type, &MembersRequest { room: "".into() }).await;
            refused.until(b"\r\n\r\n").await;
            let mut nothing = Peer::call(address, "Nothing", content_type, &MembersRequest::default()).await;
            nothing.until(b"\r\n\r\n").await;
            assert!(peer.seen().contains("200 OK") && refused.seen().contains("grpc-status: 3"), "{}", refused.seen());
            assert!(nothing.seen().contains("grpc-status: 12"), "{}", nothing.seen());
            seen.push([peer, refused, nothing].map(|peer| peer.seen()));
        }
        assert_eq!(seen[0], seen[1]);
    }
}

/// The event stream next to it has a heartbeat every 3 ms.
#[tokio::test]
async fn a_stream_over_grpc_web_has_no_heartbeats() {
    let registry = chat::registry(RegistryConfig::default());
    let [address, _] = both(&registry).await;
    let mut silent =
        Peer::call(address, "Join", BINARY, &JoinRequest { room: "lobby".into(), name: "ada".into() }).await;
    silent.until(b"\r\n\r\n").await;
    let head = silent.all.len();
    let socket = TcpStream::connect(address).await.unwrap();
    let mut alive = Peer { socket, all: Vec::new() };
    alive.socket.write_all(b"GET /rooms/lobby/events HTTP/1.1\r\nhost: server.test\r\n\r\n").await.unwrap();
    alive.until(&chunk(b":\n\n").repeat(10)).await;

    let said = Said { name: "cy".into(), text: "Still there?".into() };
    let receipt = registry.publish("rooms/lobby", Event::json(&said).unwrap()).unwrap();
    let update = frame(&Update { id: receipt.position().unwrap().to_string(), what: Some(What::Said(said)) });
    silent.until(&chunk(&update)).await;
    assert_eq!(silent.all.split_off(head), chunk(&update), "no bytes before the update");
}

#[tokio::test]
async fn a_message_of_a_unary_grpc_web_call_reaches_other_clients() {
    let registry = chat::registry(RegistryConfig::default());
    let [address, _] = both(&registry).await;
    let mut grpc = connect(&format!("http://{address}")).await;
    let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    let said = Said { name: "bob".into(), text: "From a page".into() };
    let mut peer = Peer::call(address, "Say", BINARY, &SayRequest { room: "lobby".into(), said: Some(said) }).await;
    peer.until(b"0\r\n\r\n").await;
    assert_eq!(heard(&mut updates).await.1, "bob: From a page");
}

#[tokio::test]
async fn a_grpc_web_client_that_leaves_is_unsubscribed_and_can_resume() {
    let registry = chat::registry(RegistryConfig::default());
    let [address, _] = both(&registry).await;
    let request = JoinRequest { room: "lobby".into(), name: "ada".into() };
    let said = |text: &str| {
        let said = Said { name: "cy".into(), text: text.into() };
        let id = registry.publish("rooms/lobby", Event::json(&said).unwrap()).unwrap().position().unwrap().to_string();
        (id.clone(), chunk(&frame(&Update { id, what: Some(What::Said(said)) })))
    };
    let mut peer = Peer::call(address, "Join", BINARY, &request).await;
    peer.until(b"\r\n\r\n").await;
    let (id, sent) = said("one");
    peer.until(&sent).await;
    let client = registry.clients().pop().unwrap();
    drop(peer);
    assert_eq!(within(client.closed()).await, CloseReason::ClientDisconnected);
    assert_eq!(registry.stats().subscriptions, 0);

    let (_, missed) = said("two");
    let mut peer = Peer::call_with(address, "Join", BINARY, &request, &format!("last-event-id: {id}\r\n")).await;
    peer.until(&missed).await;
    let head = peer.all.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(peer.all[head..], missed);
}

/// The server need not be axum.
#[tokio::test]
async fn tonics_own_server_works_with_the_layer() {
    let registry = chat::registry(RegistryConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .accept_http1(true)
        .layer(SseLayer::new(&registry))
        .add_routes(Routes::from(chat::routes(&registry)))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);

    let mut grpc = connect(&format!("http://{address}")).await;
    let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let mut stream = Peer { socket, all: Vec::new() };
    stream.socket.write_all(b"GET /rooms/lobby/events HTTP/1.1\r\nhost: server.test\r\n\r\n").await.unwrap();
    // The response headers, and the position event.
    stream.until(b"\n\n\r\n").await;
    let (id, clients) = say(&mut grpc, "lobby", "bob", "Hello").await.unwrap();
    assert_eq!(clients, 2);
    assert_eq!(heard(&mut updates).await, (id.clone(), "bob: Hello".to_owned()));
    let event = format!("data: {{\"name\":\"bob\",\"text\":\"Hello\"}}\nid: {id}\n\n");
    stream.until(&chunk(event.as_bytes())).await;
    drop((updates, stream));
    within(async {
        while registry.stats().clients > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_grpc_client_that_reconnects_too_late_is_told_of_the_gap() {
    let retention = Retention::default().events(2);
    let registry = chat::registry(RegistryConfig::default().topic_retention(retention));
    let address = serve(chat::routes(&registry).layer(SseLayer::new(&registry))).await;
    let mut grpc = connect(&format!("http://{address}")).await;
    let (first, _) = say(&mut grpc, "lobby", "ada", "one").await.unwrap();
    for text in ["two", "three", "four"] {
        say(&mut grpc, "lobby", "ada", text).await.unwrap();
    }
    let mut updates = join_after(&mut grpc, "lobby", "bob", &first).await.unwrap();
    match within(updates.message()).await.unwrap().unwrap() {
        Update { what: Some(What::Missed(missed)), id } => {
            assert_eq!((missed.after, id.is_empty()), (first, false));
            // A client that is cut off here is not told again.
            let mut updates = join_after(&mut grpc, "lobby", "bob", &id).await.unwrap();
            assert_eq!(heard(&mut updates).await.1, "ada: three");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(heard(&mut updates).await.1, "ada: three");
    assert_eq!(heard(&mut updates).await.1, "ada: four");
}

#[tokio::test]
async fn a_drain_ends_grpc_streams_and_refuses_new_ones() {
    let registry = chat::registry(RegistryConfig::default());
    let address = serve(chat::routes(&registry).layer(SseLayer::new(&registry))).await;
    let mut grpc = connect(&format!("http://{address}")).await;
    let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    say(&mut grpc, "lobby", "ada", "before").await.unwrap();
    let drained = within(registry.drain(Drain::within(Duration::from_millis(100)))).await;
    assert_eq!((drained.ended, drained.still_open), (1, 0));
    assert_eq!(heard(&mut updates).await.1, "ada: before");
    assert_eq!(within(updates.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(join(&mut grpc, "lobby", "ada").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(registry.stats().clients, 0);
}
