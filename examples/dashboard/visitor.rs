//! The metadata of a client. The layer reads it from the request, and handlers find it in the client's handle.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{header::USER_AGENT, request::Parts};
use tower_sse::ClientHandle;

use crate::api::{Level, Query};

/// The visitor who reads a stream.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// A counter. It names a stream wherever the id must stay secret.
    pub(crate) number: u64,
    pub(crate) user: String,
    pub(crate) agent: String,
    /// The least level of the events that the visitor wants.
    pub(crate) level: Option<Level>,
}

impl Visitor {
    /// Believes every name. A real program takes the name from the request's extensions, where its authentication layer
    /// puts it.
    pub(crate) fn of(request: &Parts) -> Option<Self> {
        static STREAMS: AtomicU64 = AtomicU64::new(1);
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let header = |name| request.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let user = header("x-user").map(|name| name.into_owned());
        let query = Query::of(request.uri.query());
        let user = user.or_else(|| query.last("user").map(str::to_owned));
        let user = user.map(|name| short(&name, 24)).filter(|name| !name.is_empty());
        Some(Self {
            number,
            user: user.unwrap_or_else(|| format!("guest {number}")),
            agent: header(USER_AGENT.as_str()).map(|agent| short(&agent, 160)).unwrap_or_default(),
            // The handler refuses a level that is none.
            level: query.level().ok().flatten(),
        })
    }

    /// `None` if the client did not come through a layer of this program.
    pub(crate) fn behind(client: &ClientHandle) -> Option<Self> {
        client.metadata().get().cloned()
    }
}

/// The presence key of a client: all streams with the same user name are one member. Every client gets a key, because
/// presence would show the id of a client without a key.
pub(crate) fn key(client: &ClientHandle) -> Option<String> {
    Some(Visitor::behind(client).map_or_else(|| "nobody".to_owned(), |visitor| visitor.user))
}

/// Keeps at most `length` printable characters. The text is stored with the client and shown to others.
fn short(text: &str, length: usize) -> String {
    let printable: String = text.chars().filter(|character| !character.is_control()).take(length).collect();
    printable.trim().to_owned()
}
