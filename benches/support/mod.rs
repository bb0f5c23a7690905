//! Clients that are tasks, and rounds of events that end when all events have arrived.

#![allow(dead_code, reason = "no bench uses all of it")]

pub(crate) mod table;

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Empty;
use tokio::sync::{Notify, broadcast};
use tokio_stream::{StreamExt, wrappers::BroadcastStream};
use tower::{Layer, ServiceExt as _, service_fn};
use tower_sse::{ClientHandle, SseBody, SseLayer, Subscription};

pub(crate) const PAYLOAD: &str =
    "{\"symbol\":\"AAPL\",\"price\":187.42,\"change\":-0.13,\"volume\":123456,\"venue\":\"XNAS\",\"at\":1763612345678}";

/// Events that arrived, over all clients. The last arrival of a round ends the round.
#[derive(Default)]
pub(crate) struct Arrived {
    pub(crate) count: AtomicUsize,
    pub(crate) goal: AtomicUsize,
    all: Notify,
}

impl Arrived {
    pub(crate) fn add(&self, events: usize) {
        let count = self.count.fetch_add(events, Ordering::AcqRel) + events;
        if count >= self.goal.load(Ordering::Acquire) {
            self.all.notify_one();
        }
    }

    pub(crate) async fn wait(&self) {
        while self.count.load(Ordering::Acquire) < self.goal.load(Ordering::Acquire) {
            self.all.notified().await;
        }
    }
}

/// Polls a body as hyper does, and counts its events by the blank lines that end them.
pub(crate) async fn drain<B: Body<Data = Bytes> + Send + 'static>(body: B, arrived: Arc<Arrived>, event_length: usize) {
    let mut body = Box::pin(body);
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        arrived.add(length / event_length);
    }
}

/// The body of an event stream behind the layer, subscribed to a topic or a pattern.
pub(crate) async fn stream(layer: &SseLayer, name: &'static str) -> SseBody<Empty<Bytes>> {
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let client = request.extensions().get::<ClientHandle>().expect("the layer adds the handle");
        client.subscribe(Subscription::matching(name)).expect("a valid name");
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Empty::<Bytes>::new());
        Ok::<_, Infallible>(response.expect("a valid response"))
    }));
    begun(service.oneshot(Request::new(())).await.expect("an answer").into_body())
}

/// Reads the position event, with which each stream begins.
pub(crate) fn begun<B: Body + Unpin>(mut body: B) -> B {
    let first = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(first, Poll::Ready(Some(Ok(_)))), "a stream begins at once");
    body
}

/// The alternative: axum's `Sse` over a broadcast channel.
pub(crate) fn axum_stream(sender: &broadcast::Sender<sse::Event>) -> axum::body::Body {
    let events = BroadcastStream::new(sender.subscribe()).filter_map(Result::ok).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response().into_body()
}

pub(crate) type Publish = Box<dyn Fn(usize)>;
pub(crate) type Side = (&'static str, Publish, Arc<Arrived>);

/// Nanoseconds per delivery over a block of rounds.
pub(crate) async fn block((_, publish, arrived): &Side, clients: usize, rounds: usize, burst: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        arrived.goal.fetch_add(clients * burst, Ordering::AcqRel);
        publish(burst);
        arrived.wait().await;
    }
    start.elapsed().as_nanos() as f64 / (clients * rounds * burst) as f64
}

pub(crate) fn ready_now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing waits"),
    }
}

/// A request for a page, as a browser sends it.
pub(crate) fn page_request() -> Request<()> {
    Request::builder().uri("/orders/17").header("accept", "text/html,*/*").body(()).expect("a request")
}

pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
