//! The dashboard as a real process that is told to stop: its streams end in order, and the process exits in time.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use nix::sys::signal::Signal::{self, SIGINT, SIGTERM};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    BOUND, example,
    example::Example,
    wire::{End, Http1, Http2, Seen},
};

static DASHBOARD: Example = Example::named("dashboard");

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(2);
/// A window that no test fills.
const ALL: u32 = 0x7fff_ffff;

struct Dashboard {
    process: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Dashboard {
    async fn start() -> Self {
        let drain_ms = WINDOW.as_millis().to_string();
        let mut command = DASHBOARD.command();
        command.env("PORT", "0").env("DRAIN_MS", drain_ms).env("RETENTION_EVENTS", "100000");
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = within(stdout.next_line()).await.unwrap().unwrap();
        let address = ready.strip_prefix("listening on http://").unwrap().parse().unwrap();
        Self { process, stdout, address }
    }

    fn signal(&self, signal: Signal) {
        example::signal(&self.process, signal);
    }

    /// Returns the last line of the output and the exit code.
    async fn end(mut self) -> (String, Option<i32>) {
        let mut last = String::new();
        while let Some(line) = within(self.stdout.next_line()).await.unwrap() {
            last = line;
        }
        (last, within(self.process.wait()).await.unwrap().code())
    }

    async fn publish(&self, topic: &str, data: &str) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let length = data.len();
        let head = format!(
            "POST /publish/{topic} HTTP/1.1\r\nhost: server.test\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(&[head.as_bytes(), data.as_bytes()].concat()).await.unwrap();
        let mut answer = String::new();
        within(socket.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Checks what a stream got: the position event, the event that was published before, the farewell, and the
/// reconnection time.
fn says_farewell(seen: &Seen) {
    assert_eq!(seen.end, End::Clean, "{:?}", seen.text);
    let (before, farewell) = seen.text.split_once("event: restart\n").expect(&seen.text);
    let position = before.strip_prefix("event: position\ndata: \nid: ").expect(before);
    let (_, before) = position.split_once("\n\n").expect(before);
    assert!(before.starts_with("data: before\nid: ") && before.ends_with("\n\n"), "{before:?}");
    let (data, retry) = farewell.split_once("\nretry: ").expect(farewell);
    assert!(data.starts_with("data: "), "{data:?}");
    retry.strip_suffix("\n\n").unwrap().parse::<u64>().unwrap();
}

async fn a_thousand_streams_end_on(signal: Signal) {
    rlimit::increase_nofile_limit(8192).unwrap();
    DASHBOARD.executable();
    let dashboard = Dashboard::start().await;
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let mut one = Http1::get(dashboard.address, "/events?topic=t").await;
        assert!(within(one.head()).await.starts_with("http/1.1 200"));
        ones.push(one);
    }
    for _ in 0..5 {
        let mut two = Http2::connect(dashboard.address, ALL).await;
        for _ in 0..100 {
            two.get("/events?topic=t").await;
        }
        within(two.answered()).await;
        twos.push(two);
    }
    dashboard.publish("t", "before").await;

    let start = Instant::now();
    let mut peers = JoinSet::new();
    ones.into_iter().for_each(|one| _ = peers.spawn(async { vec![one.last_body().await] }));
    twos.into_iter().for_each(|two| _ = peers.spawn(two.all()));
    dashboard.signal(signal);
    let (last, code) = dashboard.end().await;
    let gone_in = start.elapsed();
    assert_eq!((last.as_str(), code), ("ended 1000 streams, 0 still open", Some(0)));
    let seen: Vec<Seen> = within(peers.join_all()).await.into_iter().flatten().collect();
    assert_eq!(seen.len(), 1000);
    seen.iter().for_each(says_farewell);
    let mut ends: Vec<Duration> = seen.iter().map(|seen| seen.at - start).collect();
    ends.sort_unstable();
    println!("{signal}: first end {:?}, median {:?}, last {:?}; gone {gone_in:?}", ends[0], ends[500], ends[999]);
    assert!(gone_in < WINDOW + SECOND, "{gone_in:?}");
    for (nth, end) in ends.iter().enumerate() {
        let due = (WINDOW * 3 / 4).mul_f64(nth as f64 / 1000.0);
        assert!(*end >= due, "end {nth} comes after {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_end_on_sigterm() {
    a_thousand_streams_end_on(SIGTERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_end_on_sigint() {
    a_thousand_streams_end_on(SIGINT).await;
}

#[tokio::test]
async fn without_streams_the_process_exits_at_once() {
    let dashboard = Dashboard::start().await;
    let start = Instant::now();
    dashboard.signal(SIGTERM);
    assert_eq!(dashboard.end().await, ("ended 0 streams, 0 still open".to_owned(), Some(0)));
    assert!(start.elapsed() < WINDOW, "{:?}", start.elapsed());
}

#[tokio::test]
async fn peers_that_read_nothing_or_send_nothing_do_not_keep_the_process() {
    DASHBOARD.executable();
    let dashboard = Dashboard::start().await;
    let mut stalled = Http1::get(dashboard.address, "/events?topic=flood").await;
    within(stalled.head()).await;
    let mut stalled_too = Http2::connect(dashboard.address, 1 << 10).await;
    stalled_too.get("/events?topic=flood").await;
    within(stalled_too.answered()).await;
    let _silent = TcpStream::connect(dashboard.address).await.unwrap();
    let mut half = TcpStream::connect(dashboard.address).await.unwrap();
    half.write_all(b"GET /events?topic=t HTTP/1.1\r\nhost:").await.unwrap();
    let mut reads = Http1::get(dashboard.address, "/events?topic=t").await;
    within(reads.head()).await;
    let large = "x".repeat(1 << 20);
    for _ in 0..30 {
        dashboard.publish("flood", &large).await;
    }
    dashboard.publish("t", "before").await;
    let start = Instant::now();
    dashboard.signal(SIGTERM);
    says_farewell(&within(reads.last_body()).await);
    let (last, code) = dashboard.end().await;
    // The server may accept the end of a cut stream although it cannot write it.
    let is_right = ["ended 1 streams, 2 still open", "ended 2 streams, 1 still open"].contains(&last.as_str());
    assert!(is_right && code == Some(0), "{last:?} {code:?}");
    let gone_in = start.elapsed();
    // About a second; more on a busy machine.
    assert!((WINDOW..WINDOW + 10 * SECOND).contains(&gone_in), "{gone_in:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    DASHBOARD.executable();
    for signals in [[SIGTERM, SIGTERM], [SIGINT, SIGINT], [SIGTERM, SIGINT], [SIGINT, SIGTERM]] {
        let dashboard = Dashboard::start().await;
        let mut peers = Vec::new();
        for _ in 0..10 {
            let mut one = Http1::get(dashboard.address, "/events?topic=t").await;
            within(one.head()).await;
            peers.push(one);
        }
        dashboard.signal(signals[0]);
        // With this many streams, some have ended and some are open when the second signal comes.
        let ends = peers.iter_mut().map(|peer| Box::pin(peer.body())).collect::<Vec<_>>();
        let _first = first(ends).await;
        dashboard.signal(signals[1]);
        let (said, code) = dashboard.end().await;
        assert!(matches!(code, Some(130 | 143)), "{signals:?}: {code:?} after {said:?}");
        assert!(!said.starts_with("ended 10 "), "the process waits for no stream: {said:?}");
    }
}

async fn first<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    within(std::future::poll_fn(|cx| {
        let mut ready = futures.iter_mut().map(|future| std::pin::Pin::new(future).poll(cx));
        ready.find(std::task::Poll::is_ready).unwrap_or(std::task::Poll::Pending)
    }))
    .await
}

/// A bound on failure.
async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}
