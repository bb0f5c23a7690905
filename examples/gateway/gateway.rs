//! What becomes of a request.

use std::{error::Error, io, iter, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    bodies::{Fault, Late, Passing, Uploads},
    connections::RequestBody,
    headers::{self, Pseudonym},
    log::{Causes, complain, one_line},
    names::{self, Refused},
    options::Rules,
    sockets::Patience,
    upstream::Upstream,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// Less than the 5 s after which Node's and uvicorn's servers close an idle connection: a request that is written to one
// at that moment fails, and only some may be sent again.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Fewer than the file descriptors that are left for what is no client's connection.
const POOL_MAX_IDLE: usize = 32;

/// How long a request waits for the place of one that was ended.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);
const TOO_SLOW: Refused = Refused(StatusCode::REQUEST_TIMEOUT, "The request's body came too slowly.\n");

type Answer = UnsyncBoxBody<Bytes, Fault>;

pub(crate) struct Gateway {
    client: Client<HttpConnector, UnsyncBoxBody<Bytes, Fault>>,
    upstream: Upstream,
    rules: Rules,
    pseudonym: Pseudonym,
    /// Each request takes a connection to the upstream. Over HTTP/2, there can be more of them than of clients' connections.
    places: Arc<Semaphore>,
    uploads: Uploads,
}

impl Gateway {
    pub(crate) fn new(upstream: Upstream, rules: Rules, patience: Patience, most: u32) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        patience.set_on_upstreams(&mut connector);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .build(connector);
        let places = Arc::new(Semaphore::new(most as usize));
        Ok(Self { client, upstream, rules, pseudonym: Pseudonym::random()?, places, uploads: Uploads::default() })
    }

    pub(crate) async fn answer(&self, request: Request<RequestBody>, peer: IpAddr) -> Response<Answer> {
        self.pass_on(request, peer).await.unwrap_or_else(|Refused(status, text)| {
            let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            if status == StatusCode::METHOD_NOT_ALLOWED {
                let others = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
                response.headers_mut().insert(ALLOW, others);
            }
            response
        })
    }

    async fn pass_on(&self, request: Request<RequestBody>, peer: IpAddr) -> Result<Response<Answer>, Refused> {
        if request.method() == Method::CONNECT {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "This gateway opens no tunnels.\n"));
        }
        let host = names::asked(&request)?;
        let is_known = |host| self.rules.hosts.iter().any(|name| name.is(host));
        if !self.rules.hosts.is_empty() && !host.as_ref().is_some_and(is_known) {
            return Err(Refused(StatusCode::MISDIRECTED_REQUEST, "This gateway does not answer for that host.\n"));
        }
        if self.pseudonym.is_in(request.headers()) {
            return Err(Refused(StatusCode::LOOP_DETECTED, "The request has been at this gateway before.\n"));
        }
        let Some(place) = self.place().await else {
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "The gateway has as many requests as it can take.\n"));
        };
        // Not the query: it may hold a secret.
        let what = one_line(format_args!("{} {}", request.method(), request.uri().path()));
        let (version, is_of_a_proxy) = (request.version(), self.rules.trusted_proxies.contains(&peer));
        let told = match self.rules.sends_upstream_host {
            true => Some(self.upstream.authority()),
            false => host.as_ref(),
        };
        let Ok(mut request) = self.upstream.request(request, told) else {
            return Err(Refused(StatusCode::BAD_REQUEST, "The request's target has no meaning for the upstream.\n"));
        };
        headers::set_claims(request.headers_mut(), peer, is_of_a_proxy, host.as_ref());
        self.pseudonym.add_to(request.headers_mut(), version);
        let upload = self.uploads.begin();
        let request = request.map(|body| upload.watch(Passing::new(body, Some(self.rules.body))).boxed_unsync());

        let response = match upload.answered_within(self.rules.answer, self.client.request(request)).await {
            Ok(Ok(response)) => self.response(response),
            Ok(Err(error)) => Err((refused_for(&error), one_line(Causes(&error)))),
            Err(Late::Client) => Err((TOO_SLOW, "It made room for another.".to_owned())),
            Err(Late::Upstream) => {
                Err((Refused(StatusCode::GATEWAY_TIMEOUT, "The upstream did not answer in time.\n"), String::new()))
            }
        };
        match response {
            Ok(response) => Ok(response.map(|body| {
                let body = body.inspect_err(move |error| {
                    let whose = if upload.has_failed() { "the client's body" } else { "the upstream" };
                    complain(format_args!(
                        "{what}: {whose} broke in the middle of the answer: {}",
                        one_line(Causes(error))
                    ));
                });
                // Until it has ended.
                body.inspect_frame(move |_| _ = &place).boxed_unsync()
            })),
            Err((refused, details)) => {
                let Refused(status, sentence) = &refused;
                let whose = if status.is_client_error() { "the client" } else { "the upstream" };
                complain(format_args!("{what}: {status}, by {whose}: {} {details}", sentence.trim_end()));
                Err(refused)
            }
        }
    }

    /// If there is none, the request whose body has been arriving for the longest time makes room.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if self.places.available_permits() == 0 && !self.uploads.make_room() {
            return None;
        }
        timeout(ROOM_TIMEOUT, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }

    /// The upstream's answer as the client gets it.
    fn response(&self, response: Response<Incoming>) -> Result<Response<Passing<Incoming>>, (Refused, String)> {
        let nonsense = |sentence| Err((Refused(StatusCode::BAD_GATEWAY, sentence), String::new()));
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return nonsense("The upstream switched protocols without being asked.\n");
        }
        let version = response.version();
        let Some(mut response) = self.upstream.response(response) else {
            return nonsense("Nobody can say where the answer of the upstream ends.\n");
        };
        headers::hide_hops(response.headers_mut());
        self.pseudonym.add_to(response.headers_mut(), version);
        let content_type = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let is_stream = content_type.to_ascii_lowercase().starts_with(b"text/event-stream");
        let silence = (!is_stream).then_some(self.rules.answer);
        Ok(response.map(|body| Passing::new(body, silence)))
    }
}

/// Whose fault it is.
fn refused_for(error: &legacy::Error) -> Refused {
    let causes = iter::successors(error.source(), |cause| (**cause).source());
    match causes.filter_map(|cause| cause.downcast_ref()).next() {
        Some(Fault::TooSlow) => TOO_SLOW,
        Some(Fault::Broken(_)) => Refused(StatusCode::BAD_REQUEST, "The request's body broke.\n"),
        None if error.is_connect() => Refused(StatusCode::BAD_GATEWAY, "The upstream cannot be reached.\n"),
        None => Refused(StatusCode::BAD_GATEWAY, "The connection to the upstream broke before it answered.\n"),
    }
}
