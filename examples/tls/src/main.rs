//! An event stream over TLS, HTTP/1.1 or HTTP/2 as the client and the server agree on (ALPN): rustls, hyper-util and axum.
//!
//! ```text
//! cargo run -p tls                                         # with a certificate of its own making
//! curl -kN https://127.0.0.1:3000/ticks                    # HTTP/2
//! curl -kN --http1.1 https://127.0.0.1:3000/ticks
//! cargo run -p tls -- --cert fullchain.pem --key key.pem   # with yours
//! ```
//!
//! - Over HTTP/2 a browser has all streams of all of its tabs on one connection. Over HTTP/1.1 it opens six connections to one
//!   origin, and each stream takes one. Browsers speak HTTP/2 over TLS alone.
//! - The layer sees in which version a request came, and sets `connection: keep-alive` where it is allowed.
//! - A peer that is slow to shake hands, or to send its first request, holds up nobody, and is given up. The number of connections
//!   has no bound here: `examples/support/connections.rs` has one, and makes room for who asks.
//! - On SIGINT and SIGTERM it ends gracefully.
//!
//! Environment: `PORT` (3000; 0 picks one), `TICK_MS` (1000), `HEAD_MS` (how long a client may take to shake hands, and then again
//! to send its first request, 10000).

mod acceptor;
#[path = "../../support/signals.rs"]
mod signals;

use std::{env, error::Error, io, pin::pin, process, sync::Arc, time::Duration};

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

use crate::signals::Signals;

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
    // From here on, it ends in order when it is told to.
    let mut signals = Signals::new()?;
    println!("listening on https://{}", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    tokio::select! {
        () = accept(listener, &acceptor, &app, head, &connections) => {}
        _ = signals.next() => {}
    }
    let drain = registry.drain(Drain::within(Duration::from_secs(2)).reconnect_delay(Duration::from_secs(2)));
    // It waits for all connections, and some peers may read nothing.
    let closed = timeout(Duration::from_secs(3), connections.shutdown());
    let _ = tokio::join!(drain, closed);
    Ok(())
}

/// Who comes for the first time gets the last three ticks, and who comes back what it missed.
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
                // Out of file descriptors, mostly: they come back as streams end.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, acceptor: TlsAcceptor, app: Router, head: Duration, watcher: Watcher) {
    // Events are small writes that somebody waits for.
    let _ = socket.set_nodelay(true);
    // An error is a peer that speaks no TLS, or does not trust the certificate.
    let Ok(Ok(socket)) = timeout(head, acceptor.accept(socket)).await else { return };
    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer, hyper gives up a client that takes more than 30 s to send a further head of HTTP/1.1.
    server.http1().timer(TokioTimer::new());
    // Finds peers of HTTP/2 that are gone. For those of HTTP/1.1, the socket has to be told how long to wait for them.
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
        // hyper itself does not give up who sends nothing, nor who speaks HTTP/2 and asks for nothing.
        asked = timeout(head, asked.notified()) => if asked.is_err() { return },
    }
    // An error is a client that left.
    let _ = connection.await;
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
