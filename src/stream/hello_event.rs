//! The events for a client that asks where it stands: the first one of its stream, and the one when it has caught up.

use std::time::Duration;

use bytes::Bytes;

use crate::event::{OwnEvent, push_json_field, push_json_strings};

/// The first event of a stream, for a client that asks for it with `?hello=1`.
///
/// A client that does not ask gets nothing of this.
///
/// Default: a client that asks gets the event `hello` at once, before all other events. Its data is JSON, and its id is the
/// one of a [`PositionEvent`](crate::PositionEvent), which is then not sent:
///
/// ```text
/// event: hello
/// data: {"v":1,"client":"5f0c..","heartbeat":15000,"resumed":"fresh","behind":false,"topics":["prices/AAPL"]}
/// id: 1763612399000-4-7k3m9p2xr
/// ```
///
/// | field | what it is |
/// |---|---|
/// | `v` | the version of this format, 1. Later versions only add fields |
/// | `client` | the [id](crate::ClientId) of the client, which is a capability: it is sent to its own stream only. Absent in the response to a [long poll](crate::LongPoll), because the client ends with that response |
/// | `heartbeat` | the interval of the [heartbeats](crate::Heartbeat), in milliseconds, at most 2147483647. 0: there are no heartbeats |
/// | `resumed` | how the [resume](crate::Resume) went: `fresh`, `continued` or `gap`. Absent if the client brought an id and has no subscription yet |
/// | `behind` | whether events wait that were published before the stream began |
/// | `topics` | the client's subscriptions, as [`ClientHandle::subscriptions`](crate::ClientHandle::subscriptions) returns them |
/// | `control` | where the client can change its topics: see [`control`](Self::control). Absent by default, and in the response to a long poll |
///
/// The event has no id if the stream begins with a [gap](crate::GapEvent) or with a
/// [snapshot](crate::EventStream::snapshot), which bring the id, or if the client has no subscription.
///
/// When the client has been sent everything that was there when its stream began, it gets the event `live`, once, with empty
/// data. If nothing was there, `live` follows right after `hello`. Its id is the client's position, if no event before it
/// says so. `live` says nothing of the handler's own body. In the response to a long poll there is no `live`: the
/// end of the response says the same.
///
/// If the stream has [arrays](crate::SseLayer::batching), each of their entries has its own id.
///
/// A handler's own body without a subscription gets neither event: it is not the registry's to resume, and whoever made it
/// may say hello in it, as an upstream behind a proxy does. So does a body with a `content-encoding`, into which nothing
/// can be inserted.
///
/// Cost: nothing for a client that does not ask.
///
/// ```
/// use tower_sse::{HelloEvent, Registry, SseLayer};
///
/// let registry = Registry::new();
/// let layer = SseLayer::new(&registry).hello_event(HelloEvent::default().control("/sse/topics"));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloEvent {
    is_on: bool,
    control: Option<String>,
}

/// What a hello event says.
#[derive(Debug)]
pub(crate) struct Hello<'a> {
    pub(crate) client: Option<String>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) resumed: Option<&'static str>,
    pub(crate) is_behind: bool,
    pub(crate) topics: &'a [String],
}

impl HelloEvent {
    /// Sends neither event, also to a client that asks.
    #[must_use]
    pub fn off() -> Self {
        Self { is_on: false, control: None }
    }

    /// Tells the client where it can change the topics of its open stream. Default: nowhere.
    ///
    /// It is the path or the URL of your route with a [`TopicsService`].
    ///
    #[cfg_attr(feature = "json", doc = "[`TopicsService`]: crate::TopicsService")]
    #[cfg_attr(
        not(feature = "json"),
        doc = "[`TopicsService`]: https://docs.rs/tower-sse/latest/tower_sse/struct.TopicsService.html"
    )]
    #[must_use]
    pub fn control(self, path: impl Into<String>) -> Self {
        Self { control: Some(path.into()), ..self }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(crate) fn encode(&self, hello: &Hello<'_>, id: Option<&str>) -> Bytes {
        OwnEvent::of("hello").encode(self.json(hello), id).unwrap_or_default()
    }

    /// Encodes the event that tells a client that it has caught up.
    pub(crate) fn encode_live(id: Option<&str>) -> Bytes {
        OwnEvent::of("live").encode("", id).unwrap_or_default()
    }

    fn json(&self, hello: &Hello<'_>) -> String {
        let heartbeat = hello.heartbeat.map_or(0, |interval| interval.as_millis().clamp(1, LONGEST));
        let control = self.control.as_deref().filter(|_| hello.client.is_some());
        let mut json = String::from("{\"v\":1");
        push_json_field(&mut json, "client", hello.client.as_deref());
        json.push_str(&format!(",\"heartbeat\":{heartbeat}"));
        push_json_field(&mut json, "resumed", hello.resumed);
        json.push_str(&format!(",\"behind\":{},\"topics\":", hello.is_behind));
        push_json_strings(&mut json, hello.topics);
        push_json_field(&mut json, "control", control);
        json.push('}');
        json
    }
}

/// The longest time that a timer of JavaScript can wait, in milliseconds.
const LONGEST: u128 = i32::MAX as u128;

impl Default for HelloEvent {
    fn default() -> Self {
        Self { is_on: true, control: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello<'a>(topics: &'a [String]) -> Hello<'a> {
        let client = Some("0f".repeat(16));
        Hello { client, heartbeat: Some(Duration::from_secs(15)), resumed: Some("fresh"), is_behind: false, topics }
    }

    #[test]
    fn it_has_all_fields_and_the_id() {
        let topics = ["a".to_owned(), "b/*".to_owned()];
        let wire = HelloEvent::default().control("/sse/topics").encode(&hello(&topics), Some("1-0-000000007"));
        let expected = "event: hello\ndata: {\"v\":1,\"client\":\"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\",\"heartbeat\":15000,\
            \"resumed\":\"fresh\",\"behind\":false,\"topics\":[\"a\",\"b/*\"],\"control\":\"/sse/topics\"}\n\
            id: 1-0-000000007\n\n";
        assert_eq!(wire, expected);
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let hello = Hello { client: None, heartbeat: None, resumed: None, is_behind: true, topics: &[] };
        let wire = HelloEvent::default().control("/sse/topics").encode(&hello, None);
        assert_eq!(wire, "event: hello\ndata: {\"v\":1,\"heartbeat\":0,\"behind\":true,\"topics\":[]}\n\n");
    }

    #[test]
    fn an_interval_is_at_least_a_millisecond_and_fits_a_timer_of_javascript() {
        for (interval, expected) in
            [(Duration::from_nanos(1), "1"), (Duration::from_millis(1500), "1500"), (Duration::MAX, "2147483647")]
        {
            let hello = Hello { heartbeat: Some(interval), ..hello(&[]) };
            let json = HelloEvent::default().json(&hello);
            assert!(json.contains(&format!("\"heartbeat\":{expected},")), "{json}");
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn any_text_becomes_valid_json_in_one_line() {
        let any: String = (0..0x250).filter_map(char::from_u32).chain(['\u{2028}', '\u{1F600}']).collect();
        let topics = [any.clone(), String::new()];
        let json = HelloEvent::default().control(any.clone()).json(&hello(&topics));
        assert!(!json.contains(['\n', '\r']));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["topics"], &value["control"]), (&serde_json::json!(topics), &serde_json::json!(any)));
    }
}
