//! A page that shows live events, and the small API behind it.
//!
//! ```text
//! cargo run --example dashboard
//! curl -N 'http://127.0.0.1:3000/events?topic=news'
//! curl 'http://127.0.0.1:3000/publish/news?event=headline' -d 'it works'
//! ```
//!
//! - `GET /`: the page.
//! - `GET /events?topic=a&topic=b`: the events of these topics. Resumes with `Last-Event-ID`, as a header or as `?lastEventId=`.
//! - `POST /publish/{topic}?event=type`: publishes the body. Answers `{"id": "...", "clients": n}`.
//! - `GET /stats`: how much there is.
//! - `GET /page/events`, `/clients/...`: what the page needs on top. A program that faces the world lets only those in
//!   here who may: whoever knows a client's id can change what it gets.
//!
//! Environment: `PORT` (3000; 0 picks one), `HEARTBEAT_MS` (15000), `RETENTION_EVENTS` (per topic, 1000),
//! `RETENTION_BYTES` (in all, 67108864).

mod demo;

use std::{env, error::Error, io, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, State, rejection::StringRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::{delete, get, post},
    serve::ListenerExt,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_sse::{
    ClientHandle, ClientId, Event, EventError, EventStream, Heartbeat, PublishError, Registry, RegistryConfig, Resume,
    Retention, SseLayer, SubscribeError,
};

const MAX_BODY: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::with_config(
        RegistryConfig::default()
            .topic_retention(Retention::default().events(setting("RETENTION_EVENTS", 1000)?))
            .retention(Retention::default().bytes(setting("RETENTION_BYTES", 64 << 20)?)),
    );
    let heartbeat = Heartbeat::every(Duration::from_millis(setting("HEARTBEAT_MS", 15_000)?));
    demo::start(&registry);

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|connection| {
        // Events are small and should leave at once.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, app(&registry, heartbeat)).await?;
    Ok(())
}

fn app(registry: &Registry, heartbeat: Heartbeat) -> Router {
    // A layer is configured per route: a script cannot see comments, so the page's heartbeats are events.
    let for_clients = SseLayer::new(registry).heartbeat(heartbeat.clone());
    let for_page = SseLayer::new(registry).heartbeat(heartbeat.event(page_heartbeat)).retry(Duration::from_secs(1));
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route("/events", get(events).layer(for_clients))
        .route("/page/events", get(page_events).layer(for_page))
        .route("/publish/{*topic}", post(publish))
        .route("/publish", post(|| async { problem(StatusCode::BAD_REQUEST, "name a topic: POST /publish/a/topic") }))
        .route("/publish/", post(|| async { problem(StatusCode::BAD_REQUEST, "the topic name is empty") }))
        .route("/stats", get(stats))
        .route("/clients/{id}", delete(close))
        .route("/clients/{id}/subscribe", post(subscribe))
        .route("/clients/{id}/unsubscribe", post(unsubscribe))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(registry.clone())
}

async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, Problem> {
    subscribe_to(&client, &topics(query.as_deref()))?;
    Ok(client.into_stream())
}

/// The same for the page: the handler's own body begins the stream, and the events of the topics follow it.
async fn page_events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<Response, Problem> {
    let topics = topics(query.as_deref());
    let position = client.registry().position();
    subscribe_to(&client, &topics)?;
    let resume = client.resume();
    let welcome = welcome(&client, &topics, &resume)?;
    let welcome = match resume {
        // So that what is missed before the first event can be resumed too.
        Resume::Fresh => welcome.id(position.to_string())?,
        _ => welcome,
    };
    Ok(([(CONTENT_TYPE, "text/event-stream")], welcome.encode()).into_response())
}

fn welcome(client: &ClientHandle, topics: &[String], resume: &Resume) -> Result<Event, EventError> {
    let resume = match resume {
        Resume::Fresh => "fresh",
        Resume::Gap(_) => "gap",
        _ => "continued",
    };
    Event::json(&json!({ "client": client.id().to_string(), "topics": topics, "resume": resume }))?.event("welcome")
}

fn page_heartbeat() -> Event {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    Event::data(format!("{{\"now\":{now}}}")).event("heartbeat").unwrap_or_default()
}

fn subscribe_to(client: &ClientHandle, topics: &[String]) -> Result<(), Problem> {
    if topics.is_empty() {
        return Err(problem(StatusCode::BAD_REQUEST, "name at least one topic: /events?topic=a&topic=b"));
    }
    Ok(topics.iter().try_for_each(|topic| client.subscribe(topic))?)
}

async fn publish(
    State(registry): State<Registry>,
    Path(topic): Path<String>,
    RawQuery(query): RawQuery,
    data: Result<String, StringRejection>,
) -> Result<Json<Value>, Problem> {
    let data = data.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            problem(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes"))
        }
        status => problem(status, format!("the body is no text: {rejection}")),
    })?;
    let mut event = Event::data(data);
    if let Some(event_type) = parameters(query.as_deref(), "event").pop() {
        event = event.event(event_type)?;
    }
    let receipt = registry.publish(&topic, event)?;
    Ok(Json(json!({ "id": receipt.position().to_string(), "clients": receipt.clients() })))
}

async fn stats(State(registry): State<Registry>) -> Json<Value> {
    let stats = registry.stats();
    Json(json!({
        "clients": stats.clients,
        "topics": stats.topics,
        "events": stats.events,
        "bytes": stats.bytes,
        "published": stats.published,
    }))
}

/// Cuts a stream off: its EventSource comes back and resumes.
async fn close(State(registry): State<Registry>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    client(&registry, &id)?.close();
    Ok(StatusCode::NO_CONTENT)
}

async fn subscribe(
    State(registry): State<Registry>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let client = client(&registry, &id)?;
    subscribe_to(&client, &topics(query.as_deref()))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unsubscribe(
    State(registry): State<Registry>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let client = client(&registry, &id)?;
    for topic in topics(query.as_deref()) {
        client.unsubscribe(topic);
    }
    Ok(StatusCode::NO_CONTENT)
}

fn client(registry: &Registry, id: &str) -> Result<ClientHandle, Problem> {
    let gone = || problem(StatusCode::NOT_FOUND, format!("no open stream has the id {id:?}"));
    id.parse::<ClientId>().ok().and_then(|id| registry.client(&id)).ok_or_else(gone)
}

fn topics(query: Option<&str>) -> Vec<String> {
    parameters(query, "topic")
}

/// All values of a query parameter that may be given several times.
fn parameters(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

/// What is wrong with a request: a status and a sentence.
enum Problem {
    Own(StatusCode, String),
    Event(EventError),
    Publish(PublishError),
    Subscribe(SubscribeError),
}

fn problem(status: StatusCode, sentence: impl Into<String>) -> Problem {
    Problem::Own(status, sentence.into())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Own(status, sentence) => (status, sentence).into_response(),
            Self::Event(error) => error.into_response(),
            Self::Publish(error) => error.into_response(),
            Self::Subscribe(error) => error.into_response(),
        }
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        Self::Event(error)
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
