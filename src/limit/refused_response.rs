use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};

use super::refused_reason::RefusedReason;
use crate::{
    event::Event,
    stream::headers::{EVENT_STREAM, X_ACCEL_BUFFERING},
    time::jitter,
};

/// The response to a [refused](RefusedReason) stream.
///
/// Default: [`status`](Self::status).
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Limit, RefusedResponse, Registry, SseLayer};
///
/// let registry = Registry::new();
/// // Browsers try again after one to three seconds.
/// let layer = SseLayer::new(&registry)
///     .limit(Limit::streams(10_000))
///     .refused_response(RefusedResponse::reconnect().delay(Duration::from_secs(2)));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct RefusedResponse {
    form: Form,
    delay: Duration,
}

#[derive(Clone)]
enum Form {
    Status,
    Reconnect,
    Own(Arc<Respond>),
}

type Respond = dyn Fn(&RefusedReason, &Parts) -> Response<Bytes> + Send + Sync;

impl RefusedResponse {
    /// Responds with status 503 or 429, `retry-after`, and a sentence.
    ///
    /// This is the default. 429 is for a limit with a key, 503 for all other refusals. A mistake in the program gets a
    /// 500 without `retry-after`.
    ///
    /// A browser's `EventSource` gives up for good on such a status: see [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn status() -> Self {
        Self { form: Form::Status, delay: Duration::from_secs(5) }
    }

    /// Responds with an event stream that has only a `retry:` field and ends.
    ///
    /// A browser's `EventSource` reconnects after that time. A mistake in the program gets a 500, as with
    /// [`status`](Self::status).
    ///
    /// Some client libraries reconnect after a time of their own, because they ignore a `retry:` without data. The
    /// guide's table of clients lists them.
    #[must_use]
    pub fn reconnect() -> Self {
        Self { form: Form::Reconnect, ..Self::status() }
    }

    /// Responds with a response of the program, made for this request.
    ///
    /// The closure gets the reason, and the request as it came to the layer, without its body. The request has the
    /// extensions that outer layers have set. The layer puts the [`RefusedReason`] into the extensions of the response.
    ///
    /// Cost: the layer copies the head and the extensions of each request, and keeps the copy until the request is
    /// answered. It needs the copy because a handler's response may be a stream for which there is no room. With the
    /// other responses, the layer copies nothing.
    ///
    /// ```
    /// use http::{Response, header::ACCEPT_LANGUAGE, request::Parts};
    /// use tower_sse::{RefusedResponse, RefusedReason};
    ///
    /// let response = RefusedResponse::with(|refused: &RefusedReason, request: &Parts| {
    ///     let is_german = request.headers.get(ACCEPT_LANGUAGE).is_some_and(|it| it.as_bytes().starts_with(b"de"));
    ///     let sentence = if is_german { "Es ist kein Platz mehr.".to_owned() } else { refused.to_string() };
    ///     let mut response = Response::new(format!(r#"{{"error":"{sentence}"}}"#));
    ///     *response.status_mut() = refused.status();
    ///     response
    /// });
    /// # let _ = response;
    /// ```
    #[must_use]
    pub fn with<B: Into<Bytes>>(
        respond: impl Fn(&RefusedReason, &Parts) -> Response<B> + Send + Sync + 'static,
    ) -> Self {
        let respond = move |refused: &RefusedReason, request: &Parts| respond(refused, request).map(Into::into);
        Self { form: Form::Own(Arc::new(respond)), ..Self::status() }
    }

    /// Sets how long a refused client is asked to wait, on average. Default: 5 seconds.
    ///
    /// Each client gets a random time between 0.5 and 1.5 times `delay`, so that not all come back at once. If a
    /// [rate](crate::Limit::rate) refused the stream, the time until there is room is added.
    ///
    /// `retry-after` is in whole seconds, rounded up. `retry:` is in milliseconds.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Copies a request, for a refusal after its handler ran.
    pub(crate) fn keep<B>(&self, request: &Request<B>) -> Option<Box<Parts>> {
        if !matches!(self.form, Form::Own(_)) {
            return None;
        }
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(Box::new(copy.into_parts().0))
    }

    /// Makes the response to a refused stream.
    ///
    /// `request`: `None` if there is no copy of the request.
    pub(crate) fn response(&self, refused: &RefusedReason, request: Option<&Parts>) -> Response<Bytes> {
        let mut response = match (&self.form, request) {
            (Form::Own(respond), Some(request)) => respond(refused, request),
            (Form::Reconnect, _) if !refused.is_mistake() => reconnect(self.wait(refused)),
            (Form::Status | Form::Reconnect | Form::Own(_), _) => status(refused, self.wait(refused)),
        };
        response.extensions_mut().insert(refused.clone());
        response
    }

    fn wait(&self, refused: &RefusedReason) -> Duration {
        let wait = jitter::jittered(self.delay, jitter::random());
        match refused {
            RefusedReason::RateLimited { retry_in: Some(time), .. } => wait.saturating_add(*time),
            _ => wait,
        }
    }
}

impl Default for RefusedResponse {
    fn default() -> Self {
        Self::status()
    }
}

fn status(refused: &RefusedReason, wait: Duration) -> Response<Bytes> {
    let mut response = Response::new(refused.to_string().into());
    *response.status_mut() = refused.status();
    let headers = set(response.headers_mut(), "text/plain; charset=utf-8");
    if !refused.is_mistake() {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn reconnect(wait: Duration) -> Response<Bytes> {
    let mut response = Response::new(Event::empty().retry(wait).encode());
    set(response.headers_mut(), EVENT_STREAM).insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Sets the headers of a refusal.
///
/// `no-store`, because a request that is refused now may not be refused later.
fn set<'a>(headers: &'a mut HeaderMap, content_type: &'static str) -> &'a mut HeaderMap {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
}

impl fmt::Debug for RefusedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.form {
            Form::Status => "status",
            Form::Reconnect => "reconnect",
            Form::Own(_) => "own",
        };
        f.debug_struct("RefusedResponse").field("form", &form).field("delay", &self.delay).finish()
    }
}
