use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, Uri, request::Parts};
use http_body::Body;
use tower_service::Service;

use super::{
    asked::Asked,
    body::SseBody,
    future::{Pending, SseFuture, Unanswered},
    sse_layer::Config,
};
use crate::{
    client::{Client, ClientHandle, Style},
    handle::bounded,
    limit::Admission,
    registry::Registry,
    stream::headers,
    stream::headers::{LAST_EVENT_ID, has},
};

/// The service that [`SseLayer`](crate::SseLayer) puts around another service.
#[derive(Debug, Clone)]
pub struct SseService<S> {
    inner: S,
    registry: Registry,
    config: Arc<Config>,
}

impl<S> SseService<S> {
    pub(crate) fn new(inner: S, registry: Registry, config: Arc<Config>) -> Self {
        Self { inner, registry, config }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, for changes.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Unwraps the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, In, Out> Service<Request<In>> for SseService<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    Out: Body,
{
    type Response = Response<SseBody<Out>>;
    type Error = S::Error;
    type Future = SseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> SseFuture<S::Future> {
        let is_head = request.method() == Method::HEAD;
        let last_event_id = last_event_id(request.headers(), request.uri(), &self.config.resume_query);
        let outer = request.extensions().get::<ClientHandle>().cloned();
        let admission = outer.as_ref().and_then(ClientHandle::admission).cloned();
        let client = if self.reads_request_parts() {
            let (parts, body) = request.into_parts();
            let admission = self.admission(&parts, admission);
            let client = self.connect(last_event_id, admission, outer.as_ref(), is_head);
            self.take_metadata(&parts, &client);
            request = Request::from_parts(parts, body);
            client
        } else {
            // Usually no closure reads the parts of the request. Splitting the request would cost time for nothing.
            self.connect(last_event_id, admission, outer.as_ref(), is_head)
        };
        let hold = client.admission().map(Admission::hold);
        let asks = client.may_be_refused() && headers::asks_for_event_stream(request.method(), request.headers());
        let refused = if asks { client.acquire_slot().err() } else { None };
        let catching_up = client.catching_up().filter(|_| {
            client.last_event_id().is_some() || headers::asks_for_event_stream(request.method(), request.headers())
        });
        let mut kept = None;
        if refused.is_none() {
            kept = self.config.refused_response.keep(&request);
            request.extensions_mut().insert(ClientHandle::new(Arc::clone(&client)));
        }
        let pending = Pending {
            hold,
            client: Unanswered::new(client, Arc::clone(&self.config)),
            is_connect: request.method() == Method::CONNECT,
            keeps_alive: headers::keeps_alive(request.version(), request.headers()),
            asked: Asked::of(&request, &self.config),
            request: kept,
        };
        match refused {
            Some(refused) => {
                let (request, _) = request.into_parts();
                SseFuture::refused(self.config.refused_response.response(&refused, Some(&request)))
            }
            None => SseFuture::new(self.inner.call(request), pending, catching_up),
        }
    }
}

impl<S> SseService<S> {
    /// Returns whether a closure of the program reads the parts of each request.
    fn reads_request_parts(&self) -> bool {
        let Config { limits, metadata, .. } = &*self.config;
        !(self.registry.limits().is_empty() && limits.is_empty() && metadata.is_empty())
    }

    /// Makes the client of a request.
    ///
    /// `outer`: the client that an outer layer has made for the same request.
    fn connect(
        &self,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        outer: Option<&ClientHandle>,
        is_head: bool,
    ) -> Arc<Client> {
        let client = self.registry.connect_with(&self.config.client_pool, last_event_id, admission, is_head);
        // This includes metadata that was added between the two layers.
        if let Some(known) = outer.map(ClientHandle::metadata).filter(|known| !known.is_empty()) {
            client.insert_metadata(&known);
        }
        if self.config.style != Style::default() {
            client.change_style(|style| *style = self.config.style);
        }
        if let Some(events) = self.config.resume_at_most {
            client.bound_resume(events);
        }
        if let Some(age) = self.config.max_age {
            client.limit_age(age);
        }
        client
    }

    fn take_metadata(&self, request: &Parts, client: &Client) {
        if self.config.metadata.is_empty() {
            return;
        }
        let mut metadata = Extensions::new();
        self.config.metadata.iter().for_each(|take| take.take(request, &mut metadata));
        client.insert_metadata(&metadata);
    }

    /// Returns the request's slots in the limits of this layer and of all outer layers.
    fn admission(&self, request: &Parts, outer: Option<Arc<Admission>>) -> Option<Arc<Admission>> {
        match (self.registry.limits(), &*self.config.limits) {
            ([], []) => outer,
            limits => Some(Admission::of(request, limits.into(), outer)),
        }
    }
}

/// Returns the `Last-Event-ID` of a request.
///
/// The header wins over the query parameters. A blank value counts as absent.
fn last_event_id(headers: &HeaderMap, uri: &Uri, names: &[String]) -> Option<Box<str>> {
    if has(headers, &LAST_EVENT_ID) {
        let mut values = headers.get_all(&LAST_EVENT_ID).iter().map(HeaderValue::as_bytes);
        if let Some(value) = values.find(|value| !value.trim_ascii().is_empty()) {
            return Some(bounded(&String::from_utf8_lossy(value)));
        }
    }
    let query = uri.query().filter(|_| !names.is_empty())?;
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| !value.trim_ascii().is_empty() && names.iter().any(|known| known == name))
        .map(|(_, value)| bounded(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["lastEventId".into(), "last_event_id".into()]
    }

    fn find(header: Option<&[u8]>, uri: &'static str, names: &[String]) -> Option<Box<str>> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("last-event-id", http::HeaderValue::from_bytes(header).unwrap());
        }
        last_event_id(&headers, &Uri::from_static(uri), names)
    }

    #[test]
    fn the_header_has_priority_over_the_query() {
        assert_eq!(find(Some(b"1-0"), "/?lastEventId=2-0", &names()).as_deref(), Some("1-0"));
        assert_eq!(find(None, "/?topic=a&last_event_id=2%2D0", &names()).as_deref(), Some("2-0"));
        assert_eq!(find(None, "/?lastEventId=2-0", &[]), None);
        assert_eq!(find(None, "/?other=2-0", &names()), None);
        assert_eq!(find(None, "/", &names()), None);
    }

    #[test]
    fn an_empty_id_counts_as_absent() {
        for blank in [&b""[..], b" ", b"\t  "] {
            assert_eq!(find(Some(blank), "/", &names()), None);
            assert_eq!(find(Some(blank), "/?lastEventId=2-0", &names()).as_deref(), Some("2-0"));
        }
        for blank in ["/?lastEventId=", "/?lastEventId=+", "/?lastEventId&last_event_id=%20%09"] {
            assert_eq!(find(None, blank, &names()), None);
        }
        assert_eq!(find(None, "/?lastEventId=+&last_event_id=2-0", &names()).as_deref(), Some("2-0"));
        let mut headers = HeaderMap::new();
        for value in ["", "1-0"] {
            headers.append("last-event-id", HeaderValue::from_static(value));
        }
        assert_eq!(last_event_id(&headers, &Uri::from_static("/"), &names()).as_deref(), Some("1-0"));
    }

    #[test]
    fn an_id_of_any_bytes_and_length_is_bounded() {
        assert_eq!(find(Some(b"a\xFFb"), "/", &names()).as_deref(), Some("a\u{fffd}b"));
        let long = find(Some(&vec![b'1'; 100_000]), "/", &names()).unwrap();
        assert!(long.len() < 100 && long.ends_with("(100000 bytes)"), "{long}");
    }
}
