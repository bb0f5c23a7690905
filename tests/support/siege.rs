//! A thousand hostile clients, and a program with fewer file descriptors than that.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    io::{self, ErrorKind, Read, Write},
    iter::Cycle,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    slice,
    sync::{Arc, Mutex, Weak},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    process::Command,
    task::spawn_blocking,
};

pub(crate) const CONNECTIONS: usize = 1000;
pub(crate) const FILES: usize = 512;
/// The time between two bytes of a slow client.
const DRIP: Duration = Duration::from_millis(100);
const TURNS: u32 = 10;

/// A command that starts this program with 512 file descriptors. The process is killed when it is dropped.
pub(crate) fn with_few_files(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {FILES} && exec \"$0\" \"$@\"")]).arg(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The connections of the hostile clients. They stay open until this is dropped or the server closes them.
///
/// One thread serves them all, and does nothing between two rounds, so that the machine's time is left for the server
/// and the good clients.
pub(crate) struct Siege(Arc<Mutex<Vec<Besieger>>>);

struct Besieger {
    socket: TcpStream,
    drips: Cycle<slice::Iter<'static, u8>>,
}

impl Siege {
    /// Opens connections of all kinds. `post` is a path that accepts bodies.
    pub(crate) async fn lay(address: SocketAddr, post: &str) -> Self {
        Self::of(address, kinds(post)).await
    }

    /// Runs `each` once per kind, with all connections of that kind.
    pub(crate) async fn lay_each(address: SocketAddr, post: &str, mut each: impl AsyncFnMut(Self)) {
        for kind in kinds(post) {
            each(Self::of(address, vec![kind]).await).await;
        }
    }

    async fn of(address: SocketAddr, kinds: Vec<(Vec<u8>, &'static [u8])>) -> Self {
        // The limit of this process, which has the other end of each connection.
        rlimit::increase_nofile_limit(4 * CONNECTIONS as u64).expect("a higher limit on open files");
        let connect = move || {
            let kinds = kinds.iter().cycle().take(CONNECTIONS);
            // The server may close one connection at once while it answers all others.
            kinds.filter_map(|(opening, drips)| Besieger::connect(address, opening, drips).ok()).collect()
        };
        let besiegers = spawn_blocking(connect).await.expect("no panic");
        let siege = Self(Arc::new(Mutex::new(besiegers)));
        let besiegers = Arc::downgrade(&siege.0);
        thread::spawn(move || drip(&besiegers));
        siege
    }

    /// The number of connections that the server has not closed.
    pub(crate) fn left(&mut self) -> usize {
        let mut besiegers = self.0.lock().expect("no panic");
        besiegers.retain_mut(|besieger| besieger.is_connected());
        besiegers.len()
    }
}

/// Sends a byte on each slow connection in each period. Not all bytes are sent at once.
fn drip(besiegers: &Weak<Mutex<Vec<Besieger>>>) {
    for turn in (0..TURNS).cycle() {
        thread::sleep(DRIP / TURNS);
        let Some(besiegers) = besiegers.upgrade() else { return };
        for besieger in besiegers.lock().expect("no panic").iter_mut().skip(turn as usize).step_by(TURNS as usize) {
            if let Some(byte) = besieger.drips.next() {
                // Whether the server has closed the connection is checked in `left`.
                let _ = besieger.socket.write(&[*byte]);
            }
        }
    }
}

impl Besieger {
    fn connect(address: SocketAddr, opening: &[u8], drips: &'static [u8]) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        let _ = socket.write_all(opening);
        socket.set_nonblocking(true)?;
        Ok(Self { socket, drips: drips.iter().cycle() })
    }

    fn is_connected(&mut self) -> bool {
        let mut told = [0; 1024];
        loop {
            match self.socket.read(&mut told) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// How long the good clients were kept waiting.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn note(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Checks that each waited less than a second.
    pub(crate) fn are_within_a_second(self) {
        assert!(self.0.iter().all(|time| *time < Duration::from_secs(1)), "{:?}", self.0);
    }
}

/// Sends a GET over a new connection. Returns the time that it took and the status line of the response.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (Duration, String) {
    get_from(Ipv4Addr::LOCALHOST, address, path).await.expect("an answer")
}

/// The same from another of this machine's addresses, for which the server may have no room.
pub(crate) async fn get_from(own: Ipv4Addr, address: SocketAddr, path: &str) -> io::Result<(Duration, String)> {
    let begun = Instant::now();
    let socket = TcpSocket::new_v4()?;
    socket.bind((own, 0).into())?;
    let mut socket = socket.connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut status = String::new();
    while !status.ends_with("\r\n") {
        status.push(char::from(socket.read_u8().await?));
    }
    Ok((begun.elapsed(), status.trim_end().to_owned()))
}

/// The opening of each kind, and the bytes that follow it one at a time. A kind without such bytes only holds its
/// connection.
fn kinds(post: &str) -> Vec<(Vec<u8>, &'static [u8])> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A HEADERS frame of stream 1 with END_HEADERS: POST, http, a path and an authority.
    let literal = |name: u8, value: &str| [&[name, value.len() as u8][..], value.as_bytes()].concat();
    let fields = [&[0x83, 0x86][..], &literal(0x04, post), &literal(0x01, "server.test")].concat();
    let headers = |flags| [&[0, 0, fields.len() as u8, 1, flags, 0, 0, 0, 1][..], &fields].concat();
    let head = format!("POST {post} HTTP/1.1\r\nhost: server.test\r\n");
    // The first half of a DATA frame of 100 bytes, and of a field block that continues.
    let data = [0, 0, 100, 0, 0, 0, 0, 0, 1];
    let continuation = [0, 0, 100, 9, 0, 0, 0, 0, 1];
    vec![
        // Silent connections.
        (Vec::new(), b""),
        (b"G".to_vec(), b""),
        (PREFACE[..10].to_vec(), b""),
        ([PREFACE, SETTINGS].concat(), b""),
        // Half-open: half of a request, and no more bytes.
        (head.clone().into_bytes(), b""),
        (format!("{head}content-length: 100\r\n\r\nhalf").into_bytes(), b""),
        ([PREFACE, SETTINGS, &headers(4)].concat(), b""),
        // Slow heads.
        (b"GET / HTTP/1.1\r\nhost: server.test\r\nx: ".to_vec(), b"x"),
        ([PREFACE, SETTINGS, &headers(0), &continuation].concat(), b"\0"),
        // Slow bodies.
        (format!("{head}content-length: 100000\r\n\r\n").into_bytes(), b"x"),
        (format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes(), b"1\r\nx\r\n"),
        ([PREFACE, SETTINGS, &headers(4), &data].concat(), b"x"),
    ]
}
