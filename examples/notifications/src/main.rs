//! Notifications in an axum application: sessions, a topic for each user, limits for each user, and other layers around.
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
//! - Each of the two streams has an `SseLayer` of its own around its route, and so places of its own: strangers cannot use up
//!   those of users. Who is refused a place is told to come back, as an `EventSource` would give up for good.
//! - The session layer is outside of the users' one. So what it puts into a request's extensions is there for `Limit::per` and for
//!   `SseLayer::metadata`.
//! - Users' streams are refused to pages of other sites, as those could use up a user's places.
//! - A request with several session cookies is refused, as one of them may be a stranger's.
//! - A stream ends with its session: when it expires, when its user logs out, and when they log in again. An `EventSource` that
//!   comes back then gets a 401, and stops.
//! - tower-http's layers go around all: what each is for, and why in this order, is said at the place.
//! - It is served by `examples/support/connections.rs`, which gives up who sends no request, and makes room for who does.
//!   `axum::serve` waits for ever.
//! - On SIGINT and SIGTERM it ends gracefully.
//!
//! Here, everybody may log in under any name, without a password.
//!
//! Environment: `PORT` (3000; 0 picks one), `ORIGIN` (of pages elsewhere that may use this, `http://localhost:5173`),
//! `MAX_STREAMS` (of users, 10000), `MAX_STREAMS_PER_USER` (3), `MAX_PUBLIC_STREAMS` (10000), `MAX_STREAMS_PER_ADDRESS` (of those,
//! 20), `MAX_SESSIONS` (100000), `MAX_SESSIONS_PER_USER` (5), `LOGINS_PER_MINUTE` (from one address, 20), `PROXIES` (how many add to `x-forwarded-for`, 0), `SESSION_SECONDS` (28800),
//! `HEARTBEAT_MS` (15000), `PING_MS` (of users' streams, 10000), `LOG` (`error` to `trace`, on stderr; info).

mod api;
#[path = "../../support/connections.rs"]
mod connections;
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
use tower_http::{compression::CompressionLayer, cors::CorsLayer, csrf::CsrfLayer, trace::TraceLayer};
use tower_sse::{
    ClientIpKey, CloseReason, Drain, Event, Heartbeat, Limit, RefusedResponse, Registry, RegistryConfig, Retention,
    SseLayer, TracingObserver,
};
use tracing::Level;

use crate::{
    connections::Connections,
    session::{Bounds, Session, Sessions},
    signals::Signals,
    sockets::Patience,
};

/// What the handlers share.
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
    let app = app(App { registry: registry.clone(), sessions, address })?;

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From here on, it ends in order when it is told to.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(Patience::default(), 1);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => {}
        _ = signals.next() => {}
    }
    // There are no new connections from now on, and the streams end.
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

fn app(app: App) -> Result<Router, Box<dyn Error>> {
    let for_strangers = SseLayer::new(&app.registry)
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?)))
        .limit(Limit::streams(setting("MAX_PUBLIC_STREAMS", 10_000)?))
        .limit(Limit::streams(setting("MAX_STREAMS_PER_ADDRESS", 20)?).per(app.address.clone().key()))
        // An EventSource gives up for good when it gets a 503 or a 429.
        .refused_response(RefusedResponse::reconnect());
    let log_in_again = Event::data("Log in again.").event("expired");
    let for_users = SseLayer::new(&app.registry)
        // A script cannot see comments. With an event, it can tell a dead connection.
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("PING_MS", 10_000)?)).event(ping))
        .metadata(|request: &Parts| request.extensions.get::<Session>().cloned())
        .limit(Limit::streams(setting("MAX_STREAMS", 10_000)?))
        .limit(Limit::streams(setting("MAX_STREAMS_PER_USER", 3)?).per(login::user_of))
        .refused_response(RefusedResponse::reconnect())
        .farewell(move |_, reason| (reason == CloseReason::AuthorizationExpired).then(|| log_in_again.clone()))
        .no_store();

    let origin = setting("ORIGIN", "http://localhost:5173".to_owned())?;
    let trusted: HeaderValue = origin.parse()?;
    let for_own_pages = middleware::from_fn_with_state(trusted.clone(), login::own_pages);
    let for_the_signed_in = Router::new()
        .route("/me", get(login::me))
        .route("/notifications", get(api::notifications).layer(for_users).layer(for_own_pages))
        .route("/users/{user}/notifications", post(api::notify))
        .route("/announcements", post(api::announce))
        // Not for paths that do not exist: those are a 404 for everybody.
        .route_layer(middleware::from_fn_with_state(app.clone(), login::require));
    let for_everybody = Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route("/login", post(login::log_in))
        .route("/api/logout", post(login::log_out))
        .route("/announcements", get(api::announcements).layer(for_strangers));
    let for_operators = Router::new().route("/health", get(|| async { "ok" })).route("/stats", get(api::stats));

    // From the outside to the inside.
    let layers = ServiceBuilder::new()
        // Sees every request, refused ones too.
        .layer(TraceLayer::new_for_http())
        // Answers preflights itself, and gives its headers to everything, so that a page can read why it was refused.
        .layer(cors(trusted))
        // Of what changes something, logging in included, takes nothing that pages of other origins make a browser send.
        .layer(CsrfLayer::new().add_trusted_origin(origin)?)
        // Leaves event streams alone. Inside of an SseLayer it could be made not to, and then nothing could be put in.
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

/// With credentials, the origins that may are named: whoever mirrors any origin lets every page read its users' streams.
fn cors(origin: HeaderValue) -> CorsLayer {
    let last_event_id = HeaderName::from_static("last-event-id");
    CorsLayer::new()
        .allow_origin([origin])
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        // What clients send that use `fetch`: an EventSource asks nobody about its own.
        .allow_headers([CONTENT_TYPE, CACHE_CONTROL, last_event_id])
}

fn ping() -> Event {
    Event::data("").event("ping")
}

async fn nowhere() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "there is nothing here" })))
}

/// What the environment says. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} does not fit"))),
    }
}
