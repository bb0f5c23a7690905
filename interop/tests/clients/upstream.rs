//! A server behind the gateway. A test writes its responses byte by byte.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    expected: Expected,
}

/// The requests that are expected, by path.
type Expected = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Request>>>>;

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let expected = Expected::default();
        let all = Arc::clone(&expected);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(arrived(socket, Arc::clone(&all)));
            }
        });
        Self { address, expected }
    }

    /// The requests for this path, in order.
    pub(crate) fn requests(&self, path: &str) -> mpsc::UnboundedReceiver<Request> {
        let (sender, requests) = mpsc::unbounded_channel();
        self.expected.lock().unwrap().insert(path.to_owned(), sender);
        requests
    }
}

async fn arrived(socket: TcpStream, expected: Expected) {
    socket.set_nodelay(true).expect("an option");
    let mut socket = BufReader::new(socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_until(b'\n', &mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let head = String::from_utf8_lossy(&head);
    // Our client asks for more in the query.
    let path = head.split([' ', '?']).nth(1).expect("a target").to_owned();
    let mut request = Request { at: Instant::now(), last_event_id: last_event_id(&head), socket: socket.into_inner() };
    let expecting = expected.lock().unwrap().get(&path).cloned();
    match expecting {
        // No test may wait for this request any longer.
        Some(expecting) => drop(expecting.send(request)),
        // Browsers ask for an icon.
        None => request.write("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await,
    }
}

fn last_event_id(head: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(name, _)| name.eq_ignore_ascii_case("last-event-id")).map(|(_, value)| value.to_owned())
}

/// A request that waits for its response. If it is dropped without [`end`](Self::end), the response breaks.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) last_event_id: Option<String>,
    socket: TcpStream,
}

impl Request {
    /// Sends the head of an event stream.
    pub(crate) async fn stream(&mut self, content_type: &str) {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n";
        self.write(&format!("{head}content-type: {content_type}\r\n\r\n")).await;
    }

    pub(crate) async fn no_content(mut self) {
        self.write("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    }

    /// Sends bytes in chunks of this size.
    pub(crate) async fn send(&mut self, text: &str, size: usize) {
        let mut wire = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            wire.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            wire.extend([chunk, b"\r\n"].concat());
        }
        // The gateway may have closed the connection after its client left.
        let _ = self.socket.write_all(&wire).await;
    }

    /// Ends the response cleanly. Returns the time.
    pub(crate) async fn end(mut self) -> Instant {
        self.write("0\r\n\r\n").await;
        Instant::now()
    }

    async fn write(&mut self, text: &str) {
        let _ = self.socket.write_all(text.as_bytes()).await;
    }
}
