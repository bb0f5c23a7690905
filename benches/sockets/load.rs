//! The load: one thread reads thousands of streams and checks each event of each.

use std::{
    io::{self, Read, Write},
    net::{self, SocketAddr},
    thread,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    latency::Latencies,
    wire::{self, begins_a_tick, tick},
};

/// The number of connections that are opened at a time: as many as any listener's queue holds.
const AT_ONCE: usize = 128;
const PATIENCE: Duration = Duration::from_secs(30);
const AT_A_LOOK: usize = 1024;
/// The load polls its sockets and does not wait to be woken. A process that writes to a socket with a waiting reader
/// pays for the wake-up. A server whose clients are on other machines does not pay that.
const BETWEEN_LOOKS: Duration = Duration::from_micros(200);

/// The received events.
pub(crate) struct Arrivals {
    pub(crate) events: u64,
    /// Missing sequence numbers in streams that went on.
    pub(crate) missing: u64,
    /// Events whose number was not greater than the last one.
    pub(crate) misplaced: u64,
    /// Bytes that are neither an event nor a comment.
    pub(crate) foreign: u64,
    pub(crate) closed: usize,
    pub(crate) last: Duration,
    pub(crate) latencies: Latencies,
}

/// Open streams.
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    streams: Vec<Stream>,
    buffer: Vec<u8>,
}

impl Load {
    /// Opens this many streams, and waits until each has received its head.
    pub(crate) fn open(address: SocketAddr, streams: usize) -> Self {
        let mut load = Self {
            poll: Poll::new().expect("a poll"),
            events: Events::with_capacity(AT_A_LOOK),
            streams: Vec::with_capacity(streams),
            buffer: vec![0; 256 << 10],
        };
        while load.streams.len() < streams {
            for _ in 0..AT_ONCE.min(streams - load.streams.len()) {
                let token = Token(load.streams.len());
                let mut stream = Stream::open(address);
                load.poll.registry().register(&mut stream.socket, token, Interest::READABLE).expect("a free place");
                load.streams.push(stream);
            }
            let mut arrivals = Arrivals::new();
            let deadline = wire::now() + PATIENCE;
            while load.streams.iter().any(|stream| stream.phase == Phase::Head) {
                assert!(wire::now() < deadline && arrivals.closed == 0, "the server does not answer");
                load.turn(&mut arrivals);
            }
        }
        load
    }

    /// Reads until all streams have this many events, or until the deadline.
    pub(crate) fn run(&mut self, events: u64, deadline: Duration) -> Arrivals {
        let mut arrivals = Arrivals::new();
        while wire::now() < deadline && self.streams.iter().any(|stream| stream.next <= events && !stream.is_closed) {
            self.turn(&mut arrivals);
        }
        arrivals
    }

    fn turn(&mut self, arrivals: &mut Arrivals) {
        if let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
        }
        for event in &self.events {
            self.streams[event.token().0].read(&mut self.buffer, arrivals);
        }
        if self.events.iter().count() < AT_A_LOOK {
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

impl Arrivals {
    fn new() -> Self {
        Self {
            events: 0,
            missing: 0,
            misplaced: 0,
            foreign: 0,
            closed: 0,
            last: Duration::ZERO,
            latencies: Latencies::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    /// Before the size of a chunk. `true`: first comes the line end of the chunk before it.
    Size(bool),
    Chunk {
        left: usize,
    },
}

struct Stream {
    socket: TcpStream,
    phase: Phase,
    /// Bytes that are not a complete piece yet.
    rest: Vec<u8>,
    /// The next event's sequence number.
    next: u64,
    is_closed: bool,
}

impl Stream {
    fn open(address: SocketAddr) -> Self {
        let mut socket = net::TcpStream::connect(address).expect("a connection");
        let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("room for a request");
        socket.set_nonblocking(true).expect("a socket");
        let socket = TcpStream::from_std(socket);
        Self { socket, phase: Phase::Head, rest: Vec::new(), next: 1, is_closed: false }
    }

    /// Reads all bytes that are ready.
    fn read(&mut self, buffer: &mut [u8], arrivals: &mut Arrivals) {
        loop {
            let before = self.rest.len();
            buffer[..before].copy_from_slice(&self.rest);
            let room = &mut buffer[before..];
            let read = match self.socket.read(room) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if read == 0 {
                arrivals.closed += usize::from(!self.is_closed);
                self.is_closed = true;
                return;
            }
            let is_all = read < room.len();
            let bytes = &buffer[..before + read];
            let taken = self.take(bytes, arrivals);
            self.rest.clear();
            self.rest.extend_from_slice(&bytes[taken..]);
            // Bytes that come after a read that did not fill the buffer cause another poll event.
            if is_all {
                return;
            }
        }
    }

    /// Checks the complete pieces in these bytes. Returns how many bytes they are.
    fn take(&mut self, bytes: &[u8], arrivals: &mut Arrivals) -> usize {
        let now = wire::now();
        let mut at = 0;
        loop {
            let bytes = &bytes[at..];
            at += match self.phase {
                Phase::Head => {
                    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return at };
                    assert!(bytes.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(bytes));
                    self.phase = Phase::Size(false);
                    end + 4
                }
                Phase::Size(is_behind_one) => {
                    let start = if is_behind_one { 2 } else { 0 };
                    let digits = bytes.get(start..).unwrap_or_default();
                    let Some(end) = digits.iter().position(|byte| *byte == b'\r') else { return at };
                    if digits.len() < end + 2 {
                        return at;
                    }
                    self.phase = Phase::Chunk { left: hexadecimal(&digits[..end]) };
                    start + end + 2
                }
                Phase::Chunk { left: 0 } => {
                    self.phase = Phase::Size(true);
                    0
                }
                Phase::Chunk { left } => {
                    let whole = &bytes[..left.min(bytes.len())];
                    let length = match tick(whole) {
                        Some(tick) => {
                            arrivals.add(&mut self.next, tick.sequence, now, tick.due);
                            tick.length
                        }
                        // A block that is no event of the plan is a heartbeat, or is counted as foreign.
                        None if whole.len() == left => {
                            arrivals.foreign += u64::from(begins_a_tick(whole) || !whole.starts_with(b":"));
                            left
                        }
                        None => return at,
                    };
                    self.phase = Phase::Chunk { left: left - length };
                    length
                }
            }
        }
    }
}

impl Arrivals {
    fn add(&mut self, next: &mut u64, sequence: u64, now: Duration, due: u64) {
        let nanoseconds = now.as_nanos() as u64;
        self.latencies.add(nanoseconds.saturating_sub(due));
        self.last = now;
        self.events += 1;
        if sequence < *next {
            self.misplaced += 1;
            return;
        }
        self.missing += sequence - *next;
        *next = sequence + 1;
    }
}

fn hexadecimal(digits: &[u8]) -> usize {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).expect("the size of a chunk") as usize;
    digits.iter().fold(0, |size, byte| size * 16 + digit(byte))
}
