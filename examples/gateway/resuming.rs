//! Streams of the upstream that break, and are asked for again (`--retry-upstream`).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, request::Parts};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};

use crate::{
    bodies::Fault,
    delivered::Unclear,
    events::Events,
    gateway::{Answer, Gateway},
    log::{Causes, complain, one_line},
    translation::Asked,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The wait before the first attempt, unless the upstream has said it with `retry`. It doubles with each further attempt.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Nobody waits longer for what the upstream said with `retry` or `retry-after`.
const A_DAY: Duration = Duration::from_secs(86_400);

/// A request that can be sent again: a GET without a body.
pub(crate) struct Again {
    pub(crate) gateway: Arc<Gateway>,
    /// As it was sent to the upstream.
    pub(crate) head: Parts,
    pub(crate) asked: Option<Asked>,
    /// How long a stream may be broken.
    pub(crate) patience: Duration,
    /// For the log.
    pub(crate) what: String,
}

/// What the upstream answers when it is asked again.
pub(crate) enum Reply {
    Stream(Answer),
    /// A 204: there is nothing more to come.
    Over,
    /// It answered with something else, so it does not know the stream.
    Other(String),
    /// It did not answer, or is not there at the moment. How long it wants to be left alone, if it said so.
    NotNow(String, Option<Duration>),
}

impl Again {
    /// Asks until the upstream answers, or it is too late.
    async fn ask(self: Arc<Self>, id: Option<HeaderValue>, mut broken: Broken, wait: Option<u64>) -> (Reply, Broken) {
        let first = wait.map_or(FIRST_WAIT, Duration::from_millis).clamp(SHORTEST_WAIT, A_DAY);
        let mut said = first;
        let mut head = self.head.clone();
        if let Some(id) = id {
            head.headers.insert(LAST_EVENT_ID, id);
        }
        loop {
            // Doubled at most up to the longest wait, and never shorter than what the upstream said.
            let doubled = first.saturating_mul(2_u32.saturating_pow(broken.attempts)).min(LONGEST_WAIT).max(said);
            let wait = doubled + doubled.mul_f64(random_fraction() / 2.0);
            if Instant::now() + wait >= broken.until {
                return (Reply::Other(format!("given up after {} attempts", broken.attempts)), broken);
            }
            sleep(wait).await;
            broken.attempts += 1;
            match timeout_at(broken.until, self.gateway.ask_again(head.clone(), self.asked.clone())).await {
                Ok(Reply::NotNow(problem, after)) => {
                    self.tell(format_args!("is not answered again: {problem}"));
                    said = after.unwrap_or_default().clamp(first, A_DAY);
                }
                Ok(reply) => return (reply, broken),
                Err(_) => {}
            }
        }
    }

    fn tell(&self, event: impl std::fmt::Display) {
        complain(format_args!("{}: the stream {event}", self.what));
    }
}

/// A stream that has sent no event since it broke.
#[derive(Clone, Copy)]
struct Broken {
    until: Instant,
    attempts: u32,
    /// How many events had been sent.
    number: u64,
}

type Asking = Pin<Box<dyn Future<Output = (Reply, Broken)> + Send>>;

/// The body of an event stream that goes on in further responses of the upstream when one breaks.
pub(crate) struct Resuming {
    again: Arc<Again>,
    events: Events,
    state: State,
    broken: Option<Broken>,
    /// A stream that was asked for again is still broken as long as nobody can say which events the client has.
    too_late: Option<Pin<Box<Sleep>>>,
}

enum State {
    Passing(Answer),
    /// With what is told if it cannot go on.
    Asking(Asking, Option<Fault>),
    /// The last frames, from the last to the first.
    Ending(Vec<Result<Frame<Bytes>, Fault>>),
}

impl Resuming {
    pub(crate) fn new(again: Again, body: Answer) -> Self {
        Self {
            again: Arc::new(again),
            events: Events::default(),
            state: State::Passing(body),
            broken: None,
            too_late: None,
        }
    }

    /// Ends with what was held back, and this. Before an error nothing is sent: it would be half of an event, and a server
    /// drops what it has not written when it gets an error.
    fn end(&mut self, last: Option<Result<Frame<Bytes>, Fault>>) {
        let rest = Some(self.events.take_rest()).filter(|rest| !rest.is_empty() && !matches!(last, Some(Err(_))));
        self.state = State::Ending(last.into_iter().chain(rest.map(|rest| Ok(Frame::data(rest)))).collect());
    }

    /// Nobody can say which events of a further response the client has.
    fn is_unclear(&mut self) {
        self.again.tell("does not go on: its ids do not say where");
        self.end(Some(Err(Fault::NotResumed)));
    }

    /// The response has broken. `None`: it has ended cleanly, in the middle of an event.
    fn breaks(&mut self, fault: Option<Fault>) {
        let fault = fault.or_else(|| self.events.is_unclear().then_some(Fault::NotResumed));
        let number = self.events.number();
        let id = self.events.last_id().and_then(|id| HeaderValue::from_bytes(id).ok());
        // Before its first event, a client that came back can be answered as it was: from its own id.
        let is_known = id.is_some() || (number == 0 && self.again.head.headers.contains_key(LAST_EVENT_ID));
        if !is_known || self.events.has_sent_a_part() {
            return self.end(fault.map(Err));
        }
        let why = fault.as_ref().map_or_else(|| "it ended within an event".to_owned(), |it| one_line(Causes(it)));
        self.again.tell(format_args!("broke, and is asked for again: {why}"));
        let fresh = Broken { until: Instant::now() + self.again.patience, attempts: 0, number };
        let broken = self.broken.filter(|broken| broken.number == number).unwrap_or(fresh);
        let asking = Arc::clone(&self.again).ask(id, broken, self.events.retry());
        self.state = State::Asking(Box::pin(asking), fault);
    }

    fn goes_on(&mut self, reply: Reply, fault: Option<Fault>) {
        match reply {
            Reply::Stream(body) => {
                self.events.begin_again();
                self.state = State::Passing(body);
                self.too_late = self.broken.map(|broken| Box::pin(sleep_until(broken.until)));
            }
            Reply::Over if self.events.is_unclear() => self.is_unclear(),
            Reply::Over => self.state = State::Ending(Vec::new()),
            Reply::Other(why) | Reply::NotNow(why, _) => {
                self.again.tell(format_args!("does not go on: {why}"));
                self.end(fault.map(Err));
            }
        }
    }
}

impl Body for Resuming {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Passing(body) => {
                    if this.events.is_unclear()
                        && this.too_late.as_mut().is_some_and(|too_late| too_late.as_mut().poll(cx).is_ready())
                    {
                        this.is_unclear();
                        continue;
                    }
                    match ready!(Pin::new(body).poll_frame(cx)).map(|it| it.map(Frame::into_data)) {
                        Some(Ok(Ok(data))) => match this.events.push(&data) {
                            Ok(whole) if whole.is_empty() => {}
                            Ok(whole) => return Poll::Ready(Some(Ok(Frame::data(whole)))),
                            Err(Unclear) => this.is_unclear(),
                        },
                        None if this.events.is_within_event() => this.breaks(None),
                        // A clean end, or trailers before it.
                        None | Some(Ok(Err(_))) if this.events.is_unclear() => this.is_unclear(),
                        Some(Ok(Err(trailers))) => this.end(Some(Ok(trailers))),
                        None => this.end(None),
                        Some(Err(fault)) => this.breaks(Some(fault)),
                    }
                }
                State::Asking(asking, fault) => {
                    let (reply, broken) = ready!(asking.as_mut().poll(cx));
                    let fault = fault.take();
                    this.broken = Some(broken);
                    this.goes_on(reply, fault);
                }
                State::Ending(frames) => return Poll::Ready(frames.pop()),
            }
        }
    }
}

/// From 0 to 1. Streams that broke together are not asked for together.
fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

/// A body without content.
pub(crate) fn no_body() -> Answer {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}
