//! Reads the request for the topics of an open stream.

use std::{future::poll_fn, pin::pin};

use bytes::BufMut;
use http::{
    HeaderMap, Method, Request,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body;
use serde_json::Value;

use super::error::TopicsError;
use crate::event::ClientId;

/// How large a request may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) body: usize,
    pub(super) topics: usize,
}

/// The topics that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopicsRequest {
    pub(super) client: ClientId,
    /// Each name once, in the order of the request.
    pub(super) topics: Vec<String>,
}

impl TopicsRequest {
    pub(super) async fn read<B: Body>(request: Request<B>, bounds: Bounds) -> Result<(Parts, Self), TopicsError> {
        let (head, body) = request.into_parts();
        if head.method != Method::PUT {
            return Err(TopicsError::NotPut);
        }
        if !is_json(&head.headers) {
            return Err(TopicsError::NotJson);
        }
        let body = collect(body, bounds.body).await?;
        Ok((head, Self::parse(&body, bounds.topics)?))
    }

    fn parse(body: &[u8], most: usize) -> Result<Self, TopicsError> {
        let body: Value = serde_json::from_slice(body).map_err(|error| TopicsError::invalid(error.to_string()))?;
        let client = body.get("client").and_then(Value::as_str);
        let client = client.ok_or_else(|| TopicsError::invalid("the field `client` is not a text"))?;
        let client = client.parse().map_err(|error| TopicsError::invalid(format!("{error}")))?;
        let named = body.get("topics").and_then(Value::as_array);
        let named = named.ok_or_else(|| TopicsError::invalid("the field `topics` is not an array"))?;
        if named.len() > most {
            return Err(TopicsError::TooManyTopics { limit: most });
        }
        let mut topics: Vec<String> = Vec::with_capacity(named.len());
        for topic in named {
            let topic = topic.as_str().ok_or_else(|| TopicsError::invalid("a topic is not a text"))?;
            if !topics.iter().any(|known| known == topic) {
                topics.push(topic.to_owned());
            }
        }
        Ok(Self { client, topics })
    }
}

/// A page of another site cannot send this content type without a preflight.
fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().split(|byte| *byte == b';').next());
    let is_json = essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"));
    is_json && headers.get(CONTENT_ENCODING).is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Reads a body of at most `most` bytes.
async fn collect<B: Body>(body: B, most: usize) -> Result<Vec<u8>, TopicsError> {
    let too_large = TopicsError::TooLarge { limit: most };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large);
    }
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| TopicsError::invalid("it cannot be read to its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes::Buf::remaining(&data) > most - bytes.len() {
            return Err(too_large);
        }
        bytes.put(data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

    fn parse(body: &str) -> Result<Vec<String>, TopicsError> {
        TopicsRequest::parse(body.as_bytes(), 3).map(|request| request.topics)
    }

    fn with(topics: &str) -> String {
        format!("{{\"client\":\"{CLIENT}\",\"topics\":{topics},\"later\":1}}")
    }

    #[test]
    fn each_name_counts_once_and_unknown_fields_are_ignored() {
        assert_eq!(parse(&with(r#"["b","a","b"]"#)).unwrap(), ["b", "a"]);
        assert_eq!(parse(&with("[]")).unwrap(), [""; 0]);
        assert_eq!(parse(&with(r#"["\u0061\n","",""]"#)).unwrap(), ["a\n", ""]);
        assert_eq!(parse(&with(r#"["a","b","c","d"]"#)), Err(TopicsError::TooManyTopics { limit: 3 }));
    }

    #[test]
    fn what_is_not_the_expected_json_is_invalid() {
        let upper = format!("{{\"client\":\"{}\",\"topics\":[]}}", CLIENT.to_uppercase());
        let missing = format!("{{\"client\":\"{CLIENT}\"}}");
        let deep = "[".repeat(10_000);
        for body in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            "\u{feff}{}",
            "{\"topics\":[]}",
            "{\"client\":7,\"topics\":[]}",
            "{\"client\":\"7\",\"topics\":[]}",
            &upper,
            &missing,
            &deep,
            &with("\"a\""),
            &with("{}"),
            &with("[1]"),
            &with("[\"a\",null]"),
            &with("[\"a\"]}"),
        ] {
            assert!(matches!(parse(body), Err(TopicsError::Invalid { .. })), "{body}");
        }
        assert!(matches!(TopicsRequest::parse(b"\xFF", 3), Err(TopicsError::Invalid { .. })));
    }

    #[test]
    fn only_json_by_its_headers_is_read() {
        let is = |headers: &[(&str, &str)]| {
            let mut request = Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_json(request.body(()).unwrap().headers())
        };
        assert!(is(&[("content-type", "Application/JSON; charset=utf-8")]));
        assert!(is(&[("content-type", "application/json"), ("content-encoding", "identity")]));
        for content_type in ["text/plain", "application/json5", "application/x-www-form-urlencoded", ""] {
            assert!(!is(&[("content-type", content_type)]), "{content_type}");
        }
        assert!(!is(&[]));
        assert!(!is(&[("content-type", "application/json"), ("content-encoding", "gzip")]));
    }
}
