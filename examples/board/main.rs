//! What people build with event streams, in one page with one stream: orders, stocks, a monitor, shared notes and notifications.
//!
//! ```text
//! cargo run --example board --features script                # and http://127.0.0.1:3000
//! ```
//!
//! - **Orders**: each order is a topic with a producer, which ends with the order. The page gets all steps from the first one, also after
//!   a reload, and removes the topic at its end. The sold out lamp shows an order that fails.
//! - **Stocks**: the viewer adds and removes prices. Each is a topic of the open stream, of which only the latest event counts.
//! - **Monitor**: CPU, memory and network of the server's machine, once a second, from Linux' `/proc`. On other systems the page says that
//!   there are no figures. The page keeps its history over a reload, and the stream resumes after the last sample that the page has. The viewer
//!   chooses the levels of the alerts. Each level is a topic.
//! - **Notes**: several people edit one list. Whoever has this tab open is subscribed to the topic, so presence lists who is here. The
//!   last writer of a line wins, and everybody sees what was replaced, and can take it back.
//! - **Notifications**: to everybody, and to one visitor, with a badge, and by the browser if the viewer allows it.
//!
//! The page is plain JavaScript modules without a build step, in `examples/board/page`. Its stream is the client that the crate serves:
//! `tower_sse::script()`. All tabs of a visitor have one stream together. The page gets no inline code and no outside resources: its Content-Security-Policy says so.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /` | the page; sets the cookie that names the visitor |
//! | `GET /events?topic=a&topic=b` | the stream |
//! | `PUT /topics` | changes the topics of the open stream: [`TopicsService`] |
//! | `PUT /me` `{"name":"Ada"}` | names the visitor, and answers with what there is to choose from |
//! | `POST /orders` `{"item":"tea"}` | orders something: 201 with the topic of the order |
//! | `POST /monitor/work` | keeps a core busy for a few seconds, so that there is something to see; 409 while it does |
//! | `GET /notes`, `POST /notes` `{"text":".."}` | the list; a new line |
//! | `PUT /notes/{id}` `{"text":"..","base":3}` | changes a line, of which the writer has seen the version `base` |
//! | `DELETE /notes/{id}` | removes a line |
//! | `POST /notes/cursor` `{"line":7,"at":3}` | tells the others where the visitor's cursor is |
//! | `POST /notices` `{"text":"..","to":"everybody"}` | notifies everybody, or the visitor: `me` |
//!
//! A visitor is whoever has the cookie. There is no password: whoever can reach the program may read, write and notify. A visitor can
//! change only the topics of its own streams, and read only its own orders and notifications. All texts and lists have a bound, and each
//! visitor has a budget of requests: a request too many is a 429.
//!
//! Pages of other sites can do nothing here through a visitor's browser, not even under a name of their own that points to this machine:
//! `examples/support/hosts.rs`. `examples/support/connections.rs` serves the connections. On SIGINT and SIGTERM the server shuts down
//! gracefully, and a second signal exits at once.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `HEARTBEAT_MS` | 15000 | the interval of heartbeats |
//! | `STEP_MS` | 2000 | the average time of an order's step |
//! | `PRICES_MS` | 250 | the time between two prices |
//! | `SAMPLE_MS` | 1000 | the time between two samples of the machine; at least 100 |
//! | `GRACE_MS` | 3000 | how long somebody who left is still listed |
//! | `STREAMS_PER_VISITOR` | 8 | open streams of a visitor |
//! | `HOSTS` | none | hosts that clients may ask for besides this machine's own, separated by commas |
//! | `PROXIES` | 0 | how many proxies append to `x-forwarded-for` |
//! | `DRAIN_MS` | 3000 | how long the graceful shutdown may take |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a body, or answer nothing; at least 1000 |

#[path = "../support/connections.rs"]
mod connections;
mod files;
#[path = "../support/hosts.rs"]
mod hosts;
mod list;
mod machine;
mod monitor;
mod notes;
mod notices;
mod orders;
mod problem;
#[path = "../support/settings.rs"]
mod settings;
#[path = "../support/signals.rs"]
mod signals;
#[path = "../support/sockets.rs"]
mod sockets;
mod stocks;
mod topics;
mod visitor;

use std::{error::Error, io, net::SocketAddr, process, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{StatusCode, request::Parts},
    middleware,
    routing::{get, post, put},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer};
use tower_sse::{
    ClientIpKey, Drain, Event, EventError, Heartbeat, HelloEvent, Limit, Registry, RegistryConfig, Retention,
    SlowClientPolicy, SseLayer, TopicsService,
};

use crate::{
    connections::Connections,
    hosts::Hosts,
    monitor::Monitor,
    notes::Notes,
    notices::Notices,
    orders::Orders,
    problem::Problem,
    settings::setting,
    signals::Signals,
    sockets::Patience,
    visitor::{Visitor, Visitors},
};

/// The largest body of a request.
const MAX_BODY: usize = 8 << 10;

/// The state that all handlers share.
#[derive(Clone)]
struct App {
    registry: Registry,
    orders: Arc<Orders>,
    monitor: Arc<Monitor>,
    notes: Arc<Notes>,
    notices: Arc<Notices>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::with_config(config(Duration::from_millis(setting("GRACE_MS", 3000)?))?);
    let notices = Arc::new(Notices::new(&registry));
    let app = App {
        orders: Arc::new(Orders::new(&notices, Duration::from_millis(setting("STEP_MS", 2000)?))),
        monitor: Arc::new(Monitor::new(&registry)),
        notes: Arc::new(Notes::new(&registry)),
        notices,
        registry: registry.clone(),
    };
    tokio::spawn(stocks::trade(registry.clone(), Duration::from_millis(setting("PRICES_MS", 250)?)));
    tokio::spawn(Arc::clone(&app.monitor).watch(Duration::from_millis(setting("SAMPLE_MS", 1000)?)));
    tokio::spawn(Arc::clone(&app.notes).announce_members(registry.presence(topics::NOTES)?));

    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));
    let window = Duration::from_millis(setting("DRAIN_MS", 3000)?);
    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(patience, 1);
    let app = routes(app, limits(&connections)?, patience)?;
    tokio::select! {
        () = connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()) => {}
        _ = signals.next() => {}
    }
    let drain = Drain::within(window).reconnect_delay(Duration::from_secs(2));
    tokio::select! {
        (drained, ()) = async { tokio::join!(registry.drain(drain), connections.close_within(window + Duration::from_secs(1))) } => {
            println!("ended {} streams, {} still open", drained.ended, drained.still_open);
            Ok(())
        }
        code = signals.next() => process::exit(code),
    }
}

fn config(grace: Duration) -> Result<RegistryConfig, EventError> {
    let latest = || Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently);
    Ok(RegistryConfig::default()
        .topic_retention_by(move |topic| match topic.split_once('/') {
            Some(("stocks", _) | ("notes", "here")) => latest(),
            // Where a cursor was a moment ago helps nobody.
            Some(("notes", _)) => latest().events(50).age(Duration::from_secs(10)),
            Some(("orders", _)) => Retention::default().events(100),
            _ if topic == topics::MONITOR => Retention::default().events(300),
            _ => Retention::default().events(50),
        })
        .ended_topic_ttl(Duration::from_secs(3600))
        // An order whose task panicked. The event has no type, so it gets the topic as its type.
        .failed_event(Event::json(&json!({ "failed": "the shop has lost it" }))?)
        .presence_key(|client| Some(Visitor::behind(client)?.number.to_string()))
        .presence_grace(grace))
}

/// The limits of streams: in total, for each address, and for each visitor.
fn limits(connections: &Connections) -> Result<[Limit; 3], io::Error> {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    let address = ClientIpKey::new(peer).proxies(setting("PROXIES", 0)?);
    let all = connections.for_streams();
    Ok([
        Limit::streams(all),
        Limit::streams((all / 4).max(1)).per(address.key()),
        Limit::streams(setting("STREAMS_PER_VISITOR", 8)?)
            .per(|request: &Parts| Some(Visitor::of(request)?.number.to_string())),
    ])
}

fn routes(app: App, limits: [Limit; 3], patience: Patience) -> Result<Router, io::Error> {
    let layer = SseLayer::new(&app.registry)
        .metadata(Visitor::of)
        // The page learns the topic of an event from its type.
        .topic_as_event_type(true)
        .hello_event(HelloEvent::default().control("/topics"))
        .heartbeat(Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?)))
        .reconnect_delay(Duration::from_secs(1));
    let layer = limits.into_iter().fold(layer, SseLayer::limit);
    // A visitor who knows the id of another one's stream cannot change its topics.
    let same_visitor = |request: &Parts, client: &_| {
        let visitor = Visitor::of(request).map(|it| it.number);
        visitor.is_some() && visitor == Visitor::behind(client).map(|it| it.number)
    };
    let service = TopicsService::new(&app.registry, topics::allow).owned_by(same_visitor).max_topics(topics::MOST);
    let visitors = Arc::new(Visitors::default());
    let for_visitors = Router::new()
        .route("/events", get(topics::events).layer(layer))
        .route_service("/topics", service)
        .route("/me", put(greet))
        .route("/orders", post(orders::order))
        .route("/monitor/work", post(monitor::work))
        .route("/notes", get(notes::all).post(notes::add))
        .route("/notes/{id}", put(notes::change).delete(notes::remove))
        .route("/notes/cursor", post(notes::cursor))
        .route("/notices", post(notices::send))
        .layer(middleware::from_fn_with_state(Arc::clone(&visitors), visitor::require));
    Ok(Router::new()
        .route("/", get(files::page))
        .route("/page/{name}", get(files::file))
        .route_service("/tower-sse.js", tower_sse::script())
        .merge(for_visitors)
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing at this address; the page is at /") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        // Refuses requests by names that are not this server's, as those of a page whose name points to this machine.
        .layer(middleware::from_fn_with_state(Hosts::named(&setting("HOSTS", String::new())?), hosts::check))
        // Limits the time until the response headers are sent, so a slow request body cannot last for ever. It does not cut streams.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()))
        .with_state(app))
}

/// Names the visitor, and says who that is and what there is to choose from.
async fn greet(State(app): State<App>, visitor: Visitor, Json(me): Json<Value>) -> Result<Json<Value>, Problem> {
    let name = match &me["name"] {
        Value::Null => None,
        name => Some(problem::line_of_text(name, "name", visitor::MAX_NAME)?),
    };
    if name.is_some_and(|name| visitor.rename(&name)) {
        app.notes.announce();
    }
    Ok(Json(json!({
        "who": visitor.number,
        "name": visitor.name(),
        "items": orders::ITEMS.map(|(item, title, _)| json!({ "item": item, "title": title })),
        "stocks": stocks::COMPANIES.map(|(symbol, name, _)| json!({ "symbol": symbol, "name": name })),
        "system": std::env::consts::OS,
        "figures": app.monitor.has_figures(),
    })))
}

/// Publishes an event, and prints errors. Publishing needs no `await` and never blocks.
fn publish(registry: &Registry, topic: &str, data: &Value) {
    match Event::json(data).map(|event| registry.publish(topic, event)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => eprintln!("not published on {topic}: {error}"),
        Err(error) => eprintln!("no event for {topic}: {error}"),
    }
}
