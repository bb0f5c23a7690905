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

mod options;
mod upstream;

use std::{
    convert::Infallible,
    env,
    error::Error,
    fmt::Display,
    io::{self, Write},
    net::IpAddr,
    process::ExitCode,
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
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;
use tower_sse::{Registry, SseLayer};

use crate::{
    options::{Options, USAGE},
    upstream::{Upstream, leave_hop_by_hop_behind},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// Less than the 5 s after which Node's and uvicorn's servers close an idle connection: a request that is written to one
// at that moment fails, and only some may be sent again.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

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
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    io::stdout().flush()?;

    // Nothing is published here: the registry counts the streams, and the layer keeps them alive.
    let sse = SseLayer::new(&Registry::new()).heartbeat(options.heartbeat);
    let gateway = Arc::new(Gateway::new(options.upstream));
    tokio::select! {
        () = accept(listener, sse, gateway) => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

async fn accept(listener: TcpListener, sse: SseLayer, gateway: Arc<Gateway>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::spawn(serve(socket, peer.ip().to_canonical(), sse.clone(), Arc::clone(&gateway)));
            }
            Err(error) => {
                // Out of file descriptors, mostly: they come back as streams end, and spinning meanwhile helps nobody.
                complain(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: IpAddr, sse: SseLayer, gateway: Arc<Gateway>) {
    // Events are small writes that somebody waits for. It fails if the peer is gone, which is soon seen.
    let _ = socket.set_nodelay(true);
    let service = ServiceBuilder::new().layer(sse).service_fn(move |request| {
        let gateway = Arc::clone(&gateway);
        async move { Ok::<_, Infallible>(gateway.answer(request, peer).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer, hyper gives up a client that takes more than 30 s to send a request's head.
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    // An error is a client that left or does not speak HTTP, or an upstream's, which was complained of.
    let _ = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).await;
}

struct Gateway {
    client: Client<HttpConnector, Incoming>,
    upstream: Upstream,
}

impl Gateway {
    fn new(upstream: Upstream) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Self { client, upstream }
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Answer> {
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
