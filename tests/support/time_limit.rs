//! Time limits of tests. They are bounds on failure only.
#![allow(dead_code, reason = "no test uses all of it")]

use std::time::Duration;

use http::Version;
use tokio::time::timeout;

use crate::client::VERSIONS;

pub(crate) async fn within_20_s<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("the step takes too long")
}

/// Waits until a condition is true, for at most this time.
pub(crate) async fn until(limit: Duration, is_true: impl Fn() -> bool) {
    let waiting = async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    };
    timeout(limit, waiting).await.expect("the condition is true in time");
}

/// Runs a test over HTTP/1.1 and over HTTP/2.
pub(crate) async fn on_both_versions(test: impl AsyncFn(Version)) {
    for version in VERSIONS {
        eprintln!("over {version:?}");
        within_20_s(test(version)).await;
    }
}
