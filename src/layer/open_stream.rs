//! An open event stream: the handler's own frames, the registry's events, heartbeats, and the end.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{
    asked::Asked,
    data::without_mark,
    rare_state::{RareState, Window},
    sse_layer::Config,
};
use crate::{
    reader::{FastRead, OwnBody, Reader},
    reading::Picked,
    stream::{Batching, Boundary, CloseReason, HeartbeatTimer, LeadingMark, headers, into_bytes},
    time::Timer,
};

/// The state of an event stream, except for the handler's own body.
///
/// The fields are in the order in which a delivery uses them. With many clients, the cost of a delivery is its cache
/// lines.
#[repr(C)]
pub(super) struct OpenStream {
    pub(super) over: bool,
    /// The body has a content coding, so nothing can be inserted.
    is_encoded: bool,
    pub(super) inner_ended: bool,
    /// The stream was at a boundary when it was last polled.
    may_take: bool,
    /// The last event was made, or the program was asked and wanted none.
    pub(super) said_farewell: bool,
    /// The registry is polled before the handler's own body.
    ///
    /// They take turns, so that neither can starve the other.
    registry_first: bool,
    /// Bytes were sent since the heartbeat timer was last told.
    pub(super) is_active: bool,
    /// The client's stream has ended, and the handler's own body says with which error.
    pub(super) is_cut: bool,
    boundary: Boundary,
    leading_mark: LeadingMark,
    /// State that few streams have, or that streams have only for a short time.
    pub(super) rare: Option<Box<RareState>>,
    pub(super) reader: Reader,
    pub(super) config: Arc<Config>,
    heartbeat_timer: Option<HeartbeatTimer>,
    timer: Timer,
}

/// What a poll of the handler's own body gave.
enum OwnPoll<E> {
    Frame(Bytes),
    Failed(E),
    Nothing,
}

impl OpenStream {
    /// Opens the stream of a reader.
    ///
    /// `own`: events that are sent before all published events.
    pub(super) fn new(reader: Reader, own: &[Picked], config: Arc<Config>, asked: Asked, is_encoded: bool) -> Self {
        let client = reader.client();
        let there = client.shared().topics.horizon();
        let is_behind = asked.hello && !reader.has_read(there);
        let is_fresh_poll = asked.wait.is_some() && client.last_event_id().is_none();
        // A handler may send these to every client. If they ended each poll, its client would ask again without a pause.
        let is_enough = is_fresh_poll && (!own.is_empty() || client.begins_with_snapshot());
        let opening = if is_encoded { Bytes::new() } else { config.opening(&reader, own, asked, is_behind) };
        client.cannot_take.store(is_encoded, Ordering::Relaxed);
        client.add_bytes(opening.len());
        let mut stream = Self {
            over: false,
            is_encoded,
            inner_ended: false,
            may_take: !is_encoded,
            said_farewell: false,
            registry_first: false,
            is_active: false,
            is_cut: false,
            boundary: Boundary::new(),
            leading_mark: LeadingMark::new(),
            rare: None,
            reader,
            config,
            heartbeat_timer: None,
            timer: Timer::at(u64::MAX),
        };
        if !opening.is_empty() {
            stream.rare().next = Some(opening);
        }
        match asked.wait {
            Some(time) => stream.wait_for(time, is_enough),
            None if is_behind => stream.rare().live_after = Some(there),
            None => {}
        }
        stream
    }

    pub(super) fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// Frees the rare state when it is empty, which makes the fast path possible again.
    pub(super) fn drop_empty_rare_state(&mut self) {
        self.rare = self.rare.take().filter(|rare| !rare.is_empty());
    }

    #[inline]
    pub(super) fn poll_frame<B: Body>(
        &mut self,
        inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.only_registry_is_left() {
            match self.reader.poll_fast(cx) {
                FastRead::Live(wire) => {
                    self.note_activity(true);
                    return Poll::Ready(Some(Ok(Frame::data(wire))));
                }
                FastRead::Nothing => {
                    return self.poll_heartbeat(cx).map(|heartbeat| Some(Ok(Frame::data(heartbeat))));
                }
                FastRead::Unclear => {}
            }
        }
        self.poll_all(inner, cx)
    }

    /// Polls everything that may have bytes.
    ///
    /// It is a separate function, so that a calm stream runs less code.
    fn poll_all<B: Body>(
        &mut self,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.over {
            return self.poll_cut(inner, cx);
        }
        if let Some(block) = self.rare.as_mut().and_then(|rare| rare.next.take()) {
            self.is_active = true;
            self.drop_empty_rare_state();
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        self.end_poll(false, cx);
        let may_inject = self.may_inject();
        if mem::replace(&mut self.may_take, may_inject) != may_inject {
            self.reader.client().cannot_take.store(!may_inject, Ordering::Relaxed);
        }
        let (registry_first, own_had_ended) = (self.registry_first, self.inner_ended);
        if registry_first {
            if let Poll::Ready(frame) = self.poll_registry(cx) {
                return self.give(frame, inner, cx);
            }
        }
        match self.poll_own(inner.as_mut(), cx) {
            OwnPoll::Frame(bytes) => return self.send(bytes),
            OwnPoll::Failed(error) => return Poll::Ready(Some(Err(error))),
            OwnPoll::Nothing => {}
        }
        // Without a subscription that holds the stream open, the end of the handler's own body ends the client. So the
        // registry is polled again.
        if !registry_first || self.inner_ended != own_had_ended {
            if let Poll::Ready(frame) = self.poll_registry(cx) {
                return self.give(frame, inner, cx);
            }
        }
        if self.inner_ended && !self.may_inject() {
            return Poll::Ready(self.finish(CloseReason::BodyEnded).map(Ok));
        }
        if self.may_inject() && self.end_poll(true, cx) {
            if let Poll::Ready(frame) = self.poll_registry(cx) {
                return self.give(frame, inner, cx);
            }
        }
        self.poll_heartbeat(cx).map(|heartbeat| Some(Ok(Frame::data(heartbeat))))
    }

    /// Returns a frame, or the end.
    fn give<B: Body>(
        &mut self,
        frame: Option<Frame<Bytes>>,
        inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match frame {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_cut(inner, cx),
        }
    }

    /// Returns the error of the handler's own body, if the stream was cut before that body has ended.
    #[cold]
    fn poll_cut<B: Body>(
        &mut self,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        while self.is_cut {
            match ready!(inner.as_mut().poll_frame(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.is_cut = false;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.is_cut = false,
            }
        }
        Poll::Ready(None)
    }

    /// Unsets the timers, because another task polls the stream now.
    ///
    /// The timers have to wake the new task.
    #[cold]
    pub(super) fn unset_timers(&mut self) {
        self.timer.unset();
        if let Some(rare) = &mut self.rare {
            rare.unset_timers();
        }
    }

    /// Returns whether only the registry's events and heartbeats can still come.
    fn only_registry_is_left(&self) -> bool {
        self.inner_ended && self.may_take && self.may_inject() && !self.over && self.rare.is_none()
    }

    /// Returns whether the stream is at a boundary, where bytes may be inserted.
    pub(super) fn may_inject(&self) -> bool {
        !self.is_encoded && self.boundary.is_here()
    }

    #[inline]
    fn send<E>(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.is_active = true;
        self.reader.client().add_bytes(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// Returns the next frame of the subscriptions, or the end of a closed client.
    #[inline]
    fn poll_registry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        // This is the usual case while the handler's own body sends frames.
        if self.may_inject() && self.rare.is_none() && self.reader.is_quiet(cx.waker()) {
            return Poll::Pending;
        }
        self.ask_registry(cx)
    }

    fn ask_registry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if !self.may_inject() {
            let reason = ready!(if self.is_encoded { self.reader.poll_closing(cx) } else { self.reader.poll_cut(cx) });
            return Poll::Ready(self.finish(reason));
        }
        if let Some(live) = self.take_live() {
            return Poll::Ready(Some(Frame::data(live)));
        }
        ready!(self.poll_window(cx));
        loop {
            let own_body = if self.inner_ended { OwnBody::Ended } else { OwnBody::Open };
            let frame = match self.reader.poll_frame(cx, own_body) {
                Poll::Ready(Ok(frame)) => frame,
                Poll::Ready(Err(reason)) => {
                    return Poll::Ready(match self.say_farewell(reason) {
                        Some(last_words) => Some(Frame::data(last_words)),
                        None => self.finish(reason),
                    });
                }
                // Filters may have held back the last events that were there.
                Poll::Pending => {
                    return self.take_live().map_or(Poll::Pending, |live| Poll::Ready(Some(Frame::data(live))));
                }
            };
            let by = self.reader.style().batching;
            let interval = by.map(Batching::interval).unwrap_or_default();
            if !frame.has_more && !interval.is_zero() && !self.is_poll() {
                let until = self.reader.client().shared().clock.after(interval);
                self.rare().window = Some(Window { end: Timer::at(until), by });
                // A client that waits for its window must not count as stalled.
                self.reader.client().waits_until(until);
            }
            let gap = frame.gap.and_then(|missing| self.config.gap_event.encode(&missing));
            let events = Some(frame.wire).filter(|wire| !wire.is_empty());
            if let Some(gap) = &gap {
                self.reader.client().add_bytes(gap.len());
            }
            let (first, second) = match (gap, events) {
                (Some(gap), events) => (gap, events),
                (None, Some(events)) => (events, None),
                (None, None) => continue,
            };
            self.registry_first = false;
            self.note_sent_to_poll();
            if second.is_some() {
                self.rare().next = second;
            }
            self.note_activity(frame.is_live);
            return Poll::Ready(Some(Frame::data(first)));
        }
    }

    /// Notes that events of the registry are sent.
    ///
    /// `is_live`: the events were published just now.
    #[inline]
    fn note_activity(&mut self, is_live: bool) {
        match &mut self.heartbeat_timer {
            // The time of the last publish is near enough. Reading a clock would be a tenth of the delivery's cost.
            Some(heartbeat_timer) if is_live => {
                heartbeat_timer.note_activity(self.reader.client().shared().topics.last_publish());
            }
            _ => self.is_active = true,
        }
    }

    /// Waits until the registry's events may be sent again.
    ///
    /// A closed client does not wait. Neither does a client whose batching has changed.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rare.as_ref().is_none_or(|rare| rare.window.is_none()) {
            return Poll::Ready(());
        }
        let is_closing = self.reader.poll_closing(cx).is_ready();
        if self.reader.take_moved() {
            self.unset_timers();
        }
        let style = self.reader.style();
        let window = self.rare.as_mut().and_then(|rare| rare.window.as_mut());
        match window.filter(|window| !is_closing && window.by == style.batching) {
            Some(window) => ready!(window.end.poll(&self.reader.client().shared().timers, cx)),
            None => self.reader.client().waits_until(0),
        }
        self.rare().window = None;
        Poll::Ready(())
    }

    /// Returns the next bytes of the handler's own body.
    ///
    /// Trailers are kept for the end of the stream.
    #[inline]
    fn poll_own<B: Body>(&mut self, mut inner: Pin<&mut B>, cx: &mut Context<'_>) -> OwnPoll<B::Error> {
        while !self.inner_ended {
            let data = match inner.as_mut().poll_frame(cx) {
                Poll::Pending => return OwnPoll::Nothing,
                Poll::Ready(Some(Err(error))) => return OwnPoll::Failed(error),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(frame) => match frame.into_trailers() {
                        Ok(mut trailers) => {
                            if !self.is_encoded {
                                headers::remove_byte_descriptions(&mut trailers);
                            }
                            self.rare().trailers = Some(trailers);
                            None
                        }
                        Err(_) => continue,
                    },
                },
                Poll::Ready(None) => None,
            };
            let bytes = match data {
                Some(data) if self.is_encoded => into_bytes(data),
                Some(data) => without_mark(&mut self.leading_mark, into_bytes(data)),
                None => {
                    self.inner_ended = true;
                    self.reader.stop_resting();
                    self.boundary.end();
                    Bytes::from_static(self.leading_mark.held())
                }
            };
            if !bytes.is_empty() {
                self.boundary.advance(&bytes);
                self.registry_first = true;
                return OwnPoll::Frame(bytes);
            }
        }
        OwnPoll::Nothing
    }

    /// Returns a heartbeat, if one is due and the stream is at a boundary.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.reader.take_moved() {
            self.unset_timers();
        }
        // The usual case: the timer is set and has not fired.
        if !self.is_active && self.timer.is_set() {
            return Poll::Pending;
        }
        let Some(interval) = self.config.heartbeat.interval().filter(|_| !self.is_encoded) else {
            return Poll::Pending;
        };
        let (may_inject, is_poll) = (self.may_inject(), self.is_poll());
        let client = self.reader.client();
        let (clock, spread) = (&client.shared().clock, client.id().spread());
        let heartbeat_timer = self.heartbeat_timer.get_or_insert_with(|| {
            let heartbeat_timer = HeartbeatTimer::new(clock.now());
            self.timer = Timer::at(heartbeat_timer.due(interval, spread));
            heartbeat_timer
        });
        if mem::take(&mut self.is_active) {
            heartbeat_timer.note_activity(clock.now());
        }
        loop {
            let client = self.reader.client();
            ready!(self.timer.poll(&client.shared().timers, cx));
            let is_due = heartbeat_timer.take_due(interval, spread, client.shared().clock.now());
            self.timer = Timer::at(heartbeat_timer.due(interval, spread));
            // A busy stream gets here once in each interval, too.
            client.shared().tick();
            if is_due && may_inject {
                let heartbeat = self.config.heartbeat(&mut self.reader, is_poll);
                let client = self.reader.client();
                if !heartbeat.is_empty() {
                    client.add_bytes(heartbeat.len());
                    client.observe(|observer, client| observer.heartbeat(client));
                    return Poll::Ready(heartbeat);
                }
            } else if is_due {
                client.shared().counters.withheld_heartbeats.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
