//! Three sources of events: prices, the progress of a job, and a log.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tokio::time::sleep;
use tower_sse::{Event, EventError, Registry};

use crate::{api::Level, market::Market};

/// Starts the three sources. They publish while the process runs, also without subscribers.
pub(crate) fn start(registry: &Registry, market: &Arc<Market>, between_prices: Duration) {
    if between_prices.is_zero() {
        return;
    }
    tokio::spawn(prices(Arc::clone(market), between_prices));
    tokio::spawn(job(registry.clone()));
    tokio::spawn(log(registry.clone()));
}

async fn prices(market: Arc<Market>, pause: Duration) {
    loop {
        market.tick();
        sleep(pause).await;
    }
}

async fn job(registry: Registry) {
    for number in 1.. {
        let steps = ["copying", "compressing", "verifying", "uploading"];
        for done in 0..=100 {
            let step = steps[(done * steps.len() / 101).min(steps.len() - 1)];
            let job = format!("backup-{number}");
            let progress = Event::json(&json!({ "job": job, "done": done, "total": 100, "step": step }));
            publish(&registry, "demo/job", progress.map(|event| event.event("progress")));
            sleep(Duration::from_millis(500)).await;
        }
        sleep(Duration::from_secs(5)).await;
    }
}

async fn log(registry: Registry) {
    let lines = [
        (Level::Info, "http", "GET /orders 200 in 12 ms"),
        (Level::Info, "auth", "token refreshed"),
        (Level::Info, "http", "POST /orders 201 in 31 ms"),
        (Level::Warn, "db", "query took 840 ms"),
        (Level::Info, "cache", "evicted 120 entries"),
        (Level::Error, "mail", "550 mailbox unavailable"),
        (Level::Info, "http", "GET /health 200 in 1 ms"),
    ];
    loop {
        let (level, target, message) = lines[(random() * lines.len() as f64) as usize % lines.len()];
        let name = format!("{level:?}").to_lowercase();
        let line = Event::json(&json!({ "level": name, "target": target, "message": message }));
        // The data is for the reader. Filters read the attribute.
        publish(&registry, "demo/log", line.map(|event| event.event("log").attribute(level)));
        sleep(Duration::from_secs_f64(0.3 + 1.4 * random())).await;
    }
}

/// Publishes an event, and prints errors. Publishing needs no `await` and never blocks, so any thread may call it.
pub(crate) fn publish(registry: &Registry, topic: &str, event: Result<Event, EventError>) {
    match event.map(|event| registry.publish(topic, event)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => eprintln!("not published on {topic}: {error}"),
        Err(error) => eprintln!("no event for {topic}: {error}"),
    }
}

/// A random number between 0 and 1, without a dependency. It is good enough for a demo.
pub(crate) fn random() -> f64 {
    RandomState::new().hash_one(SystemTime::now()) as f64 / u64::MAX as f64
}
