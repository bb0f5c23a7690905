//! An accept loop for any tower service, over HTTP/1.1 and HTTP/2, that silent and slow clients cannot use up.
//!
//! `axum::serve` waits for ever for a request's head, and accepts connections until no file descriptor is left. Use
//! this instead, with a plain service or with a `Router`:
//!
//! ```text
//! let connections = Connections::new(Patience::default(), 1);          // each connection takes one file descriptor
//! tokio::select! {
//!     () = connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => {}
//!     () = told_to_end => {}
//! }
//! connections.close_within(Duration::from_secs(5)).await;              // and drain the registry at the same time
//! ```
//!
//! # What it does
//!
//! - **Deadlines.** A client has the patience (30 s) for its first request's head, whatever it sends until then: nothing, a
//!   byte, half of an HTTP/2 preface, a preface and no HEADERS. Later heads have to be there within the same time after the
//!   last answer. Then the connection ends gracefully, and after the same time again it is closed.
//! - **A bound on connections**: what the process's limit on open files leaves, see [`Connections::new`].
//! - **Room for new clients.** When the bound is reached, each new connection takes the place of one that waits for its client.
//!   First go those that have waited too long: for a head or for an answer to be taken, more than a second, and for a body, more
//!   than five seconds. Then goes the kind of which there are most: heads, bodies, or answers that nobody has taken for a quarter
//!   of a second. So many requests without bodies keep out no client whose head is still under way, and many silent connections
//!   end no upload. Last go answers that were given just now. Of one kind, the address that has most of them loses one first,
//!   and of one address, the one that has waited longest. While all connections are being answered, new ones are closed at once.
//! - **Answers that nobody takes.** A client that takes nothing for the patience, while an answer waits to be taken, is gone. Over
//!   HTTP/2 it may answer pings meanwhile, never open its window, and ask for more answers: these give it no more time.
//! - **Errors** of `accept`, which are mostly a lack of file descriptors, make room in the same way, and are tried again
//!   after 100 ms.
//! - **Peers that are gone** are found: `examples/support/sockets.rs`.
//!
//! # What it does not do
//!
//! - It bounds no address: one client can have all connections, as long as each of them is being answered. Use a `Limit` per
//!   address, and one of [`Connections::for_streams`] for all streams, as the dashboard does, or count all requests, as the
//!   gateway does. `requests_each` bounds an HTTP/2 connection.
//! - It gives no deadline to a request's body. tower-http's `TimeoutLayer` around the service does, where it reads all of a body
//!   before it answers: see the dashboard. The gateway passes bodies on, and asks for a pace.

use std::{
    cmp::Reverse,
    collections::HashMap,
    convert::Infallible,
    error::Error,
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulConnection},
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::{Service, ServiceExt};

use crate::sockets::Patience;

/// Files that are not connections: standard streams, the listener, the runtime, log files.
const RESERVED_FILES: u64 = 64;
/// A well-behaved client sends its head within this time after it has connected, and reads what it is sent.
const HEAD_START: Duration = Duration::from_secs(1);
/// Between two parts of an answer, a client that takes it needs no longer.
const TAKING: Duration = Duration::from_millis(250);
/// Most bodies are there within this time.
const BODY_START: Duration = Duration::from_secs(5);
/// How many connections may wait to be accepted, if the system allows as many.
const BACKLOG: i32 = 4096;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The body of a request, as the service gets it.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, hyper::Error>;
type BoxError = Box<dyn Error + Send + Sync>;

pub(crate) struct Connections {
    patience: Patience,
    most: u32,
    requests_each: Option<u32>,
    places: Arc<Semaphore>,
    open: Arc<Mutex<HashMap<u64, Arc<Connection>>>>,
    stop: watch::Sender<bool>,
}

impl Connections {
    /// The limit is what the limit on open files allows, if each connection takes `files_each` files: one, or two with
    /// a connection to an upstream.
    pub(crate) fn new(patience: Patience, files_each: u64) -> Self {
        #[cfg(unix)]
        let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
        #[cfg(not(unix))]
        let files = 1 << 16;
        let most = (files.saturating_sub(RESERVED_FILES) / files_each).clamp(1, 1 << 16) as u32;
        let places = Arc::new(Semaphore::new(most as usize));
        Self { patience, most, requests_each: None, places, open: Arc::default(), stop: watch::channel(false).0 }
    }

    /// How many requests one HTTP/2 connection may have at once. Default: hyper's, 200. The next request is refused
    /// (`REFUSED_STREAM`) before the service sees it. An HTTP/1.1 connection has one.
    #[allow(dead_code, reason = "not all programs set a limit")]
    pub(crate) fn requests_each(self, most: u32) -> Self {
        Self { requests_each: Some(most), ..self }
    }

    /// How many of them streams may keep for long: all but an eighth. The rest is for short requests, and for telling a client
    /// that there is no room for its stream. If streams had all, the next client would be closed without a word.
    #[allow(dead_code, reason = "not all programs bound their streams")]
    pub(crate) fn for_streams(&self) -> u32 {
        self.most - self.most / 8
    }

    /// Accepts connections until it is dropped. Connections that it has accepted go on.
    pub(crate) async fn serve<M, S, B>(&self, listener: TcpListener, mut make_service: M)
    where
        M: Service<SocketAddr, Response = S, Error = Infallible>,
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        // A longer queue than the default of 128. A client that finds the queue full tries again after a second.
        let _ = SockRef::from(&listener).listen(BACKLOG);
        let mut server = auto::Builder::new(TokioExecutor::new());
        self.patience.ping(&mut server);
        if let Some(most) = self.requests_each {
            server.http2().max_concurrent_streams(most);
        }
        for number in 0.. {
            let (socket, peer, place) = self.accept(&listener).await;
            self.patience.set_on(&socket);
            let Ok(make_service) = make_service.ready().await;
            let Ok(service) = make_service.call(peer).await;
            let connection = Arc::new(Connection::new(peer.ip()));
            lock(&self.open).insert(number, Arc::clone(&connection));
            let asked = Arc::clone(&connection);
            let counted = service_fn(move |request| count(Arc::clone(&asked), service.clone(), request));
            let (server, open, patience, stop) =
                (server.clone(), Arc::clone(&self.open), self.patience.time(), self.stop.subscribe());
            tokio::spawn(async move {
                let served = server.serve_connection(TokioIo::new(socket), counted);
                connection.attend(served, patience, stop).await;
                lock(&open).remove(&number);
                drop(place);
            });
        }
    }

    /// Lets all connections finish their current answers, for at most this time.
    pub(crate) async fn close_within(&self, time: Duration) {
        self.stop.send_replace(true);
        let _ = timeout(time, self.places.acquire_many(self.most)).await;
    }

    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let places = Arc::clone(&self.places);
                    if places.available_permits() > 0 || self.make_room() {
                        // The semaphore is never closed.
                        if let Ok(place) = places.acquire_owned().await {
                            return (socket, peer, place);
                        }
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    let _ = writeln!(io::stderr(), "cannot accept a connection: {error}");
                    self.make_room();
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Closes one that waits for its client: see the top of this file for which. `false`: all are being answered.
    fn make_room(&self) -> bool {
        let (open, now) = (lock(&self.open), Instant::now());
        let waiting: Vec<_> = open.values().filter_map(|it| Some((lock(&it.state).waits(now)?, it))).collect();
        let mut of_kind = [0_usize; 3];
        waiting
            .iter()
            .filter(|(wait, _)| wait.stage == Stage::InTime)
            .for_each(|(wait, _)| of_kind[wait.on as usize] += 1);
        let kind = |wait: &Wait| {
            let most_first = (wait.stage == Stage::InTime).then_some(Reverse(of_kind[wait.on as usize]));
            (wait.stage, most_first, wait.on)
        };
        let Some(first) = waiting.iter().map(|(wait, _)| kind(wait)).min() else { return false };
        let of_kind: Vec<_> = waiting.into_iter().filter(|(wait, _)| kind(wait) == first).collect();
        let mut of_address = HashMap::new();
        of_kind.iter().for_each(|(_, connection)| *of_address.entry(connection.network).or_insert(0_usize) += 1);
        let turn =
            |(wait, connection): &(Wait, &Arc<Connection>)| (Reverse(of_address[&connection.network]), wait.since);
        let Some((_, first)) = of_kind.iter().min_by_key(|one| turn(one)) else { return false };
        lock(&first.state).is_evicted = true;
        first.evicted.notify_one();
        true
    }
}

/// One of them.
struct Connection {
    /// Whose it is: an IPv4 address, or the /64 network of an IPv6 address.
    network: IpAddr,
    state: Mutex<State>,
    evicted: Notify,
}

/// A connection that waits for its client.
struct Wait {
    on: WaitsFor,
    since: Instant,
    stage: Stage,
}

/// In which order they make room, if they have waited too long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WaitsFor {
    Head,
    /// An answer is taken.
    Taking,
    Body,
}

/// In which order they make room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    TooLong,
    InTime,
    JustAnswered,
}

impl Wait {
    fn new(on: WaitsFor, since: Instant, now: Instant) -> Self {
        let time = now.saturating_duration_since(since);
        let is_too_long = time > if on == WaitsFor::Body { BODY_START } else { HEAD_START };
        let stage = match on {
            _ if is_too_long => Stage::TooLong,
            WaitsFor::Taking if time < TAKING => Stage::JustAnswered,
            _ => Stage::InTime,
        };
        Self { on, since, stage }
    }
}

struct State {
    /// Requests whose answers have not ended.
    requests: usize,
    /// Those of them whose bodies have not arrived completely.
    arriving: usize,
    /// Answers whose last frame the client has not read, and since when. A server asks for the next frame only after
    /// that.
    untaken: HashMap<u64, Instant>,
    /// When the client last took something of an answer.
    took: Option<Instant>,
    /// The next answer's.
    number: u64,
    /// When the connection last changed what it waits for.
    since: Instant,
    has_asked: bool,
    is_evicted: bool,
}

impl State {
    /// `None`: it is being answered.
    fn waits(&self, now: Instant) -> Option<Wait> {
        let (on, since) = match self.untaken_since() {
            _ if self.is_evicted => return None,
            Some(since) => (WaitsFor::Taking, since),
            None if self.arriving < self.requests => return None,
            None if self.requests == 0 => (WaitsFor::Head, self.since),
            None => (WaitsFor::Body, self.since),
        };
        Some(Wait::new(on, since, now))
    }

    /// Since when its client takes nothing, while answers wait for that. `None`: it does, or there is none.
    ///
    /// Each answer has its own time, and a new one gives the others no more.
    fn untaken_since(&self) -> Option<Instant> {
        let answered = self.requests.saturating_sub(self.arriving);
        let oldest = self.untaken.values().min().copied().filter(|_| self.untaken.len() >= answered)?;
        Some(self.took.map_or(oldest, |took| took.max(oldest)))
    }

    fn change(&mut self, by: impl FnOnce(&mut Self)) {
        let kind = |state: &Self| (state.requests == 0, state.arriving < state.requests);
        let before = kind(self);
        by(self);
        if kind(self) != before {
            self.since = Instant::now();
        }
    }
}

impl Connection {
    fn new(peer: IpAddr) -> Self {
        let network = match peer.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        };
        let state = State {
            requests: 0,
            arriving: 0,
            untaken: HashMap::new(),
            took: None,
            number: 0,
            since: Instant::now(),
            has_asked: false,
            is_evicted: false,
        };
        Self { network, state: Mutex::new(state), evicted: Notify::new() }
    }

    /// Serves the connection until it ends or is closed by either side.
    async fn attend(&self, served: impl GracefulConnection, patience: Duration, mut stop: watch::Receiver<bool>) {
        let mut served = pin!(served);
        let mut is_closing = false;
        let mut deadline = Instant::now() + patience;
        loop {
            tokio::select! {
                // An error means that the client left or does not speak HTTP.
                _ = served.as_mut() => return,
                () = self.evicted.notified() => return,
                _ = stop.wait_for(|stop| *stop), if !is_closing => {
                    served.as_mut().graceful_shutdown();
                    is_closing = true;
                }
                () = sleep_until(deadline) => {
                    let (since, has_asked, untaken_since) = {
                        let state = lock(&self.state);
                        (Some(state.since).filter(|_| state.requests == 0), state.has_asked, state.untaken_since())
                    };
                    let now = Instant::now();
                    if let Some(untaken_since) = untaken_since {
                        if untaken_since + patience <= now {
                            return;
                        }
                        deadline = untaken_since + patience;
                        continue;
                    }
                    deadline = match since {
                        Some(since) if since + patience > now => since + patience,
                        Some(_) if is_closing || !has_asked => return,
                        Some(_) => {
                            // Sends what hyper has not written yet of the last answer.
                            served.as_mut().graceful_shutdown();
                            is_closing = true;
                            now + patience
                        }
                        None => now + patience,
                    };
                }
            }
        }
    }
}

/// Answers a request, and counts it meanwhile.
async fn count<S, B>(
    connection: Arc<Connection>,
    service: S,
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = B::Data, Error = B::Error>>, S::Error>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body,
{
    let is_arriving = !request.body().is_end_stream();
    lock(&connection.state).change(|state| {
        state.requests += 1;
        state.arriving += usize::from(is_arriving);
        state.has_asked = true;
    });
    let being_answered = OnDrop(Arc::clone(&connection), |state| state.requests -= 1);
    let request = request.map(|body| match is_arriving {
        true => {
            let arriving = OnDrop(connection, |state| state.arriving -= 1);
            body.inspect_frame(move |_| _ = &arriving).boxed_unsync()
        }
        false => body.boxed_unsync(),
    });
    let response = service.oneshot(request).await?;
    Ok(response.map(|body| Taken::new(body, being_answered)))
}

/// The body of an answer. It records whether the client reads it.
struct Taken<B> {
    body: Pin<Box<B>>,
    number: u64,
    has_given: bool,
    answered: OnDrop,
}

impl<B> Drop for Taken<B> {
    fn drop(&mut self) {
        lock(&self.answered.0.state).untaken.remove(&self.number);
    }
}

impl<B> Taken<B> {
    fn new(body: B, answered: OnDrop) -> Self {
        let mut state = lock(&answered.0.state);
        state.number += 1;
        let number = state.number;
        state.untaken.insert(number, Instant::now());
        drop(state);
        Self { body: Box::pin(body), number, has_given: false, answered }
    }
}

impl<B: Body> Body for Taken<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let polled = this.body.as_mut().poll_frame(cx);
        let mut state = lock(&this.answered.0.state);
        // Whoever asks for more has taken what there was.
        if this.has_given {
            state.took = Some(Instant::now());
        }
        this.has_given = polled.is_ready();
        match polled {
            Poll::Ready(_) => state.untaken.insert(this.number, Instant::now()),
            Poll::Pending => state.untaken.remove(&this.number),
        };
        drop(state);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body holds this until its last frame.
struct OnDrop(Arc<Connection>, fn(&mut State));

impl Drop for OnDrop {
    fn drop(&mut self) {
        lock(&self.0.state).change(self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
