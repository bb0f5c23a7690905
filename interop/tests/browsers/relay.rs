//! A relay between the browser and its servers that treats event streams as bad networks do. Other requests pass.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::AbortHandle,
    time::{Instant, sleep},
};

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    Close,
    Reset,
    /// Nothing more arrives, and nobody is told.
    Stall,
    /// The browser's side is reset. The server's side stays open for a while.
    HalfOpen,
}

pub(crate) const BREAKS: [Break; 4] = [Break::Close, Break::Reset, Break::Stall, Break::HalfOpen];

/// What happens to the next request for an event stream.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// The response is this, and no server sees the request. The connection ends after it, if it `ends`.
    Answer { bytes: Vec<u8>, ends: bool },
    /// Breaks after so many bytes of the response.
    Break(usize, Break),
}

/// How the bytes of event streams arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    AsTheyCome,
    OneByOne,
    /// Nothing, until the response ends.
    AtTheEnd,
}

#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) port: u16,
    wire: Arc<Wire>,
    _accepting: Arc<Accepting>,
}

struct Wire {
    /// The servers, by the beginning of a path. `None`: requests wait.
    targets: watch::Sender<Vec<(&'static str, Option<SocketAddr>)>>,
    next: Mutex<VecDeque<Next>>,
    breaks: broadcast::Sender<(usize, Break)>,
    mode: watch::Sender<Mode>,
    seen: Mutex<Vec<(Instant, String)>>,
    answers: Mutex<Vec<Vec<u8>>>,
}

struct Accepting(AbortHandle);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(Wire {
            targets: watch::channel(vec![("/", None)]).0,
            next: Mutex::default(),
            breaks: broadcast::channel(64).0,
            mode: watch::channel(Mode::AsTheyCome).0,
            seen: Mutex::default(),
            answers: Mutex::default(),
        });
        let accepted = Arc::clone(&wire);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let wire = Arc::clone(&accepted);
                tokio::spawn(async move { wire.carry(client).await });
            }
        });
        Self { port, wire, _accepting: Arc::new(Accepting(accepting.abort_handle())) }
    }

    /// Sends requests whose path begins like this to a server. With `None`, they wait. The last of several counts.
    pub(crate) fn route(&self, path: &'static str, target: Option<SocketAddr>) {
        self.wire.targets.send_modify(|targets| {
            targets.retain(|(known, _)| *known != path);
            targets.push((path, target));
            targets.sort_by_key(|(path, _)| path.len());
        });
    }

    pub(crate) fn next(&self, next: impl IntoIterator<Item = Next>) {
        self.wire.next.lock().unwrap().extend(next);
    }

    /// Whether something still waits for a request.
    pub(crate) fn has_next(&self) -> bool {
        !self.wire.next.lock().unwrap().is_empty()
    }

    /// Breaks all open streams after so many more bytes each.
    pub(crate) fn break_all(&self, after: usize, how: Break) {
        // There may be no stream.
        let _ = self.wire.breaks.send((after, how));
    }

    pub(crate) fn mode(&self, mode: Mode) {
        self.wire.mode.send_replace(mode);
    }

    /// Everything is as it should be again, for new streams.
    pub(crate) fn mend(&self) {
        self.wire.next.lock().unwrap().clear();
        self.mode(Mode::AsTheyCome);
    }

    /// The heads of the requests for event streams, and when they came.
    pub(crate) fn seen(&self) -> Vec<(Instant, String)> {
        self.wire.seen.lock().unwrap().clone()
    }

    /// How the servers' responses with event streams begin.
    pub(crate) fn answers(&self) -> Vec<String> {
        self.wire.answers.lock().unwrap().iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
    }
}

fn is_for_events(head: &[u8]) -> bool {
    head.starts_with(b"GET /events")
}

impl Wire {
    async fn carry(&self, mut client: TcpStream) {
        client.set_nodelay(true).unwrap();
        // Browsers open connections that they may need.
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if !matches!(client.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
        let mut fault = None;
        let is_stream = is_for_events(&head);
        if is_stream {
            match self.asked(&head) {
                Some(Next::Answer { bytes, ends }) => {
                    let sent = client.write_all(&bytes).await;
                    // The browser may leave first.
                    if !ends && sent.is_ok() {
                        let _ = client.read_buf(&mut head).await;
                    }
                    return;
                }
                Some(Next::Break(0, Break::Close)) => return,
                Some(Next::Break(after, how)) => fault = Some((after, how)),
                None => {}
            }
        }
        let Some(mut server) = self.server_for(&head, &mut client).await else { return };
        if server.write_all(&head).await.is_err() {
            return;
        }
        let mut breaks = self.breaks.subscribe();
        let mut modes = self.mode.subscribe();
        let (mut up, mut down) = (Vec::with_capacity(16 << 10), vec![0; 16 << 10]);
        let mut held = Vec::new();
        let mut is_answered = !is_stream;
        loop {
            if let (Some((0, how)), true) = (fault, is_stream) {
                return end(how, client, server).await;
            }
            up.clear();
            let read = tokio::select! {
                read = client.read_buf(&mut up) => match read {
                    Ok(1..) => {
                        if server.write_all(&up).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    _ => return,
                },
                read = server.read(&mut down) => Some(read.unwrap_or(0)),
                Ok(told) = breaks.recv(), if is_stream => {
                    fault = Some(told);
                    continue;
                }
                Ok(()) = modes.changed() => None,
            };
            let mode = if is_stream { *modes.borrow_and_update() } else { Mode::AsTheyCome };
            held.extend_from_slice(&down[..read.unwrap_or(0)]);
            if read.is_some() && !is_answered {
                is_answered = true;
                self.answers.lock().unwrap().push(held.clone());
            }
            let is_end = read == Some(0);
            if mode == Mode::AtTheEnd && !is_end {
                continue;
            }
            let mut bytes = std::mem::take(&mut held);
            if let Some((after, _)) = &mut fault {
                bytes.truncate(*after);
                *after -= bytes.len();
            }
            let sent = match mode {
                Mode::OneByOne => one_by_one(&mut client, &bytes).await,
                _ => client.write_all(&bytes).await,
            };
            if is_end || sent.is_err() {
                return;
            }
        }
    }

    /// A request for an event stream.
    fn asked(&self, head: &[u8]) -> Option<Next> {
        self.seen.lock().unwrap().push((Instant::now(), String::from_utf8_lossy(head).to_lowercase()));
        self.next.lock().unwrap().pop_front()
    }

    /// Connects to the server when there is one, unless the browser leaves first.
    async fn server_for(&self, head: &[u8], client: &mut TcpStream) -> Option<TcpStream> {
        let path = head.split(|byte| *byte == b' ').nth(1)?;
        let mut targets = self.targets.subscribe();
        let target = |targets: &Vec<(&str, Option<SocketAddr>)>| {
            targets.iter().rev().find(|(prefix, _)| path.starts_with(prefix.as_bytes()))?.1
        };
        let address = tokio::select! {
            targets = targets.wait_for(|targets| target(targets).is_some()) => target(&*targets.ok()?)?,
            _ = client.readable() => return None,
        };
        // A server that does not accept connections is treated like one that closes them.
        let server = TcpStream::connect(address).await.ok()?;
        server.set_nodelay(true).unwrap();
        Some(server)
    }
}

async fn one_by_one(client: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        client.write_all(&[*byte]).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn end(how: Break, mut client: TcpStream, mut server: TcpStream) {
    match how {
        Break::Close => {}
        Break::Reset => _ = client.set_zero_linger(),
        Break::Stall => {
            // The server goes on, until the browser leaves.
            let (mut sink, mut nothing) = (tokio::io::sink(), Vec::new());
            tokio::select! {
                _ = tokio::io::copy(&mut server, &mut sink) => drop(client.read_buf(&mut nothing).await),
                _ = client.read_buf(&mut nothing) => {}
            }
        }
        Break::HalfOpen => {
            let _ = client.set_zero_linger();
            drop(client);
            sleep(Duration::from_secs(2)).await;
        }
    }
}
