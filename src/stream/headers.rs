//! The headers of event streams: how they are recognized, and what they get.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{
        ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
        HeaderName, LAST_MODIFIED, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

/// The media type of an event stream.
///
/// It is sent in lower case, because several clients compare it case-sensitively.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

pub(crate) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Headers and trailers that describe the exact bytes of a body.
///
/// They are wrong once other bytes are inserted into the body.
static DESCRIBES_BYTES: [HeaderName; 7] = [
    ACCEPT_RANGES,
    ETAG,
    LAST_MODIFIED,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Headers that are for one connection alone, besides those that `Connection` names.
static OF_A_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Returns whether a response is an event stream.
///
/// It needs the content type, and a success status that allows a complete body. The response to a HEAD counts too,
/// without that body.
pub(crate) fn is_event_stream(status: StatusCode, headers: &HeaderMap) -> bool {
    const NO_WHOLE_BODY: [StatusCode; 3] =
        [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT];
    status.is_success()
        && !NO_WHOLE_BODY.contains(&status)
        && headers.get(CONTENT_TYPE).is_some_and(|value| essence_is_event_stream(value.as_bytes()))
}

/// Returns whether the `Accept` header of a request names the media type.
///
/// A HEAD and a preflight (OPTIONS) never ask for an event stream.
pub(crate) fn asks_for_event_stream(method: &Method, headers: &HeaderMap) -> bool {
    let asks = |value: &HeaderValue| split(value.as_bytes(), b',').any(accepts);
    // An `EventSource` sends exactly this value.
    let is_event_source = headers.get(ACCEPT).is_some_and(|value| value == EVENT_STREAM);
    !matches!(*method, Method::HEAD | Method::OPTIONS) && (is_event_source || headers.get_all(ACCEPT).iter().any(asks))
}

/// Returns whether the `Accept` header of a request names this media type, and no other.
///
/// A CONNECT asks for no stream.
pub(crate) fn asks_only_for_event_stream(method: &Method, headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().flat_map(|value| split(value.as_bytes(), b','));
    *method != Method::CONNECT
        && asks_for_event_stream(method, headers)
        && ranges.filter(|range| !range.trim_ascii().is_empty()).all(essence_is_event_stream)
}

fn accepts(range: &[u8]) -> bool {
    let is_zero = |parameter: &[u8]| {
        let quality = parameter.trim_ascii().strip_prefix(b"q=").or(parameter.trim_ascii().strip_prefix(b"Q="));
        quality.is_some_and(|quality| quality.first() == Some(&b'0') && quality.iter().all(|byte| b"0.".contains(byte)))
    };
    essence_is_event_stream(range) && !split(range, b';').skip(1).any(is_zero)
}

fn essence_is_event_stream(content_type: &[u8]) -> bool {
    let essence = split(content_type, b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
}

/// Splits a header value at a separator, by RFC 9110, section 5.6.
///
/// A separator inside a quoted string does not count, and a backslash there escapes the next byte. A quoted string that
/// is not closed extends to the end of the value.
fn split(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_quoted,
            b'"' => is_quoted = !is_quoted,
            _ => return !is_quoted && *byte == separator,
        }
        false
    })
}

/// Returns whether the body has a content coding.
///
/// The crate can insert nothing into such a body.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let encodes = |coding: &[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity");
    let values = headers.get_all(CONTENT_ENCODING).iter();
    values.flat_map(|value| split(value.as_bytes(), b',')).any(|coding| encodes(coding.trim_ascii()))
}

/// Returns whether the response may carry `connection: keep-alive`.
///
/// It may on HTTP/1.1, unless the request says `connection: close`. HTTP/2 forbids the header. A client of HTTP/1.0
/// would not understand it with a body of unknown length.
pub(crate) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let closes = |value: &HeaderValue| {
        split(value.as_bytes(), b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    version == Version::HTTP_11 && !(has(headers, &CONNECTION) && headers.get_all(CONNECTION).iter().any(closes))
}

/// Returns whether a request has this header.
///
/// With about 15 other headers this is as fast as the map's own lookup, which hashes the name. With few headers it
/// takes a fifth of the time.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|known| known == name)
}

/// How an event stream may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// A stream: no cache uses it again, and no proxy transforms it.
    NoCache,
    /// A stream of private data.
    NoStore,
    /// The response to a long poll. It ends, so a proxy may also compress it.
    Nowhere,
    /// The response to a long poll that shared caches may use again for so many seconds.
    Public(u32),
}

impl Caching {
    fn header(self) -> HeaderValue {
        match self {
            Self::NoCache => HeaderValue::from_static("no-cache, no-transform"),
            Self::NoStore => HeaderValue::from_static("no-store, no-transform"),
            Self::Nowhere => HeaderValue::from_static("no-store"),
            Self::Public(seconds) => HeaderValue::try_from(format!("public, max-age={seconds}"))
                .unwrap_or(HeaderValue::from_static("no-store")),
        }
    }
}

/// Gives an event stream its headers.
///
/// Headers that the handler set are kept. Headers that the insertion of bytes makes wrong are removed.
pub(crate) fn prepare(headers: &mut HeaderMap, keeps_alive: bool, caching: Caching) {
    // The crate inserts nothing into an encoded body, but may end the body early.
    headers.remove(CONTENT_LENGTH);
    if !is_encoded(headers) {
        remove_byte_descriptions(headers);
    }
    lower_case_content_type(headers);
    headers.entry(CACHE_CONTROL).or_insert_with(|| caching.header());
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
    if keeps_alive {
        headers.entry(CONNECTION).or_insert(HeaderValue::from_static("keep-alive"));
    }
}

/// Removes the headers that describe the exact bytes of a body.
pub(crate) fn remove_byte_descriptions(headers: &mut HeaderMap) {
    DESCRIBES_BYTES.iter().for_each(|name| drop(headers.remove(name)));
}

/// Removes the headers that are for one connection alone: RFC 9110, section 7.6.1.
pub(crate) fn remove_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| split(value.as_bytes(), b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    named.iter().chain(&OF_A_CONNECTION).for_each(|name| drop(headers.remove(name)));
}

fn lower_case_content_type(headers: &mut HeaderMap) {
    let Some(value) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return };
    if value.starts_with(EVENT_STREAM.as_bytes()) {
        return;
    }
    let parameters = value.iter().position(|byte| *byte == b';').map_or(&b""[..], |at| &value[at..]);
    if let Ok(value) = HeaderValue::from_bytes(&[EVENT_STREAM.as_bytes(), parameters].concat()) {
        headers.insert(CONTENT_TYPE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_success_with_a_whole_body_and_the_media_type_is_an_event_stream() {
        let is = |status, content_type| is_event_stream(status, &with(&[("content-type", content_type)]));
        for status in 100..600 {
            let has_whole_body = matches!(status, 200..300) && !matches!(status, 204..=206);
            assert_eq!(is(StatusCode::from_u16(status).unwrap(), "text/event-stream"), has_whole_body, "{status}");
        }
        assert!(is(StatusCode::OK, "Text/Event-Stream ; charset=utf-8"));
        assert!(is(StatusCode::OK, "text/event-stream; profile=\"a, b; c\""));
        assert!(!is(StatusCode::OK, "text/event-streams"));
        assert!(!is(StatusCode::OK, "application/json; a=text/event-stream"));
        assert!(!is_event_stream(StatusCode::OK, &HeaderMap::new()));
    }

    #[test]
    fn a_request_asks_for_an_event_stream_by_name() {
        let asks = |method, accept| asks_for_event_stream(&method, &with(&[("accept", accept)]));
        assert!(asks(Method::GET, "text/event-stream"));
        assert!(asks(Method::POST, "application/json, Text/Event-Stream;q=0.5"));
        assert!(!asks(Method::GET, "application/json, text/event-stream; q=0.000"));
        assert!(!asks(Method::GET, "*/*"));
        assert!(!asks(Method::GET, "text/event-streams"));
        assert!(!asks(Method::HEAD, "text/event-stream"));
        assert!(!asks(Method::OPTIONS, "text/event-stream"));
        assert!(!asks_for_event_stream(&Method::GET, &HeaderMap::new()));
    }

    #[test]
    fn a_request_that_names_another_media_type_does_not_ask_for_event_streams_only() {
        let only = |method, accept| asks_only_for_event_stream(&method, &with(&[("accept", accept)]));
        for accept in
            ["text/event-stream", "Text/Event-Stream;q=0.5, ", "text/event-stream, text/event-stream;a=\", \""]
        {
            assert!(only(Method::GET, accept), "{accept}");
            assert!(only(Method::POST, accept), "{accept}");
            for method in [Method::HEAD, Method::OPTIONS, Method::CONNECT] {
                assert!(!only(method, accept), "{accept}");
            }
        }
        for accept in
            ["", "*/*", "text/event-stream, */*", "application/json, text/event-stream", "text/event-stream;q=0"]
        {
            assert!(!only(Method::GET, accept), "{accept}");
        }
        let mut two = with(&[("accept", "text/event-stream")]);
        assert!(asks_only_for_event_stream(&Method::GET, &two));
        two.append("accept", HeaderValue::from_static("text/html"));
        assert!(!asks_only_for_event_stream(&Method::GET, &two));
    }

    #[test]
    fn a_quoted_string_is_no_separator_and_no_media_type() {
        let asks = |accept| asks_for_event_stream(&Method::GET, &with(&[("accept", accept)]));
        for accept in [
            r#"application/json;profile="a, text/event-stream, b""#,
            r#"application/json;profile="a\", text/event-stream, b""#,
            r#"application/json;profile="\\\", text/event-stream, ""#,
            r#"application/json;profile="not closed, text/event-stream"#,
            r#"application/json;profile="not closed \", text/event-stream"#,
            r#"text/event-stream;profile=";";q=0"#,
        ] {
            assert!(!asks(accept), "{accept}");
        }
        for accept in [
            r#"application/json;profile="a, b", text/event-stream"#,
            r#"application/json;profile="a\\", text/event-stream"#,
            r#"application/json;profile="", text/event-stream;q=1"#,
            r#"text/event-stream;profile="a;q=0", text/plain"#,
            r#"text/event-stream;profile="a;q=0;\"";q=0.5"#,
        ] {
            assert!(asks(accept), "{accept}");
        }
        assert!(keeps_alive(Version::HTTP_11, &with(&[("connection", r#"keep-alive;x="a, close, b""#)])));
        assert!(!keeps_alive(Version::HTTP_11, &with(&[("connection", r#"x;y="a, b",close"#)])));
    }

    #[test]
    fn headers_about_the_original_bytes_are_removed() {
        let own = [
            ("accept-ranges", "bytes"),
            ("content-digest", "sha-256=:AA==:"),
            ("content-md5", "AA=="),
            ("digest", "sha-256=AA=="),
            ("etag", "\"1\""),
            ("last-modified", "Sat, 28 Nov 2026 18:00:00 GMT"),
            ("repr-digest", "sha-256=:AA==:"),
        ];
        let all = |encoding| {
            let mut headers = with(&own);
            headers.append("etag", HeaderValue::from_static("\"2\""));
            headers.extend(with(&[
                ("content-type", "text/event-stream"),
                ("content-encoding", encoding),
                ("x-own", "1"),
            ]));
            prepare(&mut headers, false, Caching::NoCache);
            headers
        };
        let kept = |headers: &HeaderMap| own.iter().filter(|(name, _)| headers.contains_key(*name)).count();
        assert_eq!((kept(&all("identity")), all("identity").contains_key("x-own")), (0, true));
        assert_eq!(kept(&all("gzip")), own.len(), "nothing is inserted into an encoded body");
    }

    #[test]
    fn absent_headers_are_set_and_present_headers_are_kept() {
        let mut headers = with(&[("content-type", "TEXT/event-stream;charset=utf-8"), ("content-length", "7")]);
        prepare(&mut headers, true, Caching::NoCache);
        let expected = [
            ("content-type", "text/event-stream;charset=utf-8"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("connection", "keep-alive"),
        ];
        assert_eq!(headers, with(&expected));

        let own = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "yes")];
        let mut headers = with(&own);
        prepare(&mut headers, false, Caching::NoStore);
        assert_eq!(headers, with(&own), "HTTP/2 forbids connection-specific headers");

        for (caching, expected) in [
            (Caching::NoStore, "no-store, no-transform"),
            (Caching::Nowhere, "no-store"),
            (Caching::Public(7), "public, max-age=7"),
        ] {
            let mut headers = with(&[("content-type", "text/event-stream")]);
            prepare(&mut headers, false, caching);
            assert_eq!(headers["cache-control"], expected);
        }
    }

    #[test]
    fn a_connection_is_kept_alive_unless_the_request_closes_it() {
        assert!(keeps_alive(Version::HTTP_11, &HeaderMap::new()));
        assert!(keeps_alive(Version::HTTP_11, &with(&[("connection", "keep-alive, upgrade")])));
        assert!(!keeps_alive(Version::HTTP_11, &with(&[("connection", "te, Close")])));
        assert!(!keeps_alive(Version::HTTP_10, &with(&[("connection", "keep-alive")])));
        assert!(!keeps_alive(Version::HTTP_2, &HeaderMap::new()));
    }

    #[test]
    fn the_headers_of_a_connection_and_those_that_it_names_are_removed() {
        let mut headers = with(&[("connection", "X-Own , close"), ("x-own", "1"), ("keep-alive", "1"), ("etag", "2")]);
        remove_connection_headers(&mut headers);
        assert_eq!(headers, with(&[("etag", "2")]));
    }

    #[test]
    fn identity_is_not_an_encoding() {
        assert!(!is_encoded(&HeaderMap::new()));
        assert!(!is_encoded(&with(&[("content-encoding", "Identity")])));
        assert!(!is_encoded(&with(&[("content-encoding", "identity, , IDENTITY")])));
        assert!(is_encoded(&with(&[("content-encoding", "gzip")])));
        assert!(is_encoded(&with(&[("content-encoding", "identity, gzip")])));
    }
}
