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
//! - The method `Join` takes its `ClientHandle` from the request's extensions, subscribes the client, and converts the
//!   client's events into messages (`ClientHandle::into_events`). The layer does not change gRPC responses, and sends
//!   no heartbeats in them: HTTP/2 has its own pings.
//! - The metadata `last-event-id` is the gRPC equivalent of the `Last-Event-ID` header. The layer reads both. Event
//!   streams and gRPC streams have the same ids.
//! - When a gRPC client leaves, tonic drops the stream. This ends the client's subscription and its presence.
//! - `examples/support/connections.rs` serves the connections. It closes connections that send no request, makes room
//!   for new clients, and finds clients that vanished. `axum::serve` does none of that.
//! - On SIGINT and SIGTERM all streams end. Event streams end cleanly, and an `EventSource` reconnects. gRPC streams
//!   end with `UNAVAILABLE`, and the client in this example reconnects.
//! - Pages of other sites cannot send a message through a visitor's browser. To allow pages of another origin, put
//!   tower-http's `CorsLayer` around everything, expose the headers `grpc-status` and `grpc-message`, and add the
//!   origin to the `CsrfLayer`.
//!
//! This example believes every name. A public program needs an authentication layer outside of the `SseLayer`.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `MAX_STREAMS` | 10000 | open streams, event streams and gRPC streams together |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a body, or answer nothing; at least 1000 |
//! | `CHAT` | `http://127.0.0.1:3000` | the server, for the gRPC clients |

mod client;
#[path = "../../support/connections.rs"]
mod connections;
#[path = "../../support/settings.rs"]
mod settings;
#[path = "../../support/signals.rs"]
mod signals;
#[path = "../../support/sockets.rs"]
mod sockets;

use std::{env, error::Error, process, time::Duration};

use axum::http::StatusCode;
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer};
use tower_sse::{Drain, Limit, RegistryConfig, SseLayer};

use crate::{connections::Connections, settings::setting, signals::Signals, sockets::Patience};

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
    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));
    let app = chat::routes(&registry)
        .layer(SseLayer::new(&registry))
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        // Limits the time until the response headers are sent, so a slow request body cannot last for ever. It does not
        // cut streams.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()));

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(patience, 1);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service()) => {}
        _ = signals.next() => {}
    }
    // The server accepts no new connections from now on. The drain ends the streams.
    let drain = registry.drain(Drain::within(Duration::from_secs(2)).reconnect_delay(Duration::from_secs(2)));
    tokio::join!(drain, connections.close_within(Duration::from_secs(3)));
    Ok(())
}
