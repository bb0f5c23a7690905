//! A request as the upstream gets it, and its answer as the client does.

use http::{
    HeaderValue, Request, Response, Uri, Version,
    header::{
        ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, COOKIE, HOST, LOCATION, REFRESH, TE, TRANSFER_ENCODING,
    },
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;

use crate::{
    headers::{has_one_length, has_token, join, leave_hop_by_hop_behind},
    names::host_of,
};

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

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The request as the upstream gets it, which is told this host.
    pub(crate) fn request<B: Body>(
        &self,
        request: Request<B>,
        host: Option<&Authority>,
    ) -> Result<Request<B>, http::Error> {
        let (mut head, body) = request.into_parts();
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
        // A request that names no host says so.
        headers.insert(HOST, HeaderValue::from_str(host.map_or("", Authority::as_str))?);
        Ok(Request::from_parts(head, body))
    }

    /// The answer as the client gets it. `None`: nobody can say where it ends.
    pub(crate) fn response<B: Body>(&self, mut response: Response<B>) -> Option<Response<B>> {
        // Chunks end a body, and hyper reads those. Any other coding would go on without its name.
        let codings = response.headers().get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
        let is_known = codings.map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>().join(&b',');
        if !matches!(is_known.trim_ascii(), b"" | b"chunked") {
            return None;
        }
        leave_hop_by_hop_behind(response.headers_mut());
        if !has_one_length(response.headers_mut()) {
            return None;
        }
        if response.body().size_hint().exact().is_none() {
            // A length next to chunks, or one named in `connection`, is none; and believed, it would split the response.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // It says at which other ports the upstream is.
        response.headers_mut().remove(ALT_SVC);
        for (name, value) in response.headers_mut() {
            let text = String::from_utf8_lossy(value.as_bytes());
            let own = match name {
                name if name == LOCATION || name == CONTENT_LOCATION => self.own(&text),
                name if name == REFRESH => self.own_refresh(&text),
                _ => None,
            };
            if let Some(own) = own.and_then(|own| HeaderValue::from_bytes(own.as_bytes()).ok()) {
                *value = own;
            }
        }
        // Of this hop, not of the one that the upstream speaks on.
        *response.version_mut() = Version::HTTP_11;
        Some(response)
    }

    fn target(&self, asked: &Uri) -> Result<Uri, http::Error> {
        let target = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        // `OPTIONS *` asks about the server, which has no path.
        let base_path = if target == "*" { "" } else { &self.base_path };
        let target = PathAndQuery::try_from(format!("{base_path}{target}"))?;
        Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(target).build()
    }

    /// A reference to something of the upstream, as the gateway's: a path. `None`: it is to something else, or that already.
    fn own(&self, reference: &str) -> Option<String> {
        let path = match reference.split_once("//") {
            Some((scheme, rest)) if ["http:", "https:", ""].contains(&&*scheme.to_ascii_lowercase()) => {
                let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
                self.is(&authority.parse().ok()?, scheme).then_some(path)?
            }
            _ if self.base_path.is_empty() || !reference.starts_with('/') => return None,
            _ => reference,
        };
        let path = self.without_base(path).unwrap_or(path).trim_start_matches('/');
        // Two slashes would begin the name of a host, and so would what browsers take for slashes or leave out.
        let is_plain = !path.starts_with(|first: char| first == '\\' || first.is_control());
        Some(if is_plain { format!("/{path}") } else { format!("/./{path}") })
    }

    /// The same of `SECONDS; url=REFERENCE`.
    fn own_refresh(&self, refresh: &str) -> Option<String> {
        let (seconds, target) = refresh.split_once([';', ','])?;
        let target = target.trim();
        let has_name = target.get(..3).is_some_and(|name| name.eq_ignore_ascii_case("url"));
        let reference = if has_name { target[3..].trim_start().strip_prefix('=')? } else { target };
        Some(format!("{seconds}; url={}", self.own(reference.trim().trim_matches(['"', '\'']))?))
    }

    fn without_base<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&self.base_path)?;
        (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
    }

    /// Whether this is a name of the upstream: its own, or any of this machine if that is where it is.
    fn is(&self, authority: &Authority, scheme: &str) -> bool {
        let is_local =
            |host: &str| host == "localhost" || host == "[::1]" || host == "0.0.0.0" || host.starts_with("127.");
        let default_port = if scheme.eq_ignore_ascii_case("https:") { 443 } else { 80 };
        let (one, other) = (host_of(authority), host_of(&self.authority));
        (one == other || (is_local(&one) && is_local(&other)))
            && authority.port_u16().unwrap_or(default_port) == self.authority.port_u16().unwrap_or(80)
    }
}
