//! A price table. A stream begins with the whole table, and misses no change after that.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tower_sse::{Event, EventError, Position, Registry};

use crate::demo::{publish, random};

/// The price table. A change is published before the lock is released, so each position in the registry's order
/// corresponds to one state of the table.
pub(crate) struct Market {
    registry: Registry,
    table: Mutex<Table>,
}

struct Table {
    /// The number of changes.
    tick: u64,
    quotes: BTreeMap<&'static str, Quote>,
}

struct Quote {
    opening: f64,
    price: f64,
}

impl Market {
    /// The topic of single changes.
    pub(crate) const TOPIC: &'static str = "demo/prices";
    /// The topic of the whole table. Only its latest event counts.
    pub(crate) const STATE: &'static str = "state/prices";

    pub(crate) fn new(registry: &Registry) -> Self {
        let openings =
            [("AAPL", 187.4), ("AMZN", 178.9), ("GOOG", 171.2), ("MSFT", 415.6), ("NVDA", 121.7), ("TSLA", 248.3)];
        let quotes = openings.map(|(symbol, opening)| (symbol, Quote { opening, price: opening }));
        Self { registry: registry.clone(), table: Mutex::new(Table { tick: 0, quotes: quotes.into() }) }
    }

    /// Changes one price at random.
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

    /// All prices, and their position. The prices contain all changes up to this position. In memory, they contain no later
    /// change. With an engine, they contain those that are on their way, which come again: a change has the whole price.
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
