//! A thousand hostile clients, and a program with fewer file descriptors than that.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    iter::Cycle,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    slice,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    process::Command,
    task::spawn_blocking,
    time::sleep,
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
    // Some clients ask for this host, see `client.rs`.
    command.env("HOSTS", "server.test").stdin(Stdio::null()).kill_on_drop(true);
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

/// Requests whose bodies never come, over connections of their own. They are renewed until it is dropped.
pub(crate) struct Renewal(Arc<()>);

impl Renewal {
    /// There are always so many. In each second, so many new ones take the places of the oldest. `addresses`: from which they
    /// come in turn.
    pub(crate) async fn of(address: SocketAddr, post: &str, number: usize, per_second: usize, addresses: u8) -> Self {
        rlimit::increase_nofile_limit(4 * CONNECTIONS as u64).expect("a higher limit on open files");
        let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 10000";
        let request = format!("POST {post} HTTP/1.1\r\nhost: localhost\r\n{form}\r\n\r\n").into_bytes();
        let mut own = (0..addresses).map(|last| Ipv4Addr::new(127, 0, 1, last + 1)).cycle();
        let mut next = move || connect_from(own.next()?, address, &request).ok();
        let first = spawn_blocking(move || ((0..number).map(|_| next()).collect::<VecDeque<_>>(), next));
        let (mut requests, mut next) = first.await.expect("no panic");
        let (goes_on, begun) = (Arc::new(()), Instant::now());
        let is_over = Arc::downgrade(&goes_on);
        thread::spawn(move || {
            let mut renewed = 0;
            while is_over.strong_count() > 0 {
                thread::sleep(DRIP / TURNS);
                while renewed < (begun.elapsed().as_secs_f64() * per_second as f64) as usize {
                    requests.push_back(next());
                    requests.pop_front();
                    renewed += 1;
                }
            }
        });
        Self(goes_on)
    }
}

/// A client at one of this machine's addresses that begins so.
fn connect_from(own: Ipv4Addr, address: SocketAddr, opening: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    socket.connect_timeout(&address.into(), Duration::from_secs(1))?;
    let mut socket = TcpStream::from(socket);
    socket.write_all(opening)?;
    Ok(socket)
}

/// Clients that mean well are served within a second beside such requests, which come from many addresses or from one.
pub(crate) async fn renewals_keep_nobody_out(
    address: SocketAddr,
    (post, path): (&str, &str),
    (number, per_second): (usize, usize),
) {
    for addresses in [200, 1] {
        let _renewal = Renewal::of(address, post, number, per_second, addresses).await;
        let mut times = Times::default();
        for _ in 0..20 {
            let (time, status) = get(address, path).await;
            assert_eq!(status, "HTTP/1.1 200 OK", "beside requests of {addresses} addresses");
            times.note(time);
        }
        times.are_within_a_second();
    }
}

/// Ordinary streams, 20 each of 25 addresses, do not keep others from being answered.
pub(crate) async fn streams_leave_connections_for_others(address: SocketAddr, stream: &str, path: &str) {
    rlimit::increase_nofile_limit(4 * CONNECTIONS as u64).expect("a higher limit on open files");
    let request = format!("GET {stream} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
    let open = move || {
        let addresses = (0..25).map(|last| Ipv4Addr::new(127, 0, 2, last + 1)).cycle();
        let sockets = addresses.take(25 * 20).map(|own| connect_from(own, address, &request));
        // Each of them has an answer before the next comes.
        let answered = sockets.map(|socket| {
            let mut socket = socket?;
            socket.read_exact(&mut [0; 12]).map(|()| socket)
        });
        answered.collect::<Vec<_>>()
    };
    let streams = spawn_blocking(open).await.expect("no panic");
    assert!(streams.iter().all(Result::is_ok), "each gets an answer");
    let mut times = Times::default();
    for _ in 0..10 {
        let (time, status) = get(address, path).await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        times.note(time);
    }
    times.are_within_a_second();
}

/// How long a head is under way that does not come from this machine: 20 to 100 ms, and each time another time.
pub(crate) async fn way() {
    static HEADS: AtomicU64 = AtomicU64::new(0);
    sleep(Duration::from_millis(20 + 20 * (HEADS.fetch_add(1, Ordering::Relaxed) % 5))).await;
}

/// Sends a byte on each connection that trickles, in each period. They do not all come at once.
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
    way().await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut status = String::new();
    while !status.ends_with("\r\n") {
        status.push(char::from(socket.read_u8().await?));
    }
    Ok((begun.elapsed(), status.trim_end().to_owned()))
}

pub(crate) async fn read_until(socket: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(socket.read_u8().await.expect("more of it")));
    }
    text
}

/// How each kind begins, and what it goes on with, one byte at a time. With nothing, it only holds its connection.
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
