//! Clients that resume and read everything that they missed, compared with alternatives in the same run.
//!
//! `cargo bench --bench resume [-- CLIENTS EVENTS] [-- --quick]`
//!
//! Each of 10,000 clients missed 1,000 events of 100 bytes on each of its topics, three or one. The clients resume in
//! groups of 100, which are read in turns, frame by frame, as sockets are. The bench measures the time from a client's
//! request until it has everything, and the memory that is allocated meanwhile: bytes that are copied for one client
//! are included, shared bytes are not. Each client's bytes are compared with the published events: all of them, in
//! order.
//!
//! The alternative is a history per topic, a locked queue of encoded events. Each resuming client copies what it
//! missed, merged by id, into one buffer or event by event through axum's `Sse`. No time is asserted.

#![allow(clippy::expect_used)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::{Layer, Service, service_fn};
use tower_sse::{ClientHandle, Event, Position, Registry, RegistryConfig, Retention, SseBody, SseLayer};

mod support;
use support::{
    PAYLOAD,
    table::{Arguments, Budget, result},
};

const GROUP: usize = 100;

/// The published events, in order.
struct Published {
    names: Vec<String>,
    /// The bytes on the wire of all events.
    wire: Vec<u8>,
    /// The offset at which each event ends.
    ends: Vec<usize>,
    ids: Vec<Position>,
}

impl Published {
    /// The bytes after this many events.
    fn after(&self, events: usize) -> &[u8] {
        &self.wire[events.checked_sub(1).map_or(0, |last| self.ends[last])..]
    }
}

/// An implementation that sends missed events.
trait Side {
    type Body: Body<Data = Bytes> + Unpin;

    /// The response body for a client that has received this many events.
    fn resume(&mut self, published: &Published, had: usize) -> Self::Body;
}

struct Ours<S>(S);

impl<S, B> Side for Ours<S>
where
    S: Service<Request<()>, Response = Response<SseBody<B>>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin,
{
    type Body = SseBody<B>;

    fn resume(&mut self, published: &Published, had: usize) -> SseBody<B> {
        let request = Request::builder().header("last-event-id", published.ids[had - 1].to_string()).body(());
        match pin!(self.0.call(request.expect("a request"))).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(response)) => response.into_body(),
            Poll::Pending => unreachable!("the handler does not wait"),
        }
    }
}

/// A topic's events with their numbers.
type History = Mutex<VecDeque<(usize, Bytes)>>;

struct ByHand(Vec<History>);

impl ByHand {
    fn missed(&self, had: usize) -> Vec<(usize, Bytes)> {
        let mut missed = Vec::new();
        for history in &self.0 {
            let history = history.lock().expect("no holder panics");
            let from = history.partition_point(|(number, _)| *number < had);
            missed.extend(history.range(from..).cloned());
        }
        missed.sort_unstable_by_key(|(number, _)| *number);
        missed
    }
}

struct Buffer(ByHand);

impl Side for Buffer {
    type Body = Full<Bytes>;

    fn resume(&mut self, _: &Published, had: usize) -> Full<Bytes> {
        let missed = self.0.missed(had);
        let mut all = BytesMut::with_capacity(missed.iter().map(|(_, event)| event.len()).sum());
        missed.iter().for_each(|(_, event)| all.extend_from_slice(event));
        all.freeze().into()
    }
}

struct Axum(ByHand);

impl Side for Axum {
    type Body = axum::body::Body;

    fn resume(&mut self, published: &Published, had: usize) -> axum::body::Body {
        let ids: Vec<String> = published.ids[had..].iter().map(Position::to_string).collect();
        let events = self.0.missed(had).into_iter().zip(ids).map(|((_, data), id)| {
            let _kept = data;
            Ok::<_, Infallible>(sse::Event::default().event("tick").data(PAYLOAD).id(id))
        });
        Sse::new(tokio_stream::iter(events)).keep_alive(sse::KeepAlive::default()).into_response().into_body()
    }
}

/// The costs to serve some clients.
#[derive(Default)]
struct Took {
    time: Duration,
    bytes: usize,
    allocated: usize,
    frames: usize,
    clients: usize,
}

impl Took {
    fn gigabytes_a_second(&self) -> f64 {
        self.bytes as f64 / self.time.as_nanos() as f64
    }

    /// Bytes per client.
    fn of_each(&self, bytes: usize) -> f64 {
        bytes as f64 / self.clients as f64
    }
}

/// Whether a body that was pending asked to be polled again at once.
#[derive(Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Resumes clients that have received these numbers of events, and reads them in turns.
fn serve<S: Side>(side: &mut S, published: &Published, had: &[usize], took: &mut Took) {
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    let mut cx = Context::from_waker(&waker);
    let mut frames: Vec<Vec<Bytes>> = had.iter().map(|_| Vec::with_capacity(2 * published.ids.len())).collect();
    let mut bodies: Vec<(usize, S::Body)> = Vec::with_capacity(had.len());
    let mut over = Vec::with_capacity(had.len());
    let allocated = allocation_counter::measure(|| {
        let start = Instant::now();
        bodies.extend(had.iter().map(|had| side.resume(published, *had)).enumerate());
        while !bodies.is_empty() {
            let mut at = 0;
            while at < bodies.len() {
                let (client, body) = &mut bodies[at];
                match Pin::new(body).poll_frame(&mut cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        frames[*client].extend(frame.into_data());
                        at += 1;
                    }
                    Poll::Ready(Some(Err(_))) => panic!("no body fails"),
                    Poll::Pending if again.0.swap(false, Ordering::Relaxed) => {}
                    // The body has sent everything and waits, or it ends because nothing more can come.
                    Poll::Ready(None) | Poll::Pending => over.push(bodies.swap_remove(at)),
                }
            }
        }
        took.time += start.elapsed();
    });
    took.allocated += allocated.bytes_total as usize;
    took.clients += had.len();
    for (frames, had) in frames.iter().zip(had) {
        let mut rest = published.after(*had);
        // The position event is not counted.
        for frame in frames.iter().filter(|frame| !frame.starts_with(b"event: position\n")) {
            rest = rest.strip_prefix(&frame[..]).expect("the published events in order, each once");
        }
        assert!(rest.is_empty(), "all events");
        took.bytes += published.after(*had).len();
        took.frames += frames.iter().filter(|frame| !frame.starts_with(b"event: position\n")).count();
    }
}

fn publish(registry: &Registry, topics: usize, events: usize) -> (Published, Vec<History>) {
    let names: Vec<String> = (0..topics).map(|topic| format!("prices/{topic}")).collect();
    let history: Vec<History> = names.iter().map(|_| History::default()).collect();
    let event = Event::data(PAYLOAD).event("tick");
    let mut published = Published { names, wire: Vec::new(), ends: Vec::new(), ids: Vec::new() };
    for number in 0..events {
        let topic = number % topics;
        let position = registry.publish(&published.names[topic], &event).expect("room").position().expect("a position");
        let wire = format!("event: tick\ndata: {PAYLOAD}\nid: {position}\n\n");
        published.wire.extend_from_slice(wire.as_bytes());
        published.ends.push(published.wire.len());
        published.ids.push(position);
        history[topic].lock().expect("no holder panics").push_back((number, wire.into()));
    }
    (published, history)
}

/// `places` is the number of different positions at which clients were cut off.
fn run(clients: usize, topics: usize, missed: usize, places: usize) {
    let retention = Retention::default().bytes(1 << 30);
    let registry =
        Registry::with_config(RegistryConfig::default().total_retention(retention).topic_retention(retention));
    let (published, history) = publish(&registry, topics, topics * missed + places);
    let names = published.names.clone();
    let mut ours = Ours(SseLayer::new(&registry).layer(service_fn(move |request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().expect("the layer adds the handle");
        names.iter().for_each(|name| client.subscribe(name.as_str()).expect("a name"));
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Empty::<Bytes>::new());
        ready(Ok::<_, Infallible>(response.expect("a response")))
    })));
    let mut buffer = Buffer(ByHand(history));
    let (mut by_layer, mut by_buffer, mut by_axum) = (Took::default(), Took::default(), Took::default());
    let all: Vec<usize> = (0..clients).map(|client| 1 + client * 7919 % places).collect();
    for (round, had) in all.chunks(GROUP).enumerate() {
        serve(&mut ours, &published, had, &mut by_layer);
        serve(&mut buffer, &published, had, &mut by_buffer);
        // This alternative is slow, so it runs in few rounds.
        if round % 10 == 0 {
            let mut axum = Axum(buffer.0);
            serve(&mut axum, &published, had, &mut by_axum);
            buffer = Buffer(axum.0);
        }
    }
    let cut_off = if places == 1 { "in one place" } else { "each elsewhere" };
    println!("{clients} clients, cut off {cut_off}, each missed {missed} events on {topics} topics:");
    for (name, took) in
        [("tower-sse", &by_layer), ("history, one buffer", &by_buffer), ("history, axum's Sse", &by_axum)]
    {
        println!(
            "  {name:<20} {:>7.2} GB/s, {:>7.0} us a client; a client: {:>8.0} B, in {:>6.1} frames, {:>8.0} B allocated",
            took.gigabytes_a_second(),
            took.of_each(took.time.as_nanos() as usize) / 1e3,
            took.of_each(took.bytes),
            took.of_each(took.frames),
            took.of_each(took.allocated),
        );
    }
    let what = format!("resume, {missed} events missed on {topics} topics, {cut_off}");
    let [ours, theirs] = [&by_layer, &by_buffer].map(Took::gigabytes_a_second);
    result(&what, "GB/s", ours, theirs, Budget::AtLeast(1.0));
    let [ours, theirs] = [&by_layer, &by_buffer].map(|took| took.of_each(took.allocated));
    let what = format!("allocated for each client that resumes, {topics} topics, {cut_off}");
    result(&what, "B", ours, theirs, Budget::None);
}

fn main() {
    // The heartbeats use tokio's timers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let arguments = Arguments::new();
    let (clients, missed) = (arguments.number(0, 10_000, 200), arguments.number(1, 1_000, 200));
    println!("one thread; theirs: a locked history for each topic, merged by id, copied into one buffer");
    run(clients, 3, missed, 1);
    run(clients / 5, 3, missed, missed);
    run(clients, 1, missed, 1);
    run(clients / 5, 1, missed, missed);
}
