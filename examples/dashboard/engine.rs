//! The engine that keeps the events, if one is asked for: a file, or Redis Streams.

use std::{env, error::Error};

use tower_sse::RegistryConfig;

use crate::api::Level;

/// Adds the engine of `FILE` or `REDIS_URL` to the configuration.
pub(crate) fn of_environment(config: RegistryConfig) -> Result<RegistryConfig, Box<dyn Error>> {
    let config = config.attribute::<Level>("level");
    match (env::var("FILE"), env::var("REDIS_URL")) {
        (Err(_), Err(_)) => Ok(config),
        (Ok(path), Err(_)) => in_a_file(config, &path),
        (Err(_), Ok(url)) => {
            redis(config, &url, &env::var("STREAM").unwrap_or_else(|_| String::from("tower-sse-dashboard")))
        }
        (Ok(_), Ok(_)) => Err("FILE and REDIS_URL are both set: choose one".into()),
    }
}

#[cfg(feature = "file")]
fn in_a_file(config: RegistryConfig, path: &str) -> Result<RegistryConfig, Box<dyn Error>> {
    Ok(config.backplane(tower_sse::backplane::File::open(path)?))
}

#[cfg(not(feature = "file"))]
fn in_a_file(_: RegistryConfig, _: &str) -> Result<RegistryConfig, Box<dyn Error>> {
    Err("FILE needs the feature `file`: cargo run --example dashboard --features file,script".into())
}

#[cfg(feature = "redis")]
fn redis(config: RegistryConfig, url: &str, stream: &str) -> Result<RegistryConfig, Box<dyn Error>> {
    Ok(config.backplane(tower_sse::backplane::Redis::at(url)?.stream(stream)))
}

#[cfg(not(feature = "redis"))]
fn redis(_: RegistryConfig, _: &str, _: &str) -> Result<RegistryConfig, Box<dyn Error>> {
    Err("REDIS_URL needs the feature `redis`: cargo run --example dashboard --features redis,script".into())
}
