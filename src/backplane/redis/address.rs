//! Where the server is, and how to log in.

use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, io::tcp::TcpSettings};

use super::config_error::RedisConfigError;

/// How long a peer may leave data unacknowledged before the connection counts as lost.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// When an idle connection is probed, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Reads a URL.
///
/// Connections use version 3 of Redis's protocol, because with it `redis` says when a connection was closed.
pub(super) fn parse(url: &str) -> Result<ConnectionInfo, RedisConfigError> {
    let info = url
        .into_connection_info()
        .map_err(|error| RedisConfigError::Url { url: without_secrets(url), reason: reason(&error) })?;
    let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(login).set_tcp_settings(tcp_settings()))
}

/// `redis` describes an error as `description - kind`, where the kind is the same for all URLs.
fn reason(error: &redis::RedisError) -> String {
    let text = error.to_string();
    match text.split_once(" - ") {
        Some((description, _)) => description.to_owned(),
        None => text,
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

/// The URL without its password, even if it is not a valid URL: a password may have characters that should have been escaped.
fn without_secrets(url: &str) -> String {
    let (url, rest) = match url.find(['?', '#']) {
        Some(at) if !url[at..].contains('@') => (&url[..at], "?.."),
        _ => (url, ""),
    };
    let rest = if url.ends_with(rest) { "" } else { rest };
    let (scheme, after) = url.split_once("://").map_or(("", url), |(scheme, after)| (scheme, after));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match after.rsplit_once('@') {
        None => format!("{scheme}{separator}{after}{rest}"),
        Some((login, host)) => {
            let user = login.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}{separator}{user}:..@{host}{rest}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_url_is_named_without_its_password() {
        for (url, named) in [
            ("cache:6379", "cache:6379"),
            ("http://user:secret@cache", "http://user:..@cache"),
            ("redis://:secret@cache:port", "redis://:..@cache:port"),
            ("redis://user:sec/ret?#s@cache:port/0?secret", "redis://user:..@cache:port/0?secret"),
            ("user:secret@cache", "user:..@cache"),
            ("secret@cache", ":..@cache"),
            ("redis://cache/zero", "redis://cache/zero"),
            ("unix:relative?pass=secret", "unix:relative?.."),
        ] {
            let error = parse(url).expect_err(url);
            let RedisConfigError::Url { url: name, .. } = &error else { panic!("{error:?}") };
            assert_eq!(name, named, "{error}");
        }
    }

    #[test]
    fn all_schemes_of_redis_and_valkey_are_read() {
        for url in [
            "redis://cache",
            "rediss://user:password@cache:6380/2",
            "valkey://cache",
            "valkeys://cache",
            "unix:///run/redis.sock",
        ] {
            parse(url).expect(url);
        }
    }
}
