//! Limits on streams, their keys, and the response to a refused stream.

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
