//! Events: an invalid event is refused, and every valid one arrives unchanged in every way to read it.

use std::time::Duration;

use http::{Request, Response, header::CONTENT_TYPE};
use tower_sse::{Event, EventError, GapEvent, Heartbeat, Position, PositionEvent, Registry, SseLayer};

use super::{
    answer::answer,
    input::Input,
    polled::{assert_quotes, normalised, ready, wire},
    spec,
};

const TOPIC: &str = "topic";

/// An event, and what a client must decode.
struct Given {
    event: Event,
    data: Option<String>,
    event_type: Option<String>,
    id: Option<String>,
    retry: Option<u64>,
    comments: Vec<String>,
}

impl Given {
    fn new(input: &mut Input<'_>) -> Self {
        let (event, data) = match input.below(8) {
            0 => (Event::empty(), None),
            #[cfg(feature = "json")]
            1 => json(input),
            _ => {
                let text = input.text();
                (Event::data(&text), Some(normalised(&text)))
            }
        };
        let mut given = Self { event, data, event_type: None, id: None, retry: None, comments: Vec::new() };
        for _ in 0..input.below(6) {
            given.set(input);
        }
        given
    }

    fn set(&mut self, input: &mut Input<'_>) {
        let event = self.event.clone();
        match input.below(4) {
            0 => {
                let text = input.text();
                match event.try_event(&text) {
                    Ok(event) => {
                        assert!(!text.contains(['\n', '\r']), "{text:?}");
                        self.event = event;
                        self.event_type = Some(text).filter(|text| !text.is_empty());
                    }
                    Err(error) => {
                        assert!(text.contains(['\n', '\r']), "{text:?}");
                        assert_quotes(&error, &text);
                        assert!(matches!(error, EventError::EventType { value } if value == text));
                    }
                }
            }
            1 => {
                let text = if input.flag() { input.text() } else { "#".repeat(250 + input.below(12)) };
                let is_printable = text.chars().all(|it| it.is_ascii_graphic() || it == ' ');
                let is_id =
                    (1..=256).contains(&text.len()) && is_printable && !text.starts_with(' ') && !text.ends_with(' ');
                match event.id(&text) {
                    Ok(event) => {
                        assert!(is_id && self.data.is_some(), "{text:?}");
                        (self.event, self.id) = (event, Some(text));
                    }
                    Err(error) => {
                        assert_quotes(&error, &text);
                        match error {
                            EventError::Id { value } => assert!(!is_id && value == text, "{text:?}"),
                            EventError::IdWithoutData { value } => assert!(self.data.is_none() && value == text),
                            error => panic!("{error}"),
                        }
                    }
                }
            }
            2 => {
                let seconds = input.number();
                let delay = Duration::new(seconds, input.number() as u32 % 1_000_000_000);
                self.event = event.retry(delay);
                self.retry = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
            }
            _ => {
                let text = input.text();
                self.event = event.comment(&text);
                self.comments.extend(normalised(&text).split('\n').map(|line| format!(": {line}")));
            }
        }
    }

    fn message(&self) -> Option<spec::Message> {
        Some(spec::Message {
            event_type: self.event_type.clone().unwrap_or_else(|| "message".to_owned()),
            data: self.data.clone()?,
            own_id: self.id.clone(),
            last_event_id: String::new(),
        })
    }

    fn comment_lines(wire: &[u8]) -> Vec<String> {
        let wire = std::str::from_utf8(wire).unwrap();
        wire.split('\n').filter(|line| line.starts_with(':')).map(str::to_owned).collect()
    }
}

#[cfg(feature = "json")]
fn json(input: &mut Input<'_>) -> (Event, Option<String>) {
    use serde_json::value::RawValue;

    let text = input.text();
    let mut raw = || {
        let spaces: String = (0..input.below(4)).map(|_| [' ', '\n', '\r', '\t'][input.below(4)]).collect();
        let number = input.byte();
        // Written in pieces, so that a CR and its LF may be separated.
        RawValue::from_string(format!("[{spaces}{number}{spaces}]")).unwrap()
    };
    let value = (&text, [raw(), raw()], RawValue::from_string(text.clone()).ok());
    let written = serde_json::to_string(&value).unwrap();
    (Event::json(&value).unwrap(), Some(normalised(&written)))
}

/// Messages without the ids that are still set from earlier events.
fn messages(parsed: spec::Parsed) -> Vec<spec::Message> {
    let mut messages = parsed.messages;
    messages.iter_mut().for_each(|message| message.last_event_id.clear());
    messages
}

/// Checks the encoding of each event, and of all events in one stream.
fn check_encoding(all: &[Given]) {
    let mut whole = Vec::new();
    let mut last_event_id = String::new();
    for given in all {
        let wire = given.event.encode();
        assert_eq!(Given::comment_lines(&wire), given.comments, "{:?}", given.event);
        let parsed = spec::parse(&wire);
        assert_eq!(messages(parsed), Vec::from_iter(given.message()), "{:?}", given.event);
        whole.extend_from_slice(&wire);
        last_event_id = given.id.clone().unwrap_or(last_event_id);
    }
    let parsed = spec::parse(&whole);
    assert_eq!(parsed.last_event_id, last_event_id);
    assert_eq!(parsed.retries, all.iter().filter_map(|given| given.retry).collect::<Vec<_>>());
    assert_eq!(messages(parsed), all.iter().filter_map(Given::message).collect::<Vec<_>>());
}

/// Checks the events that a reader in this process gets.
fn check_reader(all: &[Given]) {
    let registry = Registry::new();
    let client = registry.connect();
    client.subscribe(TOPIC).unwrap();
    let mut events = client.into_events();
    let positions: Vec<Position> =
        all.iter().map(|given| registry.publish(TOPIC, &given.event).unwrap().position().unwrap()).collect();
    let deliveries = ready(&mut events);
    assert_eq!(deliveries.len(), all.len());
    for ((given, position), delivery) in all.iter().zip(positions).zip(deliveries) {
        let delivery = delivery.unwrap();
        let id = given.data.is_some().then(|| given.id.clone().unwrap_or_else(|| position.to_string()));
        assert_eq!((delivery.topic(), delivery.position()), (TOPIC, position));
        assert_eq!(delivery.data().as_deref(), given.data.as_deref(), "{delivery:?}");
        assert_eq!(delivery.event_type(), given.event_type.as_deref(), "{delivery:?}");
        assert_eq!(delivery.id(), id.as_deref(), "{delivery:?}");
        let parsed = spec::parse(delivery.encoded());
        assert_eq!(parsed.retries, Vec::from_iter(given.retry));
        let message = given.message().map(|message| spec::Message { own_id: id, ..message });
        assert_eq!(messages(parsed), Vec::from_iter(message), "{delivery:?}");
    }
}

/// Checks the events on a stream that begins with other text of any kind.
fn check_stream(all: &[Given], input: &mut Input<'_>) {
    let labelled = input.flag();
    let (comment, delay) = (input.text(), Duration::from_millis(input.number()));
    let registry = Registry::new();
    let layer = SseLayer::new(&registry)
        .heartbeat(Heartbeat::off())
        .topic_as_event_type(labelled)
        .opening_comment(comment)
        .reconnect_delay(delay);
    let layer = layer.position_event(PositionEvent::off());
    let (_client, response) = answer(&layer, Request::new(()), |client| {
        client.subscribe(TOPIC).unwrap();
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
        response.body(String::new()).unwrap()
    });
    let mut body = response.into_body();
    let mut expected = Vec::new();
    for given in all {
        let position = registry.publish(TOPIC, &given.event).unwrap().position().unwrap();
        expected.extend(given.message().map(|message| spec::Message {
            own_id: given.id.clone().or_else(|| Some(position.to_string())),
            event_type: match given.event_type {
                None if labelled => TOPIC.to_owned(),
                _ => message.event_type,
            },
            ..message
        }));
    }
    let (wire, has_ended) = wire(&mut body);
    let parsed = spec::parse(&wire);
    let (first, rest) = parsed.retries.split_first().unwrap();
    let (first, delay) = (u128::from(*first), delay.as_millis().min(u64::MAX.into()));
    assert!(first + 1 >= delay / 2 && first <= delay + delay / 2 + 1, "{first} of {delay}");
    assert_eq!(rest, all.iter().filter_map(|given| given.retry).collect::<Vec<_>>());
    assert_eq!(parsed.last_event_id, expected.last().and_then(|last| last.own_id.clone()).unwrap_or_default());
    assert_eq!(messages(parsed), expected, "{}", wire.escape_ascii());
    assert!(!has_ended);
}

/// Checks the events in one array.
#[cfg(feature = "json")]
fn check_array(all: &[Given]) {
    use serde_json::value::RawValue;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Element {
        topic: String,
        event: Option<String>,
        data: Box<RawValue>,
    }

    let registry = Registry::new();
    let batching = tower_sse::Batching::every(Duration::ZERO).as_array();
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off()).position_event(PositionEvent::off());
    let layer = layer.batching(batching);
    let (_client, response) = answer(&layer, Request::new(()), |client| {
        client.subscribe(TOPIC).unwrap();
        Response::builder().header(CONTENT_TYPE, "text/event-stream").body(String::new()).unwrap()
    });
    for given in all {
        registry.publish(TOPIC, &given.event).unwrap();
    }
    let (wire, _) = wire(&mut response.into_body());
    let parsed = spec::parse(&wire);
    assert_eq!(parsed.retries, all.iter().filter_map(|given| given.retry).collect::<Vec<_>>());
    let mut elements = Vec::new();
    for message in parsed.messages {
        assert_eq!(message.event_type, "batch");
        elements.extend(serde_json::from_str::<Vec<Element>>(&message.data).expect("an array of events"));
    }
    let with_data: Vec<&Given> = all.iter().filter(|given| given.data.is_some()).collect();
    assert_eq!(elements.len(), with_data.len());
    for (given, element) in with_data.into_iter().zip(elements) {
        assert_eq!((element.topic.as_str(), element.event), (TOPIC, given.event_type.clone()));
        let (data, got) = (given.data.as_deref().unwrap(), element.data.get());
        match serde_json::from_str::<serde::de::IgnoredAny>(data) {
            Ok(_) => assert_eq!(got, data.trim_matches([' ', '\n', '\r', '\t'])),
            Err(_) => assert_eq!(serde_json::from_str::<String>(got).unwrap(), data),
        }
    }
}

/// `data` encodes up to four events, and other text on their stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let all: Vec<Given> = (0..1 + input.below(4)).map(|_| Given::new(&mut input)).collect();
    check_encoding(&all);
    check_reader(&all);
    check_stream(&all, &mut input);
    #[cfg(feature = "json")]
    check_array(&all);
    let name = input.text();
    assert_eq!(GapEvent::try_named(&name).is_err(), name.contains(['\n', '\r']));
}
