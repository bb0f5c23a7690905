use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use crate::{
    Batching, ClientHandle, CloseReason,
    alarm::Alarm,
    boundary::{Boundary, LeadingMark},
    heartbeat::Pulse,
    layer::Config,
    limit::Hold,
    registry::{Besides, Client, Glance, Reader},
};

pin_project! {
    /// The body of a response of a [`SseService`](crate::SseService).
    ///
    /// If the response is an event stream, the handler's own frames pass through by reference count, and the
    /// registry's events and the heartbeats come in between them, at boundaries. Any other body passes as it is.
    ///
    /// Dropping it is how the client's stream ends: its subscriptions go, and [`closed`](crate::ClientHandle::closed) says so.
    pub struct SseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        // No event stream, or one that a layer further in has wrapped.
        Plain {
            // The places of what has been wrapped already. First, so that there is room again when it is told that its client is over.
            hold: Option<Hold>,
            #[pin]
            inner: B,
        },
        Stream {
            #[pin]
            inner: B,
            stream: Pin<Box<Stream>>,
        },
        // Not from the handler.
        Whole { data: Bytes },
    }
}

pin_project! {
    /// What an event stream has besides the handler's own body.
    ///
    /// In the order in which a delivery touches it: with many clients, what it costs is cache lines.
    #[repr(C)]
    struct Stream {
        over: bool,
        // Nothing can be put into a body that is encoded.
        is_encoded: bool,
        inner_ended: bool,
        // It stood where the registry's events may go out.
        may_take: bool,
        // What a stream ends with went out.
        said_farewell: bool,
        // Whose turn it is to be asked first, so that neither the handler nor the registry can starve the other.
        registry_first: bool,
        // Bytes went out since the pulse was last told.
        stirred: bool,
        boundary: Boundary,
        // What goes out next, before anything else is asked for. It is a block, at a boundary. Boxed, as few ever have one.
        next: Option<Box<Bytes>>,
        reader: Reader,
        config: Arc<Config>,
        pulse: Option<Pulse>,
        // Until it is over, the registry's events wait.
        window: Option<Pin<Box<Sleep>>>,
        #[pin]
        timer: Option<Alarm>,
        leading_mark: LeadingMark,
        trailers: Option<Box<HeaderMap>>,
    }
}

impl<B> SseBody<B> {
    /// A body that is no event stream.
    pub(crate) fn plain(inner: B) -> Self {
        Self::wrapped(inner, None)
    }

    /// A body that another layer has made an event stream.
    pub(crate) fn wrapped(inner: B, hold: Option<Hold>) -> Self {
        Self { kind: Kind::Plain { inner, hold } }
    }

    /// A body without a handler's.
    pub(crate) fn whole(data: Bytes) -> Self {
        Self { kind: Kind::Whole { data } }
    }

    /// The stream of this client begins.
    pub(crate) fn stream(inner: B, client: &Arc<Client>, config: Arc<Config>, is_encoded: bool) -> Self {
        let reader = Reader::open(client);
        let mut opening = config.opening.encode();
        if let Some(snapshot) = reader.take_snapshot() {
            opening = [opening, snapshot.encode()].concat().into();
        }
        client.cannot_take.store(is_encoded, Ordering::Relaxed);
        client.add_bytes(opening.len());
        let stream = Stream {
            reader,
            config,
            boundary: Boundary::new(),
            leading_mark: LeadingMark::new(),
            is_encoded,
            inner_ended: false,
            may_take: !is_encoded,
            said_farewell: false,
            next: Some(opening).filter(|opening| !is_encoded && !opening.is_empty()).map(Box::new),
            trailers: None,
            registry_first: false,
            pulse: None,
            stirred: false,
            timer: None,
            window: None,
            over: false,
        };
        Self { kind: Kind::Stream { inner, stream: Box::pin(stream) } }
    }
}

impl<B: Default> Default for SseBody<B> {
    /// A default body of the handler's, as it is.
    fn default() -> Self {
        Self::plain(B::default())
    }
}

impl<B: Body> Body for SseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Plain { inner, .. } => inner.poll_frame(cx).map_ok(|frame| frame.map_data(into_bytes)),
            KindProjection::Stream { inner, stream } => stream.as_mut().poll_frame(inner, cx),
            KindProjection::Whole { data } if data.is_empty() => Poll::Ready(None),
            KindProjection::Whole { data } => Poll::Ready(Some(Ok(Frame::data(mem::take(data))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.is_end_stream(),
            Kind::Stream { stream, .. } => stream.over,
            Kind::Whole { data } => data.is_empty(),
        }
    }

    /// Of an event stream nothing is known: what is exact would become a `content-length`.
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner, .. } => inner.size_hint(),
            Kind::Stream { .. } => SizeHint::default(),
            Kind::Whole { data } => SizeHint::with_exact(data.len() as u64),
        }
    }
}

/// Without a copy if it is `Bytes`, as it is almost everywhere.
fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

/// What the handler's own body has to say.
enum Own<E> {
    Frame(Bytes),
    Failed(E),
    Nothing,
}

impl Stream {
    fn poll_frame<B: Body>(
        mut self: Pin<&mut Self>,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.is_calm() {
            match self.as_mut().project().reader.glance(cx) {
                Glance::Live(wire) => {
                    self.stir(true);
                    return Poll::Ready(Some(Ok(Frame::data(wire))));
                }
                Glance::Nothing => {
                    let heartbeat = ready!(self.as_mut().poll_heartbeat(cx));
                    return self.send(heartbeat);
                }
                Glance::Unclear => {}
            }
        }
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(block) = self.as_mut().project().next.take() {
            *self.project().stirred = true;
            return Poll::Ready(Some(Ok(Frame::data(*block))));
        }
        let may_inject = self.may_inject();
        let this = self.as_mut().project();
        if mem::replace(this.may_take, may_inject) != may_inject {
            this.reader.client().cannot_take.store(!may_inject, Ordering::Relaxed);
        }
        let (registry_first, own_had_ended) = (self.registry_first, self.inner_ended);
        if registry_first {
            if let Poll::Ready(frame) = self.as_mut().poll_registry(cx) {
                return Poll::Ready(frame.map(Ok));
            }
        }
        match self.as_mut().poll_own(inner.as_mut(), cx) {
            Own::Frame(bytes) => return self.send(bytes),
            Own::Failed(error) => {
                self.end(CloseReason::BodyError);
                return Poll::Ready(Some(Err(error)));
            }
            Own::Nothing => {}
        }
        // A client that nothing holds open is over when the handler's own body is: that is new to the registry.
        if !registry_first || self.inner_ended != own_had_ended {
            if let Poll::Ready(frame) = self.as_mut().poll_registry(cx) {
                return Poll::Ready(frame.map(Ok));
            }
        }
        if self.inner_ended && !self.may_inject() {
            return Poll::Ready(self.finish(CloseReason::Ended).map(Ok));
        }
        let heartbeat = ready!(self.as_mut().poll_heartbeat(cx));
        self.send(heartbeat)
    }

    /// Whether all that is to come are the registry's events, as they come, and heartbeats.
    fn is_calm(&self) -> bool {
        self.inner_ended
            && self.may_take
            && self.may_inject()
            && !self.over
            && self.next.is_none()
            && self.window.is_none()
    }

    /// Whether the stream is at a boundary, where something may be put in.
    fn may_inject(&self) -> bool {
        !self.is_encoded && self.boundary.is_here()
    }

    fn send<E>(self: Pin<&mut Self>, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let this = self.project();
        *this.stirred = true;
        this.reader.client().add_bytes(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// The next frame of the client's subscriptions, or the stream's end if the client was closed.
    fn poll_registry(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if !self.may_inject() {
            let is_encoded = self.is_encoded;
            let reader = self.as_mut().project().reader;
            let reason = ready!(if is_encoded { reader.poll_closing(cx) } else { reader.poll_cut(cx) });
            return Poll::Ready(self.finish(reason));
        }
        ready!(self.as_mut().poll_window(cx));
        loop {
            let besides = if self.inner_ended { Besides::EndedBody } else { Besides::OwnBody };
            let frame = match ready!(self.as_mut().project().reader.poll_frame(cx, besides)) {
                Ok(frame) => frame,
                Err(reason) => {
                    return Poll::Ready(match self.as_mut().say_farewell(reason) {
                        Some(last_words) => Some(Frame::data(last_words)),
                        None => self.finish(reason),
                    });
                }
            };
            let this = self.as_mut().project();
            let interval = this.reader.style().batching.map(Batching::interval).unwrap_or_default();
            if !frame.has_more && !interval.is_zero() {
                *this.window = Some(Box::pin(sleep(interval)));
                // Nobody may take that for being stuck.
                this.reader.client().waits_for(interval);
            }
            let gap = frame.gap.and_then(|missing| this.config.gap_event.encode(&missing));
            let events = Some(frame.wire).filter(|wire| !wire.is_empty());
            if let Some(gap) = &gap {
                this.reader.client().add_bytes(gap.len());
            }
            let (Some(first), second) = (match gap {
                Some(gap) => (Some(gap), events),
                None => (events, None),
            }) else {
                continue;
            };
            *this.registry_first = false;
            *this.next = second.map(Box::new);
            self.stir(frame.is_live);
            return Poll::Ready(Some(Frame::data(first)));
        }
    }

    /// Events of the registry go out. `is_live`: they were published just now.
    fn stir(self: Pin<&mut Self>, is_live: bool) {
        let this = self.project();
        match this.pulse {
            // Asking a clock would be a tenth of what the delivery costs.
            Some(pulse) if is_live => pulse.stir(this.reader.client().shared().last_publish()),
            _ => *this.stirred = true,
        }
    }

    /// Waits until the registry's events may go out again. A client that is closed does not wait.
    fn poll_window(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if let Some(window) = this.window {
            if this.reader.poll_closing(cx).is_pending() {
                ready!(window.as_mut().poll(cx));
            }
            *this.window = None;
        }
        Poll::Ready(())
    }

    /// The next bytes of the handler's own body. Trailers are kept for the end.
    fn poll_own<B: Body>(self: Pin<&mut Self>, mut inner: Pin<&mut B>, cx: &mut Context<'_>) -> Own<B::Error> {
        let this = self.project();
        while !*this.inner_ended {
            let data = match inner.as_mut().poll_frame(cx) {
                Poll::Pending => return Own::Nothing,
                Poll::Ready(Some(Err(error))) => return Own::Failed(error),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => {
                            *this.trailers = Some(Box::new(trailers));
                            None
                        }
                        Err(_) => continue,
                    },
                },
                Poll::Ready(None) => None,
            };
            let bytes = match data {
                Some(data) if *this.is_encoded => into_bytes(data),
                Some(data) => without_mark(this.leading_mark, into_bytes(data)),
                None => {
                    *this.inner_ended = true;
                    this.reader.stop_resting();
                    this.boundary.end();
                    Bytes::from_static(this.leading_mark.held())
                }
            };
            if !bytes.is_empty() {
                this.boundary.advance(&bytes);
                *this.registry_first = true;
                return Own::Frame(bytes);
            }
        }
        Own::Nothing
    }

    /// A heartbeat, if one is due and the stream is at a boundary.
    fn poll_heartbeat(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Bytes> {
        let may_inject = self.may_inject();
        let mut this = self.as_mut().project();
        if !*this.stirred {
            // It mostly waits for a timer that is set.
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(cx));
            }
        }
        let Some(interval) = this.config.heartbeat.interval().filter(|_| !*this.is_encoded) else {
            return Poll::Pending;
        };
        let clock = &this.reader.client().shared().clock;
        let pulse = match this.pulse {
            Some(pulse) => {
                if mem::take(this.stirred) {
                    pulse.stir(clock.now());
                }
                pulse
            }
            None => {
                *this.stirred = false;
                let spread = this.reader.client().id().spread();
                this.pulse.insert(Pulse::new(interval, clock.now(), spread))
            }
        };
        loop {
            if this.timer.is_none() {
                let Some(due) = clock.instant(pulse.due(interval)) else { return Poll::Pending };
                this.timer.set(Some(Alarm::at(due)));
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(cx));
            }
            let is_due = pulse.beat(interval, clock.now());
            match (clock.instant(pulse.due(interval)), this.timer.as_mut().as_pin_mut()) {
                (Some(due), Some(timer)) => timer.reset(due),
                _ => this.timer.set(None),
            }
            if is_due && may_inject {
                let heartbeat = this.config.heartbeat.encode();
                if !heartbeat.is_empty() {
                    let client = this.reader.client();
                    client.observe(|observer, client| observer.heartbeat(client));
                    client.shared().tick();
                    return Poll::Ready(heartbeat);
                }
            } else if is_due {
                let counters = &this.reader.client().shared().counters;
                counters.withheld_heartbeats.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What a stream ends with that ends at a boundary, if anything and not yet.
    fn say_farewell(self: Pin<&mut Self>, reason: CloseReason) -> Option<Bytes> {
        let this = self.project();
        if mem::replace(this.said_farewell, true) {
            return None;
        }
        let client = this.reader.client();
        let own = this.config.farewell.as_ref();
        let own = own.and_then(|farewell| farewell.of(&ClientHandle::new(Arc::clone(client)), reason));
        let own = own.map(|event| event.encode_without_id()).unwrap_or_default();
        let last_words = match reason {
            CloseReason::Drained => [own, client.last_words()].concat().into(),
            _ => own,
        };
        client.add_bytes(last_words.len());
        Some(last_words).filter(|bytes| !bytes.is_empty())
    }

    fn end(self: Pin<&mut Self>, reason: CloseReason) {
        let this = self.project();
        *this.over = true;
        this.reader.end(reason);
    }

    /// The last frame, if there are trailers.
    fn finish(mut self: Pin<&mut Self>, reason: CloseReason) -> Option<Frame<Bytes>> {
        self.as_mut().end(reason);
        self.project().trailers.take().map(|trailers| Frame::trailers(*trailers))
    }
}

/// The frame without what belongs to a leading byte-order mark, and with what was taken for one before and is none.
fn without_mark(mark: &mut LeadingMark, mut frame: Bytes) -> Bytes {
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

impl<B: fmt::Debug> fmt::Debug for SseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Plain { inner, .. } => f.debug_struct("SseBody").field("inner", inner).finish(),
            Kind::Stream { inner, stream } => {
                let client = stream.reader.client();
                f.debug_struct("SseBody").field("inner", inner).field("client", client).finish_non_exhaustive()
            }
            Kind::Whole { data } => f.debug_struct("SseBody").field("data", data).finish(),
        }
    }
}
