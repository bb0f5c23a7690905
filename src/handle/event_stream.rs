//! The response of a handler: an event stream.

use std::sync::Arc;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use crate::{
    client::Client,
    event::Event,
    limit::RefusedReason,
    log::{Outcome, Position},
    stream::CloseReason,
    stream::headers::EVENT_STREAM,
};

/// An event stream as a handler's response.
///
/// The response is a 200 with the content type `text/event-stream` and an empty body, which
/// [`SseLayer`](crate::SseLayer) fills.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is answered with"]
pub struct EventStream {
    pub(super) client: Arc<Client>,
}

impl EventStream {
    /// Begins the stream with a snapshot event.
    ///
    /// The stream continues with the events after the snapshot's position.
    ///
    /// It applies to all topics that the client is subscribed to by now, also if the client resumes. No event is lost
    /// or delivered twice in between. Default: no snapshot.
    ///
    /// `position` is the position of the snapshot: the snapshot contains everything up to there, and nothing after it.
    /// The event is sent with that position as its id. To know the position, change the state and publish under one
    /// lock, as below. Or store the state together with the [position](crate::Receipt::position) of the last event that
    /// changed it.
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
    /// Retained events from before the position are not delivered on those topics. Topics that the client subscribes to
    /// later start as their subscriptions say.
    ///
    /// An id that you set on the event is replaced. If events after the position are no longer retained, the client is
    /// notified of a gap after the snapshot. The call has no effect once the stream has begun.
    pub fn snapshot(self, event: Event, position: Position) -> Self {
        let with_id = event.clone().id(position.to_string());
        self.client.snapshot(with_id.unwrap_or(event), position);
        self
    }

    /// Returns the stream as a response, with any body type.
    ///
    /// If all topics that the client is subscribed to have [ended](crate::Producer), and the client has read them to
    /// the end, the response is not a stream. It is a status that makes an `EventSource` stop for good and that no
    /// cache stores:
    ///
    /// - 204 if each of them was finished;
    /// - 410 if one of them has failed or was cancelled, with the [`CloseReason`] in the response's extensions. The
    ///   client has read the topic's last event before.
    ///
    /// If the client [cannot have a stream](crate::ClientHandle::into_stream), the response is a 500 with a
    /// [`RefusedReason`] in its extensions.
    pub fn into_response<B: Default>(self) -> Response<B> {
        self.answer().unwrap_or_else(|refused| {
            let mut response = Response::new(B::default());
            *response.status_mut() = refused.status();
            response.extensions_mut().insert(refused);
            response
        })
    }

    /// Returns the response, or why the client cannot have a stream.
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
            Outcome::Finished => StatusCode::NO_CONTENT,
            Outcome::Cancelled | Outcome::Failed => {
                response.extensions_mut().insert(CloseReason::from(outcome));
                StatusCode::GONE
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Marks a response as the stream of a client, in the response's extensions. It holds the client's address, which stays
/// valid until the request is answered.
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
