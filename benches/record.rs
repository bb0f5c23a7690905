//! What recording costs, compared with the same without it in the same run.
//!
//! `cargo bench --bench record [-- requests events] [-- --quick]`
//!
//! - A request without a key, with the record layer and without it, inside of `SseLayer` and with a handler that answers at once.
//! - An event of a handler's own stream, recorded and not. One task writes the handler's body, and one task reads the response. The body has a
//!   frame for each event, and in the second line 32 events in each frame.
//!
//! The sides take turns, block by block. For requests the fastest block counts, for events the median. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse::{Heartbeat, RecordLayer, Registry, SseLayer};

mod support;
use support::{
    PAYLOAD, median, page_request, ready_now,
    table::{Arguments, Budget, result},
};

const BLOCKS: usize = 25;

fn key(request: &http::request::Parts) -> Option<String> {
    Some(request.headers.get("key")?.to_str().ok()?.to_owned())
}

#[inline(never)]
fn call<S: Service<Request<()>>>(service: &mut S, number: usize) {
    (0..number).for_each(|_| drop(black_box(ready_now(service.call(page_request())))));
}

fn requests(number: usize) {
    let handler = |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let registry = Registry::new();
    let owner = |_: &http::request::Parts| Some("ada".to_owned());
    let mut without = SseLayer::new(&registry).layer(service_fn(handler));
    let mut by_header =
        SseLayer::new(&registry).layer(RecordLayer::by_idempotency_key(&registry, owner).layer(service_fn(handler)));
    let mut by_key = SseLayer::new(&registry).layer(RecordLayer::by_key(&registry, key).layer(service_fn(handler)));
    let mut best = [f64::INFINITY; 3];
    for turn in 0..3 * BLOCKS {
        let side = turn % 3;
        let start = Instant::now();
        // The three loops are the same code, and differ only in the service.
        match side {
            0 => call(&mut without, number),
            1 => call(&mut by_header, number),
            _ => call(&mut by_key, number),
        }
        best[side] = best[side].min(start.elapsed().as_nanos() as f64 / number as f64);
    }
    let [without, by_header, by_key] = best;
    result("a request without the key's header, recording on and off", "ns", by_header, without, Budget::More(25.0));
    result("a request for which a closure has no key, recording on and off", "ns", by_key, without, Budget::None);
}

/// A body of so many frames. It lets other tasks run after each frame, as a body that waits for a model does.
struct Frames {
    frame: Bytes,
    left: usize,
    yields: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.yields = !self.yields;
        if self.yields {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// Nanoseconds for each event of a stream that is read to its end.
fn block(runtime: &Runtime, is_recorded: bool, frames: usize, events: usize) -> f64 {
    let frame = Bytes::from(format!("data: {PAYLOAD}\n\n").repeat(events));
    let handler = service_fn(move |_: Request<()>| {
        let frames = Frames { frame: frame.clone(), left: frames, yields: false };
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(frames);
        ready(Ok::<_, Infallible>(response.expect("a response")))
    });
    let registry = Registry::new();
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
    let app = layer.layer(RecordLayer::by_key(&registry, key).layer(handler));
    let mut request = Request::new(());
    if is_recorded {
        request.headers_mut().insert("key", http::HeaderValue::from_static("1"));
    }
    runtime.block_on(async {
        let start = Instant::now();
        let mut body = Box::pin(app.oneshot(request).await.expect("an answer").into_body());
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        let time = start.elapsed().as_nanos() as f64 / (frames * events) as f64;
        assert!(bytes >= frames * events * PAYLOAD.len(), "all events have arrived");
        time
    })
}

fn events(runtime: &Runtime, frames: usize, events: usize, blocks: usize) {
    let [mut recorded, mut bare] = [Vec::new(), Vec::new()];
    for _ in 0..blocks {
        recorded.push(block(runtime, true, frames, events));
        bare.push(block(runtime, false, frames, events));
    }
    let what = format!("an event of a recorded stream, {events} in a frame, and not recorded");
    result(&what, "ns", median(recorded), median(bare), Budget::More(1000.0));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let arguments = Arguments::new();
    let is_asked = |what: &str| arguments.words.is_empty() || arguments.words.iter().any(|word| word == what);
    println!("one thread, {BLOCKS} blocks");
    if is_asked("requests") {
        requests(arguments.pick(20_000, 500));
    }
    if is_asked("events") {
        let blocks = arguments.pick(BLOCKS, 1);
        events(&runtime, arguments.pick(20_000, 100), 1, blocks);
        events(&runtime, arguments.pick(1_000, 10), 32, blocks);
    }
}
