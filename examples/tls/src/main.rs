//! An event stream over TLS, with rustls, hyper-util and axum. ALPN chooses HTTP/1.1 or HTTP/2.
//!
//! ```text
//! cargo run -p tls                                         # with a self-signed certificate
//! curl -kN https://127.0.0.1:3000/ticks                    # HTTP/2
//! curl -kN --http1.1 https://127.0.0.1:3000/ticks
//! cargo run -p tls -- --cert fullchain.pem --key key.pem   # with your certificate
//! ```
//!
//! - Over HTTP/2, a browser sends all streams of all its tabs over one connection. Over HTTP/1.1, a browser opens six
//!   connections to an origin, and each stream takes one connection. Browsers use HTTP/2 only over TLS.
//! - The layer sets `connection: keep-alive` for HTTP/1.1 requests only, because HTTP/2 forbids it.
//! - The server closes the connection of a client that is slow to finish its handshake or to send its first request.
//!   Such a client does not delay other clients. This example does not limit the number of connections.
//!   `examples/support/connections.rs` does.
//! - On SIGINT and SIGTERM the server shuts down gracefully.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `TICK_MS` | 1000 | the time between two ticks |
//! | `HEAD_MS` | 10000 | how long a client may take for the handshake, and then for its first request |

mod acceptor;
#[path = "../../support/settings.rs"]
mod settings;
#[path = "../../support/signals.rs"]
mod signals;

use std::{env, error::Error, pin::pin, process, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceBuilder;
use tower_sse::{ClientHandle, Drain, Event, EventStream, Registry, SseLayer, Start, SubscribeError};

use crate::{settings::setting, signals::Signals};

const TOPIC: &str = "ticks";
const USAGE: &str = "usage: tls [--cert FILE --key FILE]";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let acceptor = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => acceptor::self_signed()?,
        ["--cert", cert, "--key", key] | ["--key", key, "--cert", cert] => acceptor::from_files(cert, key)?,
        _ => {
            eprintln!("{USAGE}");
            process::exit(2);
        }
    };
    let registry = Registry::new();
    let app = Router::new()
        .route("/", get(|| async { "GET /ticks is an event stream.\n" }))
        .route("/ticks", get(ticks))
        .layer(SseLayer::new(&registry));
    tokio::spawn(tick(registry.clone(), Duration::from_millis(setting("TICK_MS", 1000)?)));

    let head = Duration::from_millis(setting("HEAD_MS", 10_000)?);
    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on https://{}", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    tokio::select! {
        () = accept(listener, &acceptor, &app, head, &connections) => {}
        _ = signals.next() => {}
    }
    let drain = registry.drain(Drain::within(Duration::from_secs(2)).reconnect_delay(Duration::from_secs(2)));
    // `shutdown` waits for all connections. It needs a timeout, because some peers may read nothing.
    let closed = timeout(Duration::from_secs(3), connections.shutdown());
    let _ = tokio::join!(drain, closed);
    Ok(())
}

/// A new client gets the last three ticks. A client that reconnects gets the ticks that it missed.
async fn ticks(client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe_from(TOPIC, Start::Last(3))?;
    Ok(client.into_stream())
}

async fn tick(registry: Registry, period: Duration) {
    let mut clock = interval(period.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        clock.tick().await;
        if let Err(error) = registry.publish(TOPIC, Event::data(number.to_string())) {
            eprintln!("tick {number}: {error}");
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: &TlsAcceptor,
    app: &Router,
    head: Duration,
    connections: &GracefulShutdown,
) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::spawn(serve(socket, acceptor.clone(), app.clone(), head, connections.watcher()));
            }
            Err(error) => {
                // Most errors are a lack of file descriptors. Some are free again when streams end.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, acceptor: TlsAcceptor, app: Router, head: Duration, watcher: Watcher) {
    // Events are small writes, and must be sent at once.
    let _ = socket.set_nodelay(true);
    // After an error, the peer does not speak TLS, or does not trust the certificate.
    let Ok(Ok(socket)) = timeout(head, acceptor.accept(socket)).await else { return };
    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer, hyper closes an HTTP/1.1 connection if the headers of a further request take more than 30 s.
    server.http1().timer(TokioTimer::new());
    // Pings find HTTP/2 peers that vanished. HTTP/1.1 peers need options of the socket: `examples/support/sockets.rs`.
    server.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(15));
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let app = ServiceBuilder::new()
        .map_request(move |request| {
            asks.notify_one();
            request
        })
        .service(app);
    let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(app));
    let mut connection = pin!(watcher.watch(connection.into_owned()));
    tokio::select! {
        _ = &mut connection => return,
        // hyper itself does not close connections on which no byte comes, and no HTTP/2 connections without a request.
        asked = timeout(head, asked.notified()) => if asked.is_err() { return },
    }
    // After an error, the client has left.
    let _ = connection.await;
}
