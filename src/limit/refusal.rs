use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use super::LimitKey;
use crate::{
    Event,
    headers::{EVENT_STREAM, X_ACCEL_BUFFERING},
    jitter,
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
}

impl Refused {
    /// The status that says so: 429 if it is about this client, else 503.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Full { key: Some(_), .. } | Self::TooFast { key: Some(_), .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Full { key: None, .. } | Self::TooFast { key: None, .. } | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// As a response: what a layer gives by default. For a handler that asks with [`ClientHandle::admit`](crate::ClientHandle::admit);
    /// with the `axum` feature, it is an `IntoResponse`.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        Refusal::status().response(&self).map(|_| B::from(self.to_string()))
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

type Respond = dyn Fn(&Refused) -> Response<Bytes> + Send + Sync;

impl Refusal {
    /// 503, or 429 if it is about this client, with `retry-after` and a sentence. This is the default.
    ///
    /// A browser's `EventSource` gives up for good when it gets one: see [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn status() -> Self {
        Self { form: Form::Status, delay: Duration::from_secs(5) }
    }

    /// An event stream that says `retry:` and ends: a browser's `EventSource` comes back after that time.
    ///
    /// Some client libraries come back after a time of their own, as they overlook a `retry:` without data: the guide's table of
    /// clients says which.
    #[must_use]
    pub fn reconnect() -> Self {
        Self { form: Form::Reconnect, ..Self::status() }
    }

    /// A response of the program's own. [`Refused`] is put into its extensions.
    ///
    /// ```
    /// use http::Response;
    /// use tower_sse::Refusal;
    ///
    /// let refusal = Refusal::with(|refused| {
    ///     let mut response = Response::new(format!(r#"{{"error":"{refused}"}}"#));
    ///     *response.status_mut() = refused.status();
    ///     response
    /// });
    /// # let _ = refusal;
    /// ```
    #[must_use]
    pub fn with<B: Into<Bytes>>(respond: impl Fn(&Refused) -> Response<B> + Send + Sync + 'static) -> Self {
        Self { form: Form::Own(Arc::new(move |refused| respond(refused).map(Into::into))), ..Self::status() }
    }

    /// How long who is refused is asked to wait, on average: each between half of that and one and a half, so that not all
    /// come back at once. Default: five seconds. Where a [rate](crate::Limit::rate) says when there is room, that is added.
    ///
    /// A header says it in whole seconds, rounded up, an event stream in milliseconds.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub(crate) fn response(&self, refused: &Refused) -> Response<Bytes> {
        let mut response = match &self.form {
            Form::Status => status(refused, self.wait(refused)),
            Form::Reconnect => reconnect(self.wait(refused)),
            Form::Own(respond) => respond(refused),
        };
        response.extensions_mut().insert(refused.clone());
        response
    }

    fn wait(&self, refused: &Refused) -> Duration {
        let wait = jitter::jittered(self.delay, jitter::random());
        match refused {
            Refused::TooFast { retry_in: Some(time), .. } => wait.saturating_add(*time),
            Refused::TooFast { .. } | Refused::Full { .. } | Refused::Draining => wait,
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
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    set(response.headers_mut(), "text/plain; charset=utf-8").insert(RETRY_AFTER, seconds.into());
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
