//! Code that the targets share: polls by hand, and checks of error messages.

use std::{
    fmt::Display,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use http_body::Body;
use tower_sse::{Delivery, Events, Gap, SseBody};

/// The results that come without waiting.
pub(crate) fn ready(events: &mut Events) -> Vec<Result<Delivery, Gap>> {
    let mut cx = Context::from_waker(Waker::noop());
    let next = || match Pin::new(&mut *events).poll_next(&mut cx) {
        Poll::Ready(item) => item,
        Poll::Pending => None,
    };
    std::iter::from_fn(next).collect()
}

/// The bytes that come without waiting, and whether the stream has ended after them.
pub(crate) fn wire<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> (Vec<u8>, bool) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut wire = Vec::new();
    loop {
        match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => wire.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default()),
            Poll::Ready(None) => return (wire, true),
            Poll::Pending => return (wire, false),
        }
    }
}

/// A text with the line ends that a client decodes.
pub(crate) fn normalised(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Checks that an error quotes what it refuses, in a line that fits a log.
pub(crate) fn assert_quotes(error: &impl Display, given: &str) {
    let error = error.to_string();
    let shown: String = given.chars().take(80).collect();
    assert!(error.contains(&format!("{shown:?}")), "{error} does not quote {given:?}");
    assert!(error.len() < 1200 && !error.contains(char::is_control), "{error:?}");
}
