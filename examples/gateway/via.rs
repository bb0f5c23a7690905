//! `Via`: the proxies that a message passed (RFC 9110, 7.6.3).

use std::io;

use http::{HeaderMap, HeaderValue, Version, header::VIA};

use crate::headers::tokens;

/// The random name of this process in `Via`. It does not reveal the gateway's address.
pub(crate) struct Pseudonym(String);

impl Pseudonym {
    pub(crate) fn random() -> io::Result<Self> {
        Ok(Self(format!("gateway-{:016x}", getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?)))
    }

    /// Whether a message has passed this gateway.
    ///
    /// The name counts at any place in the header. A client may have begun a comment or a string that it never ended,
    /// and another proxy may have joined several lines.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let name = self.0.as_bytes();
        let mut lines = headers.get_all(VIA).iter().map(HeaderValue::as_bytes);
        lines.any(|line| line.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name)))
    }

    /// `version` is the version in which the message was received.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, version: Version) {
        let version = match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        if let Ok(hop) = HeaderValue::try_from(format!("{version} {}", self.0)) {
            headers.append(VIA, hop);
        }
    }
}

/// Keeps only the protocol of each hop behind the gateway. A hop that does not begin with a protocol is removed.
pub(crate) fn hide_hops(headers: &mut HeaderMap) {
    let hops = headers.get_all(VIA).iter().flat_map(tokens).filter_map(protocol);
    let hidden = hops.map(|protocol| format!("{protocol} upstream")).collect::<Vec<_>>().join(", ");
    headers.remove(VIA);
    if let (false, Ok(hidden)) = (hidden.is_empty(), HeaderValue::try_from(hidden)) {
        headers.insert(VIA, hidden);
    }
}

/// Returns `1.1` or `HTTP/1.1` if a hop begins with it. A comma in a comment also separates hops here.
fn protocol(hop: &[u8]) -> Option<&str> {
    let mut words = std::str::from_utf8(hop).ok()?.split_ascii_whitespace();
    let protocol = words.next().filter(|_| words.next().is_some())?;
    let version = protocol.strip_prefix("HTTP/").unwrap_or(protocol);
    ["1.0", "1.1", "2", "2.0", "3", "3.0"].contains(&version).then_some(protocol)
}
