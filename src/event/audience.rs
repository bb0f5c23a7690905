//! The clients that an event is for.

use http::Extensions;

use super::client_id::ClientId;

/// The clients that get an event, and the attributes that filters read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audience {
    /// This client does not get the event.
    pub(crate) excluded_client: Option<ClientId>,
    pub(crate) attributes: Extensions,
}
