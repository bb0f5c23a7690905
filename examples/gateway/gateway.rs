//! How the gateway answers a request.

use std::{
    error::Error,
    io::{self, ErrorKind},
    iter,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        self, Client,
        connect::{HttpConnector, HttpInfo},
    },
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::{
    bodies::{Fault, Passing},
    clients,
    connections::RequestBody,
    ends::End,
    exchanges::Unanswered,
    headers,
    hiding::hide,
    log::{Causes, complain, one_line},
    names::{self, Refused},
    options::Rules,
    places::{NoPlace, Place, Places},
    resuming::{Again, Reply, Resuming, no_body},
    sockets::Patience,
    translation::{Asked, Translation},
    upstream::Upstream,
    via::Pseudonym,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// Less than 5 s, after which the servers of Node and uvicorn close an idle connection. A request that is sent on a
// connection at the moment of its close fails, and only some requests can be retried.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Fewer than the file descriptors that are reserved for other things than clients' connections.
const POOL_MAX_IDLE: usize = 32;

/// How long an answer's head waits for what comes behind it, if that can still show that the answer makes no sense.
const FIRST_FRAME: Duration = Duration::from_millis(100);

/// When a client may try again that was one too many, in seconds.
const RETRY_IN: HeaderValue = HeaderValue::from_static("1");
const TOO_SLOW: Refused = Refused(StatusCode::REQUEST_TIMEOUT, "The request's body came too slowly.\n");
const TOO_LATE: Refused = Refused(StatusCode::GATEWAY_TIMEOUT, "The upstream did not answer in time.\n");
const FULL: Refused = Refused(StatusCode::SERVICE_UNAVAILABLE, "The gateway has as many requests as it can take.\n");
const SHARE_TAKEN: Refused =
    Refused(StatusCode::TOO_MANY_REQUESTS, "From this address, there are as many requests as there may be.\n");

/// An upstream with these answers may know a stream again in a moment.
const NOT_NOW: [StatusCode; 4] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

pub(crate) type Answer = UnsyncBoxBody<Bytes, Fault>;

pub(crate) struct Gateway {
    client: Client<HttpConnector, UnsyncBoxBody<Bytes, Fault>>,
    upstream: Upstream,
    rules: Rules,
    pseudonym: Pseudonym,
    places: Places,
}

impl Gateway {
    pub(crate) fn new(upstream: Upstream, rules: Rules, patience: Patience, places: Places) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        patience.set_on_upstreams(&mut connector);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .build(connector);
        Ok(Self { client, upstream, rules, pseudonym: Pseudonym::random()?, places })
    }

    pub(crate) async fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: IpAddr) -> Response<Answer> {
        let end = request.extensions().get::<End>().cloned();
        let response = self.pass_on(request, peer).await.unwrap_or_else(refusal);
        match end {
            Some(end) => end.reported_by(response),
            None => response,
        }
    }

    async fn pass_on(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        peer: IpAddr,
    ) -> Result<Response<Answer>, Refused> {
        if request.method() == Method::CONNECT {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "This gateway opens no tunnels.\n"));
        }
        let (mut head, body) = request.into_parts();
        let host = names::asked(&head)?;
        let is_known = |host| self.rules.hosts.iter().any(|name| name.is(host));
        if !self.rules.hosts.is_empty() && !host.as_ref().is_some_and(is_known) {
            return Err(Refused(StatusCode::MISDIRECTED_REQUEST, "This gateway does not answer for that host.\n"));
        }
        if self.pseudonym.is_in(&head.headers) {
            return Err(Refused(StatusCode::LOOP_DETECTED, "The request has been at this gateway before.\n"));
        }
        if !headers::has_one_length(&mut head.headers) {
            return Err(Refused(StatusCode::BAD_REQUEST, "The request's lengths differ, or are none.\n"));
        }
        let client = clients::address(&head, peer, &self.rules.trusted_proxies);
        let has_body = !body.is_end_stream();
        let Place { exchange, permits } = self.places.take(client, has_body).await.map_err(|none| no_place(&none))?;
        // Not the query: it may hold a secret.
        let what = one_line(format_args!("{} {}", head.method, head.uri.path()));
        let (version, is_of_a_proxy) = (head.version, self.rules.trusted_proxies.contains(&peer));
        // A client that named no host asked for the upstream.
        let told = host.as_ref().filter(|_| !self.rules.sends_upstream_host).unwrap_or(self.upstream.authority());
        let Ok(mut request) = self.upstream.request(Request::from_parts(head, body), told) else {
            return Err(Refused(StatusCode::BAD_REQUEST, "The request's target has no meaning for the upstream.\n"));
        };
        headers::remove_claims(request.headers_mut(), is_of_a_proxy, &self.rules.removed);
        headers::set_claims(request.headers_mut(), peer, host.as_ref());
        self.pseudonym.add_to(request.headers_mut(), version);
        let asked = Asked::of(request.headers());
        let again = self.rules.retry_upstream.and_then(|patience| {
            let is_possible = request.method() == Method::GET && !has_body;
            is_possible.then(|| Again {
                gateway: Arc::clone(self),
                head: head_of(&request),
                asked: asked.clone(),
                patience,
                what: what.clone(),
            })
        });
        let body_silence = Some(self.rules.body);
        let removed = Arc::clone(&self.rules.removed);
        let cleans = move |mut frame: Frame<Bytes>| {
            if let Some(trailers) = frame.trailers_mut() {
                headers::remove_claims(trailers, false, &removed);
            }
            frame
        };
        let request =
            request.map(|body| exchange.watch(Passing::new(body, body_silence)).map_frame(cleans).boxed_unsync());

        let response = match exchange.answered_within(self.rules.answer, self.client.request(request)).await {
            Ok(Ok(response)) => {
                let again = again.filter(|_| is_open_stream(&response));
                self.response(response, asked).await.map(|response| match again {
                    Some(again) => response.map(|body| Resuming::new(again, body).boxed_unsync()),
                    None => response,
                })
            }
            Ok(Err(error)) => Err((refused_for(&error), one_line(Causes(&error)))),
            Err(Unanswered::MadeRoom) => Err((FULL, "It made room for another.".to_owned())),
            Err(Unanswered::TimedOut) => Err((TOO_LATE, String::new())),
        };
        match response {
            Ok(response) => Ok(response.map(|body| {
                let answer = Arc::clone(&exchange).answer(body, permits);
                answer
                    .inspect_err(move |error| {
                        let whose = match error {
                            Fault::MadeRoom => "the gateway",
                            _ if exchange.has_failed() => "the client's body",
                            _ => "the upstream",
                        };
                        complain(format_args!(
                            "{what}: {whose} broke in the middle of the answer: {}",
                            one_line(Causes(error))
                        ));
                    })
                    .boxed_unsync()
            })),
            Err((refused, details)) => {
                let Refused(status, sentence) = &refused;
                let whose = match *status {
                    StatusCode::SERVICE_UNAVAILABLE => "the gateway",
                    status if status.is_client_error() => "the client",
                    _ => "the upstream",
                };
                complain(format_args!("{what}: {status}, by {whose}: {} {details}", sentence.trim_end()));
                Err(refused)
            }
        }
    }

    /// Asks again for a stream that broke, with the head of its request.
    pub(crate) async fn ask_again(&self, head: Parts, asked: Option<Asked>) -> Reply {
        let response = match self.client.request(Request::from_parts(head, no_body())).await {
            Ok(response) => response,
            Err(error) => return Reply::NotNow(one_line(Causes(&error)), None),
        };
        match response.status() {
            StatusCode::NO_CONTENT => return Reply::Over,
            status if NOT_NOW.contains(&status) => {
                return Reply::NotNow(format!("the upstream answers {status}"), retry_after(response.headers()));
            }
            status if !is_open_stream(&response) => return Reply::Other(format!("the upstream answers {status}")),
            _ => {}
        }
        match self.response(response, asked).await {
            Ok(response) => Reply::Stream(response.into_body()),
            Err((Refused(_, sentence), details)) => Reply::Other(format!("{} {details}", sentence.trim_end())),
        }
    }

    /// The upstream's answer as the client gets it.
    async fn response(
        &self,
        response: Response<Incoming>,
        asked: Option<Asked>,
    ) -> Result<Response<Answer>, (Refused, String)> {
        let nonsense = |sentence| Err((Refused(StatusCode::BAD_GATEWAY, sentence), String::new()));
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return nonsense("The upstream switched protocols without being asked.\n");
        }
        let version = response.version();
        let outside = Translation::new(self.upstream.names(), response.extensions().get::<HttpInfo>(), asked);
        let Some(mut response) = self.upstream.response(response) else {
            return nonsense("Nobody can say where the answer of the upstream ends.\n");
        };
        hide(response.headers_mut(), &outside);
        self.pseudonym.add_to(response.headers_mut(), version);
        let is_stream = is_event_stream(response.headers());
        let silence = (!is_stream).then_some(self.rules.answer);
        // In a chunked body, the first chunk may make no sense. As long as no head has gone out, that is a 502. An event stream's
        // head goes out at once.
        let mut first = None;
        if !is_stream && response.body().size_hint().exact().is_none() {
            match timeout(FIRST_FRAME, response.body_mut().frame()).await {
                Ok(Some(Err(error))) => {
                    let refused =
                        Refused(StatusCode::BAD_GATEWAY, "The answer of the upstream breaks where it begins.\n");
                    return Err((refused, one_line(Causes(&error))));
                }
                Ok(Some(Ok(frame))) => first = Some(frame),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(response.map(|body| {
            let hides = move |mut frame: Frame<Bytes>| {
                if let Some(trailers) = frame.trailers_mut() {
                    hide(trailers, &outside);
                }
                frame
            };
            Passing::new(body, silence).after(first).map_frame(hides).boxed_unsync()
        }))
    }
}

/// The answer to a request that is not passed on.
pub(crate) fn refusal(Refused(status, text): Refused) -> Response<Answer> {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let others = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
        response.headers_mut().insert(ALLOW, others);
    }
    if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
        response.headers_mut().insert(RETRY_AFTER, RETRY_IN);
    }
    response
}

/// Why there is no place, for the client.
pub(crate) fn no_place(none: &NoPlace) -> Refused {
    match none {
        NoPlace::InAll => FULL,
        NoPlace::OfAddress => SHARE_TAKEN,
    }
}

fn head_of<B>(request: &Request<B>) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    head
}

pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.to_ascii_lowercase().starts_with(b"text/event-stream")
}

/// Whether the events of an answer can be read.
fn is_open_stream<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::OK
        && is_event_stream(response.headers())
        && !response.headers().contains_key(CONTENT_ENCODING)
}

/// How long a server wants to be left alone (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds.or_else(|| httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok())
}

/// Which side caused the error.
fn refused_for(error: &legacy::Error) -> Refused {
    let causes = || iter::successors(error.source(), |cause| (**cause).source());
    match causes().find_map(|cause| cause.downcast_ref()) {
        Some(Fault::TooSlow) => return TOO_SLOW,
        Some(Fault::Broken(_)) => return Refused(StatusCode::BAD_REQUEST, "The request's body broke.\n"),
        Some(_) | None => {}
    }
    match causes().find_map(|cause| cause.downcast_ref()) {
        Some(error) if is_own(error) => FULL,
        Some(error) if error.kind() == ErrorKind::TimedOut => TOO_LATE,
        _ if error.is_connect() => Refused(StatusCode::BAD_GATEWAY, "The upstream cannot be reached.\n"),
        _ => Refused(StatusCode::BAD_GATEWAY, "The connection to the upstream broke before it answered.\n"),
    }
}

/// Whether the gateway itself has no more files or ports.
fn is_own(error: &io::Error) -> bool {
    #[cfg(unix)]
    let has_no_files = error.raw_os_error().is_some_and(|number| {
        use nix::errno::Errno;
        [Errno::EMFILE, Errno::ENFILE].contains(&Errno::from_raw(number))
    });
    #[cfg(not(unix))]
    let has_no_files = false;
    has_no_files || error.kind() == ErrorKind::AddrNotAvailable
}
