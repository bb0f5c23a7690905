//! Notifications in an axum application: sessions, a topic for each user, limits for each user, and other layers around
//! them.
//!
//! ```text
//! cargo run -p notifications                                        # and http://127.0.0.1:3000
//! curl -c ada -d name=ada http://127.0.0.1:3000/login
//! curl -b ada -N http://127.0.0.1:3000/api/notifications            # ada's stream
//! curl -b ada http://127.0.0.1:3000/api/users/ada/notifications -d 'Your order is on its way'
//! curl -b ada http://127.0.0.1:3000/api/announcements -d 'Closed on Monday'
//! curl -N http://127.0.0.1:3000/announcements                       # everybody's stream
//! ```
//!
//! - Each of the two event streams has its own `SseLayer` around its route, and so its own limits. Strangers cannot use up the slots
//!   of users. A refused client is told to come back, because an `EventSource` gives up for good at a 503.
//! - The session layer is outside of the users' `SseLayer`. Its value in the request's extensions is therefore there for `Limit::per` and
//!   `SseLayer::metadata`.
//! - Pages of other sites cannot open users' streams, because they could use up a user's slots. Browsers name the page in each request
//!   over HTTPS and to this machine. Over plain HTTP to another name, some requests do not name the page: use HTTPS.
//! - Requests for other hosts are refused, because a page could make its own name point to this machine: `examples/support/hosts.rs`.
//! - A request with several session cookies is refused, because one of them may come from an attacker.
//! - The page's stream is the client that the crate serves, `tower_sse::script()`. All tabs of a user have one stream together, and a
//!   logout ends it in all of them.
//! - A stream ends with its session: when the session expires, when the user logs out, and when the user logs in again.
//!   A client then reconnects, gets a 401, and stops.
//! - tower-http's layers are around all routes. The comments at the layers say what each is for, and why they have this
//!   order.
//! - `examples/support/connections.rs` serves the connections. It closes connections that send no request, and makes
//!   room for new clients. `axum::serve` waits for such connections for ever.
//! - On SIGINT and SIGTERM the server shuts down gracefully.
//!
//! In this example, everybody may log in under any name, without a password.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `ORIGIN` | `http://localhost:5173` | another origin whose pages may use this server |
//! | `HOSTS` | none | hosts that clients may ask for besides this machine's own, separated by commas |
//! | `MAX_STREAMS` | 7/16 of the connections that the limit on open files allows, at most 10000 | open streams of all users |
//! | `MAX_STREAMS_PER_USER` | 3 | open streams of one user |
//! | `MAX_PUBLIC_STREAMS` | the same as the default of `MAX_STREAMS` | open streams of announcements |
//! | `MAX_STREAMS_PER_ADDRESS` | 20 | open streams of announcements of one address |
//! | `MAX_SESSIONS` | 100000 | sessions of all users |
//! | `MAX_SESSIONS_PER_USER` | 5 | sessions of one user |
//! | `LOGINS_PER_MINUTE` | 20 | logins of one address |
//! | `PROXIES` | 0 | how many proxies append to `x-forwarded-for` |
//! | `SESSION_SECONDS` | 28800 | how long a session lasts |
//! | `HEARTBEAT_MS` | 15000 | the interval of heartbeats of the announcements |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a body, or answer nothing; at least 1000 |
//! | `PING_MS` | 10000 | the interval of heartbeats of users' streams |
//! | `LOG` | `info` | `error` to `trace`, on stderr |

mod api;
#[path = "../../support/connections.rs"]
mod connections;
#[path = "../../support/hosts.rs"]
mod hosts;
mod login;
mod session;
#[path = "../../support/signals.rs"]
mod signals;
#[path = "../../support/sockets.rs"]
mod sockets;

use std::{env, error::Error, io, io::IsTerminal, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
        request::Parts,
    },
    middleware,
    response::Html,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time};
use tower::ServiceBuilder;
use tower_http::{
    compression::CompressionLayer, cors::CorsLayer, csrf::CsrfLayer, timeout::TimeoutLayer, trace::TraceLayer,
};
use tower_sse::{
    ClientIpKey, CloseReason, Drain, Event, Heartbeat, Limit, RefusedResponse, Registry, RegistryConfig, Retention,
    SseLayer, TracingObserver,
};
use tracing::Level;

use crate::{
    connections::Connections,
    hosts::Hosts,
    session::{Bounds, Session, Sessions},
    signals::Signals,
    sockets::Patience,
};

/// The state that all handlers share.
#[derive(Clone)]
struct App {
    registry: Registry,
    sessions: Arc<Sessions>,
    address: ClientIpKey,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    log.with_max_level(setting("LOG", Level::INFO)?).init();
    let a_day = Duration::from_secs(24 * 3600);
    let sessions = Arc::new(Sessions::new(Bounds {
        lifetime: Duration::from_secs(setting::<u32>("SESSION_SECONDS", 8 * 3600)?.into()),
        sessions: setting("MAX_SESSIONS", 100_000)?,
        sessions_per_user: setting("MAX_SESSIONS_PER_USER", 5)?,
        logins_per_minute: setting("LOGINS_PER_MINUTE", NonZeroU32::new(20).unwrap_or(NonZeroU32::MIN))?,
    }));
    tokio::spawn(tidy(Arc::clone(&sessions)));
    let config = RegistryConfig::default()
        .topic_retention(Retention::default().events(100).age(a_day))
        .observer(Arc::clone(&sessions))
        .observer(TracingObserver::new());
    let registry = Registry::with_config(config);
    let address = login::address(setting("PROXIES", 0)?);
    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));
    let connections = Connections::new(patience, 1);
    let app = app(App { registry: registry.clone(), sessions, address }, &connections, patience)?;

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => {}
        _ = signals.next() => {}
    }
    // The server accepts no new connections from now on. The drain ends the streams.
    let restart = Event::data("The server restarts.").event("restart");
    let drain = Drain::within(Duration::from_secs(2)).farewell(restart).reconnect_delay(Duration::from_secs(2));
    let (drained, ()) = tokio::join!(registry.drain(drain), connections.close_within(Duration::from_secs(3)));
    tracing::info!(ended = drained.ended, still_open = drained.still_open, "drained");
    Ok(())
}

async fn tidy(sessions: Arc<Sessions>) {
    let mut minutes = time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        sessions.tidy();
    }
}

fn app(app: App, connections: &Connections, patience: Patience) -> Result<Router, Box<dyn Error>> {
    // If streams took all connections, nobody could log in.
    let a_half = (connections.for_streams() / 2).clamp(1, 10_000);
    let for_strangers = SseLayer::new(&app.registry)
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?)))
        .limit(Limit::streams(setting("MAX_PUBLIC_STREAMS", a_half)?))
        .limit(Limit::streams(setting("MAX_STREAMS_PER_ADDRESS", 20)?).per(app.address.clone().key()))
        // An EventSource gives up for good at a 503 or a 429.
        .refused_response(RefusedResponse::reconnect());
    let log_in_again = Event::data("Log in again.").event("expired");
    let for_users = SseLayer::new(&app.registry)
        // The page's client sees comments too. A script with an EventSource sees only events, and notices a dead connection by them.
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("PING_MS", 10_000)?)).event(ping))
        .metadata(|request: &Parts| request.extensions.get::<Session>().cloned())
        .limit(Limit::streams(setting("MAX_STREAMS", a_half)?))
        .limit(Limit::streams(setting("MAX_STREAMS_PER_USER", 3)?).per(login::user_of))
        .refused_response(RefusedResponse::reconnect())
        .farewell(move |_, reason| (reason == CloseReason::AuthorizationExpired).then(|| log_in_again.clone()))
        .no_store();

    let hosts = Hosts::named(&setting("HOSTS", String::new())?);
    let origin = setting("ORIGIN", "http://localhost:5173".to_owned())?;
    let trusted: HeaderValue = origin.parse()?;
    let for_own_pages = middleware::from_fn_with_state(trusted.clone(), login::own_pages);
    let for_the_signed_in = Router::new()
        .route("/me", get(login::me))
        .route("/notifications", get(api::notifications).layer(for_users).layer(for_own_pages))
        .route("/users/{user}/notifications", post(api::notify))
        .route("/announcements", post(api::announce))
        // `route_layer` does not cover unknown paths. They are a 404 for everybody.
        .route_layer(middleware::from_fn_with_state(app.clone(), login::require));
    let for_everybody = Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route_service("/tower-sse.js", tower_sse::script())
        .route("/login", post(login::log_in))
        .route("/api/logout", post(login::log_out))
        .route("/announcements", get(api::announcements).layer(for_strangers));
    let for_operators = Router::new().route("/health", get(|| async { "ok" })).route("/stats", get(api::stats));

    // From the outside to the inside.
    let layers = ServiceBuilder::new()
        // Logs every request, also refused requests.
        .layer(TraceLayer::new_for_http())
        // Refuses requests by names that are not this server's, as those of a page whose name points to this machine.
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
        // Answers preflight requests, and adds its headers to every response, so that a page can read why it was refused.
        .layer(cors(trusted))
        // Limits the time until the response headers are sent, so a slow request body cannot last for ever. It does not
        // cut streams.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()))
        // Refuses requests that change something (a login too), if a browser sends them for a page of another origin.
        .layer(CsrfLayer::new().add_trusted_origin(origin)?)
        // Does not compress event streams. Keep it outside of an SseLayer: the layer cannot insert anything into a
        // compressed stream.
        .layer(CompressionLayer::new());
    Ok(Router::new()
        .merge(for_everybody)
        .merge(for_operators)
        .nest("/api", for_the_signed_in)
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(16 << 10))
        .layer(layers)
        .with_state(app))
}

/// Allows credentials for one origin by name. A server that mirrors any origin lets every page read its users' streams.
fn cors(origin: HeaderValue) -> CorsLayer {
    let last_event_id = HeaderName::from_static("last-event-id");
    CorsLayer::new()
        .allow_origin([origin])
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        // The headers of clients that use `fetch`. An EventSource sends its own headers without a preflight request.
        .allow_headers([CONTENT_TYPE, CACHE_CONTROL, last_event_id])
}

fn ping() -> Event {
    Event::data("").event("ping")
}

async fn nowhere() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "there is nothing here" })))
}

/// Reads a value from the environment. A value that does not parse is an error, and the error names the variable.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} does not fit"))),
    }
}
