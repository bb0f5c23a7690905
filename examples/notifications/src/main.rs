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
//! - One `SseLayer` goes around the whole router, and one with another configuration around the one route that needs it. Where
//!   both are around a route, the inner one does the work, and the limits of both count.
//! - The session layer is outside of the inner one. So what it puts into a request's extensions is there for `Limit::per` and for
//!   `SseLayer::metadata`.
//! - A stream ends with its session: when it expires, and when its user logs out. An `EventSource` that comes back then gets a
//!   401, and stops.
//! - tower-http's layers go around all: what each is for, and why in this order, is said at the place.
//! - On SIGINT and SIGTERM it ends gracefully.
//!
//! Here, everybody may log in under any name, without a password.
//!
//! Environment: `PORT` (3000; 0 picks one), `ORIGIN` (of pages elsewhere that may use this, `http://localhost:5173`),
//! `MAX_STREAMS` (in all, 10000), `MAX_STREAMS_PER_USER` (3), `SESSION_SECONDS` (28800), `HEARTBEAT_MS` (15000), `PING_MS` (of
//! users' streams, 10000), `LOG` (`error` to `trace`, on stderr; info).

mod api;
mod session;

use std::{env, error::Error, io, io::IsTerminal, sync::Arc, time::Duration};

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
    serve::ListenerExt,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tower::ServiceBuilder;
use tower_http::{compression::CompressionLayer, cors::CorsLayer, trace::TraceLayer};
use tower_sse::{
    CloseReason, Drain, Event, Heartbeat, Limit, Refusal, Registry, RegistryConfig, Retention, SseLayer,
    TracingObserver,
};
use tracing::Level;

use crate::session::{Session, Sessions};

/// What the handlers share.
#[derive(Clone)]
struct App {
    registry: Registry,
    sessions: Arc<Sessions>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    log.with_max_level(setting("LOG", Level::INFO)?).init();
    let a_day = Duration::from_secs(24 * 3600);
    let config = RegistryConfig::default()
        .topic_retention(Retention::default().events(100).age(a_day))
        .observer(TracingObserver::new());
    let registry = Registry::with_config(config);
    let lifetime = Duration::from_secs(setting::<u32>("SESSION_SECONDS", 8 * 3600)?.into());
    let app = app(App { registry: registry.clone(), sessions: Arc::new(Sessions::new(lifetime)) })?;

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    let told_to_end = told_to_end()?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|socket| {
        // Events are small writes that somebody waits for.
        let _ = socket.set_nodelay(true);
    });
    let (stop, stopped) = oneshot::channel::<()>();
    // Without this, each connection has a copy of the router as long as its stream lasts.
    let app = app.into_make_service();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => return Ok(ended??),
        () = told_to_end => {}
    }
    // No new connections from now on; and the streams end, for which the server would wait.
    drop(stop);
    let restart = Event::data("The server restarts.").event("restart")?;
    let drain = Drain::within(Duration::from_secs(2)).farewell(restart).retry(Duration::from_secs(2));
    let drained = registry.drain(drain).await;
    tracing::info!(ended = drained.ended, stuck = drained.stuck, "drained");
    let _ = timeout(Duration::from_secs(1), server).await;
    Ok(())
}

fn app(app: App) -> Result<Router, Box<dyn Error>> {
    let for_all = SseLayer::new(&app.registry)
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?)))
        .limit(Limit::streams(setting("MAX_STREAMS", 10_000)?));
    let log_in_again = Event::data("Log in again.").event("expired")?;
    let for_users = SseLayer::new(&app.registry)
        // A script cannot see comments. With an event, it can tell a dead connection.
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("PING_MS", 10_000)?)).event(ping))
        .metadata(|request: &Parts| request.extensions.get::<Session>().cloned())
        .limit(Limit::streams(setting("MAX_STREAMS_PER_USER", 3)?).per(session::user_of))
        // An EventSource gives up for good when it gets a 429.
        .refusal(Refusal::reconnect())
        .farewell(move |_, reason| (reason == CloseReason::Expired).then(|| log_in_again.clone()))
        .no_store();

    let for_the_signed_in = Router::new()
        .route("/me", get(session::me))
        .route("/logout", post(session::log_out))
        .route("/notifications", get(api::notifications).layer(for_users))
        .route("/users/{user}/notifications", post(api::notify))
        .route("/announcements", post(api::announce))
        // Not for paths that do not exist: those are a 404 for everybody.
        .route_layer(middleware::from_fn_with_state(app.clone(), session::require));
    let for_everybody = Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route("/login", post(session::log_in))
        .route("/announcements", get(api::announcements));
    let for_operators = Router::new().route("/health", get(|| async { "ok" })).route("/stats", get(api::stats));

    // From the outside to the inside.
    let layers = ServiceBuilder::new()
        // Sees every request, refused ones too.
        .layer(TraceLayer::new_for_http())
        // Answers preflights itself, and gives its headers to everything, so that a page can read why it was refused.
        .layer(cors(setting("ORIGIN", HeaderValue::from_static("http://localhost:5173"))?))
        // Leaves event streams alone. Inside of an SseLayer it could be made not to, and then nothing could be put in.
        .layer(CompressionLayer::new())
        .layer(for_all);
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
    Event::data("").event("ping").unwrap_or_default()
}

async fn nowhere() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "there is nothing here" })))
}

/// Ctrl-C, or what service managers send. From this call on, neither ends the program of itself.
#[cfg(unix)]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// What the environment says. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} does not fit"))),
    }
}
