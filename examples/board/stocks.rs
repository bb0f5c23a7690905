//! Prices: a topic for each, of which only the latest event counts.

use std::{collections::hash_map::RandomState, hash::BuildHasher, time::Duration};

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tower_sse::Registry;

use crate::{orders::now, publish};

/// Symbol, name, and price at the opening. The companies do not exist.
pub(crate) const COMPANIES: [(&str, &str, f64); 12] = [
    ("ACRN", "Acorn Foods", 48.2),
    ("BRCH", "Birch Paper", 21.7),
    ("CEDR", "Cedar Homes", 133.9),
    ("DUNE", "Dune Travel", 9.4),
    ("EBBT", "Ebb Tidal", 61.3),
    ("FERN", "Fern Labs", 187.5),
    ("GULL", "Gull Airways", 14.8),
    ("HAZE", "Haze Optics", 92.1),
    ("IVYR", "Ivy Robotics", 254.6),
    ("JADE", "Jade Mining", 37.0),
    ("KELP", "Kelp Energy", 75.9),
    ("LARK", "Lark Audio", 118.3),
];

pub(crate) fn has(symbol: &str) -> bool {
    COMPANIES.iter().any(|(known, _, _)| *known == symbol)
}

/// Changes some prices again and again, also without subscribers.
pub(crate) async fn trade(registry: Registry, pause: Duration) {
    let mut prices = COMPANIES.map(|(_, _, opening)| opening);
    let mut ticks = interval(pause.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0.. {
        ticks.tick().await;
        for (price, (symbol, _, opening)) in prices.iter_mut().zip(COMPANIES) {
            // At first, each price is told once.
            if round > 0 && random() > 0.4 {
                continue;
            }
            // A price is drawn back to its opening a little.
            *price = (*price * (1.0 + (random() - 0.5) * 0.006) + (opening - *price) * 0.002).max(0.01);
            let change = (*price / opening - 1.0) * 100.0;
            let news = json!({ "price": cents(*price), "change": cents(change), "at": now() });
            publish(&registry, &format!("stocks/{symbol}"), &news);
        }
    }
}

fn cents(amount: f64) -> f64 {
    // No negative zero.
    (amount * 100.0).round() / 100.0 + 0.0
}

/// A random number between 0 and 1, without a dependency. It is good enough for a demo.
pub(crate) fn random() -> f64 {
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}
