//! A chat with tonic: gRPC over HTTP/2, gRPC-web over HTTP/1.1, and event streams, in the same rooms on one port.
//!
//! ```text
//! cargo run -p chat                                                  # the server
//! cargo run -p chat -- join lobby ada                                # gRPC clients
//! cargo run -p chat -- say lobby ada 'Hello, all'
//! curl -N 'http://127.0.0.1:3000/rooms/lobby/events?name=bob'        # an event stream of the same room
//! curl 'http://127.0.0.1:3000/rooms/lobby?name=bob' -d 'Hello, ada'
//! curl http://127.0.0.1:3000/rooms/lobby                             # who is there
//! ```
//!
//! - `Join` takes its `ClientHandle` from the request's extensions, subscribes it, and makes messages of its events
//!   (`ClientHandle::into_events`). The layer leaves gRPC answers alone, and has no heartbeats for them: HTTP/2 has pings of its own.
//! - The metadata `last-event-id` is what the `Last-Event-ID` of an `EventSource` is: the layer reads both. The ids of
//!   both kinds of streams are the same.
//! - When a gRPC client goes away, tonic drops the stream, and its subscription and its presence go.
//! - It is served by `examples/support/connections.rs`, which gives up who sends no request, makes room for who does, and finds
//!   clients that are gone without a word. `axum::serve` does none of that.
//! - On SIGINT and SIGTERM all streams end: event streams with a clean end, after which an `EventSource` comes back, and
//!   gRPC streams with `UNAVAILABLE`, after which the client here does.
//! - For pages of other origins, tower-http's `CorsLayer` goes around everything; with `grpc-status` and `grpc-message`
//!   among the headers that it exposes.
//!
//! Everybody is taken at their word about their name. A program that faces the world has an authentication layer outside.
//!
//! Environment: `PORT` (3000; 0 picks one), `MAX_STREAMS` (10000, of both kinds together), `CHAT` (where the clients go,
//! `http://127.0.0.1:3000`).

mod client;
#[path = "../../support/connections.rs"]
mod connections;
#[path = "../../support/signals.rs"]
mod signals;
#[path = "../../support/sockets.rs"]
mod sockets;

use std::{env, error::Error, io, process, time::Duration};

use tokio::net::TcpListener;
use tower_sse::{Drain, Limit, RegistryConfig, SseLayer};

use crate::{connections::Connections, signals::Signals, sockets::Patience};

const USAGE: &str = "usage: chat | chat join ROOM NAME | chat say ROOM NAME TEXT";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve().await,
        ["join", room, name] => client::join(room, name).await,
        ["say", room, name, text] => client::say(room, name, text).await,
        _ => {
            eprintln!("{USAGE}");
            process::exit(2);
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let max_streams = setting("MAX_STREAMS", 10_000)?;
    let registry = chat::registry(RegistryConfig::default().limit(Limit::streams(max_streams)));
    let app = chat::routes(&registry).layer(SseLayer::new(&registry));

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From here on, it ends in order when it is told to.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(Patience::default(), 1);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service()) => {}
        _ = signals.next() => {}
    }
    // There are no new connections from now on, and the streams end.
    let drain = registry.drain(Drain::within(Duration::from_secs(2)).reconnect_delay(Duration::from_secs(2)));
    tokio::join!(drain, connections.close_within(Duration::from_secs(3)));
    Ok(())
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
