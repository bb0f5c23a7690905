//! Topic names and patterns: which ones are valid, and which match.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write},
};

use crate::{collections::shrunk_capacity, event::Quoted};

/// Names that start with this character are the registry's own: `$client/ID` is the topic of one client, `$record/..` a recording.
const RESERVED: char = '$';

/// The names of the topics that only one client reads begin so.
const OF_ONE_CLIENT: &str = "$client/";

/// The names of recordings that the program does not name begin so.
pub(crate) const RECORDING: &str = "$record/";

/// The maximum length of a topic name or a pattern, in bytes: 256.
pub const MAX_TOPIC: usize = 256;

/// Checks the name of a topic.
///
/// A valid name has 1 to [`MAX_TOPIC`] bytes and `/`-separated segments that are not empty. It has no control
/// character, no `*` (which is for patterns), and no `$` at the start (which is for the registry).
pub(crate) fn check(name: &str) -> Result<(), TopicError> {
    // The fast path, because each publish calls this.
    if is_plain(name) {
        return Ok(());
    }
    match name.contains('*') {
        true => Err(Problem::Wildcard.with(name)),
        false => check_pattern(name),
    }
}

/// Checks the name of a topic or a pattern. In a pattern, a segment may be `*`, and the last one may be `**`.
pub(crate) fn check_pattern(name: &str) -> Result<(), TopicError> {
    let misplaced = |segment: &str| segment.contains('*') && segment != "*";
    let segments = name.strip_suffix("/**").or((name != "**").then_some(name)).unwrap_or_default();
    let problem = if name.is_empty() {
        Problem::Empty
    } else if name.len() > MAX_TOPIC {
        Problem::TooLong
    } else if name.starts_with(RESERVED) {
        Problem::Reserved
    } else if name.contains(char::is_control) {
        Problem::Control
    } else if name.split('/').any(str::is_empty) {
        Problem::EmptySegment
    } else if segments.split('/').any(misplaced) {
        Problem::MisplacedWildcard
    } else {
        return Ok(());
    };
    Err(problem.with(name))
}

/// Encodes any text as one segment of a topic name.
///
/// The text may be a path parameter, a user's name, or an id.
///
/// Use it for text that a client chooses. Without it, the name may be another topic than you expect: in
/// `prices/{symbol}`, the text `a/b` (sent as `a%2Fb`) names a topic one level deeper. A `*` makes the name a pattern
/// where patterns are allowed. The result is always one segment that is not empty, has no wildcard, and is valid at the
/// start of a name.
///
/// `/`, `%`, `*`, control characters and a `$` at the start are percent-encoded. An empty text becomes `%`. All other
/// characters stay, so most texts need no allocation. Two different texts never give the same segment.
///
/// The segment is at most three times as long as the text. A text that is too long is not cut: a name of more than
/// [`MAX_TOPIC`] bytes is refused with a [`TopicError`].
///
/// ```
/// use tower_sse::segment;
///
/// assert_eq!(format!("prices/{}", segment("AAPL")), "prices/AAPL");
/// assert_eq!(format!("prices/{}", segment("a/b")), "prices/a%2Fb");
/// assert_eq!([segment("**"), segment("$client"), segment("100%"), segment("")], ["%2A%2A", "%24client", "100%25", "%"]);
/// ```
#[must_use]
pub fn segment<T: AsRef<str> + ?Sized>(text: &T) -> Cow<'_, str> {
    let text = text.as_ref();
    let stays =
        |(at, it): (usize, char)| !(matches!(it, '/' | '%' | '*') || it.is_control() || (at, it) == (0, RESERVED));
    if text.is_empty() {
        return Cow::Borrowed("%");
    }
    if text.char_indices().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut segment = String::with_capacity(text.len() + 8);
    for (at, character) in text.char_indices() {
        if stays((at, character)) {
            segment.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a `String` cannot fail.
                let _ = write!(segment, "%{byte:02X}");
            }
        }
    }
    Cow::Owned(segment)
}

/// Whether a name is valid and printable ASCII, as most names are. It looks at each byte once.
fn is_plain(name: &str) -> bool {
    let mut before = b'/';
    for byte in name.bytes() {
        if !matches!(byte, b' '..=b'~') || byte == b'*' || (before, byte) == (b'/', b'/') {
            return false;
        }
        before = byte;
    }
    before != b'/' && name.len() <= MAX_TOPIC && is_public(name)
}

/// Whether a valid name is a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains('*')
}

/// Whether a name is not one of the registry's own.
pub(crate) fn is_public(name: &str) -> bool {
    !name.starts_with(RESERVED)
}

/// Whether a name is that of a topic that only one client reads.
pub(crate) fn is_of_one_client(name: &str) -> bool {
    name.starts_with(OF_ONE_CLIENT)
}

/// Whether a name is that of a recording that the program does not name.
pub(crate) fn is_recording(name: &str) -> bool {
    name.starts_with(RECORDING)
}

/// Whether a pattern or a plain name matches a topic's name. `*` matches one segment, `**` one or more at the end.
pub(crate) fn matches(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.split('/'), topic.split('/'));
    loop {
        match (pattern.next(), topic.next()) {
            (Some("**"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(expected), Some(segment)) if expected == segment => {}
            _ => return false,
        }
    }
}

/// Whether a pattern matches every topic that another pattern or name matches.
pub(crate) fn covers(pattern: &str, other: &str) -> bool {
    let has_rest = |name: &str| name == "**" || name.ends_with("/**");
    matches(pattern, other) && (has_rest(pattern) || !has_rest(other))
}

/// A map from patterns to values. It finds the patterns that match a name without looking at the others.
#[derive(Debug)]
pub(crate) struct Patterns<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    value: Option<T>,
    next: HashMap<Box<str>, Node<T>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { value: None, next: HashMap::new() }
    }
}

impl<T> Patterns<T> {
    pub(crate) fn new() -> Self {
        Self { root: Node::default() }
    }

    pub(crate) fn get(&self, pattern: &str) -> Option<&T> {
        pattern.split('/').try_fold(&self.root, |node, segment| node.next.get(segment))?.value.as_ref()
    }

    pub(crate) fn insert(&mut self, pattern: &str, value: T) {
        let node = pattern.split('/').fold(&mut self.root, |node, segment| {
            // Looked up first, because most segments exist already.
            if !node.next.contains_key(segment) {
                node.next.insert(segment.into(), Node::default());
            }
            node.next.entry(segment.into()).or_default()
        });
        node.value = Some(value);
    }

    pub(crate) fn remove(&mut self, pattern: &str) -> Option<T> {
        fn remove<T>(node: &mut Node<T>, mut segments: std::str::Split<'_, char>) -> Option<T> {
            let Some(segment) = segments.next() else { return node.value.take() };
            let next = node.next.get_mut(segment)?;
            let value = remove(next, segments);
            if next.value.is_none() && next.next.is_empty() {
                node.next.remove(segment);
                if let Some(enough) = shrunk_capacity(node.next.len(), node.next.capacity()) {
                    node.next.shrink_to(enough);
                }
            }
            value
        }
        remove(&mut self.root, pattern.split('/'))
    }

    /// Returns the values of the patterns that match a topic's name.
    pub(crate) fn matching(&self, topic: &str) -> Vec<&T> {
        let mut found = Vec::new();
        let mut nodes = vec![&self.root];
        for segment in topic.split('/') {
            let rest = nodes.iter().filter_map(|node| node.next.get("**")?.value.as_ref());
            found.extend(rest);
            nodes = nodes.iter().flat_map(|node| [node.next.get(segment), node.next.get("*")]).flatten().collect();
        }
        found.extend(nodes.iter().filter_map(|node| node.value.as_ref()));
        found
    }
}

/// The error for an invalid name of a topic or a pattern.
///
/// The message quotes the name and says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicError {
    name: String,
    problem: Problem,
}

impl TopicError {
    /// Returns the invalid name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Empty,
    TooLong,
    Reserved,
    Wildcard,
    MisplacedWildcard,
    Control,
    EmptySegment,
}

impl Problem {
    fn with(self, name: &str) -> TopicError {
        TopicError { name: name.to_owned(), problem: self }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Quoted(&self.name);
        match self.problem {
            Problem::Empty => write!(f, "the topic name is empty: use 1 to {MAX_TOPIC} bytes"),
            Problem::TooLong => {
                write!(f, "the topic name {name} is longer than {MAX_TOPIC} bytes")
            }
            Problem::Reserved => write!(f, "the topic name {name} starts with `{RESERVED}`: encode it with `segment`"),
            Problem::Wildcard => write!(
                f,
                "the topic name {name} contains `*`: subscribe with `Subscription::matching`, or encode it with `segment`"
            ),
            Problem::MisplacedWildcard => {
                write!(f, "the pattern {name} has a misplaced `*`: use `*` as a whole segment, or `**` as the last one")
            }
            Problem::Control => {
                write!(f, "the topic name {name} contains a control character: encode it with `segment`")
            }
            Problem::EmptySegment => write!(f, "the topic name {name} has an empty segment: remove a `/`"),
        }
    }
}

impl std::error::Error for TopicError {}

/// Returns a hash of a topic's name that is the same in every process: FNV-1a with 64 bits. Resume positions contain
/// it.
pub(crate) fn stable_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_are_valid() {
        for name in ["a", "prices/AAPL", "user/42/inbox", "Zürich/Gleis 7", "a$b", &"x".repeat(MAX_TOPIC)] {
            assert_eq!(check(name), Ok(()), "{name}");
            assert_eq!(check_pattern(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn invalid_names_are_refused_and_quoted() {
        let long = "x".repeat(MAX_TOPIC + 1);
        for name in ["", &long, "$client/1", "a/*", "**", "a\nb", "a\0", "a\u{85}", "/a", "a/", "a//b", "/"] {
            let error = check(name).unwrap_err();
            assert_eq!(error.name(), name);
            assert!(error.to_string().len() < 250, "{error}");
            assert!(name.is_empty() || error.to_string().contains(&Quoted(name).to_string()), "{error}");
        }
    }

    #[test]
    fn a_wildcard_is_a_whole_segment_and_a_double_one_the_last() {
        for pattern in ["*", "**", "prices/*", "orders/**", "*/a/*", "*/**"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["a*", "a/b*", "***", "**/a", "a/**/b", "a**", "a/***", "$client/*", "a//*", "/**", "*/"] {
            let error = check_pattern(pattern).unwrap_err();
            assert!(error.to_string().contains(&Quoted(pattern).to_string()), "{error}");
        }
    }

    #[test]
    fn a_single_wildcard_matches_one_segment_and_a_double_one_the_rest() {
        for (pattern, topic) in [
            ("a", "a"),
            ("*", "a"),
            ("**", "a"),
            ("**", "a/b/c"),
            ("prices/*", "prices/AAPL"),
            ("orders/**", "orders/1/items"),
            ("*/b/*", "a/b/c"),
        ] {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in
            [("*", "a/b"), ("prices/*", "prices"), ("prices/*", "prices/a/b"), ("orders/**", "orders"), ("a", "b")]
        {
            assert!(!matches(pattern, topic), "{pattern} {topic}");
        }
    }

    #[test]
    fn the_stable_hash_is_fnv_1a() {
        assert_eq!(stable_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(stable_hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn removed_patterns_free_their_memory_while_another_one_stays() {
        let mut set = Patterns::new();
        let names: Vec<String> = (0..10_000).map(|number| format!("user/{number}/*")).collect();
        names.iter().for_each(|name| set.insert(name, ()));
        names[1..].iter().for_each(|name| assert_eq!(set.remove(name), Some(())));
        assert!(set.root.next["user"].next.capacity() < 1000);
        assert_eq!(set.get(&names[0]), Some(&()));
    }

    /// The text that a segment was made of.
    fn unmade(segment: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = if segment == "%" { b"" } else { segment.as_bytes() };
        while let [first, after @ ..] = rest {
            let (byte, after) = match (first, after) {
                (b'%', [high, low, after @ ..]) => {
                    (u8::from_str_radix(std::str::from_utf8(&[*high, *low]).unwrap(), 16).unwrap(), after)
                }
                _ => (*first, after),
            };
            bytes.push(byte);
            rest = after;
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_text_that_is_a_valid_segment_stays_the_same() {
        for text in ["AAPL", "Gleis 7", "a$b", "é👍", "..", "a.b-c_d~"] {
            assert!(matches!(segment(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_segment_of_any_text_is_valid_and_contains_all_of_it(text in "([/%*$a2F\u{0}\n\u{7f}\u{85}é👍]|\\PC){0,40}") {
            let segment = segment(&text);
            prop_assert_eq!(check(&segment), Ok(()));
            prop_assert!(!segment.contains('/') && !is_pattern(&segment));
            prop_assert_eq!(matches(&format!("a/{segment}/b"), "a/x/b"), text == "x");
            prop_assert!(segment.len() <= (3 * text.len()).max(1));
            prop_assert_eq!(unmade(&segment), text);
        }

        #[test]
        fn a_set_matches_exactly_its_single_matching_patterns(
            patterns in prop::collection::btree_set("(a|b|\\*)(/(a|b|\\*)){0,3}(/\\*\\*)?", 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            topic in "(a|b)(/(a|b)){0,4}",
        ) {
            let mut set = Patterns::new();
            patterns.iter().for_each(|pattern| set.insert(pattern, pattern.clone()));
            let (gone, left): (Vec<_>, Vec<_>) = patterns.iter().zip(removed).partition(|(_, removed)| *removed);
            for (pattern, _) in gone {
                prop_assert_eq!(set.remove(pattern), Some(pattern.clone()));
                prop_assert_eq!(set.get(pattern), None);
            }
            let mut found = set.matching(&topic);
            found.sort_unstable();
            let expected: Vec<&String> = left.iter().map(|(pattern, _)| *pattern).filter(|pattern| matches(pattern, &topic)).collect();
            prop_assert_eq!(found, expected);
            for (pattern, _) in &left {
                for (other, _) in &left {
                    prop_assert!(!covers(pattern, other) || !matches(other, &topic) || matches(pattern, &topic));
                }
            }
            for (pattern, _) in left {
                set.remove(pattern);
            }
            prop_assert!(set.root.next.is_empty(), "removed patterns leave nothing behind");
        }
    }
}
