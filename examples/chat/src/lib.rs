//! A chat for gRPC clients, gRPC-web clients and `EventSource`s, in the same rooms: one registry, one port.
//!
//! What is said in a room is published on its topic, once. An event stream sends it as it is; the gRPC method
//! [`Join`](proto::chat_server::Chat::join) makes messages of it.

mod grpc;
mod room;
mod web;

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, reason = "it is generated")]
pub mod proto {
    tonic::include_proto!("chat");
}

use axum::Router;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower_sse::{Registry, RegistryConfig};

use self::{grpc::Rooms, proto::chat_server::ChatServer};

/// A registry that knows its clients by their names.
#[must_use]
pub fn registry(config: RegistryConfig) -> Registry {
    Registry::with_config(config.presence_key(room::name_of))
}

/// All routes. An `SseLayer` of the same registry goes around them.
pub fn routes(registry: &Registry) -> Router {
    let service = ChatServer::new(Rooms::new(registry)).max_decoding_message_size(room::MAX_MESSAGE);
    // Around the gRPC service alone: it refuses all other HTTP/1.1.
    let grpc = Routes::new(service).prepare().into_axum_router().layer(GrpcWebLayer::new());
    // tonic's own fallback would answer for all paths, and with a 200.
    grpc.reset_fallback().merge(web::routes(registry)).fallback(web::nowhere)
}
