//! Requests whose bodies are still arriving. They can be ended for other requests.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The requests that can be ended, the oldest first.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<VecDeque<Weak<Upload>>>);

impl Uploads {
    pub(crate) fn add(&self, upload: &Arc<Upload>) {
        if !lock(&upload.state).can_make_room {
            return;
        }
        let mut uploads = lock(&self.0);
        if uploads.len() == uploads.capacity() {
            uploads.retain(|upload| upload.upgrade().is_some_and(|upload| lock(&upload.state).can_make_room));
        }
        uploads.push_back(Arc::downgrade(upload));
    }

    /// Ends the oldest request. Returns `false` if no request can be ended.
    pub(crate) fn make_room(&self) -> bool {
        let mut uploads = lock(&self.0);
        while let Some(upload) = uploads.pop_front() {
            if upload.upgrade().is_some_and(|upload| upload.end()) {
                return true;
            }
        }
        false
    }
}

/// The progress of a request's body.
pub(crate) struct Upload {
    state: Mutex<State>,
    ended: Notify,
}

struct State {
    went_on: Instant,
    /// The body has not arrived completely, and the upstream has not answered yet.
    can_make_room: bool,
    is_ended: bool,
    has_failed: bool,
}

/// Why a request gets no answer.
pub(crate) enum Unanswered {
    MadeRoom,
    TimedOut,
}

impl Upload {
    pub(crate) fn new(has_body: bool) -> Self {
        let state = State { went_on: Instant::now(), can_make_room: has_body, is_ended: false, has_failed: false };
        Self { state: Mutex::new(state), ended: Notify::new() }
    }

    /// Watches this body.
    pub(crate) fn watch<B: Body>(self: &Arc<Self>, body: B) -> impl Body<Data = B::Data, Error = B::Error> + use<B> {
        let (arriving, fails) = (Arriving(Arc::clone(self)), Arc::clone(self));
        body.inspect_frame(move |_| lock(&arriving.0.state).went_on = Instant::now())
            .inspect_err(move |_| lock(&fails.state).has_failed = true)
    }

    /// Waits until this request is ended for another one.
    pub(crate) async fn is_ended(&self) {
        self.ended.notified().await;
    }

    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).has_failed
    }

    /// Waits for an answer, for this time since the body's last progress.
    pub(crate) async fn answered_within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, Unanswered> {
        let mut answer = pin!(answer);
        loop {
            let went_on = lock(&self.state).went_on;
            tokio::select! {
                answer = answer.as_mut() => return self.settle(answer),
                () = self.ended.notified() => return Err(Unanswered::MadeRoom),
                () = sleep_until(went_on + time) => {
                    if lock(&self.state).went_on == went_on {
                        return Err(Unanswered::TimedOut);
                    }
                }
            }
        }
    }

    /// Once its answer has begun, a request is not ended for another one.
    fn settle<T>(&self, answer: T) -> Result<T, Unanswered> {
        let mut state = lock(&self.state);
        state.can_make_room = false;
        if state.is_ended { Err(Unanswered::MadeRoom) } else { Ok(answer) }
    }

    fn end(&self) -> bool {
        let mut state = lock(&self.state);
        let ends = state.can_make_room;
        if ends {
            (state.can_make_room, state.is_ended) = (false, true);
            self.ended.notify_one();
        }
        ends
    }
}

/// A body holds this until its last frame.
struct Arriving(Arc<Upload>);

impl Drop for Arriving {
    fn drop(&mut self) {
        lock(&self.0.state).can_make_room = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
