//! Notifications, to everybody or to one visitor.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower_sse::Registry;

use crate::{
    App,
    orders::now,
    problem::{Problem, line_of_text, problem},
    publish, topics,
    visitor::Visitor,
};

const MAX_TEXT: usize = 200;
/// Time enough to look at another page.
const LATER: Duration = Duration::from_secs(5);

pub(crate) struct Notices {
    registry: Registry,
    last: AtomicU64,
}

impl Notices {
    pub(crate) fn new(registry: &Registry) -> Self {
        // Numbers go on over a restart, so that a page can remember which it has shown.
        Self { registry: registry.clone(), last: AtomicU64::new(now()) }
    }

    /// Notifies this visitor, or everybody.
    pub(crate) fn tell(&self, whom: Option<u64>, from: &str, text: &str) {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let notice = json!({ "n": number, "from": from, "text": text, "at": now() });
        let topic = match whom {
            Some(visitor) => format!("{}/{visitor}", topics::NOTICES),
            None => topics::NOTICES.to_owned(),
        };
        publish(&self.registry, &topic, &notice);
    }
}

pub(crate) async fn send(
    State(App { notices, .. }): State<App>,
    visitor: Visitor,
    Json(notice): Json<Value>,
) -> Result<StatusCode, Problem> {
    let text = line_of_text(&notice["text"], "text", MAX_TEXT)?;
    match notice["to"].as_str() {
        Some("everybody") => notices.tell(None, &visitor.name(), &text),
        Some("me") => notices.tell(Some(visitor.number), &visitor.name(), &text),
        // The visitor's budget of requests bounds the tasks.
        Some("me later") => {
            _ = tokio::spawn(async move {
                sleep(LATER).await;
                notices.tell(Some(visitor.number), &visitor.name(), &text);
            });
        }
        _ => return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "to has to be everybody, me or me later")),
    }
    Ok(StatusCode::NO_CONTENT)
}
