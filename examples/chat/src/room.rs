//! Rooms as topics of the registry.

use tower_sse::{ClientHandle, Error, Event, Position, Registry, Start, segment};

use crate::proto::Said;

/// The largest request, in bytes.
pub(crate) const MAX_MESSAGE: usize = 16 << 10;

const MAX_TEXT: usize = 4000;
const MAX_NAME: usize = 40;
const MAX_ROOM: usize = 80;

/// A client that joins for the first time gets the last 20 messages.
const HISTORY: Start = Start::Last(20);

/// The name of the person who reads a stream.
#[derive(Clone)]
struct Name(String);

/// The presence key of a client: the person's name. A client without a name is a member of its own.
pub(crate) fn name_of(client: &ClientHandle) -> Option<String> {
    client.metadata().get::<Name>().map(|name| name.0.clone())
}

/// The topic of a room. `segment` makes one segment of any name, so a `/` does not lead to another topic and a `*` is
/// no wildcard.
fn topic(room: &str) -> Result<String, Problem> {
    let is_right = (1..=MAX_ROOM).contains(&room.len());
    let problem = || Problem::Input(format!("a room's name has 1 to {MAX_ROOM} bytes"));
    is_right.then(|| format!("rooms/{}", segment(room))).ok_or_else(problem)
}

/// Subscribes a client to a room.
pub(crate) fn enter(client: &ClientHandle, room: &str, name: &str) -> Result<(), Problem> {
    // The layer cannot see that a gRPC request asks for a stream. For other requests this does nothing.
    client.acquire_slot()?;
    client.insert_metadata(Name(checked_name(name)?.to_owned()));
    Ok(client.subscribe_from(topic(room)?, HISTORY)?)
}

/// Publishes what was said. Returns its position, and how many clients get it.
pub(crate) async fn say(registry: &Registry, room: &str, said: &Said) -> Result<(Position, usize), Problem> {
    checked_name(&said.name)?;
    if said.text.trim().is_empty() || said.text.len() > MAX_TEXT {
        return Err(Problem::Input(format!("a text has 1 to {MAX_TEXT} bytes")));
    }
    let receipt = registry.publish(topic(room)?, Event::json(said)?)?;
    let clients = receipt.subscribers();
    Ok((receipt.await?, clients))
}

pub(crate) fn members(registry: &Registry, room: &str) -> Result<Vec<String>, Problem> {
    let presence = registry.presence(topic(room)?)?;
    Ok(presence.members().iter().map(|member| member.key().to_owned()).collect())
}

fn checked_name(name: &str) -> Result<&str, Problem> {
    let is_right = !name.trim().is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control);
    let problem = || Problem::Input(format!("a name has 1 to {MAX_NAME} bytes, none of them control characters"));
    is_right.then_some(name).ok_or_else(problem)
}

/// Why a request failed. `grpc` and `web` each turn it into their own response.
pub(crate) enum Problem {
    Input(String),
    Events(Error),
}

/// For every error of `tower_sse`.
impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Events(error.into())
    }
}
