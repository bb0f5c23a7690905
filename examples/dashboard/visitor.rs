//! What is known of a client: taken from its request by the layer, and found again at its handle.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{header::USER_AGENT, request::Parts};
use tower_sse::ClientHandle;

use crate::api::Query;

/// Who is at the other end of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// Counts up. It names a stream where its id would give it away.
    pub(crate) number: u64,
    pub(crate) user: String,
    pub(crate) agent: String,
}

impl Visitor {
    /// Takes everybody at their word. A real program takes the name from what its authentication has put into the
    /// request's extensions.
    pub(crate) fn of(request: &Parts) -> Option<Self> {
        static STREAMS: AtomicU64 = AtomicU64::new(1);
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let header = |name| request.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let user = header("x-user").map(|name| name.into_owned());
        let user = user.or_else(|| Query::of(request.uri.query()).last("user").map(str::to_owned));
        let user = user.map(|name| short(&name, 24)).filter(|name| !name.is_empty());
        Some(Self {
            number,
            user: user.unwrap_or_else(|| format!("guest {number}")),
            agent: header(USER_AGENT.as_str()).map(|agent| short(&agent, 160)).unwrap_or_default(),
        })
    }

    /// None if the client came through no layer of this program's.
    pub(crate) fn behind(client: &ClientHandle) -> Option<Self> {
        client.metadata().get().cloned()
    }
}

/// Whose a client is: all streams with one user name are of one member. It gives each client a key, as those without
/// would show their id as such.
pub(crate) fn key(client: &ClientHandle) -> Option<String> {
    Some(Visitor::behind(client).map_or_else(|| "nobody".to_owned(), |visitor| visitor.user))
}

/// It is kept with the client and shown to others: nothing but printable text, and not much of it.
fn short(text: &str, length: usize) -> String {
    let printable: String = text.chars().filter(|character| !character.is_control()).take(length).collect();
    printable.trim().to_owned()
}
