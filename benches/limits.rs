//! The cost of a limit for a request: a slot is taken before the handler runs, and released because the response is no
//! stream. Compared with the alternative in the same run: a locked map of semaphores by key.
//!
//! `cargo bench --bench limits [-- KEYS] [-- --quick]`
//!
//! Each side is a request through the layer and a handler that responds at once. The same request without a limit is
//! measured too, and subtracted. There is 1 key, or as many as are given (default 100,000). Each key has an open
//! stream, or a permit of the map's semaphores in use. The requests use all keys in an order that defeats caches.
//! Released slots must leave nothing behind. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header::ACCEPT, request::Parts};
use http_body_util::Empty;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};
use tower_sse::{ClientHandle, Limit, Registry, SseBody, SseLayer};

mod support;
use support::table::{Arguments, Budget, result};

const BLOCKS: usize = 25;
/// More slots than any key uses.
const ROOM: u32 = 1_000_000;

#[derive(Clone, Copy)]
struct User(u64);

type Permits = Arc<Mutex<HashMap<u64, Arc<Semaphore>>>>;

/// A handler that returns a stream if `streams` is set, and takes a permit if it has semaphores.
#[derive(Clone)]
struct Handler {
    streams: bool,
    by_hand: Option<Permits>,
}

fn permit(permits: &Permits, user: u64) -> Option<OwnedSemaphorePermit> {
    let mut permits = permits.lock().expect("no holder panics");
    let semaphore = Arc::clone(permits.entry(user).or_insert_with(|| Arc::new(Semaphore::new(ROOM as usize))));
    drop(permits);
    semaphore.try_acquire_owned().ok()
}

impl Service<Request<()>> for Handler {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let user = request.extensions().get::<User>().expect("each request has a user").0;
        let _permit = black_box(self.by_hand.as_ref().and_then(|permits| permit(permits, user)));
        let client = request.extensions().get::<ClientHandle>().filter(|_| self.streams);
        ready(Ok(client.map_or_else(Response::default, |client| client.clone().into_stream().into_response())))
    }
}

fn ask<S: Service<Request<()>, Error = Infallible>>(service: &mut S, user: u64) -> S::Response {
    let request = Request::builder().header(ACCEPT, "text/event-stream").extension(User(user)).body(());
    match pin!(service.call(request.expect("a valid request"))).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => unreachable!("the handler does not wait"),
    }
}

type InUse = (Vec<Response<SseBody<Empty<Bytes>>>>, Vec<Option<OwnedSemaphorePermit>>);

struct Side {
    name: &'static str,
    layer: SseLayer,
    by_hand: Option<Permits>,
}

impl Side {
    /// Opens a stream for each key. The streams stay open as long as the returned value lives.
    fn fill(&self, keys: u64) -> InUse {
        let mut streaming = self.layer.layer(Handler { streams: true, by_hand: None });
        let by_hand = self.by_hand.as_ref();
        match by_hand {
            None => ((0..keys).map(|user| ask(&mut streaming, user)).collect(), Vec::new()),
            Some(permits) => (Vec::new(), (0..keys).map(|user| permit(permits, user)).collect()),
        }
    }

    /// Nanoseconds per request.
    fn block(&self, keys: u64, requests: usize) -> f64 {
        let mut service = self.layer.layer(Handler { streams: false, by_hand: self.by_hand.clone() });
        let start = Instant::now();
        let mut user = 0;
        for _ in 0..requests {
            user = (user + 7919) % keys;
            black_box(ask(&mut service, user));
        }
        start.elapsed().as_nanos() as f64 / requests as f64
    }
}

fn run(keys: u64, requests: usize) {
    let of_user = |request: &Parts| request.extensions.get::<User>().map(|user| user.0);
    let side = |name, limit: Option<Limit>| {
        let layer = SseLayer::new(&Registry::new());
        Side { name, layer: limit.into_iter().fold(layer, SseLayer::limit), by_hand: None }
    };
    let number = Limit::streams(ROOM);
    let per_key = number.clone().per(of_user);
    let rate = Limit::rate(ROOM, Duration::from_secs(3600), ROOM);
    let mut sides = [
        side("nothing", None),
        side("a map of semaphores by hand", None),
        side("a number in all", Some(number.clone())),
        side("a number for each key", Some(per_key.clone())),
        side("a rate in all", Some(rate.clone())),
        side("a rate for each key", Some(rate.per(of_user))),
    ];
    sides[1].by_hand = Some(Permits::default());
    let in_use: Vec<_> = sides.iter().map(|side| side.fill(keys)).collect();
    let mut times = vec![Vec::new(); sides.len()];
    for block in 0..=BLOCKS {
        for (side, times) in sides.iter().zip(&mut times) {
            let time = side.block(keys, requests);
            // The first block only warms the caches.
            if block > 0 {
                times.push(time);
            }
        }
    }
    assert_eq!(
        (number.open_streams(), per_key.open_streams(), per_key.entries() as u64),
        (keys, keys, keys),
        "all of them are in use"
    );
    drop(in_use);
    for limit in [&number, &per_key] {
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0), "released slots leave nothing behind");
    }
    let times: Vec<f64> = times.into_iter().map(|times| times.into_iter().fold(f64::INFINITY, f64::min)).collect();
    let by_hand = times[1] - times[0];
    println!("{keys} keys in use: a request takes {:.0} ns without a limit", times[0]);
    for (side, time) in sides.iter().zip(&times).skip(2) {
        let what = format!("{}, {keys} keys in use: taken and given back", side.name);
        result(&what, "ns", time - times[0], by_hand, Budget::AtMost(200.0));
    }
}

fn main() {
    let arguments = Arguments::new();
    let keys = arguments.number(0, 100_000, 1_000) as u64;
    let requests = arguments.pick(50_000, 1_000);
    println!("one thread, the fastest of {BLOCKS} blocks of {requests} requests; theirs: a map of semaphores by hand");
    run(1, requests);
    run(keys, requests);
}
