//! The beginning and the end of a stream: slots of limits, close reason, and who waits for the end.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    hooks::Hook,
    lifetime::Lifetime,
    resuming::Resume,
    state::{Client, ClientState, Closing, Phase},
    stats::{Sent, StreamSummary},
    telling::TellDeferred,
};
use crate::{
    limit::{Admission, Hold, RefusedReason},
    log::Outcome,
    reading::Picked,
    stream::CloseReason,
    sync::lock,
    topics::{Deferred, once},
};

impl Client {
    /// Whether a limit or a drain may refuse the client's stream.
    pub(crate) fn may_be_refused(&self) -> bool {
        self.admission.is_some() || self.shared.draining.has_begun()
    }

    /// Acquires the client's slots of all limits, if it has none.
    pub(crate) fn acquire_slot(self: &Arc<Self>) -> Result<(), RefusedReason> {
        let result = match self.shared.draining.has_begun() {
            true => Err(RefusedReason::Draining),
            false => self.admission.as_ref().map_or(Ok(()), |admission| admission.acquire_slot()),
        };
        if let Err(refused) = &result {
            self.note_refused(refused);
        }
        result
    }

    pub(crate) fn note_refused(self: &Arc<Self>, refused: &RefusedReason) {
        self.shared.counters.refused_streams.fetch_add(1, Ordering::Relaxed);
        self.observe(|observer, client| observer.stream_refused(client, refused));
    }

    /// Returns why the request cannot be answered with the client's stream, if so. Observers are notified.
    pub(crate) fn refuse_answer(self: &Arc<Self>) -> Option<RefusedReason> {
        let refused = match self.is_of_request {
            true => lock(&self.state).may_begin().err(),
            false => Some(RefusedReason::OtherClient),
        };
        refused.inspect(|refused| self.note_refused(refused))
    }

    /// Keeps the slots of the request for the client's later reader.
    pub(crate) fn keep_slots(&self, hold: Option<Hold>) {
        let mut state = lock(&self.state);
        // Dropped after the lock is released.
        let _old = match state.phase {
            Phase::Waiting if hold.is_some() => mem::replace(&mut state.rare().hold, hold),
            _ => hold,
        };
        drop(state);
    }

    /// Takes the slots of the request, for the client's reader.
    pub(crate) fn take_slots(&self) -> Option<Hold> {
        let kept = lock(&self.state).rare.as_mut().and_then(|rare| rare.hold.take());
        kept.or_else(|| self.admission().map(Admission::hold))
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_after(reason, self.shared.topics.horizon());
    }

    /// Closes the client: its stream ends after all events up to this number.
    pub(crate) fn close_after(&self, reason: CloseReason, horizon: u64) {
        lock(&self.state).close(Closing { reason, horizon, is_cut: false });
        self.changed();
    }

    /// Closes the client: its stream ends at once, also in the middle of an event.
    pub(crate) fn cut(&self, reason: CloseReason) {
        lock(&self.state).close(Closing::cut(reason));
        self.changed();
    }

    /// Begins the stream. Returns the events that were sent to the client alone until now; they are sent first.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Vec<Picked>, RefusedReason> {
        let (spread, now) = (self.id().spread(), self.shared.clock.now());
        let mut telling = TellDeferred::of(self);
        let mut deferred = Deferred::default();
        // The presence key is read from the metadata that is set by now.
        let mut state = self.lock_with_key(|state| state.phase == Phase::Waiting && !state.cursors.is_empty());
        state.may_begin()?;
        match state.resume(&self.shared, self.last_event_id(), &mut deferred) {
            Resume::Gap(gap) => state.rare().gap = Some(gap),
            Resume::Fresh if state.cursors.has_public() => {
                if let Some(standing) = state.cursors.standing(&self.shared.topics) {
                    state.cursors.begin(&standing);
                }
            }
            Resume::Fresh | Resume::Continued => {}
        }
        let mut own = state.cursors.take_own(self.known_id());
        if !own.is_empty() && state.cursors.has_public() {
            // Their own ids would say that the client has read all older events.
            let id: Arc<str> = self.stands_at(&state).into();
            own.iter_mut().for_each(|picked| picked.progress = Some(Arc::clone(&id)));
        }
        state.phase = Phase::Open;
        (state.had_stream, state.opened) = (true, now);
        if let Some(lifetime) = state.rare.as_mut().and_then(|rare| rare.lifetime.as_mut()) {
            lifetime.begin(now, spread);
        }
        self.shared.draining.add();
        telling.note(|| Hook::Opened);
        self.reads(&mut state, &mut deferred, &mut telling);
        drop(state);
        drop(deferred);
        drop(telling);
        if self.shared.draining.has_begun() {
            // The client acquired its slots just before the drain.
            self.close(CloseReason::Drained);
        }
        Ok(own)
    }

    /// Ends the stream, and removes the client from the registry. Only the first reason counts.
    pub(crate) fn end(self: &Arc<Self>, reason: CloseReason) {
        let mut telling = TellDeferred::of(self);
        let had_stream = self.finish(reason, Some(&mut telling));
        drop(telling);
        if had_stream {
            self.shared.sample_at_an_end();
        }
    }

    /// As `end`. `telling`: notifies observers, if there may be something to notify. Returns whether a stream has
    /// ended.
    pub(super) fn finish(&self, reason: CloseReason, mut telling: Option<&mut TellDeferred<'_>>) -> bool {
        if lock(&self.state).phase == Phase::Over {
            return false;
        }
        let mut deferred = Deferred::default();
        let mut state = lock(&self.state);
        if state.phase == Phase::Over {
            return false;
        }
        state.phase = Phase::Over;
        let reason = state.closing.as_ref().map_or(reason, |closing| closing.reason);
        if reason != CloseReason::NoStream {
            state.closing.get_or_insert_with(|| Box::new(Closing::cut(reason)));
        }
        self.left(&state, state.cursors.names().map(|name| &**name), telling.as_deref_mut(), &mut deferred);
        state.cursors.clear(&self.shared.topics, &mut deferred);
        // Another reader may wait than the one that ended.
        deferred.wake(state.waker.take());
        let (had_stream, opened, sent) = (state.had_stream, state.opened, self.all_of(state.sent));
        if let Some(telling) = telling.filter(|_| had_stream) {
            let (duration, Sent { events, bytes }) = (self.since(opened), sent);
            telling.note(|| Hook::Closed(Box::new(StreamSummary { reason, duration, events, bytes })));
        }
        let over = state.waits_for_its_end();
        let places = state.rare.as_mut().and_then(|rare| rare.hold.take());
        self.changes.fetch_add(1, Ordering::Release);
        drop(state);
        drop(deferred);
        // Before anybody learns of the end, because the slots are free then.
        drop(places);
        if let Some(id) = self.known_id() {
            self.shared.unregister(&id);
        }
        if had_stream {
            self.shared.counters.note_closed(reason, sent);
        }
        if let Some(over) = over {
            over.notify_waiters();
        }
        had_stream
    }

    pub(crate) fn over(&self) -> Option<CloseReason> {
        lock(&self.state).over()
    }

    /// Returns how the client's topics have ended, once its reader has read all of them to their ends.
    pub(crate) fn completed(&self) -> Option<Outcome> {
        let state = lock(&self.state);
        state.is_complete.then(|| state.outcome())
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        once(&self.notifies_of_its_end(), || self.over()).await
    }

    /// Records that the reader has reached the end of the stream.
    pub(crate) fn note_reader_ended(&self) {
        self.reader_has_ended.store(true, Ordering::Release);
        let over = lock(&self.state).waits_for_its_end();
        if let Some(over) = over {
            over.notify_waiters();
        }
    }

    /// Waits until the reader has reached the end of the stream.
    pub(crate) async fn reader_ended(&self) {
        once(&self.notifies_of_its_end(), || self.reader_has_ended.load(Ordering::Acquire).then_some(())).await;
    }

    /// Encodes what the stream ends with, if the registry is drained.
    pub(crate) fn last_words(self: &Arc<Self>) -> Bytes {
        self.shared().draining.last_words(self.id().spread())
    }

    /// Sets whether the stream may finish when the registry is drained. A stream that no longer may is closed at once.
    pub(crate) fn finish_on_drain(&self, finish: bool) {
        let might = mem::replace(&mut lock(&self.state).style.finish_on_drain, finish);
        if might && !finish && self.is_open() && self.shared().draining.has_begun() {
            self.close(CloseReason::Drained);
        }
    }

    /// Sets how long the stream may be open after it began.
    pub(crate) fn limit_age(&self, max_age: Duration) {
        lock(&self.state).lifetime().max_age = Some(max_age);
    }

    /// Sets when the stream ends. `None`: at no time.
    pub(crate) fn expire(&self, after: Option<Duration>) {
        lock(&self.state).lifetime().expires_at = after.map(|time| self.shared.clock.after(time));
        self.changed();
    }

    pub(super) fn notifies_of_its_end(&self) -> Arc<Notify> {
        Arc::clone(lock(&self.state).rare().over.get_or_insert_default())
    }
}

impl Drop for Client {
    /// Closes a client whose stream never began. All others have ended before.
    fn drop(&mut self) {
        self.finish(CloseReason::NoStream, None);
    }
}

impl ClientState {
    fn lifetime(&mut self) -> &mut Lifetime {
        self.rare().lifetime.get_or_insert_default()
    }

    /// Returns when and why the stream ends by itself, unless it was closed before.
    pub(crate) fn end_of_life(&self) -> Option<(u64, CloseReason)> {
        self.rare.as_ref().filter(|_| self.closing.is_none())?.lifetime.as_ref()?.end()
    }

    /// Whether the stream can begin.
    pub(super) fn may_begin(&self) -> Result<(), RefusedReason> {
        match (self.phase, self.over()) {
            (_, Some(reason)) => Err(RefusedReason::StreamEnded { reason }),
            (Phase::Waiting, _) => Ok(()),
            _ => Err(RefusedReason::Open),
        }
    }

    /// The first reason counts. A stream that has ended keeps its reason.
    pub(super) fn close(&mut self, closing: Closing) {
        if self.phase != Phase::Over {
            self.closing.get_or_insert_with(|| Box::new(closing)).is_cut |= closing.is_cut;
        }
    }

    /// Returns why the stream has ended, if it has.
    pub(crate) fn over(&self) -> Option<CloseReason> {
        let reason = || self.closing.as_ref().map_or(CloseReason::NoStream, |closing| closing.reason);
        (self.phase == Phase::Over).then(reason)
    }

    /// Returns the `Notify` of those who wait for the end, if anybody does.
    pub(super) fn waits_for_its_end(&self) -> Option<Arc<Notify>> {
        self.rare.as_ref()?.over.clone()
    }
}
