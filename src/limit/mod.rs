//! Limits on streams, their keys, and the response to a refused stream.
//!
//! A limit counts open streams or new streams, in total or for each key. A request that asks for an event stream takes its slots before its
//! handler runs. Any other request takes them when its handler asks for them, or when the handler has answered with a stream. The stream keeps
//! them. This folder knows requests and responses of the `http` crate. It must not know topics or clients.

mod admission;
mod client_ip_key;
mod count;
mod key;
mod limits;
mod refused_reason;
mod refused_response;

pub(crate) use self::admission::{Admission, Hold};
pub use self::{
    client_ip_key::ClientIpKey, key::LimitKey, limits::Limit, refused_reason::RefusedReason,
    refused_response::RefusedResponse,
};
