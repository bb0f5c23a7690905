//! The page's own event stream, and the list of its viewers.

use std::convert::Infallible;

use axum::{
    extract::{RawQuery, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio_stream::StreamExt;
use tower_sse::{ClientHandle, Event, Presence, PresenceChange, Registry, Resume, Subscription};

use crate::{
    App,
    api::{Query, is_state, subscription},
    demo,
    problem::Problem,
    visitor::Visitor,
};

/// The page's viewers are the members who are subscribed to this topic. The events of this topic list them.
pub(crate) const VIEWERS: &str = "state/viewers";

/// Begins with a welcome event, which contains the client's id and the current prices.
///
/// For a new stream, the welcome is a snapshot. A client that resumes gets the events that it missed on all of its
/// topics, and a snapshot would skip them. Its welcome is therefore the handler's own body, and the missed events
/// follow.
pub(crate) async fn events(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    client: ClientHandle,
) -> Result<Response, Problem> {
    let query = Query::of(query.as_deref());
    query.style(&client)?;
    query.subscribe(&client, |name| !is_state(name))?;
    let (table, position) = app.market.table();
    let visitor = Visitor::behind(&client);
    let mut welcome = json!({
        "client": client.id().to_string(),
        "number": visitor.as_ref().map(|it| it.number),
        "user": visitor.as_ref().map(|it| &it.user),
    });
    let is_fresh = client.last_event_id().is_none();
    if is_fresh {
        (welcome["resume"], welcome["prices"]) = ("fresh".into(), table);
        let stream = client.clone().into_stream().snapshot(Event::json(&welcome)?.event("welcome"), position);
        // The retained event of a topic under `state/` is older than the snapshot and not a part of it, so subscribe
        // after the snapshot.
        query.subscribe(&client, is_state)?;
        return Ok(stream.into_response());
    }
    query.subscribe(&client, is_state)?;
    match client.resume() {
        // Some changes are lost. The retained changes come again, and the last of them leads to this table.
        Resume::Gap(_) => (welcome["resume"], welcome["prices"]) = ("gap".into(), table),
        _ => welcome["resume"] = "continued".into(),
    }
    let welcome = Event::json(&welcome)?.event("welcome").encode();
    Ok(([(CONTENT_TYPE, "text/event-stream")], welcome).into_response())
}

/// The subscription for a topic that the page adds to its open stream.
pub(crate) fn allow(client: &ClientHandle, topic: &str) -> Result<Subscription, Infallible> {
    Ok(subscription(topic, Visitor::behind(client).and_then(|visitor| visitor.level)))
}

pub(crate) fn heartbeat() -> Event {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    Event::data(format!("{{\"now\":{now}}}")).event("heartbeat")
}

/// Publishes the list of viewers whenever a member joins or leaves. A member who only reloads the page does neither.
///
/// While this function holds the presence list, a member stays listed for the grace period.
pub(crate) async fn announce_viewers(viewers: Presence, registry: Registry) {
    let mut changes = viewers.changes();
    while let Some(change) = changes.next().await {
        let members = viewers.members();
        let here: Vec<_> = members.iter().map(|member| member.key()).collect();
        let news = match &change {
            PresenceChange::Joined(member) => json!({ "here": here, "joined": member.key() }),
            PresenceChange::Left(key) => json!({ "here": here, "left": **key }),
            _ => continue,
        };
        demo::publish(&registry, VIEWERS, Event::json(&news).map(|event| event.event("viewers")));
    }
}
