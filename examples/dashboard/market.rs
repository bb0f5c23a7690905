//! Prices, and how a stream begins with all of them and misses no change after that.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tower_sse::{Event, EventError, Position, Registry};

use crate::demo::{publish, random};

/// The price table. Whoever changes it publishes the change before the lock is given back, so that to a position in the
/// registry's order belongs one state of the table.
pub(crate) struct Market {
    registry: Registry,
    table: Mutex<Table>,
}

struct Table {
    /// How many changes there were.
    tick: u64,
    quotes: BTreeMap<&'static str, Quote>,
}

struct Quote {
    opening: f64,
    price: f64,
}

impl Market {
    /// Each change, as an event.
    pub(crate) const TOPIC: &'static str = "demo/prices";
    /// The whole table, of which only the latest is of interest.
    pub(crate) const STATE: &'static str = "state/prices";

    pub(crate) fn new(registry: &Registry) -> Self {
        let openings =
            [("AAPL", 187.4), ("AMZN", 178.9), ("GOOG", 171.2), ("MSFT", 415.6), ("NVDA", 121.7), ("TSLA", 248.3)];
        let quotes = openings.map(|(symbol, opening)| (symbol, Quote { opening, price: opening }));
        Self { registry: registry.clone(), table: Mutex::new(Table { tick: 0, quotes: quotes.into() }) }
    }

    /// Changes some price.
    pub(crate) fn tick(&self) {
        let mut table = self.lock();
        table.tick += 1;
        let (tick, at) = (table.tick, (random() * table.quotes.len() as f64) as usize % table.quotes.len());
        let Some((symbol, quote)) = table.quotes.iter_mut().nth(at) else { return };
        quote.price = (quote.price * (1.0 + (random() - 0.5) * 0.004)).max(1.0);
        let mut change = quote.to_json(symbol);
        change["tick"] = tick.into();
        publish(&self.registry, Self::TOPIC, Event::json(&change).map(|event| event.event("price")));
        publish(&self.registry, Self::STATE, table.to_event());
    }

    /// All prices, and the position that they stand at: all changes up to there are in them, and none after.
    pub(crate) fn table(&self) -> (Value, Position) {
        let table = self.lock();
        (table.to_json(), self.registry.position())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn to_json(&self) -> Value {
        let quotes: Vec<_> = self.quotes.iter().map(|(symbol, quote)| quote.to_json(symbol)).collect();
        json!({ "tick": self.tick, "quotes": quotes })
    }

    fn to_event(&self) -> Result<Event, EventError> {
        Ok(Event::json(&self.to_json())?.event("prices"))
    }
}

impl Quote {
    fn to_json(&self, symbol: &str) -> Value {
        let change = (self.price / self.opening - 1.0) * 100.0;
        json!({ "symbol": symbol, "price": cents(self.price), "change": cents(change) })
    }
}

fn cents(amount: f64) -> f64 {
    // No negative zero.
    (amount * 100.0).round() / 100.0 + 0.0
}
