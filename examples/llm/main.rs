//! A chat whose answers survive a reload of the page, and every other cut of the stream.
//!
//! ```text
//! cargo run --example llm --features script             # and http://127.0.0.1:3001
//! curl http://127.0.0.1:3001/chats/mine/messages -d 'What is a lighthouse for?'
//! curl -N http://127.0.0.1:3001/chats/mine/answers/1/events
//! ```
//!
//! - `GET /`: the chat page. Its streams are the client that the crate serves: `tower_sse::script()`.
//! - `POST /chats/{chat}/messages`: asks the question in the body. The response is `{"answer": n}`, or a 409 while
//!   another answer is being written in this chat. With `?instead=true`, the new answer replaces the other answer.
//! - `GET /chats/{chat}/answers/{n}/events`: the tokens of an answer, from the first token or after `Last-Event-ID`.
//!   The last event is an `end` with the reason: `done`, `stopped`, `replaced` or `failed`. A client that has read
//!   everything gets a 204 if the answer is done, and a 410 if it is not. Both stop an `EventSource`. An unknown answer
//!   is a 404.
//! - `DELETE /chats/{chat}/answers/{n}`: stops an answer.
//! - `GET /chats/{chat}/events`: the questions of a chat. Each `question` contains the number of its answer.
//!
//! An answer is a topic with a producer. The producer writes whether or not anybody reads. An answer to a prompt with the word `break` fails in the middle.
//! A chat is a plain topic. In this example, everybody who knows a chat's name may read and write in it. A public program has to check who may.
//! Pages of other sites cannot ask or stop anything through a visitor's browser, not even under a name of their own that points to this
//! machine: `examples/support/hosts.rs`.
//!
//! One address can open a quarter of the streams that the limit on open files allows. A refused `EventSource` is told to come back.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3001 | the port; 0 picks a free port |
//! | `TOKEN_MS` | 60 | the average time of a token |
//! | `HOSTS` | none | hosts that clients may ask for besides this machine's own, separated by commas |
//! | `PROXIES` | 0 | how many proxies append to `x-forwarded-for` |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a prompt, or answer nothing; at least 1000 |

#[allow(dead_code, reason = "it is not stopped gracefully")]
#[path = "../support/connections.rs"]
mod connections;
mod generator;
#[path = "../support/hosts.rs"]
mod hosts;
#[path = "../support/sockets.rs"]
mod sockets;

use std::{collections::HashMap, env, error::Error, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, request::Parts},
    middleware,
    response::{Html, Result},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_stream::{StreamExt, once};
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer};
use tower_sse::{
    ClientHandle, ClientIpKey, Event, EventStream, Limit, RefusedResponse, Registry, RegistryConfig, Retention,
    SseLayer, Start, SubscribeError, Subscription, TopicState,
};

use crate::{connections::Connections, hosts::Hosts, sockets::Patience};

const MAX_PROMPT: usize = 16 << 10;
/// The most answers that are written at once, in all chats together. Each answer takes a task.
const MAX_WRITING: usize = 1000;
/// How long an answer can be read after its end, and a question after it was asked.
const KEPT: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let config = RegistryConfig::default()
        .ended_topic_ttl(KEPT)
        // The last event after an error or a panic of the producer.
        .failed_event(end("failed"))
        .cancelled_event(end("stopped"))
        .topic_retention_by(|topic| match topic.contains("/answers/") {
            true => Retention::default().events(20_000), // whole, token by token
            false => Retention::default().events(200).age(KEPT),
        });
    let registry = Registry::with_config(config);
    let token_time = Duration::from_millis(setting("TOKEN_MS", 60)?);
    let patience = Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?));

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3001)?)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // Unlike `axum::serve`, this closes connections that send no request, and makes room for new clients.
    let connections = Connections::new(patience, 1);
    let hosts = Hosts::named(&setting("HOSTS", String::new())?);
    let chats = Chats { registry, token_time, turns: Arc::default() };
    let app = app(chats, limits(&connections)?, hosts, patience);
    connections.serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await;
    Ok(())
}

/// The limits of streams: in total, and for each address. Neither all streams nor one address must take all connections.
fn limits(connections: &Connections) -> std::result::Result<[Limit; 2], io::Error> {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    let address = ClientIpKey::new(peer).proxies(setting("PROXIES", 0)?);
    let all = connections.for_streams();
    Ok([Limit::streams(all), Limit::streams((all / 4).max(1)).per(address.key())])
}

fn app(chats: Chats, limits: [Limit; 2], hosts: Hosts, patience: Patience) -> Router {
    let sse = SseLayer::new(&chats.registry).reconnect_delay(Duration::from_secs(1));
    // An EventSource of another page gives up for good at a 503.
    let sse = limits.into_iter().fold(sse, SseLayer::limit).refused_response(RefusedResponse::reconnect());
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route_service("/tower-sse.js", tower_sse::script())
        .route("/chats/{chat}/messages", post(ask))
        .route("/chats/{chat}/events", get(chat_events))
        .route("/chats/{chat}/answers/{n}/events", get(answer_events))
        .route("/chats/{chat}/answers/{n}", delete(stop))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing at this address; the chat page is at /") })
        .layer(DefaultBodyLimit::max(MAX_PROMPT))
        .layer(sse)
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        // Refuses requests by names that are not this server's, as those of a page whose name points to this machine.
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
        // Limits the time until the response headers are sent, so a slow prompt cannot last for ever. It does not cut streams.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()))
        .with_state(chats)
}

#[derive(Clone)]
struct Chats {
    registry: Registry,
    token_time: Duration,
    turns: Arc<Mutex<Turns>>,
}

/// The answers that are being written.
#[derive(Default)]
struct Turns {
    /// The number of the last answer, over all chats.
    last: u64,
    /// The current answer of each chat that has one.
    writing: HashMap<Chat, Answer>,
}

async fn ask(
    State(Chats { registry, token_time, turns }): State<Chats>,
    Path(chat): Path<Chat>,
    Query(how): Query<How>,
    prompt: String,
) -> Result<(StatusCode, Json<Value>)> {
    if prompt.trim().is_empty() {
        return Err((StatusCode::BAD_REQUEST, "the prompt is empty").into());
    }
    let mut turns = turns.lock().await;
    turns.writing.retain(|_, answer| registry.topic_state(answer.topic()) == Some(TopicState::Producing));
    match turns.writing.get(&chat) {
        Some(other) if how.instead => {
            // This stops the producer of the other answer, and tells its readers why the answer ends.
            registry.cancel_producer_with(other.topic(), end("replaced"))?;
        }
        Some(_) => return Err((StatusCode::CONFLICT, "an answer is being written in this chat already").into()),
        None if turns.writing.len() >= MAX_WRITING => {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "too many answers are being written").into());
        }
        None => {}
    }

    turns.last += 1;
    let answer = Answer { chat: chat.clone(), n: turns.last };
    // Start the producer before the question is published, so that everybody who sees the question finds the answer.
    let producer = registry.start_producer(answer.topic())?;
    registry.publish(chat.topic(), Event::json(&json!({ "answer": answer.n, "text": prompt }))?.event("question"))?;
    let tokens = generator::tokens(&prompt, token_time).map(|token| token.map(Event::data));
    producer.try_spawn_from(tokens.chain(once(Ok(end("done")))));
    let told = json!({ "answer": answer.n });
    turns.writing.insert(chat, answer);
    Ok((StatusCode::ACCEPTED, Json(told)))
}

async fn answer_events(Path(answer): Path<Answer>, client: ClientHandle) -> Result<EventStream> {
    // Without `existing`, the stream would wait for ever for an answer that was forgotten or never existed.
    match client.subscribe(Subscription::to(answer.topic()).from(Start::Oldest).existing()) {
        Err(SubscribeError::NoTopic { .. }) => Err(answer.is_unknown()),
        result => Ok(result.map(|()| client.into_stream())?),
    }
}

async fn stop(State(Chats { registry, .. }): State<Chats>, Path(answer): Path<Answer>) -> Result<StatusCode> {
    // An answer that has already ended counts as stopped.
    match registry.cancel_producer(answer.topic()) || registry.topic_state(answer.topic()).is_some() {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(answer.is_unknown()),
    }
}

async fn chat_events(Path(chat): Path<Chat>, client: ClientHandle) -> Result<EventStream> {
    client.subscribe_from(chat.topic(), Start::Oldest)?;
    Ok(client.into_stream())
}

/// The last event of an answer.
fn end(reason: &str) -> Event {
    Event::data(reason).event("end")
}

#[derive(Deserialize)]
struct How {
    #[serde(default)]
    instead: bool,
}

/// A chat's name from a URL. It becomes one segment of topic names. With a `/` in it, it could be the name of another
/// chat's answer.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
struct Chat(String);

impl Chat {
    fn topic(&self) -> String {
        format!("chats/{}", self.0)
    }
}

impl TryFrom<String> for Chat {
    type Error = &'static str;

    fn try_from(name: String) -> std::result::Result<Self, Self::Error> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        match is_plain && (1..=64).contains(&name.len()) {
            true => Ok(Self(name)),
            false => Err("a chat's name has 1 to 64 letters, digits, `-` and `_`"),
        }
    }
}

/// An answer, as a URL names it.
#[derive(Deserialize)]
struct Answer {
    chat: Chat,
    n: u64,
}

impl Answer {
    fn topic(&self) -> String {
        format!("{}/answers/{}", self.chat.topic(), self.n)
    }

    fn is_unknown(&self) -> axum::response::ErrorResponse {
        (StatusCode::NOT_FOUND, format!("this chat has no answer {}, or no longer", self.n)).into()
    }
}

/// Reads a value from the environment. A value that does not parse is an error, and the error names the variable.
fn setting<T: FromStr>(name: &str, default: T) -> std::result::Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} does not fit"))),
    }
}
