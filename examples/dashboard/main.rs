//! A page that shows live events, and the small API behind it.
//!
//! ```text
//! cargo run --example dashboard --features script         # and http://127.0.0.1:3000
//! curl -N 'http://127.0.0.1:3000/events?topic=news'
//! curl 'http://127.0.0.1:3000/publish/news?event=headline' -d 'it works'
//! ```
//!
//! - `GET /`: the page. Its stream is the client that the crate serves: `tower_sse::script()`.
//! - `GET /events?topic=a&topic=b/*`: the events of these topics and patterns (`*` is one segment, `**` the rest).
//!   It resumes from `Last-Event-ID`, a header or the parameter `?lastEventId=`. Further parameters:
//!   - `&level=warn`: of the events with a level, only those of at least this level: `info`, `warn`, `error`.
//!   - `&batch=50`: at least this many milliseconds between two frames. `&array`: the events of a frame as one JSON
//!     array.
//!   - `&topic_as_event_type`: an event without a type gets its topic as the type.
//!   - `&user=ada`, or the header `x-user`: the user's name.
//! - `GET /prices/events`: all prices as one event, then each change.
//! - `POST /publish/{topic}?event=type&level=warn&except=CLIENT_ID`: publishes the body to all clients but the client in
//!   `except`. The response is `{"id": "...", "clients": n}`. With an engine, it says that the event is stored. It is a 503 if the engine does
//!   not store the event within five seconds.
//! - `GET /presence/{topic}`: who is subscribed to this topic or pattern.
//! - `GET /health`: whether the engine that keeps the events can be reached: 200 or 503, for a balancer.
//! - `GET /stats`: the registry's statistics. `GET /counts`: the counters of the observer.
//! - `GET /clients`: the open streams. `DELETE /streams/{number}`: closes one of them.
//! - `POST /clients/{id}/subscribe?topic=a`, `/unsubscribe?topic=a`: changes the topics of an open stream. `DELETE /clients/{id}`: closes it.
//! - `GET /page/events`: the page's stream. `PUT /page/topics`: changes its topics, see [`TopicsService`].
//!
//! In this example, anybody may publish, see the list of streams, and close any stream. A public program has to check who may.
//! Pages of other sites cannot do this through a visitor's browser, not even under a name of their own that points to this machine:
//! `examples/support/hosts.rs`.
//!
//! The topic's name decides what happens to a client that is too slow. Under `state/` only the latest event counts, and
//! the client is told nothing. Under `strict/` the stream ends, and the client reconnects. On all other topics the
//! client is told of the gap.
//!
//! `examples/support/connections.rs` serves the connections. It closes connections that send no request, and makes room
//! for new clients. `axum::serve` waits for such connections for ever.
//!
//! On SIGINT and SIGTERM the server shuts down gracefully: it sends each stream a farewell, ends the streams one after
//! the other, and exits. A second signal exits at once.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `HEARTBEAT_MS` | 15000 | the interval of heartbeats |
//! | `RETENTION_EVENTS` | 1000 | retained events of each topic |
//! | `RETENTION_BYTES` | 67108864 | retained bytes of all topics |
//! | `STALLED_AFTER_MS` | 60000 | `RegistryConfig::stalled_client_timeout` |
//! | `GRACE_MS` | 5000 | how long a user who left is still listed |
//! | `MAX_STREAMS` | seven eighths of the connections that the limit on open files allows, at most 10000 | open streams |
//! | `MAX_STREAMS_PER_ADDRESS` | a quarter of these, at most 2000 | open streams of one address |
//! | `HOSTS` | none | hosts that clients may ask for besides this machine's own, separated by commas |
//! | `PROXIES` | 0 | how many proxies append to `x-forwarded-for` |
//! | `DRAIN_MS` | 5000 | how long the graceful shutdown may take |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a body, or answer nothing; at least 1000 |
//! | `PRICES_MS` | 250; with `REDIS_URL` 0 | the time between two prices; 0: no demo events. Each process makes up its own: of several, let one |
//! | `FILE` | none | keeps the events in this file, over restarts (feature `file`) |
//! | `REDIS_URL` | none | keeps the events in Redis, for several processes (feature `redis`) |
//! | `STREAM` | tower-sse-dashboard | the name of the stream in Redis |
//! | `LOG` | 0 | 1 prints a line on stderr for each stream that ended or lost events |

mod api;
#[path = "../support/connections.rs"]
mod connections;
mod demo;
mod engine;
mod hooks;
#[path = "../support/hosts.rs"]
mod hosts;
mod market;
mod page;
mod problem;
#[path = "../support/settings.rs"]
mod settings;
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
    http::{StatusCode, request::Parts},
    middleware,
    response::Html,
    routing::{delete, get, post},
};
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer};
use tower_sse::{
    ClientIpKey, Heartbeat, HelloEvent, Limit, Registry, RegistryConfig, Retention, SlowClientPolicy, SseLayer,
    TopicsService,
};

use crate::{
    connections::Connections, hooks::Counts, hosts::Hosts, market::Market, settings::setting, signals::Signals,
    sockets::Patience, visitor::Visitor,
};

/// The state that all handlers share.
#[derive(Clone)]
struct App {
    registry: Registry,
    market: Arc<Market>,
    counts: Arc<Counts>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let counts = Arc::new(Counts::default());
    let registry = Registry::with_config(engine::of_environment(config(&counts)?)?);
    // With an engine, what it retains is loaded first.
    registry.ready().await?;
    let market = Arc::new(Market::new(&registry));
    let is_one_of_several = env::var_os("REDIS_URL").is_some();
    demo::start(
        &registry,
        &market,
        Duration::from_millis(setting("PRICES_MS", if is_one_of_several { 0 } else { 250 })?),
    );
    tokio::spawn(page::announce_viewers(registry.presence(page::VIEWERS)?, registry.clone()));

    let heartbeat = Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?));
    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));
    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(patience, 1);
    let hosts = Hosts::named(&setting("HOSTS", String::new())?);
    let app = App { registry: registry.clone(), market, counts };
    let app = routes(app, limits(&connections)?, hosts, heartbeat, patience);
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

/// The limits of streams on all routes together: in total, and for each address. Neither all streams nor one address must take all
/// connections.
fn limits(connections: &Connections) -> Result<[Limit; 2], io::Error> {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    let address = ClientIpKey::new(peer).proxies(setting("PROXIES", 0)?);
    let all = connections.for_streams();
    let a_quarter = (all / 4).clamp(1, 2000);
    Ok([
        Limit::streams(setting("MAX_STREAMS", all.min(10_000))?),
        Limit::streams(setting("MAX_STREAMS_PER_ADDRESS", a_quarter)?).per(address.key()),
    ])
}

fn routes(app: App, limits: [Limit; 2], hosts: Hosts, heartbeat: Heartbeat, patience: Patience) -> Router {
    let layer = SseLayer::new(&app.registry).metadata(Visitor::of);
    // At most an hour, so that streams move to new servers behind a load balancer.
    let layer = limits.into_iter().fold(layer, SseLayer::limit).max_age(Duration::from_secs(3600));
    // Each route has its own configuration. The page's heartbeats are events, because the page lists them.
    let for_page = layer
        .clone()
        .heartbeat(heartbeat.clone().event(page::heartbeat))
        .hello_event(HelloEvent::default().control("/page/topics"))
        .reconnect_delay(Duration::from_secs(1));
    let for_clients = layer.heartbeat(heartbeat);
    let topics = TopicsService::new(&app.registry, page::allow);
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route_service("/tower-sse.js", tower_sse::script())
        .route("/events", get(api::events).layer(for_clients.clone()))
        .route("/prices/events", get(api::prices).layer(for_clients))
        .route("/page/events", get(page::events).layer(for_page))
        .route_service("/page/topics", topics)
        .route("/publish/{*topic}", post(api::publish))
        .route("/publish", post(api::publish_nowhere))
        .route("/publish/", post(api::publish_nowhere))
        .route("/presence/{*topic}", get(api::presence))
        .route("/health", get(api::health))
        .route("/stats", get(api::stats))
        .route("/counts", get(api::counts))
        .route("/clients", get(api::clients))
        .route("/streams/{number}", delete(api::close_by_number))
        .route("/clients/{id}", delete(api::close))
        .route("/clients/{id}/subscribe", post(api::subscribe))
        .route("/clients/{id}/unsubscribe", post(api::unsubscribe))
        .layer(DefaultBodyLimit::max(api::MAX_BODY))
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        // Refuses requests by names that are not this server's, as those of a page whose name points to this machine.
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
        // Limits the time until the response headers are sent, so a slow request body cannot last for ever. It does not cut streams.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()))
        .with_state(app)
}
