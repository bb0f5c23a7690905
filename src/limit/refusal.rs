use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};

use super::key::LimitKey;
use crate::{
    event::Event,
    stream::CloseReason,
    stream::headers::{EVENT_STREAM, X_ACCEL_BUFFERING},
    time::jitter,
};

/// Why a stream was refused. It is in the extensions of the response, for layers further out.
///
/// Its message is a sentence for whoever sent the request, and does not tell the key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// As many streams are open as a [`Limit`](crate::Limit) allows.
    Full {
        /// Whose streams. `None`: everybody's.
        key: Option<LimitKey>,
        /// How many may be open.
        limit: u32,
    },
    /// More streams begin than the [rate](crate::Limit::rate) of a limit allows.
    TooFast {
        /// Whose streams. `None`: everybody's.
        key: Option<LimitKey>,
        /// How long it is until there is room for one. `None`: the rate is 0.
        retry_in: Option<Duration>,
    },
    /// The registry takes no new streams: see [`Registry::drain`](crate::Registry::drain).
    Draining,
    /// The request has no key for a limit that [counts by keys](crate::Limit::per), so that nobody can say whom its stream counts for. Mostly the layers
    /// are in the wrong [order](crate::guide::layers).
    MissingKey {
        /// The name of the function that was to say the key, with its module: whose limit it is. It is not in the message.
        by: &'static str,
    },
    /// A request was answered with the [`EventStream`](crate::EventStream) of a client that is not its own: of another request, or of
    /// [none](crate::Registry::connect). That one is for [`into_events`](crate::ClientHandle::into_events).
    OtherClient,
    /// The client's stream is open already: it has one reader, who gets all of its events.
    Open,
    /// The client's stream is over, or its request was answered with something else.
    Over {
        /// Why it is over.
        reason: CloseReason,
    },
}

impl Refused {
    /// The status that says so: 429 if it is about this client, 500 if it is a mistake in the program, else 503.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Full { key: Some(_), .. } | Self::TooFast { key: Some(_), .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Full { key: None, .. } | Self::TooFast { key: None, .. } | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingKey { .. } | Self::OtherClient | Self::Open | Self::Over { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The reason in a word: in logs, and as the label of a metric. With `_for_key`, it is about this client's key.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Full { key: None, .. } => "full",
            Self::Full { key: Some(_), .. } => "full_for_key",
            Self::TooFast { key: None, .. } => "too_fast",
            Self::TooFast { key: Some(_), .. } => "too_fast_for_key",
            Self::MissingKey { .. } => "missing_key",
            Self::Draining => "draining",
            Self::OtherClient => "other_client",
            Self::Open => "open",
            Self::Over { .. } => "over",
        }
    }

    /// Whether it is a mistake in the program, which no waiting mends.
    fn is_mistake(&self) -> bool {
        self.status() == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// As a response: what a layer gives by default. For a handler that asks with [`ClientHandle::admit`](crate::ClientHandle::admit);
    /// with the `axum` feature, it is an `IntoResponse`.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        Refusal::status().response(&self, None).map(|_| B::from(self.to_string()))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { key: None, limit: 0 } => f.write_str("no event stream may be open"),
            Self::Full { key: Some(_), limit: 0 } => f.write_str("you may have no event stream open"),
            Self::Full { key: None, limit: 1 } => f.write_str("the one event stream that may be open is open"),
            Self::Full { key: None, limit } => write!(f, "all {limit} event streams that may be open are open"),
            Self::Full { key: Some(_), limit: 1 } => f.write_str("you have an event stream open, and may have one"),
            Self::Full { key: Some(_), limit } => {
                write!(f, "you have as many event streams open as you may have: {limit}")
            }
            Self::TooFast { key: None, .. } => f.write_str("too many event streams begin at the moment"),
            Self::TooFast { key: Some(_), .. } => f.write_str("you open event streams too fast"),
            Self::Draining => f.write_str("the server is about to stop and takes no new event streams"),
            Self::MissingKey { .. } => f.write_str("the server cannot tell whom this event stream counts for"),
            Self::OtherClient => f.write_str("the answer is the event stream of another client"),
            Self::Open => f.write_str("the client's event stream is open already"),
            Self::Over { reason } => write!(f, "the client's event stream is over: {reason}"),
        }
    }
}

impl std::error::Error for Refused {}

/// What a request for a stream gets that is [refused](Refused).
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Limit, Refusal, Registry, SseLayer};
///
/// let registry = Registry::new();
/// // For browsers: they keep trying, one to three seconds later.
/// let layer = SseLayer::new(&registry)
///     .limit(Limit::streams(10_000))
///     .refusal(Refusal::reconnect().delay(Duration::from_secs(2)));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct Refusal {
    form: Form,
    delay: Duration,
}

#[derive(Clone)]
enum Form {
    Status,
    Reconnect,
    Own(Arc<Respond>),
}

type Respond = dyn Fn(&Refused, &Parts) -> Response<Bytes> + Send + Sync;

impl Refusal {
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

    /// A response of the program's own, to this request. [`Refused`] is put into its extensions.
    ///
    /// The request is as it came to the layer, without its body: what layers further out have put into its extensions is there.
    ///
    /// Cost: a handler takes its request along, and its answer may turn out to be a stream for which there is no room. So a layer with such a refusal
    /// keeps a copy of each request's head, extensions included, until the request is answered. Layers with another refusal keep none.
    ///
    /// ```
    /// use http::{Response, header::ACCEPT_LANGUAGE, request::Parts};
    /// use tower_sse::{Refusal, Refused};
    ///
    /// let refusal = Refusal::with(|refused: &Refused, request: &Parts| {
    ///     let is_german = request.headers.get(ACCEPT_LANGUAGE).is_some_and(|it| it.as_bytes().starts_with(b"de"));
    ///     let sentence = if is_german { "Es ist kein Platz mehr.".to_owned() } else { refused.to_string() };
    ///     let mut response = Response::new(format!(r#"{{"error":"{sentence}"}}"#));
    ///     *response.status_mut() = refused.status();
    ///     response
    /// });
    /// # let _ = refusal;
    /// ```
    #[must_use]
    pub fn with<B: Into<Bytes>>(respond: impl Fn(&Refused, &Parts) -> Response<B> + Send + Sync + 'static) -> Self {
        let respond = move |refused: &Refused, request: &Parts| respond(refused, request).map(Into::into);
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
    pub(crate) fn response(&self, refused: &Refused, request: Option<&Parts>) -> Response<Bytes> {
        let mut response = match (&self.form, request) {
            (Form::Own(respond), Some(request)) => respond(refused, request),
            (Form::Reconnect, _) if !refused.is_mistake() => reconnect(self.wait(refused)),
            (Form::Status | Form::Reconnect | Form::Own(_), _) => status(refused, self.wait(refused)),
        };
        response.extensions_mut().insert(refused.clone());
        response
    }

    fn wait(&self, refused: &Refused) -> Duration {
        let wait = jitter::jittered(self.delay, jitter::random());
        match refused {
            Refused::TooFast { retry_in: Some(time), .. } => wait.saturating_add(*time),
            _ => wait,
        }
    }
}

impl Default for Refusal {
    fn default() -> Self {
        Self::status()
    }
}

fn status(refused: &Refused, wait: Duration) -> Response<Bytes> {
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

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.form {
            Form::Status => "status",
            Form::Reconnect => "reconnect",
            Form::Own(_) => "own",
        };
        f.debug_struct("Refusal").field("form", &form).field("delay", &self.delay).finish()
    }
}

#[cfg(test)]
impl Refused {
    /// One of each. Whoever adds one is told by the compiler.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let key = || Some(LimitKey::from("key"));
        std::iter::successors(Some(Self::Full { key: None, limit: 1 }), move |refused| match refused {
            Self::Full { key: None, limit } => Some(Self::Full { key: key(), limit: *limit }),
            Self::Full { key: Some(_), .. } => Some(Self::TooFast { key: None, retry_in: None }),
            Self::TooFast { key: None, retry_in } => Some(Self::TooFast { key: key(), retry_in: *retry_in }),
            Self::TooFast { key: Some(_), .. } => Some(Self::MissingKey { by: "users" }),
            Self::MissingKey { .. } => Some(Self::Draining),
            Self::Draining => Some(Self::OtherClient),
            Self::OtherClient => Some(Self::Open),
            Self::Open => Some(Self::Over { reason: CloseReason::Gone }),
            Self::Over { .. } => None,
        })
    }
}
