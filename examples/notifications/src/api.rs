//! The two event streams, and the handlers that publish on them.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tower_sse::{ClientHandle, Event, EventError, EventStream, PublishError, Start, Stats, SubscribeError};

use crate::{
    App,
    session::{Session, User},
};

const ANNOUNCEMENTS: &str = "announcements";

/// Both topics on one stream: over HTTP/1.1, a browser opens at most six connections to one origin.
pub(crate) async fn notifications(
    Extension(session): Extension<Session>,
    client: ClientHandle,
) -> Result<EventStream, SubscribeError> {
    // A new page gets the last ten notifications. A client that reconnects resumes where its stream was cut.
    client.subscribe_from(session.user.topic(), Start::Last(10))?;
    client.subscribe(ANNOUNCEMENTS)?;
    client.expire_at(session.expires);
    Ok(client.into_stream())
}

pub(crate) async fn announcements(client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe(ANNOUNCEMENTS)?;
    Ok(client.into_stream())
}

pub(crate) async fn notify(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Path(user): Path<String>,
    text: String,
) -> Result<Json<Value>, Problem> {
    let user = User::named(&user).ok_or(Problem::NoSuchUser)?;
    publish(&app, &user.topic(), "notification", &session, &text).await
}

pub(crate) async fn announce(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    text: String,
) -> Result<Json<Value>, Problem> {
    publish(&app, ANNOUNCEMENTS, "announcement", &session, &text).await
}

async fn publish(
    app: &App,
    topic: &str,
    event_type: &'static str,
    from: &Session,
    text: &str,
) -> Result<Json<Value>, Problem> {
    let event = Event::json(&json!({ "from": from.user.name(), "text": text }))?.event(event_type);
    let receipt = app.registry.publish(topic, event)?;
    let clients = receipt.subscribers();
    Ok(Json(json!({ "id": receipt.await?.to_string(), "clients": clients })))
}

pub(crate) async fn stats(State(app): State<App>) -> Json<Stats> {
    Json(app.registry.stats())
}

pub(crate) enum Problem {
    NoSuchUser,
    Event(EventError),
    Publish(PublishError),
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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::NoSuchUser => (StatusCode::NOT_FOUND, "nobody can have this name\n").into_response(),
            Self::Event(error) => error.into_response(),
            Self::Publish(error) => error.into_response(),
        }
    }
}
