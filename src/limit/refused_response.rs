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

/// What a request for a stream gets that is [refused](RefusedReason).
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Limit, RefusedResponse, Registry, SseLayer};
///
/// let registry = Registry::new();
/// // For browsers: they keep trying, one to three seconds later.
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
    /// 503, or 429 if it is about this client, with `retry-after` and a sentence. This is the default. What is a mistake in the program gets a 500, without
    /// a `retry-after`.
    ///
    /// A browser's `EventSource` gives up for good when it gets one: see [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn status() -> Self {
        Self { form: Form::Status, delay: Duration::from_secs(5) }
    }

    /// An event stream that says `retry:` and ends: a browser's `EventSource` comes back after that time.
    /// What is a mistake in the program gets a 500, as [`status`](Self::status) gives it.
    ///
    /// Some client libraries come back after a time of their own, as they overlook a `retry:` without data: the guide's table of
    /// clients says which.
    #[must_use]
    pub fn reconnect() -> Self {
        Self { form: Form::Reconnect, ..Self::status() }
    }

    /// A response of the program's own, to this request. [`RefusedReason`] is put into its extensions.
    ///
    /// The request is as it came to the layer, without its body: what layers further out have put into its extensions is there.
    ///
    /// Cost: a handler takes its request along, and its answer may turn out to be a stream for which there is no room. So a layer with such a response
    /// keeps a copy of each request's head, extensions included, until the request is answered. Layers with another response keep none.
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

    /// How long who is refused is asked to wait, on average: each between half of that and one and a half, so that not all
    /// come back at once. Default: five seconds. Where a [rate](crate::Limit::rate) says when there is room, that is added.
    ///
    /// A header says it in whole seconds, rounded up, an event stream in milliseconds.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// What is kept of a request for the case that it is refused after its handler ran.
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

    /// The answer to this request, as far as it is known.
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

/// What is refused now is not refused later.
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
