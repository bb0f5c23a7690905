//! A node: a registry that follows the log, and the server of its clients.

use std::{future::Future, pin::pin, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header::RETRY_AFTER},
    response::{Redirect, Result},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tower_http::{cors::CorsLayer, csrf::CsrfLayer, timeout::TimeoutLayer};
use tower_sse::{
    ClientHandle, Drain, Event, EventStream, Health, Heartbeat, Limit, Registry, RegistryConfig, Retention, SseLayer,
    Start, Subscription,
};

use crate::{BoxError, connections::Connections, sockets::Patience};

const MAX_BODY: usize = 64 << 10;
/// The page takes a node for lost if it hears nothing for three times this time.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a publisher waits until its event is stored.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// How long a node that stops takes to end its streams.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a node that stops waits for what else is under way.
const LAST_WORK: Duration = Duration::from_secs(2);

pub(crate) struct Node {
    pub(crate) n: usize,
    /// 0 picks a free port.
    pub(crate) port: u16,
    /// The port of the page, whose scripts may read and publish.
    pub(crate) page_port: u16,
    /// How many servers share the limit on open files.
    pub(crate) share: u64,
    pub(crate) patience: Patience,
}

/// What all nodes have in common. They need not retain the same, but then a client can meet a gap when it changes the node.
pub(crate) fn config() -> RegistryConfig {
    RegistryConfig::default().total_retention(Retention::default().bytes(16 << 20).events(10_000))
}

impl Node {
    /// Serves until `stop` is there, and then stops gracefully. It calls `ready` with its port as soon as it accepts requests.
    pub(crate) async fn run(
        self,
        config: RegistryConfig,
        ready: impl FnOnce(u16),
        stop: impl Future<Output = ()>,
    ) -> Result<(), BoxError> {
        let mut stop = pin!(stop);
        let registry = Registry::with_config(config);
        // A node that has not loaded the log would tell a client that resumes of a gap.
        tokio::select! {
            loaded = self.load(&registry) => loaded?,
            () = &mut stop => return Ok(()),
        }
        let connections = Connections::new(self.patience, self.share);
        let app = self.app(&registry, connections.for_streams())?;
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        ready(listener.local_addr()?.port());
        tokio::select! {
            () = connections.serve(listener, app.into_make_service()) => {}
            () = &mut stop => {}
        }
        // The listener is closed, so that clients that come back find another node. What is being published is answered.
        tokio::join!(registry.drain(Drain::within(DRAIN)), connections.close_within(DRAIN + LAST_WORK));
        let _ = timeout(LAST_WORK, registry.flushed()).await;
        Ok(())
    }

    async fn load(&self, registry: &Registry) -> Result<(), BoxError> {
        let mut ready = pin!(registry.ready());
        if let Ok(ready) = timeout(Duration::from_secs(2), &mut ready).await {
            return Ok(ready?);
        }
        eprintln!("node {} waits for the log: {}", self.n, registry.health());
        Ok(ready.await?)
    }

    fn app(&self, registry: &Registry, streams: u32) -> Result<Router, BoxError> {
        // The other half of the connections is for publishers.
        let for_streams = SseLayer::new(registry).heartbeat(Heartbeat::every(HEARTBEAT)).limit(Limit::streams(streams));
        let origins = ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{}", self.page_port));
        let page = origins[0].clone();
        // The page is of another origin than the nodes. It sends no credentials.
        let mut csrf = CsrfLayer::new();
        let mut allowed = Vec::new();
        for origin in origins {
            csrf = csrf.add_trusted_origin(&origin)?;
            allowed.push(HeaderValue::try_from(origin)?);
        }
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            // An EventSource sends this header without asking. A script that reads streams with `fetch` has to ask.
            .allow_headers([HeaderName::from_static("last-event-id")])
            // The page obeys it.
            .expose_headers([RETRY_AFTER]);
        Ok(Router::new()
            .route("/", get(move || async move { Redirect::temporary(&page) }))
            .route("/events", get(events).layer(for_streams))
            .route("/publish/{*topic}", post(publish))
            .route("/health", get(health))
            .route("/node", get(about))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            // Refuses requests that change something, if a browser sends them for a page of another site.
            .layer(csrf)
            // Limits the time until the response headers are sent. It does not cut streams.
            .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, self.patience.time()))
            // Outermost, so that a script can read refusals too.
            .layer(cors)
            .with_state(App { n: self.n, registry: registry.clone() }))
    }
}

#[derive(Clone)]
struct App {
    n: usize,
    registry: Registry,
}

async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream> {
    let query = form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let mut topics: Vec<_> = query.filter(|(key, _)| key == "topic").map(|(_, topic)| topic).collect();
    if topics.is_empty() {
        topics.push("**".into());
    }
    for topic in topics {
        // In this example, anybody may read every topic. Otherwise, do not accept patterns from clients: use `Subscription::to`.
        client.subscribe(Subscription::matching(topic).from(Start::Oldest))?;
    }
    Ok(client.into_stream())
}

async fn publish(
    State(App { n, registry }): State<App>,
    Path(topic): Path<String>,
    text: String,
) -> Result<Json<Value>> {
    let event = Event::json(&json!({ "node": n, "topic": topic, "text": text }))?;
    // Without the await, the response would say only that the event is under way.
    let stored = registry.publish(&topic, event)?.into_future();
    let position = timeout(STORED_WITHIN, stored).await.map_err(|_| {
        let reason = registry.health();
        let sentence = format!(
            "the event was not stored within {} s ({reason}), and may be stored later",
            STORED_WITHIN.as_secs()
        );
        (StatusCode::SERVICE_UNAVAILABLE, sentence)
    })??;
    Ok(Json(json!({ "id": position.to_string(), "node": n })))
}

/// A load balancer that asks here sends no new clients to a node that cannot serve them. Open streams go on while the log is away.
async fn health(State(App { registry, .. }): State<App>) -> (StatusCode, String) {
    match registry.health() {
        _ if registry.is_draining() => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping".to_owned()),
        Health::Following => (StatusCode::OK, Health::Following.to_string()),
        health => (StatusCode::SERVICE_UNAVAILABLE, health.to_string()),
    }
}

async fn about(State(App { n, registry }): State<App>) -> Json<Value> {
    Json(json!({
        "node": n,
        "position": registry.position().to_string(),
        "clients": registry.clients().len(),
        "health": registry.health().to_string(),
    }))
}
