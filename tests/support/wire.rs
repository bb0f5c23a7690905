//! What a peer sees of a stream on the wire: chunk by chunk in HTTP/1.1, frame by frame in HTTP/2. A client library may take a reset for an end.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::{collections::BTreeMap, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

/// A stream that is over.
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
    /// The connection ended before that.
    Missing,
    /// A reset, of the connection or of the stream.
    Reset,
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // A peer that reads nothing is to be noticed soon.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let socket = socket.connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// A connection of HTTP/1.1.
pub(crate) struct Http1 {
    pub(crate) socket: BufReader<TcpStream>,
}

impl Http1 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { socket: BufReader::new(connect(address).await) }
    }

    /// Asks for a stream.
    pub(crate) async fn get(address: SocketAddr, target: &str) -> Self {
        let mut connection = Self::connect(address).await;
        connection.send("GET", target).await;
        connection
    }

    pub(crate) async fn send(&mut self, method: &str, target: &str) {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: server.test\r\naccept: text/event-stream\r\n\r\n");
        self.socket.write_all(request.as_bytes()).await.unwrap();
    }

    /// The head of an answer.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.socket.read_u8().await.expect("the head of an answer"));
        }
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    }

    /// The next chunk: `None` is the terminating one.
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

    /// The rest of a chunked body, as long as the connection goes on.
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

    /// The same of one after which the connection is closed.
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

/// A connection of HTTP/2.
pub(crate) struct Http2 {
    socket: BufReader<TcpStream>,
    streams: BTreeMap<u32, Stream>,
    /// The server has said that it takes no new streams.
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
/// `:status: 200` in the table of all HTTP/2 connections.
const STATUS_200: u8 = 0x88;

impl Http2 {
    /// `stream_window`: how much each stream takes in all.
    pub(crate) async fn connect(address: SocketAddr, stream_window: u32) -> Self {
        let socket = BufReader::new(connect(address).await);
        let mut connection = Self { socket, streams: BTreeMap::new(), goes_away: false };
        connection.socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let initial_window = [&[0, 4][..], &stream_window.to_be_bytes()].concat();
        connection.write(SETTINGS, 0, 0, &initial_window).await;
        connection.write(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()).await;
        connection
    }

    /// Asks for a stream, and gives its number.
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

    /// Until all that was asked for is answered.
    pub(crate) async fn answered(&mut self) {
        while self.streams.values().any(|stream| !stream.is_answered) {
            assert!(self.step().await, "it is closed before it answers");
        }
    }

    /// Until this stream has had so much.
    pub(crate) async fn has_had(&mut self, id: u32, text: &str) {
        while !std::str::from_utf8(&self.streams[&id].text).unwrap().contains(text) {
            assert!(self.step().await && self.streams[&id].over.is_none(), "it ends before {text:?}");
        }
    }

    /// Until this stream is over.
    pub(crate) async fn over(&mut self, id: u32) -> Seen {
        while self.streams[&id].over.is_none() && self.step().await {}
        self.streams.remove(&id).unwrap().seen()
    }

    /// Reads until the server closes the connection.
    pub(crate) async fn all(mut self) -> Vec<Seen> {
        while self.step().await {}
        assert!(self.goes_away, "it says that it goes");
        self.streams.into_values().map(Stream::seen).collect()
    }

    /// Takes the next frame. `false`: there is none.
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
        // It may have been reset.
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
        // A reset after the end is one too.
        if stream.over.is_none() || end == End::Reset {
            stream.over = Some((end, Instant::now()));
        }
    }

    async fn write(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        let frame = [&length[..], &[kind, flags], &id.to_be_bytes(), payload].concat();
        // A server that has closed takes nothing, and need not.
        let _ = self.socket.write_all(&frame).await;
    }
}

impl Stream {
    fn seen(self) -> Seen {
        let (end, at) = self.over.unwrap_or((End::Missing, Instant::now()));
        Seen { text: String::from_utf8(self.text).unwrap(), end, at }
    }
}
