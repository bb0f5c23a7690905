//! The dashboard and the chat example as real processes between real clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
#[allow(dead_code, reason = "these tests do not use all of it")]
#[path = "../support/example.rs"]
mod example;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/spec.rs"]
mod spec;
#[path = "../support/strangers.rs"]
mod strangers;
#[path = "../support/wire.rs"]
mod wire;

mod cluster;
mod dashboard;
mod dashboard_features;
#[cfg(unix)]
mod dashboard_signals;
mod llm;
mod other_sites;

/// The time limit of each step.
const BOUND: Duration = Duration::from_secs(60);

/// Reads a body to its end.
async fn text(response: Response<Incoming>) -> String {
    let body = timeout(BOUND, response.into_body().collect()).await.expect("the end of the body in time").unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}
