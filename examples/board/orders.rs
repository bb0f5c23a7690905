//! Orders: each is a topic with a producer, which ends with the order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower_sse::{Event, Producer};

use crate::{
    App,
    notices::Notices,
    problem::{Problem, problem},
    stocks::random,
    visitor::Visitor,
};

/// What can be ordered: its name, its title, and whether there is any.
pub(crate) const ITEMS: [(&str, &str, bool); 4] =
    [("tea", "A pot of tea", true), ("book", "A book", true), ("chair", "A chair", true), ("lamp", "A lamp", false)];
const STEPS: [&str; 5] = ["received", "paid", "packed", "on its way", "delivered"];
/// The most orders that are under way at once. Each takes a task.
const MOST: usize = 500;

pub(crate) struct Orders {
    notices: Arc<Notices>,
    step: Duration,
    last: AtomicU64,
    under_way: AtomicUsize,
}

impl Orders {
    pub(crate) fn new(notices: &Arc<Notices>, step: Duration) -> Self {
        Self { notices: Arc::clone(notices), step, last: AtomicU64::new(0), under_way: AtomicUsize::new(0) }
    }

    async fn fulfil(&self, order: Order, topic: Producer) {
        for (index, step) in STEPS.into_iter().enumerate() {
            if index > 0 {
                sleep(self.step.mul_f64(0.5 + random())).await;
            }
            let is_last = index + 1 == STEPS.len();
            let news = match step {
                "packed" if !order.is_there => json!({ "failed": "it is sold out; you get your money back" }),
                _ => json!({ "step": step, "done": index + 1, "of": STEPS.len(), "at": now() }),
            };
            let has_failed = news["failed"].is_string();
            let Ok(event) = Event::json(&news) else { return };
            // The last event and the end of the topic are one step. Dropped without an end, the topic fails.
            let published = match (has_failed, is_last) {
                (true, _) => topic.fail_with(event),
                (false, true) => topic.finish(event),
                (false, false) if topic.publish(event).is_ok() => continue,
                (false, false) => return,
            };
            if published.is_ok() {
                let outcome = if has_failed { "is sold out" } else { "is delivered" };
                self.notices.tell(
                    Some(order.by),
                    "the shop",
                    &format!("{} (order {}) {outcome}.", order.title, order.number),
                );
            }
            return;
        }
    }
}

struct Order {
    number: u64,
    title: &'static str,
    is_there: bool,
    by: u64,
}

/// Counts an order down when its task ends in any way.
struct UnderWay(Arc<Orders>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) async fn order(
    State(App { registry, orders, .. }): State<App>,
    visitor: Visitor,
    Json(wish): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let found = ITEMS.into_iter().find(|(item, _, _)| wish["item"] == *item);
    let no_item = || problem(StatusCode::UNPROCESSABLE_ENTITY, "item has to be one of those that the shop has");
    let (_, title, is_there) = found.ok_or_else(no_item)?;
    let before = orders.under_way.fetch_add(1, Ordering::Relaxed);
    let place = UnderWay(Arc::clone(&orders));
    if before >= MOST {
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the shop has too many orders: try again in a minute"));
    }
    let number = orders.last.fetch_add(1, Ordering::Relaxed) + 1;
    let name = format!("orders/{}/{number}", visitor.number);
    // Before anybody is told its name, the topic exists.
    let topic = registry.start_producer(&name)?;
    let order = Order { number, title, is_there, by: visitor.number };
    tokio::spawn(async move {
        let _place = place;
        orders.fulfil(order, topic).await;
    });
    Ok((StatusCode::CREATED, Json(json!({ "topic": name, "number": number, "title": title, "steps": STEPS }))))
}

/// Milliseconds since 1970, as JavaScript counts them.
pub(crate) fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}
