//! What a request asks for: its host, and whether the gateway answers for it.

use std::str::FromStr;

use http::{
    HeaderMap, Method, Request, StatusCode, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};

/// A status, and a sentence for the client.
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) &'static str);

/// A host, and one of its ports or any.
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
        host_of(authority) == self.host && self.port.is_none_or(|port| authority.port_u16().unwrap_or(80) == port)
    }
}

/// In lower case, and without the dot at the end of a full name.
pub(crate) fn host_of(authority: &Authority) -> String {
    authority.host().trim_end_matches('.').to_ascii_lowercase()
}

/// The host that is asked. `None`: HTTP/1.0 need not say.
///
/// What hyper lets pass and another server may read in another way is an error: several hosts, none, one that is no host, a
/// target that is no path, and framing other than chunks.
pub(crate) fn asked<B>(request: &Request<B>) -> Result<Option<Authority>, Refused> {
    check_framing(request.headers())?;
    let bad_request = |sentence| Err(Refused(StatusCode::BAD_REQUEST, sentence));
    let target = request.uri();
    let is_http = target.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
    let has_path = target.path_and_query().is_some() && (target.path() != "*" || request.method() == Method::OPTIONS);
    if !has_path || target.scheme().is_some() != target.authority().is_some() || (target.scheme().is_some() && !is_http)
    {
        return bad_request("The request's target is not a path.\n");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad_request("The request has more than one Host.\n");
    }
    let named = match (target.authority(), host) {
        (Some(authority), _) => parse(authority.as_str().as_bytes()),
        (None, Some(host)) => parse(host.as_bytes()),
        (None, None) if request.version() == Version::HTTP_10 => return Ok(None),
        (None, None) => None,
    };
    match (named, host) {
        (Some(_), None) if request.version() == Version::HTTP_11 => bad_request("The request has no Host.\n"),
        // Over HTTP/1.1, a whole URI as the target stands for the host, whatever `Host` says (RFC 9112, 3.2.2).
        (Some(named), Some(host))
            if request.version() == Version::HTTP_2
                && !host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()) =>
        {
            bad_request("The request has two different hosts.\n")
        }
        (Some(named), _) => Ok(Some(named)),
        (None, None) => bad_request("The request has no Host.\n"),
        (None, Some(_)) => bad_request("The request's Host is not a host.\n"),
    }
}

/// A host and perhaps a port: no user, and nothing that a name or an address does not have.
fn parse(text: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(text).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    // A port that is out of range, `Authority` takes for none.
    let has_known_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
    (!authority.host().is_empty() && has_known_port && text.iter().copied().all(is_plain)).then_some(authority)
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refused> {
    let values = headers.get_all(TRANSFER_ENCODING).iter().map(|value| value.as_bytes());
    let codings: Vec<&[u8]> =
        values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect();
    if !codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return Err(Refused(StatusCode::NOT_IMPLEMENTED, "Of transfer codings, this gateway knows chunked alone.\n"));
    }
    match codings.len() {
        0 | 1 => Ok(()),
        _ => Err(Refused(StatusCode::BAD_REQUEST, "The request's body is chunked more than once.\n")),
    }
}
