//! The official clients of two APIs of models, and curl, behind the gateway that records and opens streams early. The model is
//! fake, and as slow as a real one.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tokio::time::timeout;

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
mod clients;
mod curl;
#[path = "../../../tests/support/example.rs"]
#[allow(dead_code, reason = "no test here sends a signal")]
mod example;
#[path = "../../../tests/support/listener.rs"]
mod listener;
mod model;
mod official;
#[path = "../../../tests/support/spec.rs"]
mod spec;
#[path = "../../../tests/support/upstream.rs"]
mod upstream;
use example::{Example, Server};

static GATEWAY: Example = Example::named("gateway");

/// Starts the gateway before a model, and lets it record.
async fn gateway(model: &str, flags: &[&str]) -> Server {
    gateway_with(model, &[&["--record"], flags].concat()).await
}

async fn gateway_with(model: &str, flags: &[&str]) -> Server {
    let mut command = GATEWAY.command();
    command.args(["--listen", "127.0.0.1:0", "--upstream", model]).args(flags);
    Server::start(&mut command).await
}

/// A bound on failure. The programs of the clients take long to start on a busy machine.
async fn within_3_min(test: impl Future<Output = ()>) {
    GATEWAY.executable();
    timeout(Duration::from_secs(180), test).await.expect("the test takes too long");
}
