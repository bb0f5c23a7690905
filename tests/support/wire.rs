//! The bytes of a stream as a peer sees them: chunks in HTTP/1.1, frames in HTTP/2. A client library may treat a reset
//! as a normal end.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{collections::BTreeMap, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

/// A stream that has ended.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) text: String,
    pub(crate) end: End,
    pub(crate) at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A terminating chunk and the end of the connection, or a frame with `END_STREAM`.
    Clean,
    /// The connection ended without that.
    Missing,
    /// A reset of the connection or of the stream.
    Reset,
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that the server soon notices a peer that reads nothing.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let socket = socket.connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// An HTTP/1.1 connection.
pub(crate) struct Http1 {
    pub(crate) socket: BufReader<TcpStream>,
}

impl Http1 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { socket: BufReader::new(connect(address).await) }
    }

    /// Sends a GET request.
    pub(crate) async fn get(address: SocketAddr, target: &str) -> Self {
        let mut connection = Self::connect(address).await;
        connection.send("GET", target).await;
        connection
    }

    pub(crate) async fn send(&mut self, method: &str, target: &str) {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: server.test\r\naccept: text/event-stream\r\n\r\n");
        self.socket.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.socket.read_u8().await.expect("the head of an answer"));
        }
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    }

    /// Reads the next chunk. `None` is the terminating chunk.
    pub(crate) async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.push(self.socket.read_u8().await?);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.socket.read_exact(&mut chunk).await?;
        assert_eq!(chunk.split_off(size), b"\r\n");
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Reads the rest of a chunked body, while the connection stays open.
    pub(crate) async fn body(&mut self) -> Seen {
        let mut text = Vec::new();
        let end = loop {
            match self.chunk().await {
                Ok(Some(chunk)) => text.extend(chunk),
                Ok(None) => break End::Clean,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break End::Missing,
                Err(_) => break End::Reset,
            }
        };
        Seen { text: String::from_utf8(text).unwrap(), end, at: Instant::now() }
    }

    /// Reads the rest of a chunked body after which the connection is closed.
    pub(crate) async fn last_body(mut self) -> Seen {
        let seen = self.body().await;
        match (seen.end, self.socket.read_u8().await) {
            (End::Clean, Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => seen,
            (End::Clean, Err(_)) => Seen { end: End::Reset, ..seen },
            (End::Clean, Ok(byte)) => panic!("{byte} after the end"),
            _ => seen,
        }
    }
}

/// An HTTP/2 connection.
pub(crate) struct Http2 {
    socket: BufReader<TcpStream>,
    streams: BTreeMap<u32, Stream>,
    /// The server sent GOAWAY.
    pub(crate) goes_away: bool,
}

#[derive(Default)]
struct Stream {
    is_answered: bool,
    text: Vec<u8>,
    over: Option<(End, Instant)>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

impl Http2 {
    /// `stream_window` is how many bytes each stream accepts in all.
    pub(crate) async fn connect(address: SocketAddr, stream_window: u32) -> Self {
        let socket = BufReader::new(connect(address).await);
        let mut connection = Self { socket, streams: BTreeMap::new(), goes_away: false };
        connection.socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let initial_window = [&[0, 4][..], &stream_window.to_be_bytes()].concat();
        connection.write(SETTINGS, 0, 0, &initial_window).await;
        connection.write(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()).await;
        connection
    }

    /// Sends a GET request and returns the stream's number.
    pub(crate) async fn get(&mut self, target: &str) -> u32 {
        let id = self.streams.last_key_value().map_or(1, |(id, _)| id + 2);
        let literal = |name: &[u8], value: &str| [name, &[value.len() as u8], value.as_bytes()].concat();
        let path = literal(&[0x04], target);
        let authority = literal(&[0x01], "server.test");
        let accept = literal(&[0x0f, 0x04], "text/event-stream");
        let head = [&[0x82, 0x86][..], &path, &authority, &accept].concat();
        self.write(HEADERS, END_HEADERS | END_STREAM, id, &head).await;
        self.streams.insert(id, Stream::default());
        id
    }

    pub(crate) async fn reset(&mut self, id: u32) {
        self.write(RST_STREAM, 0, id, &8_u32.to_be_bytes()).await;
        self.streams.remove(&id);
    }

    /// Reads until all requests have a response.
    pub(crate) async fn answered(&mut self) {
        while self.streams.values().any(|stream| !stream.is_answered) {
            assert!(self.step().await, "the connection is closed before the response");
        }
    }

    /// Reads until this stream has received this text.
    pub(crate) async fn has_received(&mut self, id: u32, text: &str) {
        while !std::str::from_utf8(&self.streams[&id].text).unwrap().contains(text) {
            assert!(self.step().await && self.streams[&id].over.is_none(), "the stream ends before {text:?}");
        }
    }

    /// Reads until this stream has ended.
    pub(crate) async fn over(&mut self, id: u32) -> Seen {
        while self.streams[&id].over.is_none() && self.step().await {}
        self.streams.remove(&id).unwrap().seen()
    }

    /// Reads until the server closes the connection.
    pub(crate) async fn all(mut self) -> Vec<Seen> {
        while self.step().await {}
        assert!(self.goes_away, "the server sends GOAWAY");
        self.streams.into_values().map(Stream::seen).collect()
    }

    /// Reads the next frame. Returns `false` if there is none.
    async fn step(&mut self) -> bool {
        let mut head = [0; 9];
        if self.socket.read_exact(&mut head).await.is_err() {
            return false;
        }
        let [a, b, c, kind, flags, id @ ..] = head;
        let (length, id) = (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes(id));
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).await.expect("a whole frame");
        match kind {
            SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await,
            GOAWAY => self.goes_away = true,
            DATA | HEADERS | RST_STREAM => self.take(kind, flags, id, &payload),
            _ => {}
        }
        true
    }

    fn take(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        // The stream may have been reset.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match kind {
            HEADERS if !stream.is_answered => {
                assert_eq!(payload[0], STATUS_200, "the status of stream {id}");
                stream.is_answered = true;
            }
            DATA => stream.text.extend(payload),
            _ => {}
        }
        let end = match kind {
            RST_STREAM => End::Reset,
            _ if flags & END_STREAM != 0 => End::Clean,
            _ => return,
        };
        // A reset after the end counts as a reset.
        if stream.over.is_none() || end == End::Reset {
            stream.over = Some((end, Instant::now()));
        }
    }

    async fn write(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        let frame = [&length[..], &[kind, flags], &id.to_be_bytes(), payload].concat();
        // A server that has closed the connection does not read this.
        let _ = self.socket.write_all(&frame).await;
    }
}

impl Stream {
    fn seen(self) -> Seen {
        let (end, at) = self.over.unwrap_or((End::Missing, Instant::now()));
        Seen { text: String::from_utf8(self.text).unwrap(), end, at }
    }
}
