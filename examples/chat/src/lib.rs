//! A chat for gRPC clients, gRPC-web clients and `EventSource`s, in the same rooms: one registry, one port.
//!
//! A message is published once, on the topic of its room. Event streams send it as JSON. The gRPC method
//! [`Join`](proto::chat_server::Chat::join) converts it into a protobuf message.

mod grpc;
mod room;
mod web;

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, reason = "it is generated")]
pub mod proto {
    tonic::include_proto!("chat");
}

/// The guide's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../src/guide/grpc.md")]
mod guide {}

use axum::Router;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower_sse::{Registry, RegistryConfig};

use self::{grpc::Rooms, proto::chat_server::ChatServer};

/// Makes a registry whose presence uses the clients' names as keys.
#[must_use]
pub fn registry(config: RegistryConfig) -> Registry {
    Registry::with_config(config.presence_key(room::name_of))
}

/// All routes. Put an `SseLayer` of the same registry around them.
pub fn routes(registry: &Registry) -> Router {
    let service = ChatServer::new(Rooms::new(registry)).max_decoding_message_size(room::MAX_MESSAGE);
    // `GrpcWebLayer` refuses all other HTTP/1.1 requests, so it goes around the gRPC service only.
    let grpc = Routes::new(service).prepare().into_axum_router().layer(GrpcWebLayer::new());
    // tonic's own fallback would answer all other paths with a 200.
    grpc.reset_fallback().merge(web::routes(registry)).fallback(web::nowhere)
}
