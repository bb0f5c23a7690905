//! An answer that is no event stream, as the event that a client gets of it.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER},
    response::Parts,
};

use crate::{
    event::{Event, push_json_field},
    stream::headers,
};

/// An answer that is no event stream, whose head cannot be sent any more.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: Option<String>,
    /// The body has this content coding, so it is no text.
    encoding: Option<String>,
    retry_after: Option<Duration>,
    /// The beginning of the body.
    body: Vec<u8>,
    /// Further bytes of the body are not sent.
    is_cut: bool,
}

impl Answer {
    /// How many bytes of the body are sent.
    const MAX_BODY: usize = 16 << 10;

    pub(super) fn of(head: &Parts) -> Self {
        let is_encoded = headers::is_encoded(&head.headers);
        let retry_after = text(&head.headers, RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        Self {
            content_type: text(&head.headers, CONTENT_TYPE),
            encoding: text(&head.headers, CONTENT_ENCODING).filter(|_| is_encoded),
            retry_after: retry_after.map(Duration::from_secs),
            ..Self::with_status(head.status)
        }
    }

    /// The answer of a service that failed.
    pub(super) fn failed() -> Self {
        Self::with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn with_status(status: StatusCode) -> Self {
        Self { status, content_type: None, encoding: None, retry_after: None, body: Vec::new(), is_cut: false }
    }

    /// Adds bytes of the body. Returns whether more bytes can be sent.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let room = if self.encoding.is_some() { 0 } else { Self::MAX_BODY - self.body.len() };
        self.is_cut |= bytes.len() > room;
        self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        !self.is_cut
    }

    /// The rest of the body does not come.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Encodes the event.
    pub(super) fn encode(&self) -> Bytes {
        let event = Event::data(self.json()).event("error");
        match self.retry_after {
            Some(delay) => event.retry(delay).encode(),
            None => event.encode(),
        }
    }

    fn json(&self) -> String {
        let mut json = format!("{{\"status\":{}", self.status.as_u16());
        let body = String::from_utf8_lossy(&self.body);
        let body = Some(&*body).filter(|_| self.encoding.is_none() && !self.body.is_empty());
        let texts = [
            ("content_type", self.content_type.as_deref()),
            ("content_encoding", self.encoding.as_deref()),
            ("body", body),
        ];
        for (name, text) in texts {
            push_json_field(&mut json, name, text);
        }
        if self.is_cut && self.encoding.is_none() {
            json.push_str(",\"cut\":true");
        }
        json.push('}');
        json
    }
}

/// Returns the text of a header.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Answer::of(&response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_event_has_the_status_and_the_text_of_the_answer() {
        let mut refused = answer(503, &[("content-type", "text/plain"), ("retry-after", "5")]);
        assert!(refused.push(b"the model \xFF is ") && refused.push(b"\"overloaded\"\nid: 7\n\n"));
        let expected = "event: error\ndata: {\"status\":503,\"content_type\":\"text/plain\",\
            \"body\":\"the model \u{fffd} is \\\"overloaded\\\"\\u000aid: 7\\u000a\\u000a\"}\nretry: 5000\n\n";
        assert_eq!(refused.encode(), expected);
        assert_eq!(answer(204, &[]).encode(), "event: error\ndata: {\"status\":204}\n\n");
        assert_eq!(Answer::failed().encode(), "event: error\ndata: {\"status\":500}\n\n");
    }

    #[test]
    fn a_retry_after_that_is_a_date_sets_no_reconnection_time() {
        for value in ["Sun, 29 Nov 2026 08:00:00 GMT", "-1", "1.5", ""] {
            assert_eq!(answer(503, &[("retry-after", value)]).retry_after, None, "{value:?}");
        }
    }

    #[test]
    fn a_large_body_is_cut_and_an_encoded_one_is_left_out() {
        let mut large = answer(500, &[]);
        assert!(large.push(&[b'x'; Answer::MAX_BODY]));
        assert!(!large.json().contains("cut"));
        assert!(!large.push(b"y"));
        assert!(large.json().ends_with("x\",\"cut\":true}") && large.json().len() < Answer::MAX_BODY + 100);
        let mut encoded = answer(500, &[("content-encoding", "gzip")]);
        assert!(!encoded.push(b"\x1f\x8b"));
        assert_eq!(encoded.json(), "{\"status\":500,\"content_encoding\":\"gzip\"}");
    }
}
