//! Headers that concern a proxy: hop-by-hop headers, and headers about the client.

use std::{net::IpAddr, str::FromStr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH},
    uri::Authority,
};

/// Headers for the next hop only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What only a proxy may say: where a request came from, what it asked for, and who sent it. Servers believe these.
///
/// No list has all: `--remove` adds to it.
const ONLY_A_PROXY: [&str; 58] = [
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "cf-visitor",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "front-end-https",
    "gap-auth",
    "host-override",
    "http-client-ip",
    "https",
    "incap-client-ip",
    "path-info",
    "proxy-client-ip",
    "real-ip",
    "request-uri",
    "script-name",
    "true-client-ip",
    "x-accel-mapping",
    "x-arr-clientcert",
    "x-auth-email",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-backend-host",
    "x-cluster-client-ip",
    "x-email",
    "x-endpoint-api-userinfo",
    "x-host",
    "x-http-destinationurl",
    "x-http-host",
    "x-http-host-override",
    "x-http-path-override",
    "x-https",
    "x-ip",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-override-url",
    "x-proto",
    "x-proxyuser-ip",
    "x-realip",
    "x-request-uri",
    "x-scheme",
    "x-scope-orgid",
    "x-script-name",
    "x-sendfile-type",
    "x-server-name",
    "x-source-ip",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-url-scheme",
    "x-user",
    "x-user-ip",
    "x-vercel-forwarded-for",
    "z-forwarded-for",
    // What CGI programs take for the address of a proxy to use.
    "proxy",
];
const ONLY_A_PROXY_PREFIXES: [&str; 39] = [
    "cf-access-",
    "client-cert",
    "cloudfront-",
    "forwarded",
    "http-x-",
    "l5d-",
    "mellon-",
    "oidc-",
    "proxy-remote-",
    "remote-",
    "ssl-",
    "tailscale-",
    "wl-proxy-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-apigateway-",
    "x-appengine-",
    "x-auth-request-",
    "x-auth-user",
    "x-authenticated-",
    "x-authentik-",
    "x-client-",
    "x-consumer-",
    "x-credential-",
    "x-envoy-",
    "x-forward",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-original-",
    "x-pomerium-",
    "x-real-",
    "x-remote-",
    "x-rewrite-",
    "x-shib-",
    "x-ssl-",
    "x-tls-client-",
    "x-vouch-",
    "x-webauth-",
];

/// A header, or all whose names begin so: `NAME` or `PREFIX*`.
#[derive(Clone)]
pub(crate) struct Pattern {
    text: String,
    is_prefix: bool,
}

impl FromStr for Pattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let prefix = text.strip_suffix('*');
        let name: HeaderName = prefix.unwrap_or(text).parse().map_err(|_| ())?;
        Ok(Self { text: dashed(&name), is_prefix: prefix.is_some() })
    }
}

impl Pattern {
    fn is(&self, dashed: &str) -> bool {
        if self.is_prefix { dashed.starts_with(&self.text) } else { dashed == self.text }
    }
}

/// Many servers read `_` as `-`, and some read so whatever is neither letter nor digit, or skip it where a name begins.
fn dashed(name: &HeaderName) -> String {
    let dashed = name.as_str().replace(|character: char| !character.is_ascii_alphanumeric(), "-");
    dashed.trim_start_matches('-').to_owned()
}

/// Whether a client may not say this.
fn is_for_a_proxy(name: &HeaderName, more: &[Pattern]) -> bool {
    let dashed = dashed(name);
    let is_disguised = dashed != name.as_str();
    ONLY_A_PROXY.contains(&&*dashed)
        || ONLY_A_PROXY_PREFIXES.iter().any(|prefix| dashed.starts_with(prefix))
        || more.iter().any(|pattern| pattern.is(&dashed))
        || (is_disguised && (HOP_BY_HOP.contains(&&*dashed) || ["content-length", "host", "via"].contains(&&*dashed)))
}

/// Takes off what only a proxy may say, but for a client that is one. That one has no need of underscores either. `more`: what
/// else only a proxy may say.
pub(crate) fn remove_claims(headers: &mut HeaderMap, is_of_a_proxy: bool, more: &[Pattern]) {
    let claims = |name: &&HeaderName| {
        is_for_a_proxy(name, more)
            && (!is_of_a_proxy || name.as_str().contains(|it: char| !it.is_ascii_alphanumeric() && it != '-'))
    };
    let claimed: Vec<_> = headers.keys().filter(claims).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

/// Says where a request came from, and what it asked for, in place of what was removed.
pub(crate) fn set_claims(headers: &mut HeaderMap, peer: IpAddr, host: Option<&Authority>) {
    let host = host.map(Authority::to_string);
    for (name, value) in [("x-forwarded-host", host), ("x-forwarded-proto", Some("http".to_owned()))] {
        if let (false, Some(Ok(value))) = (headers.contains_key(name), value.map(HeaderValue::try_from)) {
            headers.insert(name, value);
        }
    }
    if let Ok(peer) = HeaderValue::try_from(peer.to_string()) {
        headers.append("x-forwarded-for", peer);
    }
    // Many servers read only one line of the header.
    join(headers, HeaderName::from_static("x-forwarded-for"), b", ");
}

/// Removes hop-by-hop headers.
pub(crate) fn leave_hop_by_hop_behind(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .map(HeaderName::from_bytes)
        .filter_map(Result::ok)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Headers about the whole message. They have no meaning in trailers, except for receivers that wrongly trust them (RFC
/// 9110, 6.5.1).
const NOT_IN_TRAILERS: [&str; 14] = [
    "alt-svc",
    "authorization",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "host",
    "location",
    "refresh",
    "set-cookie",
    "via",
    "www-authenticate",
];

/// Removes the trailers that not even a proxy may set.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    leave_hop_by_hop_behind(trailers);
    remove_claims(trailers, false, &[]);
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

/// Merges equal lengths into one. Returns `false` if they differ or are invalid.
pub(crate) fn has_one_length(headers: &mut HeaderMap) -> bool {
    let lengths: Vec<Option<u64>> = headers
        .get_all(CONTENT_LENGTH)
        .iter()
        .flat_map(tokens)
        .map(|length| std::str::from_utf8(length).ok().filter(|_| length.iter().all(u8::is_ascii_digit))?.parse().ok())
        .collect();
    match lengths.first() {
        None => true,
        Some(Some(length)) if lengths.iter().all(|other| *other == Some(*length)) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(*length));
            true
        }
        Some(_) => false,
    }
}

pub(crate) fn has_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|one| one.eq_ignore_ascii_case(token.as_bytes()))
}

pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Joins all lines of a header into one.
pub(crate) fn join(headers: &mut HeaderMap, name: HeaderName, separator: &[u8]) {
    let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    if values.len() > 1 {
        if let Ok(joined) = HeaderValue::from_bytes(&values.join(separator)) {
            headers.insert(name, joined);
        }
    }
}
