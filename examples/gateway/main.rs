//! A streaming reverse proxy that keeps event streams alive.
//!
//! Put it in front of an LLM or MCP server whose streams are silent for longer than a proxy or a client on the way
//! accepts. The gateway sends heartbeats during the silence, only between two events, and passes everything else on
//! unchanged.
//!
//! ```text
//! cargo run --example gateway -- --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000 --heartbeat-ms 1000
//! curl -N  http://127.0.0.1:8080/some/stream                       # HTTP/1.1
//! curl -N --http2-prior-knowledge http://127.0.0.1:8080/some/stream
//! ```
//!
//! It prints `listening on http://ADDR` when it is ready, and errors to stderr. With port 0 it picks a free port.
//!
//! - Clients use HTTP/1.1, or HTTP/2 with prior knowledge, on the same port. The upstream uses HTTP/1.1.
//! - Bodies are streamed in both directions and never collected. Trailers pass. Over HTTP/1.1, only the trailers pass
//!   that a `trailer` header names, and a client gets them only if it sent `te: trailers`.
//! - Heartbeats begin after the response's head. An upstream that thinks before it sends a head is silent, unless
//!   `--open-after-ms` applies. A stream with a `content-encoding` gets no heartbeats.
//! - Upgrades (WebSocket) are not proxied: `upgrade` is removed as every hop-by-hop header is, so the upstream answers
//!   as if it had not been asked. `CONNECT` is a 405. An unreachable upstream is a 502.
//! - On SIGINT and SIGTERM the gateway accepts no new connections, and lets current responses finish for up to
//!   `--finish-ms`. Then the streams of GETs end cleanly, and other answers with an error (`ends.rs`). A second signal ends
//!   it at once.
//!
//! # Names
//!
//! - The `Host` that a client asks for goes on, and so does its `Origin`. So an upstream can refuse the pages of other sites
//!   (DNS rebinding), as MCP and model servers do. With `--host`, the gateway refuses all other hosts itself, with a 421.
//! - With `--host` and `--upstream-host`, the upstream is told its own host. It can check none then, so the gateway does.
//! - `x-forwarded-for`, `-host` and `-proto` say what this hop saw. What a client says in the place of a proxy is removed: the
//!   names and prefixes in `headers.rs`, also with underscores and in trailers. No such list can have all names: give those that
//!   your server believes with `--remove`. A proxy at a `--trusted-proxy` address may say them, and `x-forwarded-for` goes on from
//!   what it says.
//! - `via` tells both sides of this hop, by a random name that it has for as long as it runs. A request that has been here
//!   before is a 508.
//! - A request of HTTP/1.0 that names no host is one for the upstream's own. With `--host`, it is a 421.
//! - Headers of an answer do not name the upstream with its port, by any of its names: the one in `--upstream`, the address that
//!   it has, all addresses and the host name of this machine if it is here, and each `--upstream-name`. `location`,
//!   `content-location`, `refresh` and `link` get a path in place of its URL. Other headers get the host that was asked, and its
//!   `x-forwarded-proto`: `www-authenticate`, `access-control-allow-origin`, `server-timing` and the rest. `set-cookie` loses its
//!   `domain`. What speaks of the inside alone is removed: `alt-svc`, `forwarded`, `x-forwarded-*`, `x-served-by` and their kin
//!   (`hiding.rs`). `via` does not name who is behind the upstream, the words after a status are the usual ones, and no answer of
//!   the gateway's own names the upstream.
//! - These pass as they are: bodies, the values of cookies, names that are encoded (`127.0.0.1%3A9000`, `ip-127-0-0-1`), a host and
//!   a port that stand apart, and the host name of this machine in headers that do not begin with `x-`, other than `server`.
//! - The path of `--upstream` is a prefix, not a fence: `..` passes as it is.
//!
//! # Limits
//!
//! - Silent and slow clients cannot fill it up: `examples/support/connections.rs`. It has as many connections as the limit
//!   on open files allows, half of them to the upstream, one for each request. It takes fewer requests than it has
//!   connections of clients, by an eighth, so that the next client is told so.
//! - One client cannot take all of these. An address has a share of the requests (`--requests-per-address`), counted as
//!   [`ClientIpKey`](tower_sse::ClientIpKey) does, behind a `--trusted-proxy` by `x-forwarded-for`. The next request is a 429. A
//!   connection of HTTP/2 has a share as well (`--requests-per-connection`). The next stream is refused (`REFUSED_STREAM`),
//!   and a client that heeds the connection's settings waits instead.
//! - When a share is used up, or all is, a request that waits for its client makes room: its body is arriving (a 503), or for
//!   a second nobody has taken what there is of its answer (broken off). First goes the address that has most requests, and of
//!   these the request that has waited longest. If all places are taken, the new request may also take the place of a fresh
//!   answer that is not taken, of an address that has more requests. When none waits for its client, the new request is
//!   refused: 503 if the gateway is full. Both say `retry-after`.
//! - A request whose body comes too slowly (`--body-ms`) is a 408. An answer that does not begin in time is a 504, and one
//!   that goes on too slowly is broken off (`--answer-ms`). An event stream may be silent for ever.
//! - Clients and upstreams that are gone without saying so are found: `examples/support/sockets.rs`.
//!
//! # Streams that survive
//!
//! - `--record`: the answer to a request with an `Idempotency-Key` is recorded (`recording.rs`), for those who have its
//!   credentials (`owners.rs`). The same request again gets the rest after its `Last-Event-ID`, and the upstream is asked once.
//!   A recording has the place of a request as long as it is made, also when its client is gone, and its readers have places
//!   of their own.
//! - `--open-after-ms`: a request that accepts nothing but an event stream gets its head before the upstream answers.
//! - `--retry-upstream`: the stream of a GET that breaks is asked for again, and its client does not notice (`resuming.rs`),
//!   also if the upstream begins again (`delivered.rs`).
//! - `--single-line-heartbeats`: for clients that take the blank line after a comment for an event.
//!
//! The guide's chapter `model_gateways` has the details.
//!
//! # What is refused
//!
//! - 400: no host, two hosts, an invalid host, or a host with a user; a target that is no path; a broken body. 501: a
//!   transfer coding other than `chunked`.
//! - 502: what the upstream says makes no sense, as two lengths that differ, or a first chunk that is none. To see that, the head of
//!   an answer in chunks waits for its body, for 100 ms at most. That of an event stream does not.

mod bodies;
mod clients;
#[path = "../support/connections.rs"]
mod connections;
mod delivered;
mod ends;
mod events;
mod exchanges;
mod gateway;
mod headers;
mod hiding;
mod log;
mod names;
mod options;
mod owners;
mod places;
mod record_options;
mod recording;
mod resuming;
#[path = "../support/signals.rs"]
mod signals;
#[path = "../support/sockets.rs"]
mod sockets;
mod translation;
mod upstream;
mod via;

use std::{
    convert::Infallible,
    env,
    future::ready,
    io::{self, Write},
    net::SocketAddr,
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;
use tower::{Layer, service_fn};
use tower_sse::{Drain, HelloEvent, LongPoll, SseLayer};

use crate::{
    connections::Connections,
    gateway::Gateway,
    log::complain,
    options::{Options, USAGE},
    places::Places,
    recording::Recordings,
    signals::Signals,
};

/// Responses that have not finished a quarter of this time before the end are ended.
const WINDOW: Duration = Duration::from_secs(2);
/// How long connections may take to close after their streams have ended.
const PATIENCE: Duration = Duration::from_secs(1);

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
        // Does not wait for a pending name look-up. Dropping the runtime would.
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

    // Each client connection needs another one to the upstream. A recording without a client has the place of a request.
    let connections = Connections::new(options.patience, 2);
    // The others are for saying that there is no place.
    let all = connections.for_streams();
    let (per_address, per_connection) = options.shares(all);
    let connections = connections.requests_each(per_connection);
    let places = Places::new(all as usize, per_address as usize);
    let readers = Places::new(all as usize, per_address as usize);
    let record = options.record.as_ref();
    let at_most = record.and_then(|it| it.at_most).unwrap_or((all / 2).max(1)) as usize;
    // The program publishes nothing but recordings: the registry counts the streams, and the layer sends heartbeats. The query
    // of a request is for the upstream, so it asks nothing of the layer.
    let registry = recording::registry(record);
    let layer = |heartbeat| {
        SseLayer::new(&registry)
            .heartbeat(heartbeat)
            .finish_on_drain(true)
            .long_poll(LongPoll::off())
            .hello_event(HelloEvent::off())
            .open_after(options.open_after)
    };
    // Once there was an id, and a recording has ids, the Python clients of OpenAI's and Anthropic's APIs take each blank line for
    // an event.
    let of_recordings = layer(options.heartbeat.clone().single_line());
    let sse = layer(options.heartbeat);
    let records = recording::layer(&registry, record, at_most);
    let recordings = Arc::new(Recordings::new(record, &options.rules, readers)?);
    let gateway = Arc::new(Gateway::new(options.upstream, options.rules, options.patience, places)?);
    let make_service = service_fn(|peer: SocketAddr| {
        let (gateway, recordings, peer) = (Arc::clone(&gateway), Arc::clone(&recordings), peer.ip().to_canonical());
        let answer = service_fn(move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.answer(request, peer).await) }
        });
        let plain = sse.layer(answer.clone());
        let recorded = of_recordings.layer(records.layer(answer));
        let answer = service_fn(move |request| {
            let (recordings, recorded, plain) = (Arc::clone(&recordings), recorded.clone(), plain.clone());
            async move { recordings.answer(recorded, plain, request, peer).await }
        });
        ready(Ok(answer))
    });
    tokio::select! {
        () = connections.serve(listener, make_service) => {}
        _ = signals.next() => {}
    }
    let gracefully = async {
        let drain = Drain::within(options.finish.min(WINDOW)).finish_within(options.finish);
        // Waits for all connections, with a timeout, as some may be stuck.
        let closed = connections.close_within(options.finish + PATIENCE);
        let _ = tokio::join!(closed, registry.drain(drain));
    };
    tokio::select! {
        () = gracefully => Ok(()),
        code = signals.next() => process::exit(code),
    }
}
