//! A request as the upstream gets it: its target and its headers.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;

use crate::connections::RequestBody;

/// Where requests go, and what they look like there.
pub(crate) struct Upstream {
    authority: Authority,
    /// Without a slash at its end.
    base_path: String,
}

impl Upstream {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let is_none = || format!("--upstream {text:?} is not like http://HOST[:PORT][/PATH]");
        let parts = text.parse::<Uri>().map_err(|_| is_none())?.into_parts();
        let (Some(authority), Some(path)) = (parts.authority, parts.path_and_query) else { return Err(is_none()) };
        if parts.scheme == Some(Scheme::HTTPS) {
            let hint = "give the http:// address of a local proxy that does (nginx, stunnel)";
            return Err(format!("--upstream cannot be https://, as this example speaks no TLS: {hint}"));
        }
        // A port that is out of range, `Uri` takes for none.
        let has_known_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
        let has_user = authority.as_str().contains('@');
        if parts.scheme != Some(Scheme::HTTP) || path.query().is_some() || has_user || !has_known_port {
            return Err(is_none());
        }
        Ok(Self { authority, base_path: path.path().trim_end_matches('/').to_owned() })
    }

    /// The request as the upstream gets it.
    pub(crate) fn request(
        &self,
        request: Request<RequestBody>,
        peer: IpAddr,
    ) -> Result<Request<RequestBody>, http::Error> {
        let (mut head, body) = request.into_parts();
        // HTTP/2 has it in the target, and so has a client that takes this for a forward proxy.
        let asked_host = match head.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => head.headers.get(HOST).cloned(),
        };
        head.uri = self.target(&head.uri)?;
        head.version = Version::HTTP_11;
        // The layer's and hyper's, which mean nothing further on.
        head.extensions.clear();

        let headers = &mut head.headers;
        let takes_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
        leave_hop_by_hop_behind(headers);
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if body.size_hint().exact().is_none() {
            // Said here because hyper takes a GET for one without a body if nothing speaks of one.
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // HTTP/2 may send each cookie on its own, HTTP/1.1 knows one header only (RFC 9113, 8.2.3).
        join(headers, COOKIE, b"; ");
        headers.insert(HOST, HeaderValue::from_str(self.authority.as_str())?);
        headers.append("x-forwarded-for", HeaderValue::from_str(&peer.to_string())?);
        // Many servers look at one line only.
        join(headers, HeaderName::from_static("x-forwarded-for"), b", ");
        headers.remove("x-forwarded-host");
        if let Some(host) = asked_host {
            headers.insert("x-forwarded-host", host);
        }
        headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
        Ok(Request::from_parts(head, body))
    }

    fn target(&self, asked: &Uri) -> Result<Uri, http::Error> {
        let target = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        // `OPTIONS *` asks about the server, which has no path.
        let base_path = if target == "*" { "" } else { &self.base_path };
        let target = PathAndQuery::try_from(format!("{base_path}{target}"))?;
        Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(target).build()
    }
}

/// Takes off what is meant for the next hop alone (RFC 9110, 7.6.1).
pub(crate) fn leave_hop_by_hop_behind(headers: &mut HeaderMap) {
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

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|one| one.eq_ignore_ascii_case(token.as_bytes()))
}

/// Makes one header of several with the same name.
fn join(headers: &mut HeaderMap, name: HeaderName, separator: &[u8]) {
    let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    if values.len() > 1 {
        if let Ok(joined) = HeaderValue::from_bytes(&values.join(separator)) {
            headers.insert(name, joined);
        }
    }
}
