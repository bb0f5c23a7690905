//! Converts a request for the upstream, and its response for the client.

use std::sync::Arc;

use http::{
    HeaderValue, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use url::Url;

use crate::{
    headers::{has_one_length, has_token, join, leave_hop_by_hop_behind, tokens},
    names::Name,
    translation::UpstreamNames,
};

/// The upstream's address and paths.
pub(crate) struct Upstream {
    authority: Authority,
    /// Without a slash at its end.
    base_path: String,
    names: Arc<UpstreamNames>,
}

impl Upstream {
    /// `aliases` are further names of the upstream in its responses.
    pub(crate) fn parse(text: &str, aliases: Vec<Name>) -> Result<Self, String> {
        let is_none = || format!("--upstream {text:?} is not like http://HOST[:PORT][/PATH]");
        let parts = text.parse::<Uri>().map_err(|_| is_none())?.into_parts();
        let (Some(authority), Some(path)) = (parts.authority, parts.path_and_query) else { return Err(is_none()) };
        if parts.scheme == Some(Scheme::HTTPS) {
            let hint = "give the http:// address of a local proxy that does (nginx, stunnel)";
            return Err(format!("--upstream cannot be https://, as this example speaks no TLS: {hint}"));
        }
        // `Uri` ignores a port that is out of range.
        let has_known_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
        let has_user = authority.as_str().contains('@');
        if parts.scheme != Some(Scheme::HTTP) || path.query().is_some() || has_user || !has_known_port {
            return Err(is_none());
        }
        let base_path = path.path().trim_end_matches('/').to_owned();
        let names = Url::parse(text).and_then(|url| UpstreamNames::new(&url, &base_path, aliases));
        Ok(Self { authority, base_path, names: Arc::new(names.map_err(|_| is_none())?) })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn names(&self) -> &Arc<UpstreamNames> {
        &self.names
    }

    /// The request that is sent to the upstream, with this host.
    pub(crate) fn request<B: Body>(&self, request: Request<B>, host: &Authority) -> Result<Request<B>, http::Error> {
        let (mut head, body) = request.into_parts();
        head.uri = self.target(&head.uri)?;
        head.version = Version::HTTP_11;
        // These are values of the layer and of hyper. They have no meaning in the next request.
        head.extensions.clear();

        let headers = &mut head.headers;
        let takes_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
        leave_hop_by_hop_behind(headers);
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if body.size_hint().exact().is_none() {
            // Set here, because hyper assumes that a GET has no body unless a header announces one.
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // HTTP/2 may send each cookie on its own. HTTP/1.1 allows one header only (RFC 9113, 8.2.3).
        join(headers, COOKIE, b"; ");
        headers.insert(HOST, HeaderValue::from_str(host.as_str())?);
        Ok(Request::from_parts(head, body))
    }

    /// The response for the client, before its names are translated. `None` if its end is ambiguous.
    pub(crate) fn response<B: Body>(&self, mut response: Response<B>) -> Option<Response<B>> {
        // Chunks end a body, and hyper reads those. Any other coding would go on without its name.
        let codings = response.headers().get_all(TRANSFER_ENCODING).iter().flat_map(tokens);
        let codings: Vec<_> = codings.filter(|coding| !coding.is_empty()).map(<[u8]>::to_ascii_lowercase).collect();
        if !codings.is_empty() && codings != [b"chunked"] {
            return None;
        }
        leave_hop_by_hop_behind(response.headers_mut());
        if !has_one_length(response.headers_mut()) {
            return None;
        }
        if response.body().size_hint().exact().is_none() {
            // A length next to chunks, or one that `connection` names, must be ignored. A receiver that trusts it would
            // split the response.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // Removes the upstream's own reason phrase.
        response.extensions_mut().clear();
        // The version of this hop, not of the upstream's connection.
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
}
