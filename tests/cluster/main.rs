//! Several nodes of one backplane, in one process and in several.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agreement;
mod everywhere;
#[path = "../support/example.rs"]
mod example;
mod faulty;
mod file;
mod late_nodes;
mod nodes;
mod not_taken;
mod processes;
mod producers;
#[path = "../backplane_redis/proxy.rs"]
#[allow(dead_code, reason = "the tests of the engine need more of it")]
mod proxy;
#[path = "../support/random.rs"]
mod random;
mod redis;
#[path = "../backplane_redis/server.rs"]
#[allow(dead_code, reason = "the tests of the engine need more of it")]
mod redis_server;
mod sim;
