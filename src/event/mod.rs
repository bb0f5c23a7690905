//! Events: their data, the clients that they are for, and their encoding.
//!
//! This folder knows no topics. Of clients it knows only the ids, because an event can exclude a client.

mod attributes;
mod audience;
mod client_id;
mod encoding;
mod error;
mod json;
mod own_event;
mod payload;
mod quoted;
mod server_sent_event;

pub(crate) use self::{
    attributes::AttributeTypes,
    audience::Audience,
    client_id::random_bits,
    encoding::{ROOM_FOR_ID, decode_data, decode_type, finish, push_field},
    json::{push_json_field, push_json_string, push_json_strings},
    own_event::OwnEvent,
    payload::Payload,
    quoted::Quoted,
};
pub use self::{
    client_id::{ClientId, InvalidClientId},
    error::EventError,
    server_sent_event::Event,
};
