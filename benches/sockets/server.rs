//! The server process: one thread on one core. It reads commands from its standard input, and ends with it.

use std::{
    convert::Infallible,
    fs,
    future::IntoFuture,
    io::{BufRead, Write, stdin},
    mem::take,
    net::{self, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Sse, sse},
    routing::get,
    serve::{Listener, ListenerExt},
};
use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::Frame;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    sync::{broadcast, mpsc},
    time::sleep,
};
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower_sse::{Batching, ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError};

use crate::wire::{self, EVENT_TYPE};

/// The implementation that answers the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The layer and the registry.
    Ours,
    /// The same with batches: events wait for up to a tenth of a second.
    Batched,
    /// The alternative: axum's `Sse` over a broadcast channel.
    Axums,
    /// A minimal body: no heartbeat, no end, no joined events. It shows the cost of hyper and tokio besides the
    /// system's.
    Least,
    /// A body that never has a frame.
    Bare,
    /// The same body, which also keeps the headers of its request.
    Keeping,
    /// A body that never has a frame, in a router with a hundred other routes.
    ManyRoutes,
    /// No HTTP server: a task that answers by hand and waits.
    Task,
    /// No server at all: a loop over sockets with a write for each event. The system's cost for this is the minimum.
    Raw,
}

/// The code that serves the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    AxumServe,
    /// The same, with the router given as a service that makes services.
    MakeService,
    Auto,
    Http1,
    SmallBuffers,
    NoTimeout,
    Flatten,
}

impl Side {
    const ALL: [(&str, Self); 9] = [
        ("ours", Self::Ours),
        ("batched", Self::Batched),
        ("axum", Self::Axums),
        ("least", Self::Least),
        ("bare", Self::Bare),
        ("keeping", Self::Keeping),
        ("many-routes", Self::ManyRoutes),
        ("task", Self::Task),
        ("raw", Self::Raw),
    ];

    pub(crate) fn name(self) -> &'static str {
        name_in(&Self::ALL, self)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        named_in(&Self::ALL, name)
    }
}

impl Behind {
    const ALL: [(&str, Self); 7] = [
        ("axum-serve", Self::AxumServe),
        ("make-service", Self::MakeService),
        ("auto", Self::Auto),
        ("http1", Self::Http1),
        ("small-buffers", Self::SmallBuffers),
        ("no-timeout", Self::NoTimeout),
        ("flatten", Self::Flatten),
    ];

    pub(crate) fn name(self) -> &'static str {
        name_in(&Self::ALL, self)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        named_in(&Self::ALL, name)
    }

    fn http1(self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        match self {
            Self::SmallBuffers => builder.max_buf_size(8192),
            Self::NoTimeout => builder.header_read_timeout(None),
            Self::Flatten => builder.writev(false),
            Self::Http1 | Self::Auto | Self::AxumServe | Self::MakeService => &mut builder,
        };
        builder
    }
}

fn name_in<T: Copy + PartialEq>(all: &[(&'static str, T)], wanted: T) -> &'static str {
    all.iter().find(|(_, it)| *it == wanted).expect("each side has a name").0
}

fn named_in<T: Copy>(all: &[(&'static str, T)], wanted: &str) -> Option<T> {
    all.iter().find(|(name, _)| *name == wanted).map(|(_, it)| *it)
}

/// The head of a response that is written by hand.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A function that publishes an event with this sequence number and data.
type Publish = Box<dyn Fn(u64, String)>;

/// Serves until the standard input ends. Prints the address on the standard output.
pub(crate) fn serve(side: Side, behind: Behind) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        println!("{}", listener.local_addr().expect("its address").port());
        let (sender, mut plans) = mpsc::unbounded_channel();
        thread::spawn(move || obey(&sender));
        let sockets = Arc::default();
        let (router, publish) = match side {
            Side::Ours => ours(|layer| layer),
            Side::Batched => ours(|layer| layer.batching(Batching::every(Duration::from_millis(100)))),
            Side::Axums => axums(),
            Side::Least => least(),
            Side::Raw => (Router::new(), raw(&sockets)),
            _ => (bare(side), Box::new(|_, _| {}) as Publish),
        };
        match (side, behind) {
            (Side::Task, _) => _ = tokio::spawn(by_hand(listener)),
            (Side::Raw, _) => _ = tokio::spawn(keep(listener, sockets)),
            (_, Behind::AxumServe) => {
                _ = tokio::spawn(axum::serve(without_delay(listener), router).into_future());
            }
            (_, Behind::MakeService) => {
                _ = tokio::spawn(axum::serve(without_delay(listener), router.into_make_service()).into_future());
            }
            _ => _ = tokio::spawn(by_hyper(listener, router, behind)),
        }
        while let Some((rate, events, from)) = plans.recv().await {
            for sequence in 1..=events {
                let due = from + Duration::from_secs(sequence - 1) / rate;
                // A late server publishes all due events at once. Their latency still counts from their due time.
                let early = due.saturating_sub(wire::now());
                if !early.is_zero() {
                    sleep(early).await;
                }
                publish(sequence, wire::data(sequence, due));
            }
        }
    });
}

fn ours(set: fn(SseLayer) -> SseLayer) -> (Router, Publish) {
    async fn prices(client: ClientHandle) -> Result<EventStream, SubscribeError> {
        client.subscribe("prices")?;
        Ok(client.into_stream())
    }
    let registry = Registry::new();
    let router = Router::new().route("/", get(prices)).layer(set(SseLayer::new(&registry)));
    let publish = move |_, data| {
        let event = Event::data(data).event(EVENT_TYPE);
        registry.publish("prices", event).expect("room for the event");
    };
    (router, Box::new(publish))
}

fn axums() -> (Router, Publish) {
    let (sender, _) = broadcast::channel::<sse::Event>(1024);
    let of_all = sender.clone();
    let prices = move || async move {
        // A reader that falls behind misses the overwritten events, and goes on.
        let events = BroadcastStream::new(of_all.subscribe()).filter_map(Result::ok).map(Ok::<_, Infallible>);
        Sse::new(events).keep_alive(sse::KeepAlive::default())
    };
    let publish = move |_, data| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
        let id = format!("{}-0", since_epoch.as_millis());
        let event = sse::Event::default().event(EVENT_TYPE).data(data).id(id);
        sender.send(event).expect("there is a receiver");
    };
    (Router::new().route("/", get(prices)), Box::new(publish))
}

/// All events so far, and the tasks that wait for more.
#[derive(Default)]
struct Past {
    events: Vec<Bytes>,
    waiting: Vec<Waker>,
}

struct Least {
    past: Arc<Mutex<Past>>,
    next: usize,
}

impl http_body::Body for Least {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut past = this.past.lock().expect("no holder panics");
        if let Some(event) = past.events.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(event.clone()))));
        }
        past.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

fn least() -> (Router, Publish) {
    let past = Arc::new(Mutex::new(Past::default()));
    let of_all = Arc::clone(&past);
    let answer = async move || {
        let body = Least { past: of_all, next: 0 };
        ([(CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response()
    };
    let publish = move |sequence, data: String| {
        let mut past = past.lock().expect("no holder panics");
        past.events.push(wire_by_hand(sequence, &data).into());
        let waiting = take(&mut past.waiting);
        drop(past);
        waiting.into_iter().for_each(Waker::wake);
    };
    (Router::new().route("/", get(answer)), Box::new(publish))
}

fn wire_by_hand(sequence: u64, data: &str) -> String {
    format!("event: {EVENT_TYPE}\ndata: {data}\nid: {sequence:013}-0\n\n")
}

fn bare(side: Side) -> Router {
    let answer = move |headers: HeaderMap| async move {
        let body = Silent { _headers: Some(headers).filter(|_| side == Side::Keeping) };
        ([(CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response()
    };
    let others = if side == Side::ManyRoutes { 100 } else { 0 };
    let router = Router::new().route("/", get(answer));
    (0..others).fold(router, |router, other| router.route(&format!("/other/{other}"), get(async || "")))
}

/// A body that never has a frame.
struct Silent {
    _headers: Option<HeaderMap>,
}

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn without_delay(listener: TcpListener) -> impl Listener<Addr = SocketAddr> {
    listener.tap_io(|socket| socket.set_nodelay(true).expect("a connected socket"))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (socket, _) = listener.accept().await.expect("files enough");
    socket.set_nodelay(true).expect("a connected socket");
    socket
}

async fn by_hyper(listener: TcpListener, router: Router, behind: Behind) {
    let http1 = behind.http1();
    loop {
        let socket = TokioIo::new(accept(&listener).await);
        let service = TowerToHyperService::new(router.clone());
        if behind == Behind::Auto {
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                _ = builder.serve_connection(socket, service).await;
            });
        } else {
            tokio::spawn(http1.serve_connection(socket, service));
        }
    }
}

async fn by_hand(listener: TcpListener) {
    loop {
        let mut socket = accept(&listener).await;
        tokio::spawn(async move {
            let mut request = [0; 256];
            while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                socket.write_all(HEAD).await.expect("a connected socket");
            }
        });
    }
}

type Sockets = Arc<Mutex<Vec<net::TcpStream>>>;

async fn keep(listener: TcpListener, sockets: Sockets) {
    loop {
        let mut socket = accept(&listener).await;
        _ = socket.read(&mut [0; 256]).await.expect("a request");
        socket.write_all(HEAD).await.expect("a connected socket");
        sockets.lock().expect("no holder panics").push(socket.into_std().expect("a socket"));
    }
}

fn raw(sockets: &Sockets) -> Publish {
    let sockets = Arc::clone(sockets);
    Box::new(move |sequence, data| {
        let event = wire_by_hand(sequence, &data);
        let chunk = format!("{:X}\r\n{event}\r\n", event.len());
        for mut socket in sockets.lock().expect("no holder panics").iter() {
            // A reader this slow misses the bytes, and the load counts the loss.
            _ = socket.write(chunk.as_bytes());
        }
    })
}

/// A rate, a number of events, and when the first is due.
type Plan = (u32, u64, Duration);

fn obey(plans: &mpsc::UnboundedSender<Plan>) {
    for line in stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["usage"] => {
                let usage = getrusage(UsageWho::RUSAGE_SELF).expect("its own usage");
                let [user, system] = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
                println!("{user} {system} {} {}", waited(), resident());
            }
            ["publish", rate, events] => {
                let (Ok(rate), Ok(events)) = (rate.parse(), events.parse()) else { continue };
                let from = wire::now() + Duration::from_millis(100);
                println!("{}", from.as_nanos());
                _ = plans.send((rate, events, from));
            }
            _ => {}
        }
    }
    // The parent process has exited or needs no more results.
    std::process::exit(0);
}

/// The nanoseconds for which the busy thread was ready to run while something else used its core. 0 if the system does
/// not report it.
fn waited() -> u64 {
    let statistics = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    statistics.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the proc file system");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("the resident memory") * 1024
}
