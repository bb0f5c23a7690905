//! Is this response an event stream, and which headers does it get.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName},
};

/// The media type of an event stream, as it is written to the wire: several clients compare it case-sensitively.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

pub(crate) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether a response is an event stream, if a body follows: a 200 with the content type. None follows the answer to HEAD.
pub(crate) fn is_event_stream(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && headers.get(CONTENT_TYPE).is_some_and(|value| essence_is_event_stream(value.as_bytes()))
}

/// Whether a request asks for an event stream: its `Accept` names it. That of a HEAD or of a preflight gets none.
pub(crate) fn asks_for_event_stream(method: &Method, headers: &HeaderMap) -> bool {
    let asks = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(accepts);
    // What an `EventSource` sends.
    let is_event_source = headers.get(ACCEPT).is_some_and(|value| value == EVENT_STREAM);
    !matches!(*method, Method::HEAD | Method::OPTIONS) && (is_event_source || headers.get_all(ACCEPT).iter().any(asks))
}

fn accepts(range: &[u8]) -> bool {
    let is_zero = |parameter: &[u8]| {
        let quality = parameter.trim_ascii().strip_prefix(b"q=").or(parameter.trim_ascii().strip_prefix(b"Q="));
        quality.is_some_and(|quality| quality.first() == Some(&b'0') && quality.iter().all(|byte| b"0.".contains(byte)))
    };
    essence_is_event_stream(range) && !range.split(|byte| *byte == b';').skip(1).any(is_zero)
}

fn essence_is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
}

/// Whether the body's bytes are no longer the event stream's own, so that nothing can be put in.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") && !value.is_empty())
}

/// Whether a request's connection may go on after its answer, where that is said: HTTP/2 forbids it, and HTTP/1.0 would not
/// understand it with a body of unknown length.
pub(crate) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let closes = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    version == Version::HTTP_11 && !(has(headers, &CONNECTION) && headers.get_all(CONNECTION).iter().any(closes))
}

/// Whether a request has this header. With some 15 others it takes as long as the map's own look, which hashes the name; with few, a fifth of it.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|known| known == name)
}

/// Gives an event stream its headers, where the handler did not set them.
pub(crate) fn prepare(headers: &mut HeaderMap, keeps_alive: bool, is_private: bool) {
    headers.remove(CONTENT_LENGTH);
    lower_case_content_type(headers);
    let caching = if is_private { "no-store, no-transform" } else { "no-cache, no-transform" };
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static(caching));
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
    if keeps_alive {
        headers.entry(CONNECTION).or_insert(HeaderValue::from_static("keep-alive"));
    }
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
    fn only_a_200_with_the_essence_is_an_event_stream() {
        let is = |status, content_type| is_event_stream(status, &with(&[("content-type", content_type)]));
        assert!(is(StatusCode::OK, "text/event-stream"));
        assert!(is(StatusCode::OK, "Text/Event-Stream ; charset=utf-8"));
        assert!(!is(StatusCode::NO_CONTENT, "text/event-stream"));
        assert!(!is(StatusCode::NOT_MODIFIED, "text/event-stream"));
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
    fn absent_headers_are_set_and_present_ones_kept() {
        let mut headers = with(&[("content-type", "TEXT/event-stream;charset=utf-8"), ("content-length", "7")]);
        prepare(&mut headers, true, false);
        let expected = [
            ("content-type", "text/event-stream;charset=utf-8"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("connection", "keep-alive"),
        ];
        assert_eq!(headers, with(&expected));

        let own = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "yes")];
        let mut headers = with(&own);
        prepare(&mut headers, false, true);
        assert_eq!(headers, with(&own), "and HTTP/2 forbids connection-specific ones");

        let mut headers = with(&[("content-type", "text/event-stream")]);
        prepare(&mut headers, false, true);
        assert_eq!(headers["cache-control"], "no-store, no-transform");
    }

    #[test]
    fn a_connection_goes_on_unless_the_request_says_otherwise() {
        assert!(keeps_alive(Version::HTTP_11, &HeaderMap::new()));
        assert!(keeps_alive(Version::HTTP_11, &with(&[("connection", "keep-alive, upgrade")])));
        assert!(!keeps_alive(Version::HTTP_11, &with(&[("connection", "te, Close")])));
        assert!(!keeps_alive(Version::HTTP_10, &with(&[("connection", "keep-alive")])));
        assert!(!keeps_alive(Version::HTTP_2, &HeaderMap::new()));
    }

    #[test]
    fn identity_is_no_encoding() {
        assert!(!is_encoded(&HeaderMap::new()));
        assert!(!is_encoded(&with(&[("content-encoding", "Identity")])));
        assert!(is_encoded(&with(&[("content-encoding", "gzip")])));
    }
}
