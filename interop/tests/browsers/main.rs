//! The browser client in real browsers: in networks and with servers as they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod browser;
#[allow(dead_code, reason = "the dashboard is killed, not stopped")]
#[path = "../../../tests/support/example.rs"]
mod example;
mod faults;
mod foreign;
mod http2;
mod kill;
mod life;
#[path = "../../../tests/support/random.rs"]
mod random;
mod relay;
mod server;
mod sleep;
mod stage;
mod storm;
mod tabs;
mod tls;
mod topics;

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::browser::Kind;

/// The time limit of each step.
const BOUND: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}

/// Runs a test in both browsers at once, as they wait for most of its time.
async fn in_both<F: Future<Output = ()> + Send + 'static>(run: impl Fn(Kind) -> F) {
    let runs = [Kind::Chromium, Kind::Firefox].map(|kind| (kind, tokio::spawn(run(kind))));
    let mut failed = Vec::new();
    for (kind, run) in runs {
        if run.await.is_err() {
            failed.push(kind);
        }
    }
    assert!(failed.is_empty(), "it fails in {failed:?}");
}

/// The address of the page on this host, with these options of the client. All intervals are shortened.
fn page(host: &str, port: u16, more: &Value) -> String {
    let mut options =
        serde_json::json!({ "backoff": { "base": 50, "cap": 1000 }, "connectTimeout": 2500, "silence": 3000 });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("options", &options.to_string()).finish();
    format!("http://{host}:{port}/?{query}")
}

/// Browsers trust it, so that tabs can share.
const SECURE: &str = "127.0.0.1";
/// This machine too, but browsers do not trust it.
const PLAIN: &str = "plain.test";
