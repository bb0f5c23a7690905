//! A streaming reverse proxy that keeps event streams alive.
//!
//! Put it before an LLM or MCP server whose streams go silent for longer than a proxy or a client on the way bears: it
//! fills the silence with heartbeats, between two events only, and passes everything else on as it is.
//!
//! ```text
//! cargo run --example gateway -- --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000 --heartbeat-ms 1000
//! curl -N  http://127.0.0.1:8080/some/stream                       # HTTP/1.1
//! curl -N --http2-prior-knowledge http://127.0.0.1:8080/some/stream
//! ```
//!
//! It prints `listening on http://ADDR` when it is ready, and complaints to stderr. With port 0 it picks a free port.
//!
//! - Clients speak HTTP/1.1, or HTTP/2 with prior knowledge, on the same port; the upstream speaks HTTP/1.1.
//! - Bodies stream both ways and are never collected. Trailers pass; over HTTP/1.1 only those that a `trailer` header
//!   names, and to a client only if it sent `te: trailers`.
//! - Heartbeats begin with the response's head: an upstream that thinks before it sends one is silent, and only it can
//!   change that. A stream with a `content-encoding` passes without any.
//! - `x-forwarded-host` and `x-forwarded-proto` say what this hop saw, whatever the client claims; `x-forwarded-for`
//!   goes on with what the client sent. The path of `--upstream` is a prefix, not a fence: `..` passes as it is.
//! - Upgrades (WebSocket) are not proxied: `upgrade` stays behind as any hop-by-hop header does, so the upstream answers
//!   as if it had not been asked. `CONNECT` is a 405, an upstream that is away a 502.
//! - On SIGINT and SIGTERM it takes no new connections, and lets the answers that are being given finish, for as long as
//!   `--finish-ms` says. A second one ends it at once.
//! - Clients and upstreams that are gone without saying so are found: `examples/support/sockets.rs`.

#[path = "../support/connections.rs"]
mod connections;
mod options;
#[path = "../support/signals.rs"]
mod signals;
#[path = "../support/sockets.rs"]
mod sockets;
mod upstream;

use std::{
    convert::Infallible,
    env,
    error::Error,
    fmt::Display,
    future::ready,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};
use tower_sse::{Drain, Registry, SseLayer};

use crate::{
    connections::{Connections, RequestBody},
    options::{Options, USAGE},
    signals::Signals,
    sockets::Patience,
    upstream::{Upstream, leave_hop_by_hop_behind},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// Less than the 5 s after which Node's and uvicorn's servers close an idle connection: a request that is written to one
// at that moment fails, and only some may be sent again.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Answers that have not finished a quarter of this before the end are ended.
const WINDOW: Duration = Duration::from_secs(2);
/// How long connections may take to close when their streams have ended.
const PATIENCE: Duration = Duration::from_secs(1);

type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

fn main() -> ExitCode {
    let options = match Options::parse(env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned())) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            complain(format_args!("{problem}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let done = tokio::runtime::Runtime::new().and_then(|runtime| {
        let done = runtime.block_on(run(options));
        // Does not wait for a name that is still being looked up, as dropping it would.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(&options.listen)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", options.listen)))?;
    let mut signals = Signals::new()?;
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    io::stdout().flush()?;

    // Nothing is published here: the registry counts the streams, and the layer keeps them alive.
    let registry = Registry::new();
    let sse = SseLayer::new(&registry).heartbeat(options.heartbeat).let_finish(true);
    // Each has one to the upstream.
    let connections = Connections::new(options.patience, 2);
    let gateway = Arc::new(Gateway::new(options.upstream, options.patience));
    let make_service = service_fn(|peer: SocketAddr| {
        let (gateway, peer) = (Arc::clone(&gateway), peer.ip().to_canonical());
        let answer = service_fn(move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.answer(request, peer).await) }
        });
        ready(Ok(sse.layer(answer)))
    });
    tokio::select! {
        () = connections.serve(listener, make_service) => {}
        _ = signals.next() => {}
    }
    let gracefully = async {
        let drain = Drain::within(options.finish.min(WINDOW)).finish_within(options.finish);
        // It waits for all connections, and some may be stuck.
        let closed = connections.close_within(options.finish + PATIENCE);
        let _ = tokio::join!(closed, registry.drain(drain));
    };
    tokio::select! {
        () = gracefully => Ok(()),
        code = signals.next() => process::exit(code),
    }
}

struct Gateway {
    client: Client<HttpConnector, RequestBody>,
    upstream: Upstream,
}

impl Gateway {
    fn new(upstream: Upstream, patience: Patience) -> Self {
        let mut connector = HttpConnector::new();
        patience.set_on_upstreams(&mut connector);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Self { client, upstream }
    }

    async fn answer(&self, request: Request<RequestBody>, peer: IpAddr) -> Response<Answer> {
        if request.method() == Method::CONNECT {
            let mut refused = sentence(StatusCode::METHOD_NOT_ALLOWED, "This gateway opens no tunnels.\n");
            let others = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
            refused.headers_mut().insert(ALLOW, others);
            return refused;
        }
        // Not the query: it may hold a secret.
        let what = format!("{} {}", request.method(), request.uri().path());
        let Ok(request) = self.upstream.request(request, peer) else {
            return sentence(StatusCode::BAD_REQUEST, "The request's target has no meaning for the upstream.\n");
        };
        match self.client.request(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                complain(format_args!("{what}: the upstream switched protocols without being asked"));
                sentence(StatusCode::BAD_GATEWAY, "The upstream switched protocols without being asked.\n")
            }
            Ok(response) => passed_on(response, what),
            Err(error) => {
                complain(format_args!("{what}: {}", Causes(&error)));
                let problem = match error.is_connect() {
                    true => "The upstream cannot be reached.\n",
                    false => "The connection to the upstream broke before it answered.\n",
                };
                sentence(StatusCode::BAD_GATEWAY, problem)
            }
        }
    }
}

fn passed_on(mut response: Response<Incoming>, what: String) -> Response<Answer> {
    leave_hop_by_hop_behind(response.headers_mut());
    if response.body().size_hint().exact().is_none() {
        // A length next to chunks, or one named in `connection`, is none; and believed, it would split the response.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    // Of this hop, not of the one that the upstream speaks on.
    *response.version_mut() = Version::HTTP_11;
    response.map(|body| {
        body.map_err(move |error| {
            complain(format_args!("{what}: the upstream broke in the middle of its answer: {}", Causes(&error)));
            error
        })
        .boxed_unsync()
    })
}

fn sentence(status: StatusCode, text: &'static str) -> Response<Answer> {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An error and what it came from, in one line.
struct Causes<'a>(&'a dyn Error);

impl Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(cause) => write!(f, ": {}", Causes(cause)),
            None => Ok(()),
        }
    }
}

/// To stderr; unlike `eprintln`, without a panic if nobody reads it any more.
fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "gateway: {what}");
}
