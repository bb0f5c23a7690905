//! A page that shows live events, and the small API behind it.
//!
//! ```text
//! cargo run --example dashboard
//! curl -N 'http://127.0.0.1:3000/events?topic=news'
//! curl 'http://127.0.0.1:3000/publish/news?event=headline' -d 'it works'
//! ```
//!
//! - `GET /`: the page.
//! - `GET /events?topic=a&topic=b/*`: the events of these topics and patterns (`*` is one segment, `**` the rest).
//!   Resumes with `Last-Event-ID`, as a header or as `?lastEventId=`. Further:
//!   - `&level=warn`: of events with a level, only those that have at least this one: `info`, `warn`, `error`.
//!   - `&batch=50`: at least so many milliseconds between two frames. `&array`: the events of a frame as one JSON array.
//!   - `&topic_as_event_type`: events without an event type get their topic as the type.
//!   - `&user=ada`, or the header `x-user`: whose stream it is.
//! - `GET /prices/events`: all prices as one event, then each change.
//! - `POST /publish/{topic}?event=type&level=warn&except=CLIENT_ID`: publishes the body, not to the client that is
//!   excepted. Answers `{"id": "...", "clients": n}`.
//! - `GET /presence/{topic}`: who is subscribed to this topic, or pattern.
//! - `GET /stats`: how much there is. `GET /counts`: what the hooks counted.
//! - `GET /clients`: the open streams; `DELETE /streams/{number}`: closes one of them.
//! - `GET /page/events`, `/clients/{id}/...`: what the page needs on top.
//!
//! A program that faces the world lets only those in who may. Here, anybody may publish, look at the list of streams and close any of them.
//!
//! What becomes of a client that is too slow goes by the topic's name: under `state/` only the latest event counts, and it
//! is told nothing; under `strict/` its stream ends and it comes back; elsewhere it is told of the gap.
//!
//! It is served by `examples/support/connections.rs`, which gives up who sends no request, and makes room for who does: `axum::serve` waits
//! for ever.
//!
//! On SIGINT and SIGTERM it ends gracefully: its streams are told and end one after the other, and then it is gone. A second one ends it at once.
//!
//! Environment: `PORT` (3000; 0 picks one), `HEARTBEAT_MS` (15000), `RETENTION_EVENTS` (per topic, 1000),
//! `RETENTION_BYTES` (in all, 67108864), `STALLED_AFTER_MS` (60000), `GRACE_MS` (how long who is gone is still shown, 5000),
//! `MAX_STREAMS` (10000), `MAX_STREAMS_PER_ADDRESS` (a quarter of the connections that the limit on open files
//! allows, at most 2000), `PROXIES` (how many add to `x-forwarded-for`, 0), `DRAIN_MS` (how long
//! the graceful end may take, 5000), `GONE_AFTER_MS` (how long a peer may send no request, or answer nothing, before its connection
//! is closed, 30000, at least 1000), `PRICES_MS` (between two prices, 250), `LOG=1` (a line on stderr for each stream that is over or lost events).

mod api;
#[path = "../support/connections.rs"]
mod connections;
mod demo;
mod hooks;
mod market;
mod page;
mod problem;
#[path = "../support/signals.rs"]
mod signals;
#[path = "../support/sockets.rs"]
mod sockets;
mod stop;
mod visitor;

use std::{env, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit},
    http::request::Parts,
    response::Html,
    routing::{delete, get, post},
};
use tokio::net::TcpListener;
use tower_sse::{
    ClientIpKey, Heartbeat, Limit, RefusedResponse, Registry, RegistryConfig, Retention, SlowClientPolicy, SseLayer,
};

use crate::{
    connections::Connections, hooks::Counts, market::Market, signals::Signals, sockets::Patience, visitor::Visitor,
};

/// What the handlers share.
#[derive(Clone)]
struct App {
    registry: Registry,
    market: Arc<Market>,
    counts: Arc<Counts>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let counts = Arc::new(Counts::default());
    let registry = Registry::with_config(config(&counts)?);
    let market = Arc::new(Market::new(&registry));
    demo::start(&registry, &market, Duration::from_millis(setting("PRICES_MS", 250)?));
    tokio::spawn(page::announce_viewers(registry.presence(page::VIEWERS)?, registry.clone()));

    let heartbeat = Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?));
    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));
    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From here on, it ends in order when it is told to.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(patience, 1);
    let app = app(App { registry: registry.clone(), market, counts }, limits(&connections)?, heartbeat);
    let window = Duration::from_millis(setting("DRAIN_MS", 5000)?);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => {}
        _ = signals.next() => {}
    }
    Ok(stop::in_order(&registry, &connections, window, signals).await?)
}

fn config(counts: &Arc<Counts>) -> Result<RegistryConfig, io::Error> {
    let events = setting("RETENTION_EVENTS", 1000)?;
    let config = RegistryConfig::default()
        .total_retention(Retention::default().bytes(setting("RETENTION_BYTES", 64 << 20)?))
        .topic_retention_by(move |topic| match topic.split('/').next() {
            Some("state") => Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently),
            Some("strict") => Retention::default()
                .events(events)
                .slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: Duration::from_secs(1) }),
            _ => Retention::default().events(events),
        })
        .stalled_client_timeout(Duration::from_millis(setting("STALLED_AFTER_MS", 60_000)?))
        .presence_key(visitor::key)
        .presence_grace(Duration::from_millis(setting("GRACE_MS", 5000)?))
        .observer(Arc::clone(counts));
    Ok(match setting("LOG", 0)? {
        0 => config,
        _ => config.observer(hooks::print),
    })
}

/// How many streams there may be, over all routes: in all, and from one address, which shall not take all connections.
fn limits(connections: &Connections) -> Result<[Limit; 2], io::Error> {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    let address = ClientIpKey::new(peer).proxies(setting("PROXIES", 0)?);
    let a_quarter = (connections.most() / 4).clamp(1, 2000);
    Ok([
        Limit::streams(setting("MAX_STREAMS", 10_000)?),
        Limit::streams(setting("MAX_STREAMS_PER_ADDRESS", a_quarter)?).per(address.key()),
    ])
}

fn app(app: App, limits: [Limit; 2], heartbeat: Heartbeat) -> Router {
    let layer = SseLayer::new(&app.registry).metadata(Visitor::of);
    // An hour at most, so that streams spread over the servers that a load balancer has by then.
    let layer = limits.into_iter().fold(layer, SseLayer::limit).max_age(Duration::from_secs(3600));
    // A layer is configured per route: a script cannot see comments, so the page's heartbeats are events; and its
    // EventSource would give up if it got a 503.
    let for_page =
        layer.clone().heartbeat(heartbeat.clone().event(page::heartbeat)).reconnect_delay(Duration::from_secs(1));
    let for_page = for_page.refused_response(RefusedResponse::reconnect());
    let for_clients = layer.heartbeat(heartbeat);
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route("/events", get(api::events).layer(for_clients.clone()))
        .route("/prices/events", get(api::prices).layer(for_clients))
        .route("/page/events", get(page::events).layer(for_page))
        .route("/publish/{*topic}", post(api::publish))
        .route("/publish", post(api::publish_nowhere))
        .route("/publish/", post(api::publish_nowhere))
        .route("/presence/{*topic}", get(api::presence))
        .route("/stats", get(api::stats))
        .route("/counts", get(api::counts))
        .route("/clients", get(api::clients))
        .route("/streams/{number}", delete(api::close_by_number))
        .route("/clients/{id}", delete(api::close))
        .route("/clients/{id}/subscribe", post(api::subscribe))
        .route("/clients/{id}/unsubscribe", post(api::unsubscribe))
        .layer(DefaultBodyLimit::max(api::MAX_BODY))
        .with_state(app)
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
