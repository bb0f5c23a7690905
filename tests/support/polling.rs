//! Reads streams poll by poll, without a task to wake.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    panic,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::Body;
use tower_sse::{
    ClientHandle, Delivery, Event, Events, Gap, Position, Registry, RegistryConfig, Retention, SseBody, Subscription,
};

#[allow(unused_imports, reason = "no test uses all of it")]
pub(crate) use crate::layers::{plain, quiet};

/// The result of one poll of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Frame(String),
    Pending,
    End,
}

pub(crate) fn poll<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> Polled {
    poll_any(body)
}

/// The same for any body.
pub(crate) fn poll_any<B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(body: &mut B) -> Polled {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(frame)) => {
            let bytes = frame.unwrap().into_data().unwrap_or_default();
            Polled::Frame(String::from_utf8(bytes.to_vec()).unwrap())
        }
        Poll::Ready(None) => Polled::End,
        Poll::Pending => Polled::Pending,
    }
}

/// The bytes of one poll, without a copy.
pub(crate) fn frame<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> Option<Bytes> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        Poll::Ready(_) | Poll::Pending => None,
    }
}

/// All text that is ready, and whether the stream has ended after it.
pub(crate) fn rest<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> (String, bool) {
    rest_of_any(body)
}

/// The same for any body.
pub(crate) fn rest_of_any<B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(body: &mut B) -> (String, bool) {
    let mut all = String::new();
    loop {
        match poll_any(body) {
            Polled::Frame(text) => all.push_str(&text),
            Polled::Pending => return (all, false),
            Polled::End => return (all, true),
        }
    }
}

/// All text that is ready. The stream must not end.
pub(crate) fn text<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> String {
    let (text, has_ended) = rest(body);
    assert!(!has_ended, "the stream has ended after {text:?}");
    text
}

/// The values of a field, one for each of its lines.
pub(crate) fn fields<'a>(wire: &'a str, name: &str) -> Vec<&'a str> {
    wire.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

/// The data of all events that are ready.
pub(crate) fn received<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> Vec<String> {
    fields(&text(body), "data").into_iter().map(str::to_owned).collect()
}

pub(crate) fn next(events: &mut Events) -> Option<Result<Delivery, Gap>> {
    match Pin::new(events).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(item) => item,
        Poll::Pending => None,
    }
}

/// The data of the events that are ready. A gap fails the test.
pub(crate) fn data(events: &mut Events) -> Vec<String> {
    std::iter::from_fn(|| next(events)).map(|item| item.unwrap().data().unwrap_or_default().into_owned()).collect()
}

pub(crate) fn publish(registry: &Registry, topic: &str, data: &str) {
    registry.publish(topic, Event::data(data)).unwrap();
}

/// Publishes, and returns the event's id.
pub(crate) fn publish_id(registry: &Registry, topic: &str, data: &str) -> String {
    registry.publish(topic, Event::data(data)).unwrap().position().unwrap().to_string()
}

/// Publishes, and returns the event's position.
pub(crate) fn position(registry: &Registry, topic: &str, data: &str) -> Position {
    publish(registry, topic, data);
    registry.position()
}

/// A registry whose topics retain this many events.
pub(crate) fn retaining(events: usize) -> Registry {
    Registry::with_config(RegistryConfig::default().topic_retention(Retention::default().events(events)))
}

/// A client in this process that is subscribed to these topics and patterns.
pub(crate) fn subscribed<'a>(registry: &Registry, names: impl IntoIterator<Item = &'a str>) -> ClientHandle {
    let client = registry.connect();
    names.into_iter().for_each(|name| client.subscribe(Subscription::matching(name)).unwrap());
    client
}

/// Runs a test on a thread of its own, with a time limit, so that an endless loop or a deadlock fails the test.
pub(crate) fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    if is_done.recv_timeout(Duration::from_secs(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test does not end");
    }
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
}

/// The same for a test with paused time.
pub(crate) fn bounded_in_time<T: Future<Output = ()>>(test: impl FnOnce() -> T + Send + 'static) {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(test());
    });
}

/// Lets other tasks run while no time passes.
pub(crate) async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}
