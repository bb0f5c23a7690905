//! Any handler's body, with anything inserted meanwhile: the handler's bytes are sent unchanged, a client sees its
//! events as if nothing had been inserted, and the inserted events arrive complete and in order.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    mem,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, buf::Chain};
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body::{Body, Frame};
use tokio::{task::coop::unconstrained, time::sleep};
use tower_sse::{
    Batching, ClientHandle, CloseReason, Event, GapEvent, Heartbeat, PositionEvent, Registry, RegistryConfig,
    Retention, SseBody, SseLayer, Subscription,
};

use super::{answer::answer, input::Input, polled::normalised, spec};

const TOPIC: &str = "topic";
const MARK: &[u8] = b"\xEF\xBB\xBF";
const INTERVAL: Duration = Duration::from_millis(10);
/// Long enough for one heartbeat, and too short for two.
const SILENCE: Duration = Duration::from_millis(12);
const STEPS: usize = 200;
/// Frames up to this size may be checked as a whole.
const SMALL: usize = 32;

#[derive(Debug, Clone)]
enum Step {
    Own(Own),
    Publish(Kind, String),
    Poll,
    Drain,
    Silence,
    Close,
}

/// What the handler's body does when it is next polled.
#[derive(Debug, Clone)]
enum Own {
    /// A frame in two parts.
    Frame(Bytes, Bytes),
    Trailers,
    End,
    Error,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data,
    WithAll,
    OwnId,
    Comment,
    Empty,
}

/// The configuration of the layer.
#[derive(Debug)]
struct Setup {
    response: Answer,
    heartbeat: Option<Heart>,
    /// `None`: no subscription. With several names, the names overlap.
    subscribes: Option<&'static [&'static str]>,
    is_filtered: bool,
    is_held: bool,
    /// The opening of the stream, apart from a snapshot.
    comment: Option<String>,
    retries: bool,
    has_snapshot: bool,
    retained: Option<usize>,
    batching: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Stream,
    /// A stream into which nothing can be inserted.
    Encoded,
    Other,
}

#[derive(Debug)]
struct Heart {
    text: String,
    single_line: bool,
    is_event: bool,
}

impl Setup {
    fn new(input: &mut Input<'_>) -> Self {
        let flags = input.byte();
        let has = |bit: u8| flags & (1 << bit) != 0;
        let heart = |input: &mut Input<'_>, kind: usize| Heart {
            text: if kind % 2 == 0 { input.text() } else { String::new() },
            single_line: kind < 3,
            is_event: kind == 5,
        };
        Self {
            response: [Answer::Stream, Answer::Encoded, Answer::Other][input.below(16).saturating_sub(13)],
            heartbeat: match input.below(6) {
                0 => None,
                kind => Some(heart(input, kind)),
            },
            subscribes: [None, Some(&[TOPIC][..]), Some(&["**"]), Some(&["*", TOPIC])][input.below(4)],
            is_filtered: has(0),
            is_held: has(1),
            comment: has(2).then(|| input.text()),
            retries: has(3),
            has_snapshot: has(4),
            retained: (has(5) && has(6)).then(|| 1 + input.below(3)),
            batching: (has(6) && has(7)).then_some(3 * INTERVAL / 2),
        }
    }

    fn encoded_heartbeat(&self, marker: &str) -> Option<Bytes> {
        let Heart { text, single_line, is_event } = self.heartbeat.as_ref()?;
        Some(match (text.as_str(), *is_event) {
            (text, true) => Event::data(text).try_event(marker).unwrap().encode(),
            ("", _) => Bytes::from_static(if *single_line { b":\n" } else { b":\n\n" }),
            (text, _) => {
                let comment = Event::empty().comment(text).encode();
                comment.slice(..comment.len() - usize::from(*single_line))
            }
        })
    }

    fn layer(&self, registry: &Registry, marker: &str, retry: u64) -> SseLayer {
        let heartbeat = match &self.heartbeat {
            None => Heartbeat::off(),
            Some(Heart { text, is_event: true, .. }) => {
                let event = Event::data(text).try_event(marker).unwrap().id("666").unwrap();
                Heartbeat::every(INTERVAL).event(move || event.clone())
            }
            Some(Heart { text, single_line, .. }) => {
                let heartbeat = Heartbeat::every(INTERVAL).comment(text);
                if *single_line { heartbeat.single_line() } else { heartbeat }
            }
        };
        let gap_event = GapEvent::try_named(format!("{marker}-gap")).unwrap();
        let mut layer = SseLayer::new(registry).heartbeat(heartbeat).gap_event(gap_event);
        layer = layer.position_event(PositionEvent::off()).open_at_once(false);
        if let Some(comment) = &self.comment {
            layer = layer.opening_comment(comment);
        }
        if self.retries {
            layer = layer.reconnect_delay(Duration::from_millis(retry));
        }
        self.batching.map_or(layer.clone(), |interval| layer.batching(Batching::every(interval)))
    }
}

fn steps(input: &mut Input<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < STEPS {
        steps.push(match input.below(20) {
            0..8 => {
                let mut first = Bytes::from(input.piece());
                let second = if input.flag() { first.split_off(first.len() / 2) } else { Bytes::new() };
                Step::Own(Own::Frame(first, second))
            }
            8..11 => {
                let kinds = [Kind::Data, Kind::WithAll, Kind::OwnId, Kind::Comment, Kind::Empty];
                Step::Publish(kinds[input.below(5)], input.text())
            }
            11..13 => Step::Poll,
            13..16 => Step::Drain,
            16 | 17 => Step::Silence,
            18 if input.flag() => Step::Own(Own::End),
            18 => Step::Own(Own::Trailers),
            _ if input.flag() => Step::Close,
            _ if input.flag() => Step::Own(Own::Error),
            _ => Step::Drain,
        });
    }
    steps
}

/// The state of the handler's body, shared with the code that fills it.
#[derive(Default)]
struct Handler {
    queue: VecDeque<Own>,
    waker: Option<Waker>,
    given: Vec<u8>,
    /// All frames were small.
    is_small: bool,
    /// No more frames come.
    is_over: bool,
    /// The body has reported its end.
    has_ended: bool,
    has_failed: bool,
    has_trailers: bool,
}

struct HandlerBody(Rc<RefCell<Handler>>);

impl Body for HandlerBody {
    type Data = Chain<Bytes, Bytes>;
    type Error = &'static str;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut handler = self.0.borrow_mut();
        assert!(!handler.has_ended, "the body is polled after its end");
        let next = if handler.is_over { Some(Own::End) } else { handler.queue.pop_front() };
        match next {
            None => {
                handler.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Own::Frame(first, second)) => {
                handler.given.extend([&first[..], &second].concat());
                handler.is_small &= first.len() + second.len() <= SMALL;
                Poll::Ready(Some(Ok(Frame::data(first.chain(second)))))
            }
            Some(Own::Trailers) => {
                (handler.is_over, handler.has_trailers) = (true, true);
                let mut trailers = HeaderMap::new();
                trailers.insert("x-trailer", HeaderValue::from_static("kept"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Own::End) => {
                (handler.is_over, handler.has_ended) = (true, true);
                Poll::Ready(None)
            }
            Some(Own::Error) => {
                (handler.is_over, handler.has_ended, handler.has_failed) = (true, true, true);
                Poll::Ready(Some(Err("failed")))
            }
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The handler's bytes that must have been sent. A leading byte-order mark is removed, a second one gets bytes before
/// it, and a part of a mark is held back while it may still become one.
fn without_mark(given: &[u8], is_over: bool) -> Vec<u8> {
    let rest = given.strip_prefix(MARK).unwrap_or(given);
    if rest.len() < given.len() && rest.starts_with(MARK) {
        return [b":\n", rest].concat();
    }
    if !is_over && rest.len() < MARK.len() && MARK.starts_with(rest) { Vec::new() } else { rest.to_vec() }
}

/// The expected opening, with the reconnection time that the stream has. That time varies around the configured one.
fn spread(opening: &Bytes, given: &[u8], retry: u64) -> (Bytes, Option<u64>) {
    let (opening, field) = (String::from_utf8_lossy(opening), format!("retry: {retry}\n"));
    let own = spec::parse(given).retries.first().copied().filter(|_| opening.contains(&field));
    let Some(own) = own else { return (opening.into_owned().into(), None) };
    assert!((retry / 2..=retry + retry / 2 + 1).contains(&own), "{own} of {retry}");
    (opening.replace(&field, &format!("retry: {own}\n")).into(), Some(own))
}

/// Whether every client agrees that the next bytes begin a block.
fn is_between_events(own: &[u8]) -> bool {
    own.is_empty() || [&b"\n\n"[..], b"\n\r\n", b"\r\r"].iter().any(|end| own.ends_with(end))
}

/// Whether the unfinished last block has only complete lines of comments.
fn is_after_comments(own: &[u8]) -> bool {
    let text = String::from_utf8_lossy(own).replace("\r\n", "\n").replace('\r', "\n");
    let block = text.rsplit_once("\n\n").map_or(text.as_str(), |(_, block)| block);
    own.ends_with(b"\n") && block.lines().all(|line| line.starts_with(':'))
}

/// An event of the registry that must come.
#[derive(Debug)]
struct Awaited {
    number: usize,
    wire: Bytes,
    /// The data and the id.
    message: Option<(String, String)>,
    is_evicted: bool,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Polled {
    Own,
    Heartbeat,
    Injected,
    Pending,
    Over,
}

struct Run<'a> {
    setup: &'a Setup,
    registry: Registry,
    client: ClientHandle,
    body: SseBody<HandlerBody>,
    handler: Rc<RefCell<Handler>>,
    marker: &'a str,
    retry: u64,
    /// The reconnection time in the opening.
    own_retry: Option<u64>,
    woken: Arc<Woken>,
    /// After the last poll, the next one may follow only after a wake-up.
    waits: bool,
    is_over: bool,
    is_closed: bool,
    has_failed: bool,
    /// The last frame was the trailers.
    has_trailed: bool,
    /// The expected opening.
    opening: Option<Bytes>,
    heartbeat: Option<Bytes>,
    out: Vec<u8>,
    own: Vec<u8>,
    awaited: VecDeque<Awaited>,
    arrived: Vec<(String, String)>,
    injects_ids: bool,
    /// The client was told of a gap, and no event came since.
    told: bool,
    published: usize,
}

impl Run<'_> {
    fn publish(&mut self, kind: Kind, text: &str) {
        let number = self.published;
        self.published += 1;
        let named = |text: &str| Event::data(format!("{number} {text}")).try_event(self.marker).unwrap();
        let event = match kind {
            Kind::Data => named(text),
            Kind::WithAll => named(text).comment(text).retry(Duration::from_millis(self.retry)),
            Kind::OwnId => named(text).id(format!("own-{number}")).unwrap(),
            Kind::Comment => Event::empty().comment(format!("{} {number} {text}", self.marker)),
            Kind::Empty => Event::empty(),
        };
        let receipt = self.registry.publish(TOPIC, &event).unwrap();
        if let Some(retained) = self.setup.retained {
            let gone = self.awaited.iter_mut().take_while(|it| it.number + retained < self.published);
            gone.for_each(|it| it.is_evicted = true);
        }
        let is_over = self.is_closed || self.is_over || self.setup.response != Answer::Stream;
        if self.setup.subscribes.is_none() || is_over {
            return;
        }
        let event = match kind {
            Kind::Data | Kind::WithAll => event.id(receipt.position().unwrap().to_string()).unwrap(),
            _ => event,
        };
        let id = match kind {
            Kind::OwnId => format!("own-{number}"),
            _ => receipt.position().unwrap().to_string(),
        };
        let has_data = !matches!(kind, Kind::Comment | Kind::Empty);
        let message = has_data.then(|| (normalised(&format!("{number} {text}")), id));
        self.awaited.push_back(Awaited { number, wire: event.encode(), message, is_evicted: false });
    }

    fn push(&mut self, own: Own) {
        let mut handler = self.handler.borrow_mut();
        handler.queue.push_back(own);
        if let Some(waker) = handler.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self) -> Polled {
        if self.is_over && self.setup.response == Answer::Other {
            return Polled::Over;
        }
        let was_woken = self.woken.0.swap(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        let polled = Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(&waker));
        if self.waits && !was_woken {
            assert!(polled.is_pending(), "this came without a wake-up: {polled:?}");
        }
        self.waits = polled.is_pending();
        if self.setup.response == Answer::Stream {
            assert_eq!(self.body.size_hint().exact(), None, "the exact size would become a content-length");
        }
        let Poll::Ready(polled) = polled else {
            self.expect_own_to_be_out();
            return Polled::Pending;
        };
        let was_over = mem::replace(&mut self.is_over, polled.is_none());
        let frame = match polled {
            None => {
                assert!(self.setup.response == Answer::Other || self.body.is_end_stream());
                self.expect_own_to_be_out();
                return Polled::Over;
            }
            Some(frame) => frame,
        };
        assert!(!was_over, "the body goes on after its end");
        let bytes = match frame.map(Frame::into_data) {
            Err(_) => {
                assert!(self.handler.borrow().has_failed);
                (self.has_failed, self.is_over) = (true, self.setup.response == Answer::Other);
                return Polled::Own;
            }
            Ok(Err(frame)) => {
                assert!(self.handler.borrow().has_trailers && frame.is_trailers());
                self.has_trailed = true;
                return Polled::Own;
            }
            Ok(Ok(bytes)) => bytes,
        };
        self.out.extend_from_slice(&bytes);
        let handler = self.handler.borrow();
        let own = match self.setup.response {
            Answer::Stream => without_mark(&handler.given, handler.is_over),
            Answer::Encoded | Answer::Other => handler.given.clone(),
        };
        drop(handler);
        if own.len() > self.own.len() || (bytes.is_empty() && self.setup.response != Answer::Stream) {
            assert_eq!(bytes, own[self.own.len()..], "the handler's own");
            self.own = own;
            return Polled::Own;
        }
        self.injected(&bytes)
    }

    fn expect_own_to_be_out(&self) {
        let handler = self.handler.borrow();
        let own = match self.setup.response {
            // After a failure, the beginning of a mark is lost.
            Answer::Stream => without_mark(&handler.given, handler.is_over && !handler.has_failed),
            Answer::Encoded | Answer::Other => handler.given.clone(),
        };
        assert_eq!(
            self.own.escape_ascii().to_string(),
            own.escape_ascii().to_string(),
            "some of the handler's bytes were held back"
        );
        assert!(
            handler.queue.is_empty() || handler.is_over || self.is_over,
            "the body was not asked for {:?}",
            handler.queue
        );
    }

    fn injected(&mut self, bytes: &Bytes) -> Polled {
        assert!(self.setup.response == Answer::Stream, "nothing may be inserted: {bytes:?}");
        if let Some(opening) = self.opening.take() {
            let (opening, own_retry) = spread(&opening, bytes, self.retry);
            self.own_retry = own_retry;
            assert_eq!(*bytes, opening);
            assert_eq!(self.out, opening, "the opening comes first");
            return Polled::Injected;
        }
        self.expect_no_line_end_to_be_open();
        if self.heartbeat.as_ref() == Some(bytes) {
            return Polled::Heartbeat;
        }
        let gap = format!("event: {}-gap\ndata: ", self.marker);
        if bytes.starts_with(gap.as_bytes()) {
            // A closed client may be told of a gap in events that it would not get anyway.
            let is_missing = self.is_closed || self.awaited.front().is_some_and(|it| it.is_evicted);
            assert!(is_missing && self.setup.retained.is_some(), "nothing is missing: {bytes:?}");
            self.told = true;
            self.injects_ids = true;
            return Polled::Injected;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let is_next = |it: &Awaited| !it.wire.is_empty() && rest.starts_with(&it.wire);
            let Some(at) = self.awaited.iter().position(is_next) else {
                panic!("{} is not one of {:?}", rest.escape_ascii(), self.awaited);
            };
            for missed in self.awaited.drain(..at) {
                assert!(missed.wire.is_empty() || self.told, "{missed:?} is missing without a gap event");
            }
            let came = self.awaited.pop_front().unwrap();
            rest = &rest[came.wire.len()..];
            self.told = false;
            self.injects_ids |= came.message.is_some();
            self.arrived.extend(came.message);
        }
        Polled::Injected
    }

    /// A CR may be the first half of a CRLF, unless lines end with CR. By the standard, bytes between the two do no
    /// harm. Some clients fail on them.
    fn expect_no_line_end_to_be_open(&self) {
        let Some(before) = self.own.strip_suffix(b"\r").filter(|_| !self.handler.borrow().is_over) else { return };
        let last = before.iter().rfind(|byte| matches!(byte, b'\r' | b'\n'));
        assert_eq!(last, Some(&b'\r'), "inserted into a line end: {}", self.out.escape_ascii());
    }

    /// Reads until the stream waits or ends. Returns the number of heartbeats.
    fn drain(&mut self) -> usize {
        let mut heartbeats = 0;
        loop {
            match self.poll() {
                Polled::Own | Polled::Injected => {}
                Polled::Heartbeat => heartbeats += 1,
                Polled::Pending | Polled::Over => break,
            }
        }
        let handler = self.handler.borrow();
        assert!(handler.queue.is_empty() || handler.is_over || self.is_over);
        drop(handler);
        if self.setup.response == Answer::Stream && self.has_room() && self.setup.batching.is_none() {
            let is_there = |it: &Awaited| !it.wire.is_empty() && !it.is_evicted;
            assert!(!self.awaited.iter().any(is_there), "{:?} could have been sent", self.awaited);
            assert!(self.awaited.iter().all(|it| it.wire.is_empty()) || self.told, "a gap was not reported");
            assert!(!self.is_closed || self.is_over, "the stream could have ended");
        }
        heartbeats
    }

    /// Whether something can certainly be inserted.
    fn has_room(&self) -> bool {
        let is_small = self.handler.borrow().is_small;
        !self.has_failed && (is_between_events(&self.own) || (is_small && is_after_comments(&self.own)))
    }

    async fn silence(&mut self) {
        self.drain();
        let withheld = self.registry.stats().withheld_heartbeats;
        sleep(SILENCE).await;
        let was_over = self.is_over;
        let is_idle = self.awaited.iter().all(|it| it.wire.is_empty()) && self.setup.batching.is_none();
        let heartbeats = self.drain();
        let withheld = self.registry.stats().withheld_heartbeats - withheld;
        if was_over || self.setup.heartbeat.is_none() || self.setup.response != Answer::Stream {
            assert_eq!((heartbeats, withheld), (0, 0));
        } else if is_idle {
            assert_eq!(heartbeats + withheld as usize, 1, "each silence has a heartbeat or a withheld one");
            assert!(!self.has_room() || heartbeats == 1);
        }
    }

    /// Checks that a client sees the same events.
    fn expect_the_same_to_be_seen(&self, given: &[u8]) {
        if self.setup.response != Answer::Stream {
            assert_eq!(self.out, given, "nothing is removed");
            return;
        }
        let (own, arrived): (spec::Parsed, Vec<_>) = self.split(spec::parse(&self.out));
        // No client has received bytes that may become a mark.
        let is_open = !self.handler.borrow().is_over;
        let given = if is_open && without_mark(given, false).is_empty() { &[] } else { given };
        let (expected, _) = self.split(spec::parse(given));
        assert_eq!(own, expected, "{}", self.out.escape_ascii());
        assert_eq!(arrived, self.arrived, "{}", self.out.escape_ascii());
    }

    /// The handler's part, and the data and ids of the registry's events.
    fn split(&self, mut parsed: spec::Parsed) -> (spec::Parsed, Vec<(String, String)>) {
        let mut arrived = Vec::new();
        parsed.retries.retain(|retry| *retry != self.retry && Some(*retry) != self.own_retry);
        parsed.messages.retain_mut(|message| {
            if self.injects_ids {
                // The ids of inserted events stay set for the events after them.
                message.last_event_id.clear();
            }
            if message.event_type == self.marker {
                arrived.extend(message.own_id.take().map(|id| (mem::take(&mut message.data), id)));
            }
            !message.event_type.starts_with(self.marker)
        });
        if self.injects_ids {
            parsed.last_event_id.clear();
        }
        (parsed, arrived)
    }

    fn expect_nothing_to_be_left(self) {
        let Self { body, client, registry, is_over, has_failed, is_closed, setup, .. } = self;
        assert!(!is_over || setup.response == Answer::Other || registry.stats().clients == 0);
        drop(body);
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.subscriptions), (0, 0));
        let mut closed = pin!(client.closed());
        let Poll::Ready(reason) = closed.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the end is not reported");
        };
        let expected = match setup.response {
            Answer::Other => CloseReason::NoStream,
            _ if is_closed => CloseReason::ByServer,
            _ if has_failed => CloseReason::BodyFailed,
            _ if is_over => CloseReason::BodyEnded,
            _ => CloseReason::ClientDisconnected,
        };
        assert_eq!(reason, expected);
    }
}

async fn run(setup: &Setup, steps: Vec<Step>, marker: &str, retry: u64) {
    let retention = Retention::default().events(setup.retained.unwrap_or(usize::MAX));
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let handler = Rc::new(RefCell::new(Handler { is_small: true, ..Handler::default() }));
    let layer = setup.layer(&registry, marker, retry);
    let position = registry.position();
    let snapshot = Event::data("snapshot").try_event(marker).unwrap();
    let has_snapshot = setup.is_held && setup.has_snapshot && setup.response == Answer::Stream;
    let (client, response) = answer(&layer, Request::new(()), |client| {
        for name in setup.subscribes.unwrap_or_default() {
            let subscription = Subscription::matching(*name);
            let filtered = subscription.clone().filter(|_, _| true);
            client.subscribe(if setup.is_filtered { filtered } else { subscription }).unwrap();
        }
        if setup.is_held {
            let stream = client.clone().into_stream();
            drop(if has_snapshot { stream.snapshot(snapshot.clone(), position) } else { stream });
        }
        let content_type = if setup.response == Answer::Other { "text/plain" } else { "text/event-stream" };
        let mut response = Response::builder().header(CONTENT_TYPE, content_type);
        if setup.response == Answer::Encoded {
            response = response.header(CONTENT_ENCODING, "gzip");
        }
        response.body(HandlerBody(Rc::clone(&handler))).unwrap()
    });
    let mut opening = setup.comment.as_ref().map_or_else(Event::empty, |comment| Event::empty().comment(comment));
    if setup.retries {
        opening = opening.retry(Duration::from_millis(retry));
    }
    let snapshot = snapshot.id(position.to_string()).unwrap();
    let opening = [opening.encode(), if has_snapshot { snapshot.encode() } else { Bytes::new() }].concat();
    let mut run = Run {
        setup,
        client,
        body: response.into_body(),
        handler,
        marker,
        retry,
        own_retry: None,
        woken: Arc::default(),
        waits: false,
        is_over: false,
        is_closed: false,
        has_failed: false,
        has_trailed: false,
        opening: Some(Bytes::from(opening)).filter(|it| !it.is_empty() && setup.response == Answer::Stream),
        heartbeat: setup.encoded_heartbeat(marker),
        out: Vec::new(),
        own: Vec::new(),
        awaited: VecDeque::new(),
        arrived: has_snapshot.then(|| ("snapshot".to_owned(), position.to_string())).into_iter().collect(),
        injects_ids: has_snapshot,
        told: false,
        published: 0,
        registry,
    };
    for step in steps {
        match step {
            Step::Own(own) => run.push(own),
            Step::Publish(kind, text) => run.publish(kind, &text),
            Step::Poll => drop(run.poll()),
            Step::Drain => drop(run.drain()),
            Step::Silence => run.silence().await,
            Step::Close => {
                run.client.close();
                // A stream that has ended keeps its close reason.
                run.is_closed |= !run.has_failed && !run.has_trailed;
            }
        }
        if run.is_over {
            break;
        }
    }
    run.drain();
    let given = run.handler.borrow().given.clone();
    run.expect_the_same_to_be_seen(&given);
    run.expect_nothing_to_be_left();
}

/// `data` encodes the configuration of the layer and the steps.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::new(&mut input);
    let steps = steps(&mut input);
    let own: Vec<u8> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Own(Own::Frame(first, second)) => Some([&first[..], second].concat()),
            _ => None,
        })
        .flatten()
        .collect();
    // Texts that the handler does not send by itself.
    let texts = [&own[..], data].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    let marker = (0..).map(|number| format!("put-in-{number}")).find(|marker| !texts.contains(marker)).unwrap();
    let retry = (1_000_000_007..).find(|retry: &u64| !texts.contains(&retry.to_string())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(unconstrained(run(&setup, steps, &marker, retry)));
}
