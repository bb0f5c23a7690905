//! The notes: a list that several people edit, who they are, and where their cursors are.

use std::sync::{Arc, Mutex};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tower_sse::{Presence, Registry};

use crate::{
    App,
    list::{Author, Change, List, MAX_LINES, NoChange},
    problem::{Problem, line_of_text, number, problem},
    publish, topics,
    visitor::{Visitor, lock},
};

const MAX_TEXT: usize = 200;

pub(crate) struct Notes {
    registry: Registry,
    list: Mutex<List>,
    presence: Mutex<Option<Presence>>,
}

impl Notes {
    pub(crate) fn new(registry: &Registry) -> Self {
        let mut list = List::default();
        let shop = Author { who: 0, name: "the board".to_owned() };
        for text in ["Bread", "Two lemons", "Something for the neighbours"] {
            // The list has room.
            let _ = list.add(text.to_owned(), shop.clone());
        }
        Self { registry: registry.clone(), list: Mutex::new(list), presence: Mutex::new(None) }
    }

    /// Tells whenever somebody comes or goes. Somebody who only reconnects does neither.
    pub(crate) async fn announce_members(self: Arc<Self>, presence: Presence) {
        let mut changes = presence.changes();
        *lock(&self.presence) = Some(presence);
        while changes.next().await.is_some() {
            self.announce();
        }
    }

    /// Tells who is here.
    pub(crate) fn announce(&self) {
        // Under the lock, so that the last list that is published is the last one.
        let presence = lock(&self.presence);
        let members = presence.as_ref().map(Presence::members).unwrap_or_default();
        let visitors = members.iter().filter_map(|member| member.metadata().get::<Visitor>());
        let here: Vec<_> = visitors.map(|it| json!({ "who": it.number, "name": it.name() })).collect();
        publish(&self.registry, topics::HERE, &json!({ "here": here }));
    }

    /// Changes the list, and publishes the change before the lock is released: the changes are published in their order.
    fn change(&self, change: impl FnOnce(&mut List) -> Result<Change, NoChange>) -> Result<Json<Value>, Problem> {
        let mut list = lock(&self.list);
        let change = change(&mut list).map_err(|why| Problem::from_list(&why))?;
        let change = json!(change);
        publish(&self.registry, topics::NOTES, &change);
        Ok(Json(change))
    }
}

impl Problem {
    fn from_list(why: &NoChange) -> Self {
        match why {
            NoChange::NoLine => problem(StatusCode::NOT_FOUND, "somebody has removed this line"),
            NoChange::Full => {
                problem(StatusCode::CONFLICT, format!("the list has {MAX_LINES} lines, and takes no more"))
            }
        }
    }
}

impl Visitor {
    fn author(&self) -> Author {
        Author { who: self.number, name: self.name() }
    }
}

pub(crate) async fn all(State(App { notes, .. }): State<App>) -> Json<Value> {
    Json(json!(*lock(&notes.list)))
}

pub(crate) async fn add(
    State(App { notes, .. }): State<App>,
    visitor: Visitor,
    Json(line): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let text = line_of_text(&line["text"], "text", MAX_TEXT)?;
    Ok((StatusCode::CREATED, notes.change(|list| list.add(text, visitor.author()))?))
}

pub(crate) async fn change(
    State(App { notes, .. }): State<App>,
    Path(id): Path<u64>,
    visitor: Visitor,
    Json(line): Json<Value>,
) -> Result<Json<Value>, Problem> {
    let text = line_of_text(&line["text"], "text", MAX_TEXT)?;
    let base = number(&line["base"], "base")?;
    notes.change(|list| list.change(id, text, base, visitor.author()))
}

pub(crate) async fn remove(
    State(App { notes, .. }): State<App>,
    Path(id): Path<u64>,
    visitor: Visitor,
) -> Result<Json<Value>, Problem> {
    notes.change(|list| list.remove(id, visitor.author()))
}

/// Where the visitor's cursor is, for all others. Without a line, it is nowhere.
pub(crate) async fn cursor(
    State(App { registry, notes, .. }): State<App>,
    visitor: Visitor,
    Json(cursor): Json<Value>,
) -> Result<StatusCode, Problem> {
    let place = match &cursor["line"] {
        Value::Null => json!({ "who": visitor.number }),
        line => {
            let (line, at) = (number(line, "line")?, number(&cursor["at"], "at")?.min(MAX_TEXT as u64));
            if !lock(&notes.list).has(line) {
                return Err(Problem::from_list(&NoChange::NoLine));
            }
            json!({ "who": visitor.number, "name": visitor.name(), "line": line, "at": at })
        }
    };
    publish(&registry, topics::CURSORS, &place);
    Ok(StatusCode::NO_CONTENT)
}
