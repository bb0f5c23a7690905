//! Whom an event is for.

use http::Extensions;

use super::client_id::ClientId;

/// Who is to have an event, and what helps to decide it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audience {
    /// The one client that does not get it.
    pub(crate) excluded_client: Option<ClientId>,
    pub(crate) attributes: Extensions,
}
