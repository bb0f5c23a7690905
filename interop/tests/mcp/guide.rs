use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, extract::Request, http::Method, middleware::map_request};
use rmcp::{
    ServerHandler, tool, tool_handler, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::net::TcpListener;
use tower_sse::{ClientHandle, Drain, Limit, Registry, SseLayer};

struct Tools;

#[tool_router]
impl Tools {
    /// Says hello.
    #[tool]
    async fn hello(&self) -> String {
        "Hello!".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Tools {}

fn app(registry: &Registry) -> Router {
    // The layer has heartbeats, so rmcp needs none. No page of a browser may call it, unless its origin is allowed.
    let config = StreamableHttpServerConfig::default().with_sse_keep_alive(None).enforce_origin_validation();
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(|| Ok(Tools), sessions, config);
    let layer = SseLayer::new(registry).limit(Limit::streams(10_000));
    Router::new().nest_service("/mcp", service).layer(map_request(let_calls_finish)).layer(layer)
}

/// A call may finish when the server stops. A stream that waits for notifications would never end, so it may not.
async fn let_calls_finish(request: Request) -> Request {
    if let Some(client) = request.extensions().get::<ClientHandle>() {
        client.finish_on_drain(request.method() == Method::POST);
    }
    request
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::new();
    let listener = TcpListener::bind("127.0.0.1:8000").await?;
    let server = axum::serve(listener, app(&registry)).with_graceful_shutdown(stop(registry));
    Ok(server.await?)
}

async fn stop(registry: Registry) {
    let _ = tokio::signal::ctrl_c().await;
    let drain = Drain::within(Duration::from_secs(5)).finish_within(Duration::from_secs(30));
    tokio::spawn(async move { registry.drain(drain).await });
}
