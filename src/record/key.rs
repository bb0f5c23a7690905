//! Which recording a request belongs to: the name of its topic.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, request::Parts};

use super::error::RecordError;
use crate::{
    log::{
        segment,
        topic_name::{self, RECORDING},
    },
    stream::headers::has,
};

pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The maximum length of a key in bytes.
pub(super) const MAX_KEY: usize = 256;
/// The maximum length of a path that is a part of a topic's name.
const MAX_PATH: usize = 2048;

/// A closure of the program that reads a text from a request.
pub(super) type TextOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

/// Where the layer finds the key of a request.
#[derive(Clone)]
pub(super) enum KeySource {
    Key(TextOf),
    /// The key is the name of the topic.
    Topic(TextOf),
    /// The key is the `Idempotency-Key` header, together with the path and this owner.
    Header {
        owner: TextOf,
    },
}

impl KeySource {
    /// Whether a request can have a key at all. Most cannot, and are told apart here without splitting the request.
    pub(super) fn may_find<B>(&self, request: &Request<B>) -> bool {
        match self {
            Self::Key(_) | Self::Topic(_) => true,
            Self::Header { .. } => has(request.headers(), &IDEMPOTENCY_KEY),
        }
    }

    /// Returns the name of the recording's topic, if the request has a key.
    ///
    /// Two different keys never have the same name, and no client can subscribe by name to a topic whose name begins
    /// with `$`.
    pub(super) fn topic(&self, request: &Parts) -> Result<Option<String>, RecordError> {
        match self {
            Self::Topic(topic) => {
                let Some(topic) = topic(request) else { return Ok(None) };
                topic_name::check(&topic)?;
                Ok(Some(topic))
            }
            Self::Key(key) => {
                let Some(key) = key(request) else { return Ok(None) };
                check_length(key.as_bytes())?;
                Ok(Some(format!("{RECORDING}key/{}", segment(&key))))
            }
            Self::Header { owner } => {
                let mut values = request.headers.get_all(&IDEMPOTENCY_KEY).iter();
                let Some(value) = values.next() else { return Ok(None) };
                let Some(owner) = owner(request) else { return Ok(None) };
                let key = readable(value)?;
                if values.next().is_some() {
                    return Err(invalid("comes several times: send one"));
                }
                let path = request.uri.path();
                if path.len() > MAX_PATH {
                    return Err(invalid("is for a path that is too long"));
                }
                let [owner, path, key] = [&owner, path, key].map(|text| segment(text).into_owned());
                Ok(Some(format!("{RECORDING}request/{owner}/{path}/{key}")))
            }
        }
    }
}

fn readable(value: &HeaderValue) -> Result<&str, RecordError> {
    check_length(value.as_bytes())?;
    value.to_str().map_err(|_| invalid("has characters other than visible ASCII"))
}

fn check_length(key: &[u8]) -> Result<(), RecordError> {
    match key.len() {
        0 => Err(invalid("is empty")),
        1..=MAX_KEY => Ok(()),
        _ => Err(invalid("is longer than 256 bytes")),
    }
}

fn invalid(reason: &'static str) -> RecordError {
    RecordError::InvalidKey { reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> KeySource {
        let owner = |request: &Parts| request.headers.get("owner").map(|owner| owner.to_str().unwrap().to_owned());
        KeySource::Header { owner: Arc::new(owner) }
    }

    fn topic(source: &KeySource, path: &str, headers: &[(&str, &[u8])]) -> Result<Option<String>, RecordError> {
        let request = headers.iter().fold(Request::builder().uri(path), |it, (name, value)| it.header(*name, *value));
        let request = request.body(()).unwrap();
        assert!(source.may_find(&request) || headers.iter().all(|(name, _)| *name != "idempotency-key"));
        source.topic(&request.into_parts().0)
    }

    fn of_header(key: &[u8]) -> Result<Option<String>, RecordError> {
        topic(&header(), "/a", &[("idempotency-key", key), ("owner", b"me")])
    }

    #[test]
    fn without_a_header_or_an_owner_there_is_no_key() {
        assert_eq!(topic(&header(), "/a", &[("owner", b"me")]), Ok(None));
        assert_eq!(topic(&header(), "/a", &[("idempotency-key", b"1")]), Ok(None));
    }

    #[test]
    fn a_key_that_is_empty_too_long_unreadable_or_repeated_is_invalid() {
        assert!(of_header(&[b'x'; MAX_KEY]).is_ok());
        for key in [&b""[..], &[b'x'; MAX_KEY + 1], b"\xC3\xA9", b"a\tb\xFF"] {
            assert!(matches!(of_header(key), Err(RecordError::InvalidKey { .. })), "{key:?}");
        }
        let twice: [(&str, &[u8]); 3] = [("idempotency-key", b"1"), ("idempotency-key", b"1"), ("owner", b"me")];
        assert!(matches!(topic(&header(), "/a", &twice), Err(RecordError::InvalidKey { .. })));
        let long = format!("/{}", "x".repeat(MAX_PATH));
        let one: [(&str, &[u8]); 2] = [("idempotency-key", b"1"), ("owner", b"me")];
        assert!(matches!(topic(&header(), &long, &one), Err(RecordError::InvalidKey { .. })));
        for key in [String::new(), "x".repeat(MAX_KEY + 1)] {
            let source = KeySource::Key(Arc::new(move |_| Some(key.clone())));
            assert!(matches!(topic(&source, "/a", &[]), Err(RecordError::InvalidKey { .. })));
        }
    }

    #[test]
    fn a_topic_that_the_program_names_must_be_a_valid_name() {
        let source = KeySource::Topic(Arc::new(|request| Some(request.uri.path()[1..].to_owned())));
        assert_eq!(topic(&source, "/answers/1", &[]), Ok(Some("answers/1".into())));
        for path in ["/", "/$record/key/1", "/a/*", "/a//b"] {
            assert!(matches!(topic(&source, path, &[]), Err(RecordError::Topic(_))), "{path}");
        }
    }

    proptest! {
        #[test]
        fn two_different_keys_never_have_the_same_topic(
            one in prop::array::uniform3("[a/%$*2F]{1,4}"),
            other in prop::array::uniform3("[a/%$*2F]{1,4}"),
        ) {
            let name = |[owner, path, key]: &[String; 3]| {
                let owner = owner.clone();
                let source = KeySource::Header { owner: Arc::new(move |_| Some(owner.clone())) };
                let mut request = Request::new(()).into_parts().0;
                // A path of any characters, as those that a URI cannot have would be refused here.
                request.uri = http::Uri::builder().path_and_query(format!("/{path}")).build().unwrap();
                request.headers.insert(&IDEMPOTENCY_KEY, key.parse().unwrap());
                source.topic(&request).unwrap().unwrap()
            };
            prop_assert_eq!(name(&one) == name(&other), one == other);
            prop_assert!(topic_name::check(&name(&one)).is_err(), "no client can name it");
            let key = KeySource::Key(Arc::new(move |_| Some(one.concat())));
            let key = key.topic(&Request::new(()).into_parts().0).unwrap().unwrap();
            prop_assert_ne!(key, name(&other));
        }
    }
}
