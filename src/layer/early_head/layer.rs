use std::time::Duration;

use tower_layer::Layer;

use super::service::EarlyHeadService;
use crate::layer::sse_layer::SseLayer;

/// An [`SseLayer`] whose streams open before their handler answers: see [`SseLayer::open_after`].
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing unless it is put around a service"]
pub struct EarlyHeadLayer {
    layer: SseLayer,
    open_after: Duration,
}

impl SseLayer {
    /// Opens a stream if its handler has not answered after this time. Default: a stream opens when its handler answers.
    ///
    /// Use it before handlers that think for long, such as a model that needs two minutes for its first token. Load
    /// balancers and proxies cut a request without a response after 30 to 60 seconds.
    ///
    /// Call it last: it returns a layer with which nothing else can be set. `Duration::MAX` is never.
    ///
    /// It applies only to a request that asks for nothing but an event stream (`Accept: text/event-stream`), as a browser's
    /// `EventSource` does. All other requests wait for their handlers: also a HEAD, a [long poll](crate::LongPoll), and a
    /// request that accepts JSON too.
    ///
    /// When the time is over, the client gets a 200 with the headers of an event stream, a comment as with
    /// [`open_at_once`](Self::open_at_once), and [heartbeats](Self::heartbeat). The handler goes on. When it answers:
    ///
    /// - with an event stream: the stream continues with all that the client would have got, such as the
    ///   [`HelloEvent`](crate::HelloEvent), the missed events, and the handler's own body;
    /// - with anything else: an event `error`, and then the end of the stream. Its data is JSON: the `status`, the
    ///   `content_type`, and the `body`, of which the first 16 KiB are sent as text. If that is not all, `"cut":true`. For
    ///   a body with a `content-encoding`, that is said instead. A `retry-after` in seconds becomes the reconnection time:
    ///
    /// ```text
    /// event: error
    /// data: {"status":503,"content_type":"text/plain","body":"the model is overloaded"}
    /// retry: 5000
    /// ```
    ///
    /// - with an error of the service: the event `error` with the status 500 and without a body, and then the end.
    ///
    /// **The status is sent by then.** A client sees a 200 for a request that fails, and none of the handler's headers,
    /// cookies among them. A browser's `EventSource` reconnects after the end, so a page has to close it when it gets the
    /// event. A stream that [is over](crate::EventStream::into_response) is an event with the status 204 instead of a 204.
    ///
    /// Until the handler answers, the client is a request: it keeps the slots that it has acquired in
    /// [limits](crate::Limit), but no statistic, no presence list and no observer counts its stream. If the client
    /// leaves, the handler's future is dropped.
    ///
    /// Cost: for other requests, a look at the `Accept` header. A request for nothing but an event stream takes one
    /// allocation more, and one for the timer if its handler is not ready at once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{Router, routing::get};
    /// use tower_sse::{ClientHandle, EventStream, Registry, SseLayer};
    ///
    /// async fn answer(client: ClientHandle) -> EventStream {
    ///     tokio::time::sleep(Duration::from_secs(120)).await; // the model thinks
    ///     client.into_stream()
    /// }
    ///
    /// let registry = Registry::new();
    /// let layer = SseLayer::new(&registry).open_after(Duration::from_secs(2));
    /// let app: Router = Router::new().route("/answer", get(answer)).layer(layer);
    /// # let _ = app;
    /// ```
    pub fn open_after(self, time: Duration) -> EarlyHeadLayer {
        EarlyHeadLayer { layer: self, open_after: time }
    }
}

impl<S> Layer<S> for EarlyHeadLayer {
    type Service = EarlyHeadService<S>;

    fn layer(&self, inner: S) -> EarlyHeadService<S> {
        EarlyHeadService::new(self.layer.layer(inner), self.open_after)
    }
}
