//! The topics that a visitor may have, and the stream.

use axum::extract::RawQuery;
use serde_json::json;
use tower_sse::{ClientHandle, Event, EventStream, Start, Subscription};

use crate::{monitor::LEVELS, problem::Problem, stocks, visitor::Visitor};

pub(crate) const MONITOR: &str = "monitor";
pub(crate) const NOTES: &str = "notes";
pub(crate) const HERE: &str = "notes/here";
pub(crate) const CURSORS: &str = "notes/cursors";
pub(crate) const NOTICES: &str = "notices";

/// The most topics of a stream.
pub(crate) const MOST: usize = 64;

/// The permission for a topic, and where it starts.
pub(crate) fn allow(client: &ClientHandle, topic: &str) -> Result<Subscription, &'static str> {
    let visitor = Visitor::behind(client).map(|visitor| visitor.number.to_string()).unwrap_or_default();
    let to = Subscription::to(topic);
    Ok(match topic.split('/').collect::<Vec<_>>()[..] {
        [MONITOR] => to.from(Start::Oldest),
        ["alerts", level] if LEVELS.contains(&level) => to.from(Start::Last(20)),
        ["stocks", symbol] if stocks::has(symbol) => to.from(Start::Last(1)),
        // A page may ask for an order that is forgotten.
        ["orders", of, _] if of == visitor => to.from(Start::Oldest).existing(),
        // The page loads the list. The last event tells it whether the list has changed since.
        [NOTES] | ["notes", "here"] => to.from(Start::Last(1)),
        ["notes", "cursors"] => to.from(Start::Now),
        [NOTICES] => to.from(Start::Last(20)),
        [NOTICES, of] if of == visitor => to.from(Start::Last(20)),
        _ => return Err("there is no such topic, or it is not yours"),
    })
}

/// The stream, with the topics of its query. Those that the visitor cannot have are named in an event.
pub(crate) async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, Problem> {
    let query = query.unwrap_or_default();
    let topics = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "topic");
    for (_, topic) in topics.take(MOST) {
        let refused = match allow(&client, &topic) {
            Ok(subscription) => client.subscribe(subscription).err().map(|error| error.to_string()),
            Err(why) => Some(why.to_owned()),
        };
        if let Some(why) = refused {
            client.send(Event::json(&json!({ "topic": topic, "why": why }))?.event("refused"))?;
        }
    }
    Ok(client.into_stream())
}
