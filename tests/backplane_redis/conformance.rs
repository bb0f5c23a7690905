//! The suite that all engines pass.

use std::sync::Arc;

use tower_sse::backplane::{Backplane, BoxFuture, suite};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn redis_passes_the_suite_of_all_engines() {
    passes(&Server::start(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_passes_the_suite_of_all_engines() {
    passes(&Server::start_valkey(&[])).await;
}

async fn passes(server: &Server) {
    suite::run(|name: &str| -> BoxFuture<'static, Arc<dyn Backplane>> {
        let engine = server.engine().stream(name);
        Box::pin(async move { Arc::new(engine) as Arc<dyn Backplane> })
    })
    .await;
}
