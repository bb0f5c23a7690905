//! The rooms as event streams and plain HTTP, for pages and for `curl`.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tonic::Status;
use tower_sse::{ClientHandle, EventStream, Registry, Stats};

use crate::{
    proto::Said,
    room::{self, Problem},
};

pub(crate) fn routes(registry: &Registry) -> Router {
    Router::new()
        .route("/rooms/{room}", get(members).post(say))
        .route("/rooms/{room}/events", get(events))
        .route("/stats", get(stats))
        .layer(DefaultBodyLimit::max(room::MAX_MESSAGE))
        .with_state(registry.clone())
}

#[derive(Deserialize)]
struct Who {
    #[serde(default = "someone")]
    name: String,
}

fn someone() -> String {
    "someone".to_owned()
}

async fn events(
    Path(room): Path<String>,
    Query(who): Query<Who>,
    client: ClientHandle,
) -> Result<EventStream, Problem> {
    room::enter(&client, &room, &who.name)?;
    Ok(client.into_stream())
}

async fn say(
    State(registry): State<Registry>,
    Path(room): Path<String>,
    Query(who): Query<Who>,
    text: String,
) -> Result<String, Problem> {
    let (position, _) = room::say(&registry, &room, &Said { name: who.name, text }).await?;
    Ok(format!("{position}\n"))
}

async fn members(State(registry): State<Registry>, Path(room): Path<String>) -> Result<Json<Vec<String>>, Problem> {
    Ok(Json(room::members(&registry, &room)?))
}

async fn stats(State(registry): State<Registry>) -> Json<Stats> {
    Json(registry.stats())
}

/// The response for all other paths. A gRPC client needs a gRPC status.
pub(crate) async fn nowhere(headers: HeaderMap) -> Response {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    match is_grpc {
        true => Status::unimplemented("there is no such service").into_http(),
        false => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Input(sentence) => (StatusCode::BAD_REQUEST, sentence).into_response(),
            Self::Events(error) => IntoResponse::into_response(error),
        }
    }
}
