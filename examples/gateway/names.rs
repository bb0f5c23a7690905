//! The host that a request asks for, and whether the gateway serves it.

use std::{net::Ipv6Addr, str::FromStr};

use http::{
    HeaderMap, Method, StatusCode, Version,
    header::{HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{Authority, Scheme},
};

/// A status, and a sentence for the client.
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) &'static str);

/// A host with one port, or with any port.
pub(crate) struct Name {
    host: String,
    port: Option<u16>,
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let authority = parse(text.as_bytes()).ok_or(())?;
        Ok(Self { host: host_of(&authority), port: authority.port_u16() })
    }
}

impl Name {
    pub(crate) fn is(&self, authority: &Authority) -> bool {
        self.is_of(&host_of(authority), authority.port_u16().unwrap_or(80))
    }

    /// `host` is as returned by [`host_of`].
    pub(crate) fn is_of(&self, host: &str, port: u16) -> bool {
        host == self.host && self.port.is_none_or(|one| one == port)
    }

    pub(crate) fn is_below(&self, domain: &str) -> bool {
        is_below(&self.host, domain)
    }
}

/// Whether this host belongs to that domain.
pub(crate) fn is_below(host: &str, domain: &str) -> bool {
    !domain.is_empty() && host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// The host in lower case, without the dot at the end of a full name.
pub(crate) fn host_of(authority: &Authority) -> String {
    authority.host().trim_end_matches('.').to_ascii_lowercase()
}

/// The requested host. `None` if an HTTP/1.0 request names none.
///
/// Returns an error for requests that hyper accepts but that another server may read differently: several hosts, no
/// host, an invalid host, a target that is no path, and a transfer coding other than chunks.
pub(crate) fn asked(request: &Parts) -> Result<Option<Authority>, Refused> {
    check_framing(&request.headers)?;
    let bad_request = |sentence| Err(Refused(StatusCode::BAD_REQUEST, sentence));
    let target = &request.uri;
    let is_http = target.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
    let has_path = target.path_and_query().is_some() && (target.path() != "*" || request.method == Method::OPTIONS);
    if !has_path || target.scheme().is_some() != target.authority().is_some() || (target.scheme().is_some() && !is_http)
    {
        return bad_request("The request's target is not a path.\n");
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad_request("The request has more than one Host.\n");
    }
    let host = match host.map(|host| parse(host.as_bytes())) {
        // An invalid host is an error even where it has no meaning (RFC 9112, 3.2).
        Some(None) => return bad_request("The request's Host is not a host.\n"),
        host => host.flatten(),
    };
    let Some(authority) = target.authority() else {
        return match host {
            None if request.version != Version::HTTP_10 => bad_request("The request has no Host.\n"),
            host => Ok(host),
        };
    };
    let Some(named) = parse(authority.as_str().as_bytes()) else {
        return bad_request("The request's target names no host.\n");
    };
    match (request.version, host) {
        (Version::HTTP_11, None) => bad_request("The request has no Host.\n"),
        // Over HTTP/1.1, an absolute URI as the target names the host, whatever `Host` says (RFC 9112, 3.2.2).
        (Version::HTTP_2, Some(host)) if host != named => bad_request("The request has two different hosts.\n"),
        _ => Ok(Some(named)),
    }
}

/// Parses a host with an optional port: no user, and no characters that a name or an address does not have.
fn parse(text: &[u8]) -> Option<Authority> {
    // A port may be empty (RFC 3986, 3.2.3).
    let text = text.strip_suffix(b":").unwrap_or(text);
    let authority = Authority::try_from(text).ok()?;
    // A port that is out of range, `Authority` takes for none.
    let has_known_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
    let is_host = match authority.host().strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => {
            let name = authority.host().strip_suffix('.').unwrap_or(authority.host());
            let is_plain =
                |label: &str| label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            name.split('.').all(|label| !label.is_empty() && is_plain(label))
        }
    };
    (is_host && has_known_port && !authority.as_str().contains('@')).then_some(authority)
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refused> {
    let values = headers.get_all(TRANSFER_ENCODING).iter().map(|value| value.as_bytes());
    let codings = values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    // A list may have empty elements (RFC 9110, 5.6.1.2).
    let codings: Vec<&[u8]> = codings.filter(|coding| !coding.is_empty()).collect();
    if !codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return Err(Refused(StatusCode::NOT_IMPLEMENTED, "Of transfer codings, this gateway knows chunked alone.\n"));
    }
    match codings.len() {
        0 | 1 => Ok(()),
        _ => Err(Refused(StatusCode::BAD_REQUEST, "The request's body is chunked more than once.\n")),
    }
}
