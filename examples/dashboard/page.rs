//! What the page needs on top of the rest.

use axum::{
    extract::{RawQuery, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio_stream::StreamExt;
use tower_sse::{ClientHandle, Event, Presence, PresenceChange, Registry, Resume};

use crate::{
    App,
    api::{Query, is_state},
    demo,
    problem::Problem,
    visitor::Visitor,
};

/// Those who are subscribed to this topic are the page's viewers, and what is published on it says who they are.
pub(crate) const VIEWERS: &str = "state/viewers";

/// Begins with a welcome: who the client is, and how things stand.
///
/// Of a stream that is new, the welcome is a snapshot. A client that resumes gets what it has missed, on all of its topics, and a
/// snapshot would skip that. Its welcome is a body of the handler's own, which the events follow.
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
        "topics": query.all("topic").collect::<Vec<_>>(),
        // What has an id up to here and is still to come was missed.
        "position": position.to_string(),
    });
    let is_fresh = client.last_event_id().is_none();
    if is_fresh {
        (welcome["resume"], welcome["prices"]) = ("fresh".into(), table);
        let stream = client.clone().into_stream().snapshot(Event::json(&welcome)?.event("welcome"), position);
        // What a topic under `state/` retains is older than the snapshot and not in it: it is subscribed to after that.
        query.subscribe(&client, is_state)?;
        return Ok(stream.into_response());
    }
    query.subscribe(&client, is_state)?;
    match client.resume() {
        // Some changes are lost. Those that are still retained come again, and end where this table is.
        Resume::Gap(_) => (welcome["resume"], welcome["prices"]) = ("gap".into(), table),
        _ => welcome["resume"] = "continued".into(),
    }
    let welcome = Event::json(&welcome)?.event("welcome").encode();
    Ok(([(CONTENT_TYPE, "text/event-stream")], welcome).into_response())
}

pub(crate) fn heartbeat() -> Event {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    Event::data(format!("{{\"now\":{now}}}")).event("heartbeat")
}

/// Says who is there, whenever somebody comes or goes. Who only loads the page anew does neither.
///
/// As long as this holds the list, those who are gone are remembered for the grace time.
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
