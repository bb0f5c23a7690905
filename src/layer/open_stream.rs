//! An event stream as it goes out: the handler's own frames, the registry's events, heartbeats, and the end.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::sse_layer::Config;
use crate::{
    client::{ClientHandle, FastRead, OwnBody, Picked, Reader},
    stream::{Batching, Boundary, CloseReason, HeartbeatTimer, LeadingMark, headers},
    time::Timer,
};

/// What an event stream has besides the handler's own body.
///
/// In the order in which a delivery touches it: with many clients, what it costs is cache lines.
#[repr(C)]
pub(super) struct OpenStream {
    pub(super) over: bool,
    /// Nothing can be put into a body that is encoded.
    is_encoded: bool,
    inner_ended: bool,
    /// It stood where the registry's events may go out.
    may_take: bool,
    /// What a stream ends with went out.
    said_farewell: bool,
    /// Whose turn it is to be asked first, so that neither the handler nor the registry can starve the other.
    registry_first: bool,
    /// Bytes went out since the pulse was last told.
    is_active: bool,
    boundary: Boundary,
    leading_mark: LeadingMark,
    /// What few streams have, or not for long.
    rare: Option<Box<RareState>>,
    pub(super) reader: Reader,
    config: Arc<Config>,
    heartbeat_timer: Option<HeartbeatTimer>,
    timer: Timer,
}

#[derive(Default)]
struct RareState {
    /// What goes out next, before anything else is asked for. It is a block, at a boundary.
    next: Option<Bytes>,
    /// Until it is over, the registry's events wait.
    window: Option<Window>,
    trailers: Option<HeaderMap>,
}

/// The time until the next frame, and what asks for it.
struct Window {
    end: Timer,
    by: Option<Batching>,
}

impl RareState {
    fn is_empty(&self) -> bool {
        self.next.is_none() && self.window.is_none() && self.trailers.is_none()
    }
}

/// Without a copy if it is `Bytes`, as it is almost everywhere.
pub(super) fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

impl Config {
    /// What a stream begins with.
    fn opening(&self, reader: &Reader, own: &[Picked]) -> Bytes {
        let mut opening = self.first_words(reader.client().id().spread());
        let snapshot = reader.take_snapshot();
        let says_it = snapshot.as_ref().is_some_and(|snapshot| snapshot.own_id().is_some());
        let snapshot = snapshot.map(|snapshot| snapshot.encode());
        let position = match self.position_event.is_on() && !says_it {
            true => reader.standing().and_then(|id| self.position_event.encode(&id)),
            false => None,
        };
        let own = (!own.is_empty()).then(|| reader.written(own).into());
        for block in [position, snapshot, own].into_iter().flatten() {
            opening = [opening, block].concat().into();
        }
        let says_nothing = opening.is_empty() && !(self.gap_event.is_on() && reader.begins_with_gap());
        if says_nothing && self.opens_at_once && self.heartbeat.interval().is_some() {
            self.heartbeat.comment_wire()
        } else {
            opening
        }
    }

    /// What a stream gets that was silent for an interval.
    fn heartbeat(&self, reader: &mut Reader) -> Bytes {
        let heartbeat = self.heartbeat.encode();
        match self.position(reader) {
            Some(position) => [heartbeat, position].concat().into(),
            None => heartbeat,
        }
    }

    /// Where the client stands, if no id that went out says so.
    fn position(&self, reader: &mut Reader) -> Option<Bytes> {
        let ahead = if self.position_event.is_on() { reader.take_ahead() } else { None };
        self.position_event.encode(&ahead?.to_string())
    }
}

/// What the handler's own body has to say.
enum Own<E> {
    Frame(Bytes),
    Failed(E),
    Nothing,
}

impl OpenStream {
    /// `own`: what goes out before all that is published.
    pub(super) fn new(reader: Reader, own: &[Picked], config: Arc<Config>, is_encoded: bool) -> Self {
        let client = reader.client();
        let opening = if is_encoded { Bytes::new() } else { config.opening(&reader, own) };
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
        stream
    }

    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// A stream that has nothing aside any more may be calm.
    fn tidy(&mut self) {
        self.rare = self.rare.take().filter(|rare| !rare.is_empty());
    }

    #[inline]
    pub(super) fn poll_frame<B: Body>(
        &mut self,
        inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.is_calm() {
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

    /// Asks whoever may have something: by itself, so that a calm stream passes less code.
    fn poll_all<B: Body>(
        &mut self,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(block) = self.rare.as_mut().and_then(|rare| rare.next.take()) {
            self.is_active = true;
            self.tidy();
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        let may_inject = self.may_inject();
        if mem::replace(&mut self.may_take, may_inject) != may_inject {
            self.reader.client().cannot_take.store(!may_inject, Ordering::Relaxed);
        }
        let (registry_first, own_had_ended) = (self.registry_first, self.inner_ended);
        if registry_first {
            if let Poll::Ready(frame) = self.poll_registry(cx) {
                return Poll::Ready(frame.map(Ok));
            }
        }
        match self.poll_own(inner.as_mut(), cx) {
            Own::Frame(bytes) => return self.send(bytes),
            Own::Failed(error) => return Poll::Ready(Some(Err(error))),
            Own::Nothing => {}
        }
        // A client that nothing holds open is over when the handler's own body is: that is new to the registry.
        if !registry_first || self.inner_ended != own_had_ended {
            if let Poll::Ready(frame) = self.poll_registry(cx) {
                return Poll::Ready(frame.map(Ok));
            }
        }
        if self.inner_ended && !self.may_inject() {
            return Poll::Ready(self.finish(CloseReason::BodyEnded).map(Ok));
        }
        self.poll_heartbeat(cx).map(|heartbeat| Some(Ok(Frame::data(heartbeat))))
    }

    /// Another task reads the stream than before, so that is whom the timers are to wake.
    #[cold]
    fn unset_timers(&mut self) {
        self.timer.unset();
        if let Some(window) = self.rare.as_mut().and_then(|rare| rare.window.as_mut()) {
            window.end.unset();
        }
    }

    /// Whether all that is to come are the registry's events, as they come, and heartbeats.
    fn is_calm(&self) -> bool {
        self.inner_ended && self.may_take && self.may_inject() && !self.over && self.rare.is_none()
    }

    /// Whether the stream is at a boundary, where something may be put in.
    fn may_inject(&self) -> bool {
        !self.is_encoded && self.boundary.is_here()
    }

    #[inline]
    fn send<E>(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.is_active = true;
        self.reader.client().add_bytes(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// The next frame of the client's subscriptions, or the stream's end if the client was closed.
    #[inline]
    fn poll_registry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        // So it mostly is while a handler's own body has something to say.
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
        ready!(self.poll_window(cx));
        loop {
            let own_body = if self.inner_ended { OwnBody::Ended } else { OwnBody::Open };
            let frame = match ready!(self.reader.poll_frame(cx, own_body)) {
                Ok(frame) => frame,
                Err(reason) => {
                    return Poll::Ready(match self.say_farewell(reason) {
                        Some(last_words) => Some(Frame::data(last_words)),
                        None => self.finish(reason),
                    });
                }
            };
            let by = self.reader.style().batching;
            let interval = by.map(Batching::interval).unwrap_or_default();
            if !frame.has_more && !interval.is_zero() {
                let until = self.reader.client().shared().clock.after(interval);
                self.rare().window = Some(Window { end: Timer::at(until), by });
                // Nobody may take that for a stalled client.
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
            if second.is_some() {
                self.rare().next = second;
            }
            self.note_activity(frame.is_live);
            return Poll::Ready(Some(Frame::data(first)));
        }
    }

    /// Events of the registry go out. `is_live`: they were published just now.
    #[inline]
    fn note_activity(&mut self, is_live: bool) {
        match &mut self.heartbeat_timer {
            // Asking a clock would be a tenth of what the delivery costs.
            Some(heartbeat_timer) if is_live => {
                heartbeat_timer.note_activity(self.reader.client().shared().topics.last_publish());
            }
            _ => self.is_active = true,
        }
    }

    /// Waits until the registry's events may go out again. A client that is closed does not wait, nor one that is to wait for another time by now.
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

    /// The next bytes of the handler's own body. Trailers are kept for the end.
    #[inline]
    fn poll_own<B: Body>(&mut self, mut inner: Pin<&mut B>, cx: &mut Context<'_>) -> Own<B::Error> {
        while !self.inner_ended {
            let data = match inner.as_mut().poll_frame(cx) {
                Poll::Pending => return Own::Nothing,
                Poll::Ready(Some(Err(error))) => return Own::Failed(error),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(frame) => match frame.into_trailers() {
                        Ok(mut trailers) => {
                            if !self.is_encoded {
                                headers::forget_bytes(&mut trailers);
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
                return Own::Frame(bytes);
            }
        }
        Own::Nothing
    }

    /// A heartbeat, if one is due and the stream is at a boundary.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.reader.take_moved() {
            self.unset_timers();
        }
        // It mostly waits for a timer that is set.
        if !self.is_active && self.timer.is_set() {
            return Poll::Pending;
        }
        let Some(interval) = self.config.heartbeat.interval().filter(|_| !self.is_encoded) else {
            return Poll::Pending;
        };
        let may_inject = self.may_inject();
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
            // A stream that is busy comes here once an interval, too.
            client.shared().tick();
            if is_due && may_inject {
                let heartbeat = self.config.heartbeat(&mut self.reader);
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

    /// What a stream ends with that ends at a boundary, if anything and not yet.
    fn say_farewell(&mut self, reason: CloseReason) -> Option<Bytes> {
        if mem::replace(&mut self.said_farewell, true) {
            return None;
        }
        // Who comes back has had what it has read, also where nothing of that went out, and may have had all there is.
        let position = self.config.position(&mut self.reader).unwrap_or_default();
        let client = self.reader.client();
        let own = self.config.farewell.as_ref();
        let own = own.and_then(|farewell| farewell.of(&ClientHandle::new(Arc::clone(client)), reason));
        let own = own.map(|event| event.encode_without_id()).unwrap_or_default();
        let last_words: Bytes = match reason {
            CloseReason::Drained => [position, own, client.last_words()].concat().into(),
            _ if position.is_empty() => own,
            _ => [position, own].concat().into(),
        };
        client.add_bytes(last_words.len());
        Some(last_words).filter(|bytes| !bytes.is_empty())
    }

    /// The handler's own body has failed: what goes out before the error, if anything can.
    #[cold]
    pub(super) fn fail(&mut self) -> Option<Bytes> {
        let last_words = if self.may_inject() { self.say_farewell(CloseReason::BodyFailed) } else { None };
        self.end(CloseReason::BodyFailed);
        last_words
    }

    fn end(&mut self, reason: CloseReason) {
        self.over = true;
        self.reader.end(reason);
    }

    /// The last frame, if there are trailers.
    fn finish(&mut self, reason: CloseReason) -> Option<Frame<Bytes>> {
        self.end(reason);
        self.rare.as_mut()?.trailers.take().map(Frame::trailers)
    }
}

/// The frame without what belongs to a leading byte-order mark, and with what was taken for one before and is none.
#[inline]
fn without_mark(mark: &mut LeadingMark, frame: Bytes) -> Bytes {
    if mark.is_decided() { frame } else { strip(mark, frame) }
}

fn strip(mark: &mut LeadingMark, mut frame: Bytes) -> Bytes {
    let (held, gone) = mark.strip(&frame);
    frame.advance(gone);
    if held.is_empty() {
        return frame;
    }
    let mut whole = BytesMut::with_capacity(held.len() + frame.len());
    whole.extend_from_slice(held);
    whole.extend_from_slice(&frame);
    whole.freeze()
}
