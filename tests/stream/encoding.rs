//! Independent client libraries decode an [`Event`] to what it was made of.

use std::{convert::Infallible, time::Duration};

use proptest::{prelude::*, sample::Index};
use tokio_stream::StreamExt;
use tower_sse::{Event, EventError};

use crate::spec;

/// An event's parts, before they are encoded or as a client decoded them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parts {
    event_type: Option<String>,
    data: Option<String>,
    id: Option<String>,
    retry: Option<u64>,
}

impl Parts {
    fn event(&self, comment: Option<&str>) -> Event {
        let mut event = self.data.as_ref().map_or_else(Event::empty, Event::data);
        if let Some(event_type) = &self.event_type {
            event = event.try_event(event_type).unwrap();
        }
        if let Some(id) = &self.id {
            event = event.id(id).unwrap();
        }
        if let Some(retry) = self.retry {
            event = event.retry(Duration::from_millis(retry));
        }
        comment.map_or_else(|| event.clone(), |comment| event.clone().comment(comment))
    }

    /// The parts as they must arrive: line ends are LF, and an empty event type is no event type.
    fn normalised(&self) -> Self {
        Self {
            event_type: self.event_type.clone().filter(|event_type| !event_type.is_empty()),
            data: self.data.as_ref().map(|data| data.replace("\r\n", "\n").replace('\r', "\n")),
            ..self.clone()
        }
    }
}

/// The events that a client must dispatch, with the last event id of each, and all reconnection times.
fn expected(events: &[Parts]) -> spec::Parsed {
    let mut parsed = spec::Parsed::default();
    for event in events.iter().map(Parts::normalised) {
        parsed.retries.extend(event.retry);
        if let Some(id) = &event.id {
            parsed.last_event_id.clone_from(id);
        }
        if let Some(data) = event.data {
            parsed.messages.push(spec::Message {
                event_type: event.event_type.unwrap_or_else(|| "message".to_owned()),
                data,
                own_id: event.id,
                last_event_id: parsed.last_event_id.clone(),
            });
        }
    }
    parsed
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio_test::block_on(future)
}

fn chunks(wire: &[u8], cuts: &[usize]) -> Vec<Result<Vec<u8>, Infallible>> {
    let mut edges = vec![0, wire.len()];
    edges.extend(cuts);
    edges.sort_unstable();
    edges.windows(2).map(|edge| Ok(wire[edge[0]..edge[1]].to_vec())).collect()
}

/// Event type, data, id and retry of each event, decoded by eventsource-stream.
///
/// It forgets the reconnection time of a block without data, as its `dispatch` drops the builder that holds it. So only
/// the retry of events counts here.
fn by_eventsource_stream(wire: &[u8], cuts: &[usize]) -> Vec<(String, String, String, Option<u64>)> {
    let events = eventsource_stream::EventStream::new(tokio_stream::iter(chunks(wire, cuts)));
    run(events.collect::<Vec<_>>())
        .into_iter()
        .map(|event| {
            let event = event.unwrap();
            let retry = event.retry.map(|delay| u64::try_from(delay.as_millis()).unwrap());
            (event.event, event.data, event.id, retry)
        })
        .collect()
}

fn expected_of_eventsource_stream(events: &[Parts]) -> Vec<(String, String, String, Option<u64>)> {
    let with_data = events.iter().filter(|event| event.data.is_some());
    let messages = expected(events).messages;
    messages.into_iter().zip(with_data).map(|(it, of)| (it.event_type, it.data, it.last_event_id, of.retry)).collect()
}

/// Every block that has a field, decoded by sse-stream. It distinguishes no data from empty data, and a block's own
/// field from one that is still set from before.
fn by_sse_stream(wire: &[u8], cuts: &[usize]) -> Vec<Parts> {
    let wire = chunks(wire, cuts).into_iter().map(|chunk| chunk.map(bytes::Bytes::from));
    let blocks = sse_stream::SseByteStream::new(tokio_stream::iter(wire));
    run(blocks.collect::<Vec<_>>())
        .into_iter()
        .map(|block| {
            let sse_stream::Sse { event, data, id, retry } = block.unwrap();
            Parts { event_type: event, data, id, retry }
        })
        .collect()
}

fn assert_all_clients_get(wire: &[u8], cuts: &[usize], events: &[Parts]) {
    assert_eq!(spec::parse(wire), expected(events), "by the standard");
    let got = by_eventsource_stream(wire, cuts);
    assert_eq!(got, expected_of_eventsource_stream(events), "by eventsource-stream");
    let blocks: Vec<Parts> = events.iter().map(Parts::normalised).filter(|block| *block != Parts::default()).collect();
    assert_eq!(by_sse_stream(wire, cuts), blocks, "by sse-stream");
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(vec![
            "\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r", ":", " ", "", "\0", "\u{feff}", "\u{2028}", "\u{85}", "\u{b}",
            "data", "data: x", "event: x", "id: 666", "retry: 5", "é", "👍", "\t",
        ])
        .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => Just("y".repeat(100)),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn event_type() -> impl Strategy<Value = String> {
    text().prop_map(|text| text.replace(['\r', '\n'], ""))
}

fn id() -> impl Strategy<Value = String> {
    let printable = prop::collection::vec(b' '..=b'~', 1..Event::MAX_ID + 1);
    printable.prop_map(|bytes| String::from_utf8(bytes).unwrap()).prop_filter("ends of an id", |id| id.trim() == id)
}

fn parts() -> impl Strategy<Value = Parts> {
    (prop::option::of(event_type()), prop::option::weighted(0.8, text()), prop::option::of(id()), any::<Option<u64>>())
        .prop_map(|(event_type, data, id, retry)| {
            let id = id.filter(|_| data.is_some());
            Parts { event_type, data, id, retry }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_client_decodes_events_to_what_they_were_made_of(
        events in prop::collection::vec((parts(), prop::option::of(text()), prop::option::of(text())), 0..8),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        byte_by_byte in prop::bool::weighted(0.1),
    ) {
        let mut wire = Vec::new();
        for (parts, comment, comment_between) in &events {
            wire.extend_from_slice(&parts.event(comment.as_deref()).encode());
            if let Some(comment) = comment_between {
                wire.extend_from_slice(&Event::empty().comment(comment).encode());
            }
        }
        let events: Vec<Parts> = events.into_iter().map(|(parts, _, _)| parts).collect();
        let cuts = match byte_by_byte {
            true => (0..wire.len()).collect(),
            false => cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect::<Vec<_>>(),
        };
        assert_all_clients_get(&wire, &cuts, &events);
    }

    #[test]
    fn any_text_becomes_one_event_or_an_error_and_never_two_events(
        given_type in text(), given_id in text(), data in text(), comment in text(),
    ) {
        let mut parts = Parts { data: Some(data), ..Parts::default() };
        let mut event = Event::data(parts.data.as_ref().unwrap()).comment(comment);
        match event.clone().try_event(&given_type) {
            Ok(with_type) => (event, parts.event_type) = (with_type, Some(given_type)),
            Err(EventError::EventType { value }) => prop_assert_eq!(value, given_type),
            Err(error) => panic!("{error}"),
        }
        match event.clone().id(&given_id) {
            Ok(with_id) => (event, parts.id) = (with_id, Some(given_id)),
            Err(EventError::Id { value }) => prop_assert_eq!(value, given_id),
            Err(error) => panic!("{error}"),
        }
        assert_all_clients_get(&event.encode(), &[], &[parts]);
    }
}

/// Values that released versions of other encoders encode wrongly, and what this crate makes of each.
mod vectors {
    use super::*;

    fn data(data: &str) -> Parts {
        Parts { data: Some(data.to_owned()), ..Parts::default() }
    }

    #[track_caller]
    fn assert_goes_out(given: &Parts, wire: &str, arrives: &str) {
        let encoded = given.event(None).encode();
        assert_eq!(encoded, wire);
        assert_eq!(spec::parse(&encoded).messages[0].data, arrives);
        assert_all_clients_get(&encoded, &[], std::slice::from_ref(given));
    }

    #[track_caller]
    fn assert_no_event_type(value: &str) {
        let error = Event::data("x").try_event(value).unwrap_err();
        assert!(matches!(&error, EventError::EventType { value: named } if named == value), "{error:?}");
    }

    #[track_caller]
    fn assert_no_id(value: &str) {
        let error = Event::data("x").id(value).unwrap_err();
        assert!(matches!(&error, EventError::Id { value: named } if named == value), "{error:?}");
    }

    #[test]
    fn v01_data_with_crlf() {
        assert_goes_out(&data("a\r\nb"), "data: a\ndata: b\n\n", "a\nb");
    }

    #[test]
    fn v02_data_with_cr() {
        assert_goes_out(&data("a\rb"), "data: a\ndata: b\n\n", "a\nb");
    }

    #[test]
    fn v03_empty_data_with_an_event_type() {
        let given = Parts { event_type: Some("ping".to_owned()), ..data("") };
        assert_goes_out(&given, "event: ping\ndata: \n\n", "");
    }

    #[test]
    fn v04_data_with_a_leading_space() {
        assert_goes_out(&data(" lead"), "data:  lead\n\n", " lead");
    }

    #[test]
    fn v05_data_that_ends_with_lf() {
        assert_goes_out(&data("a\n"), "data: a\ndata: \n\n", "a\n");
    }

    #[test]
    fn v06_data_that_is_one_lf() {
        assert_goes_out(&data("\n"), "data: \ndata: \n\n", "\n");
    }

    #[test]
    fn v07_data_that_forges_an_id_after_a_cr() {
        assert_goes_out(&data("x\rid: 666"), "data: x\ndata: id: 666\n\n", "x\nid: 666");
    }

    #[test]
    fn v08_event_type_with_lf() {
        assert_no_event_type("a\ndata: forged");
    }

    #[test]
    fn v09_event_type_with_cr() {
        assert_no_event_type("a\rdata: forged");
    }

    #[test]
    fn v10_id_with_lf() {
        assert_no_id("1\ndata: forged");
    }

    #[test]
    fn v11_id_with_cr() {
        assert_no_id("1\rdata: forged");
    }

    #[test]
    fn v12_id_with_nul() {
        assert_no_id("1\u{0}2");
    }

    #[test]
    fn v13_comment_with_a_blank_line_in_it() {
        let wire = Event::empty().comment("a\n\ndata: forged").encode();
        assert_eq!(wire, ": a\n: \n: data: forged\n\n");
        assert_all_clients_get(&wire, &[], &[]);
    }
}

/// The standard's own words and examples, to check the reference parser itself.
mod reference {
    use super::spec::parse;

    fn data_of(stream: &str) -> Vec<String> {
        parse(stream.as_bytes()).messages.into_iter().map(|message| message.data).collect()
    }

    #[test]
    fn parses_the_standards_examples() {
        assert_eq!(data_of("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let ids: Vec<_> = parse(stream.as_bytes()).messages.into_iter().map(|it| it.last_event_id).collect();
        assert_eq!(
            (data_of(stream), ids),
            (
                ["first event", "second event", " third event"].map(str::to_owned).into(),
                ["1", "", ""].map(str::to_owned).into(),
            )
        );
        assert_eq!(data_of("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(data_of("data:test\n\ndata: test\n\n"), ["test", "test"]);
    }

    #[test]
    fn treats_each_line_end_as_one() {
        assert_eq!(data_of("data: a\r\ndata: b\rdata: c\ndata: d\r\n\r\ndata: e\r\r"), ["a\nb\nc\nd", "e"]);
    }

    #[test]
    fn ignores_one_leading_byte_order_mark() {
        assert_eq!(data_of("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
        assert!(data_of("\u{feff}\u{feff}data: a\n\n").is_empty());
    }

    #[test]
    fn ignores_invalid_ids_and_reconnection_times() {
        let parsed = parse(b"id: 7\n\nid: 8\0\nretry: 5\nretry: +6\nretry:\nretry: 7 \ndata: a\n\nid: 9\n");
        assert_eq!(parsed.retries, [5]);
        assert_eq!(parsed.messages[0].own_id, None);
        assert_eq!(parsed.messages[0].last_event_id, "7");
        assert_eq!(parsed.last_event_id, "7", "an unfinished block does not count");
    }
}
