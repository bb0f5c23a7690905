//! The handlers of the API, for `curl` and for the page.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, RawQuery, State, rejection::StringRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_sse::{Batching, ClientHandle, ClientId, Event, EventStream, Registry, Resume, Start, Stats, Subscription};

use crate::{
    App,
    market::Market,
    problem::{Problem, problem},
    visitor::Visitor,
};

pub(crate) const MAX_BODY: usize = 1 << 20;

/// The severity of an event. It is an attribute: filters read it, and it is not sent.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

pub(crate) async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, Problem> {
    let query = Query::of(query.as_deref());
    query.subscribe(&client, |_| true)?;
    query.style(&client)?;
    Ok(client.into_stream())
}

/// The price table, and then each change. No change is missing, and none comes twice.
pub(crate) async fn prices(State(app): State<App>, client: ClientHandle) -> Result<EventStream, Problem> {
    client.subscribe(Market::TOPIC)?;
    if client.resume() == Resume::Continued {
        return Ok(client.into_stream());
    }
    let (table, position) = app.market.table();
    Ok(client.into_stream().snapshot(Event::json(&table)?.event("prices"), position))
}

pub(crate) async fn publish(
    State(app): State<App>,
    Path(topic): Path<String>,
    RawQuery(query): RawQuery,
    data: Result<String, StringRejection>,
) -> Result<Json<Value>, Problem> {
    let query = Query::of(query.as_deref());
    let data = data.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            problem(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes"))
        }
        status => problem(status, format!("the body is no text: {rejection}")),
    })?;
    let mut event = Event::data(data);
    if let Some(event_type) = query.last("event") {
        event = event.try_event(event_type)?;
    }
    if let Some(level) = query.level()? {
        event = event.attribute(level);
    }
    if let Some(id) = query.last("except") {
        event = event.exclude_client(id.parse::<ClientId>()?);
    }
    let receipt = app.registry.publish(&topic, event)?;
    let clients = receipt.subscribers();
    let Ok(stored) = timeout(STORED_WITHIN, receipt).await else {
        let sentence = format!("the event is not stored yet, and may still be: {}", app.registry.health());
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, sentence));
    };
    Ok(Json(json!({ "id": stored?.to_string(), "clients": clients })))
}

/// How long a publisher waits until the engine has stored the event.
const STORED_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn health(State(app): State<App>) -> (StatusCode, String) {
    let health = app.registry.health();
    let status = if health.is_following() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{health}\n"))
}

pub(crate) async fn publish_nowhere() -> Problem {
    problem(StatusCode::BAD_REQUEST, "the topic name is empty: name a topic, as in POST /publish/a/topic")
}

/// The members that are subscribed by exactly this name. Returns the number of each member's streams and not their ids,
/// because everybody who knows an id may act for the client.
///
/// A member stays listed for the grace period only while some code holds the presence list, as `page` does for its
/// viewers.
pub(crate) async fn presence(State(app): State<App>, Path(topic): Path<String>) -> Result<Json<Value>, Problem> {
    let presence = app.registry.presence(topic)?;
    let members = presence.members();
    Ok(Json(members.iter().map(|it| json!({ "key": it.key(), "clients": it.clients().len() })).collect()))
}

pub(crate) async fn stats(State(app): State<App>) -> Json<Stats> {
    Json(app.registry.stats())
}

pub(crate) async fn counts(State(app): State<App>) -> Json<Value> {
    Json(app.counts.to_json())
}

/// The open streams. Only its owner may know a stream's whole id, so each stream has a number too. A number is easy to
/// guess: a public program must allow this list, and closing by number, for administrators only.
pub(crate) async fn clients(State(app): State<App>) -> Json<Value> {
    let mut clients: Vec<_> =
        app.registry.clients().iter().filter_map(|it| Some((Visitor::behind(it)?, row(it)?))).collect();
    clients.sort_by_key(|(visitor, _)| visitor.number);
    Json(clients.into_iter().map(|(_, row)| row).collect())
}

/// `None` if the client's stream has not started yet.
fn row(client: &ClientHandle) -> Option<Value> {
    let (visitor, stats) = (Visitor::behind(client)?, client.stats());
    stats.age?;
    Some(json!({
        "number": visitor.number,
        "id": client.id().to_string().get(..8),
        "user": visitor.user,
        "agent": visitor.agent,
        "subscriptions": client.subscriptions(),
        "stats": stats,
    }))
}

/// The close reason of a stream that somebody closed in the list.
const BY_NUMBER: &str = "by_number";

pub(crate) async fn close_by_number(State(app): State<App>, Path(number): Path<u64>) -> Result<StatusCode, Problem> {
    let is_it = |client: &ClientHandle| Visitor::behind(client).is_some_and(|visitor| visitor.number == number);
    let gone = || problem(StatusCode::NOT_FOUND, format!("no open stream has the number {number}"));
    app.registry.clients().into_iter().find(is_it).ok_or_else(gone)?.close_with(BY_NUMBER);
    Ok(StatusCode::NO_CONTENT)
}

/// Closes a stream. Its `EventSource` reconnects and resumes.
pub(crate) async fn close(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    client(&app.registry, &id)?.close();
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn subscribe(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let client = client(&app.registry, &id)?;
    Query::of(query.as_deref()).subscribe(&client, |_| true)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unsubscribe(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let client = client(&app.registry, &id)?;
    for topic in Query::of(query.as_deref()).all("topic") {
        client.unsubscribe(topic);
    }
    Ok(StatusCode::NO_CONTENT)
}

fn client(registry: &Registry, id: &str) -> Result<ClientHandle, Problem> {
    let gone = || problem(StatusCode::NOT_FOUND, format!("no open stream has the id {id:?}"));
    id.parse::<ClientId>().ok().and_then(|id| registry.client(&id)).ok_or_else(gone)
}

/// The query parameters of a request. A parameter may occur several times.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub(crate) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.all(name).next_back()
    }

    /// Subscribes to those topics for which `is_due` returns true.
    pub(crate) fn subscribe(&self, client: &ClientHandle, is_due: impl Fn(&str) -> bool) -> Result<(), Problem> {
        let (names, least) = (Vec::from_iter(self.all("topic")), self.level()?);
        if names.is_empty() {
            return Err(problem(StatusCode::BAD_REQUEST, "name at least one topic: /events?topic=a&topic=b"));
        }
        let mut due = names.into_iter().filter(|name| is_due(name));
        Ok(due.try_for_each(|name| client.subscribe(subscription(name, least)))?)
    }

    pub(crate) fn level(&self) -> Result<Option<Level>, Problem> {
        match self.last("level") {
            None => Ok(None),
            Some("info") => Ok(Some(Level::Info)),
            Some("warn") => Ok(Some(Level::Warn)),
            Some("error") => Ok(Some(Level::Error)),
            Some(_) => Err(problem(StatusCode::BAD_REQUEST, "a level is one of info, warn, error")),
        }
    }

    /// Applies the parameters `batch`, `array` and `topic_as_event_type`.
    pub(crate) fn style(&self, client: &ClientHandle) -> Result<(), Problem> {
        const LONGEST: u64 = 10_000;
        let window = self.last("batch").map(|ms| ms.parse().ok().filter(|ms| *ms <= LONGEST));
        if window == Some(None) {
            return Err(problem(StatusCode::BAD_REQUEST, format!("batch is 0 to {LONGEST} milliseconds")));
        }
        let window = window.flatten();
        // Without a window, a frame contains all pending events: one event, or everything that the client missed.
        let batching = Batching::every(Duration::from_millis(window.unwrap_or(0)));
        match (self.last("array"), window) {
            (Some(_), _) => client.batch(batching.as_array()),
            (None, Some(_)) => client.batch(batching),
            (None, None) => {}
        }
        client.topic_as_event_type(self.last("topic_as_event_type").is_some());
        Ok(())
    }
}

pub(crate) fn subscription(name: &str, least: Option<Level>) -> Subscription {
    // A new reader of a state needs its latest value. A new reader of any other topic needs the next events.
    let start = if is_state(name) { Start::Oldest } else { Start::Now };
    // In this example, anybody may read every topic. Otherwise, do not accept patterns from clients: use
    // `Subscription::to`.
    let subscription = Subscription::matching(name).from(start);
    match least {
        None => subscription,
        Some(least) => {
            subscription.filter(move |event, _| event.attribute::<Level>().is_none_or(|level| *level >= least))
        }
    }
}

pub(crate) fn is_state(name: &str) -> bool {
    name.starts_with("state/")
}
