//! Three programs that have something to say: prices, the progress of a job, a log.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::sleep;
use tower_sse::{Event, Registry};

/// Starts them. They publish for as long as the process runs, whether or not anybody listens.
pub(crate) fn start(registry: &Registry) {
    tokio::spawn(prices(registry.clone()));
    tokio::spawn(job(registry.clone()));
    tokio::spawn(log(registry.clone()));
}

async fn prices(registry: Registry) {
    let mut market =
        [("AAPL", 187.4), ("AMZN", 178.9), ("GOOG", 171.2), ("MSFT", 415.6), ("NVDA", 121.7), ("TSLA", 248.3)]
            .map(|(symbol, price)| (symbol, price, price));
    loop {
        let at = (random() * market.len() as f64) as usize % market.len();
        let (symbol, opening, price) = &mut market[at];
        *price = (*price * (1.0 + (random() - 0.5) * 0.004)).max(1.0);
        let change = (*price / *opening - 1.0) * 100.0;
        publish(
            &registry,
            "demo/prices",
            "price",
            &json!({ "symbol": symbol, "price": cents(*price), "change": cents(change) }),
        );
        sleep(Duration::from_millis(250)).await;
    }
}

async fn job(registry: Registry) {
    for number in 1.. {
        let steps = ["copying", "compressing", "verifying", "uploading"];
        for done in 0..=100 {
            let step = steps[(done * steps.len() / 101).min(steps.len() - 1)];
            let job = format!("backup-{number}");
            publish(
                &registry,
                "demo/job",
                "progress",
                &json!({ "job": job, "done": done, "total": 100, "step": step }),
            );
            sleep(Duration::from_millis(500)).await;
        }
        sleep(Duration::from_secs(5)).await;
    }
}

async fn log(registry: Registry) {
    let lines = [
        ("info", "http", "GET /orders 200 in 12 ms"),
        ("info", "auth", "token refreshed"),
        ("info", "http", "POST /orders 201 in 31 ms"),
        ("warn", "db", "query took 840 ms"),
        ("info", "cache", "evicted 120 entries"),
        ("error", "mail", "550 mailbox unavailable"),
        ("info", "http", "GET /health 200 in 1 ms"),
    ];
    loop {
        let (level, target, message) = lines[(random() * lines.len() as f64) as usize % lines.len()];
        publish(&registry, "demo/log", "log", &json!({ "level": level, "target": target, "message": message }));
        sleep(Duration::from_secs_f64(0.3 + 1.4 * random())).await;
    }
}

/// Publishing needs no await and blocks nobody: this could be any thread.
fn publish(registry: &Registry, topic: &str, event_type: &str, data: &Value) {
    let event = Event::json(data).and_then(|event| event.event(event_type));
    match event.map(|event| registry.publish(topic, event)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => eprintln!("not published on {topic}: {error}"),
        Err(error) => eprintln!("no event for {topic}: {error}"),
    }
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

/// Between 0 and 1. Good enough for a demo, and no dependency.
fn random() -> f64 {
    RandomState::new().hash_one(SystemTime::now()) as f64 / u64::MAX as f64
}
