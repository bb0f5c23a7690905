//! What a stream gets before its handler answers.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

use crate::layer::sse_layer::Config;

/// The comment at the beginning, and the heartbeats after it.
#[derive(Debug)]
pub(super) struct Beats {
    config: Arc<Config>,
    first: Option<Bytes>,
    next: Option<Pin<Box<Sleep>>>,
}

impl Beats {
    /// `timer`: a timer that is no longer used.
    pub(super) fn new(config: Arc<Config>, mut timer: Pin<Box<Sleep>>) -> Self {
        let interval = config.heartbeat.interval();
        let next = interval.map(|interval| {
            timer.set(sleep(interval));
            timer
        });
        Self { first: config.first_comment(), config, next }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(first);
        }
        let (Some(interval), Some(next)) = (self.config.heartbeat.interval(), &mut self.next) else {
            return Poll::Pending;
        };
        loop {
            ready!(next.as_mut().poll(cx));
            next.set(sleep(interval));
            let heartbeat = self.config.heartbeat.encode();
            if !heartbeat.is_empty() {
                return Poll::Ready(heartbeat);
            }
        }
    }
}
