//! The gateway's reader of events, with any bytes and after any break.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use crate::{
    delivered::Unclear,
    events::Events,
    spec::{self, Message},
};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes that are often a part of what the reader looks for.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "\n",
        "\n",
        "\n\n",
        "\r",
        "\r",
        "\r\n",
        "\r\n\r\n",
        ":",
        ": ",
        " ",
        "\u{feff}",
        "data",
        "data: a",
        "id",
        "id: 1",
        "id:",
        "id: \0",
        "event: b",
        "retry: 12",
        "retry: x",
        "retry",
        "x",
    ];
    let pieces = pieces.map(|piece| piece.as_bytes().to_vec()).to_vec();
    vec(prop_oneof![8 => select(pieces), 1 => vec(any::<u8>(), 1..4)], 0..40).prop_map(|pieces| pieces.concat())
}

/// Cuts the bytes into parts of these lengths, again and again.
fn parts<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let (part, rest) = bytes.split_at_checked(*lengths.next()?).unwrap_or((bytes, &[]));
        bytes = rest;
        Some(part).filter(|part| !part.is_empty())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_bytes_in_any_parts_pass_unchanged_in_whole_events(bytes in stream(), lengths in vec(1_usize..9, 1..9)) {
        let mut events = Events::default();
        let mut passed = Vec::new();
        for part in parts(&bytes, &lengths) {
            passed.extend(events.push(part).unwrap());
            // The next event is one of its own.
            let next = spec::parse(&[BYTE_ORDER_MARK, &passed[..], b"data: next\n\n"].concat()).messages;
            prop_assert_eq!(next.len() as u64, events.number() + 1);
            prop_assert_eq!(&next.last().unwrap().data, "next");
        }
        let parsed = spec::parse(&bytes);
        prop_assert_eq!(events.number(), parsed.messages.len() as u64);
        let last_id = String::from_utf8_lossy(events.last_id().unwrap_or_default());
        prop_assert_eq!(last_id, parsed.last_event_id);
        prop_assert_eq!(events.retry(), parsed.retries.last().copied());
        prop_assert!(!events.has_sent_a_part() && !events.is_unclear());
        let is_within = events.is_within_event();
        let rest = events.take_rest();
        let has_begun = |line: &[u8]| !line.is_empty() && line[0] != b':';
        let unfinished = rest.split(|byte| matches!(byte, b'\r' | b'\n')).any(has_begun);
        prop_assert_eq!(is_within, unfinished, "{:?}", rest);
        passed.extend(rest);
        prop_assert_eq!(passed, bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes));
    }

    #[test]
    fn no_event_comes_twice_or_is_lost_wherever_an_upstream_goes_on(
        mut ids in prop_oneof![vec(Just(Some(POSITION)), 1..12), vec(id(), 1..12)],
        line_end in select(vec!["\n", "\r", "\r\n"]),
        breaks in vec((any::<Index>(), any::<Index>()), 1..4),
        lengths in vec(1_usize..9, 1..9),
    ) {
        let has_positions = ids.iter().all(|id| *id == Some(POSITION));
        let blocks: Vec<_> = ids.drain(..).enumerate().map(|(nth, id)| block(nth, id, line_end)).collect();
        let all = spec::parse(blocks.concat().as_bytes()).messages;
        let mut events = Events::default();
        let mut received = Vec::new();
        let mut response = blocks.concat();
        for (breaks_at, goes_on_from) in breaks {
            let read_until = breaks_at.index(response.len() + 1);
            let is_clear = read(&mut events, &response.as_bytes()[..read_until], &lengths, &mut received).is_ok();
            prop_assert!(is_clear || !has_positions);
            if !is_clear || events.last_id().is_none() {
                return is_begin_of(&received, &all);
            }
            // Each block is an event.
            let number = events.number() as usize;
            events.begin_again();
            response = blocks[goes_on_from.index(number + 1)..].concat();
        }
        if read(&mut events, response.as_bytes(), &lengths, &mut received).is_err() || events.is_unclear() {
            prop_assert!(!has_positions);
            return is_begin_of(&received, &all);
        }
        prop_assert_eq!(spec::parse(&received).messages, all);
    }
}

#[test]
fn a_long_stream_that_begins_again_goes_on_after_its_last_event() {
    let blocks: Vec<_> = (0..5_000).map(|nth| block(nth, Some(POSITION), "\n")).collect();
    let mut events = Events::default();
    let mut received = Vec::new();
    read(&mut events, blocks[..4_000].concat().as_bytes(), &[4_096], &mut received).unwrap();
    events.begin_again();
    read(&mut events, blocks.concat().as_bytes(), &[4_096], &mut received).unwrap();
    assert_eq!(received, blocks.concat().as_bytes());
}

fn read(events: &mut Events, bytes: &[u8], lengths: &[usize], received: &mut Vec<u8>) -> Result<(), Unclear> {
    for part in parts(bytes, lengths) {
        received.extend(events.push(part)?);
    }
    Ok(())
}

fn is_begin_of(received: &[u8], all: &[Message]) -> Result<(), TestCaseError> {
    let messages = spec::parse(received).messages;
    prop_assert!(all.starts_with(&messages), "{:?} of {:?}", messages, all);
    Ok(())
}

/// Stands for an id that no other event has.
const POSITION: &str = "position";

/// An id, an id that others have, the end of ids, or no id.
fn id() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![6 => Just(Some(POSITION)), 2 => Just(None), 2 => select(vec![Some("x"), Some("y"), Some("")])]
}

/// An event with data that no other has.
fn block(nth: usize, id: Option<&str>, line_end: &str) -> String {
    let id = match id {
        Some(POSITION) => format!("id: {nth}{line_end}"),
        Some(id) => format!("id: {id}{line_end}"),
        None => String::new(),
    };
    format!("{id}data: {nth}{line_end}{line_end}")
}
