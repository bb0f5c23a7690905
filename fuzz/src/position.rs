//! Positions and client ids: a parsed value is printed as the same text, and no other text is parsed.

use std::fmt::Display;

use tower_sse::{ClientId, Position};

use super::{input::Input, polled::assert_quotes};

/// A decimal number without a sign and without leading zeros.
fn number(digits: &[u8]) -> Option<u64> {
    let is_canonical = digits == b"0" || digits.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    let add = |number: u64, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    digits.iter().try_fold(0, add).filter(|_| is_canonical)
}

fn naive(text: &str) -> Option<(u64, u32, &str)> {
    let [ms, seq, era] = text.split('-').collect::<Vec<_>>()[..] else { return None };
    let is_era = era.len() == 9 && era.bytes().all(|byte| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&byte));
    let ms = number(ms.as_bytes()).filter(|ms| *ms < 1 << 48)?;
    Some((ms, number(seq.as_bytes())?.try_into().ok()?, Some(era).filter(|_| is_era)?))
}

fn assert_written_as<T: Display>(value: &T, text: &str) {
    assert_eq!(value.to_string(), text);
}

fn read(text: &str) -> Option<Position> {
    let position = text.parse::<Position>();
    match (&position, naive(text)) {
        (Ok(position), Some((ms, seq, _))) => {
            assert_eq!((position.ms(), position.seq()), (ms, seq));
            assert_written_as(position, text);
        }
        (Err(error), None) => assert_quotes(error, text),
        (position, expected) => panic!("{text:?} is {position:?}, but should be {expected:?}"),
    }
    position.ok()
}

fn id(text: &str) {
    let is_id = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.parse::<ClientId>() {
        Ok(id) => {
            assert!(is_id, "{text:?}");
            assert_written_as(&id, text);
        }
        Err(error) => {
            assert!(!is_id, "{text:?}");
            assert_quotes(&error, text);
        }
    }
}

fn assert_order(left: Position, right: Position) {
    let numbers = [left, right].map(|position| (position.ms(), position.seq()));
    let is_same = left.to_string() == right.to_string();
    if numbers[0] != numbers[1] || is_same {
        assert_eq!(left.cmp(&right), numbers[0].cmp(&numbers[1]), "{left} and {right}");
    }
    assert_eq!(left == right, is_same, "{left} and {right}");
}

/// `data` encodes a choice, then either a text or two positions made of numbers.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        let text = String::from_utf8_lossy(input.bytes(usize::MAX));
        id(&text);
        let digits = text.bytes().map(|byte| char::from(b"0123456789abcdefABCDEF+g"[usize::from(byte) % 24]));
        id(&digits.take(33).collect::<String>());
        let positions: Vec<Position> = text.split([',', '\n']).filter_map(read).collect();
        for pair in positions.windows(2) {
            assert_order(pair[0], pair[1]);
        }
    } else {
        let mut number = || input.number();
        let (left, right) = ((number(), number()), (number(), number()));
        let texts = [left, right].map(|(ms, seq)| format!("{}-{}-0f9zk3v7m", ms >> 16, seq >> 32));
        let positions = texts.map(|text| read(&text).unwrap());
        assert_order(positions[0], positions[1]);
        for position in positions {
            // A text that is almost a position.
            let text = position.to_string();
            let at = input.below(text.len() + 1);
            let piece = input.text();
            read(&format!("{}{piece}{}", &text[..at], &text[at..]));
            read(&text[at..]);
        }
    }
}
