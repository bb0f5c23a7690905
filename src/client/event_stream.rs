//! What a handler answers with.

use std::sync::Arc;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::state::Client;
use crate::{
    event::Event,
    limit::RefusedReason,
    log::{Outcome, Position},
    stream::CloseReason,
    stream::headers::EVENT_STREAM,
};

/// An event stream as an answer: a 200 with the content type and an empty body, which [`SseLayer`](crate::SseLayer) fills.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is answered with"]
pub struct EventStream {
    pub(super) client: Arc<Client>,
}

impl EventStream {
    /// Begins the stream with an event that says how everything is, and goes on with what was published after that: on
    /// all topics that the client is subscribed to by now, whatever it has had before. Nothing is lost or doubled in between.
    ///
    /// `position` is where the snapshot stands: everything up to there is in it, and nothing after. The event goes out
    /// with it as its id. It is known if the state is changed and published under one lock, or if it is kept together with
    /// the [position](crate::Receipt::position) of the last event that changed it:
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use tower_sse::{ClientHandle, Event, EventStream, Registry, Resume, SubscribeError};
    ///
    /// #[derive(Clone)]
    /// struct Score {
    ///     goals: Arc<Mutex<u32>>,
    /// }
    ///
    /// impl Score {
    ///     fn goal(&self, registry: &Registry) -> Result<(), tower_sse::PublishError> {
    ///         let mut goals = self.goals.lock().unwrap();
    ///         *goals += 1;
    ///         registry.publish("score", Event::data(goals.to_string()))?;
    ///         Ok(())
    ///     }
    ///
    ///     fn stream(&self, client: ClientHandle) -> Result<EventStream, SubscribeError> {
    ///         client.subscribe("score")?;
    ///         if client.resume() == Resume::Continued {
    ///             return Ok(client.into_stream());
    ///         }
    ///         let goals = self.goals.lock().unwrap();
    ///         let position = client.registry().position();
    ///         Ok(client.into_stream().snapshot(Event::data(goals.to_string()), position))
    ///     }
    /// }
    /// ```
    ///
    /// It goes for all topics that the client is subscribed to by now: what one of them retains from before the position
    /// does not come. Topics that are subscribed to after this start as they say.
    ///
    /// An id of the event's own is replaced. If events after the position are no longer retained, the client is told of a gap, after the
    /// snapshot. Once the stream has begun, nothing happens.
    pub fn snapshot(self, event: Event, position: Position) -> Self {
        let with_id = event.clone().id(position.to_string());
        self.client.snapshot(with_id.unwrap_or(event), position);
        self
    }

    /// The answer, with any kind of body.
    ///
    /// If all topics that the client is subscribed to have [ended](crate::Producer), and it has had all that there is of them, nothing is
    /// to come. Then it is no stream, but a status that makes an `EventSource` stop for good, and that no cache keeps:
    ///
    /// - 204 if each of them was finished;
    /// - 410 if one of them has failed or was cancelled, with the [`CloseReason`] in the response's extensions. The client has been told before, by the topic's last event.
    ///
    /// It is a 500, with a [`RefusedReason`] in its extensions, if the client can have [no stream](crate::ClientHandle::into_stream).
    pub fn into_response<B: Default>(self) -> Response<B> {
        self.answer().unwrap_or_else(|refused| {
            let mut response = Response::new(B::default());
            *response.status_mut() = refused.status();
            response.extensions_mut().insert(refused);
            response
        })
    }

    /// The same, or why it would be none.
    pub(crate) fn answer<B: Default>(self) -> Result<Response<B>, RefusedReason> {
        if let Some(refused) = self.client.refuse_answer() {
            return Err(refused);
        }
        let mut response = Response::new(B::default());
        let Some(outcome) = self.client.outcome() else {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
            response.extensions_mut().insert(StreamOf::new(&self.client));
            return Ok(response);
        };
        *response.status_mut() = match outcome {
            Outcome::Whole => StatusCode::NO_CONTENT,
            Outcome::Cancelled | Outcome::Failed => {
                response.extensions_mut().insert(CloseReason::from(outcome));
                StatusCode::GONE
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// In the extensions of a response that is to be the stream of a client: which one, by where it is. It is there as long as its request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamOf(usize);

impl StreamOf {
    fn new(client: &Arc<Client>) -> Self {
        Self(Arc::as_ptr(client).addr())
    }

    pub(crate) fn is(self, client: &Arc<Client>) -> bool {
        self == Self::new(client)
    }
}
