//! What a client asks of its stream in the query of its request.

use std::time::Duration;

use http::{
    HeaderMap, Method, Request,
    header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION, SET_COOKIE},
};

use super::sse_layer::Config;
use crate::stream::headers::{Caching, LAST_EVENT_ID, has};

/// What a client asks of its stream in the query of its request, as far as the layer gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    /// `?hello=1`: the events `hello` and `live`.
    pub(super) hello: bool,
    /// `?wait=25`: the response is that to a long poll, which ends by itself after this time.
    pub(super) wait: Option<Duration>,
    /// Shared caches may keep the response to the poll for so many seconds.
    public_for: Option<u32>,
}

impl Asked {
    pub(super) fn of<B>(request: &Request<B>, config: &Config) -> Self {
        let Some(query) = request.uri().query() else { return Self::default() };
        let (mut hello, mut wait) = (false, None);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "hello" => hello |= value == "1",
                "wait" if wait.is_none() => wait = seconds(value),
                _ => {}
            }
        }
        let wait = config.long_poll.bounded(wait);
        let is_public = wait.is_some() && config.public_polls.is_some() && may_be_shared(request);
        Self { hello: hello && config.hello_event.is_on(), wait, public_for: config.public_polls.filter(|_| is_public) }
    }

    /// Gives what is asked if the stream can have it. Otherwise nothing.
    pub(super) fn if_possible(self, is_possible: impl FnOnce() -> bool) -> Self {
        if self == Self::default() || is_possible() { self } else { Self::default() }
    }

    /// Returns how the response with these headers may be cached.
    pub(super) fn caching(self, headers: &HeaderMap, is_private: bool) -> Caching {
        match (self.wait, self.public_for) {
            (Some(_), Some(seconds)) if !is_private && !has(headers, &SET_COOKIE) => Caching::Public(seconds),
            (Some(_), _) => Caching::Nowhere,
            (None, _) if is_private => Caching::NoStore,
            (None, _) => Caching::NoCache,
        }
    }
}

/// Parses a number of seconds. A number that is too large is the largest. `None`: it has other characters than digits, or
/// none.
fn seconds(value: &str) -> Option<Duration> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(value.parse().unwrap_or(u64::MAX)))
}

/// Whether a cache gives the response to a request only to requests that would get the same one.
///
/// The position has to be in the query, because a cache goes by the URL.
fn may_be_shared<B>(request: &Request<B>) -> bool {
    static CREDENTIALS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];
    let has = |name: &HeaderName| has(request.headers(), name);
    matches!(*request.method(), Method::GET | Method::HEAD) && !CREDENTIALS.iter().any(has) && !has(&LAST_EVENT_ID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HelloEvent, LongPoll, Registry, SseLayer};

    fn layer() -> SseLayer {
        SseLayer::new(&Registry::new())
    }

    fn asked(layer: &SseLayer, uri: &str) -> Asked {
        Asked::of(&Request::get(uri).body(()).unwrap(), layer.config())
    }

    #[test]
    fn nothing_is_asked_without_the_parameters() {
        for uri in
            ["/", "/?", "/?a=hello=1", "/?hello", "/?hello=", "/?hello=11", "/?hello=true", "/?Hello=1", "/hello=1"]
        {
            assert_eq!(asked(&layer(), uri), Asked::default(), "{uri}");
        }
        assert!(asked(&layer(), "/?topic=a&hello=1").hello);
        assert!(asked(&layer(), "/?hello=0&hello=1&wait=2").hello);
        assert!(!asked(&layer().hello_event(HelloEvent::off()), "/?hello=1").hello);
    }

    #[test]
    fn a_wait_is_whole_seconds_up_to_the_longest() {
        let wait = |uri: &str| asked(&layer(), uri).wait;
        for uri in ["/?wait", "/?wait=", "/?wait=-1", "/?wait=+1", "/?wait=1.5", "/?wait=1s", "/?wait=%31", "/?waits=1"]
        {
            assert_eq!(wait(uri), None, "{uri}");
        }
        for (uri, seconds) in [
            ("/?wait=0", 0),
            ("/?a=b&wait=25", 25),
            ("/?wait=x&wait=3&wait=4", 3),
            ("/?wait=0007", 7),
            ("/?wait=55", 55),
            ("/?wait=56", 55),
            ("/?wait=99999999999999999999999999", 55),
        ] {
            assert_eq!(wait(uri), Some(Duration::from_secs(seconds)), "{uri}");
        }
        let short = layer().long_poll(LongPoll::at_most(Duration::from_millis(300)));
        assert_eq!(asked(&short, "/?wait=9").wait, Some(Duration::from_millis(300)));
        assert_eq!(asked(&layer().long_poll(LongPoll::off()), "/?wait=9").wait, None);
    }

    #[test]
    fn a_poll_is_cached_only_by_choice_and_without_credentials() {
        let public = layer().cache_polls(Duration::from_millis(1500));
        let caching = |layer: &SseLayer, request: Request<()>| {
            Asked::of(&request, layer.config()).caching(&HeaderMap::new(), false)
        };
        let poll = || Request::get("/?wait=9&lastEventId=1-0");
        assert_eq!(caching(&public, poll().body(()).unwrap()), Caching::Public(2));
        assert_eq!(caching(&layer(), poll().body(()).unwrap()), Caching::Nowhere);
        for (name, value) in [
            ("cookie", "a=b"),
            ("authorization", "Bearer x"),
            ("proxy-authorization", "Basic x"),
            ("last-event-id", "1-0"),
        ] {
            assert_eq!(caching(&public, poll().header(name, value).body(()).unwrap()), Caching::Nowhere, "{name}");
        }
        assert_eq!(caching(&public, poll().method("POST").body(()).unwrap()), Caching::Nowhere);
        assert_eq!(caching(&public, Request::get("/?lastEventId=1-0").body(()).unwrap()), Caching::NoCache);
        let asked = asked(&public, "/?wait=9");
        assert_eq!(asked.caching(&HeaderMap::new(), true), Caching::Nowhere);
        let cookie = HeaderMap::from_iter([(SET_COOKIE, http::HeaderValue::from_static("a=b"))]);
        assert_eq!(asked.caching(&cookie, false), Caching::Nowhere);
        assert_eq!(asked.if_possible(|| false).caching(&HeaderMap::new(), true), Caching::NoStore);
    }
}
