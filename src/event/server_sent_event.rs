//! What is published: an [`Event`], and how it is written down for the wire.

#[cfg(feature = "json")]
use std::sync::Arc;
use std::{fmt, time::Duration};

use bytes::Bytes;
use http::Extensions;

use super::{
    audience::Audience,
    client_id::ClientId,
    encoding::{COMMENT, DATA, Lines, ROOM_FOR_ID, ROOM_FOR_POSITION, finish, push_field},
    error::EventError,
};

/// One server-sent event: data and, optionally, an event type, an id, a reconnection time and a comment.
///
/// It is written in the `text/event-stream` format of the [HTML standard, section 9.2.6][interpret] once, when it is
/// published or [encoded](Event::encode), however many clients get it. Whatever text goes in arrives as it is: line
/// ends in data (CRLF, LF or CR) arrive as LF, empty lines and leading spaces are kept, and nothing in it can end the
/// event or forge another field. What cannot be sent (a line end in an event type, say) is an [`EventError`].
///
/// ```
/// use tower_sse::Event;
///
/// let event = Event::data("two\nlines").event("note");
/// assert_eq!(event.encode(), "event: note\ndata: two\ndata: lines\n\n");
/// ```
///
/// [interpret]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#[derive(Clone, Default)]
pub struct Event {
    comment: Vec<u8>,
    event_type: Option<Box<str>>,
    data: Vec<u8>,
    retry: Option<Duration>,
    id: Option<Box<str>>,
    audience: Option<Box<Audience>>,
}

impl Event {
    /// An event with this text as its data. Empty data is data: browsers dispatch it.
    ///
    /// Cost: one copy of the text, straight into its `data:` lines.
    #[must_use]
    pub fn data(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut lines = Lines::with_capacity(DATA, text.len() + 16);
        lines.push(text.as_bytes());
        Self { data: lines.finish(), ..Self::default() }
    }

    /// An event with this value as JSON in its data.
    ///
    /// The value is serialised straight into its `data:` lines: no `String` or `Value` of the document is made first.
    ///
    /// # Errors
    ///
    /// [`EventError::Json`] if the value's own `Serialize` refuses, or if it has map keys that are no strings.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, EventError> {
        let mut lines = Lines::with_capacity(DATA, 128);
        serde_json::to_writer(&mut lines, value).map_err(|error| EventError::Json(Arc::new(error)))?;
        Ok(Self { data: lines.finish(), ..Self::default() })
    }

    /// An event without data: for a comment or a reconnection time alone. Clients dispatch nothing for it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Sets the event type, the name that `addEventListener` takes. Default: none, which browsers dispatch as `message`.
    ///
    /// This is for literals, which need no `?`. It takes `&'static str` only, so that no text of a client gets here: an event type that is made
    /// at run time, or read from a configuration, is for [`try_event`](Self::try_event).
    ///
    /// # Panics
    ///
    /// If the event type contains a line end (CR or LF), which would end the field.
    #[must_use]
    #[track_caller]
    pub fn event(self, event_type: &'static str) -> Self {
        literal(self.try_event(event_type))
    }

    /// Sets the event type to a text that is made at run time: as [`event`](Self::event), with an error in place of the panic.
    ///
    /// ```
    /// use tower_sse::{Event, EventError};
    ///
    /// fn told(from: &str, text: &str) -> Result<Event, EventError> {
    ///     Event::data(text).try_event(format!("from-{from}"))
    /// }
    ///
    /// assert!(told("ada", "hello").is_ok());
    /// assert!(matches!(told("ada\nid: 7", "hello"), Err(EventError::EventType { .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// [`EventError::EventType`] if it contains a line end (CR or LF), which would end the field.
    pub fn try_event(mut self, event_type: impl AsRef<str>) -> Result<Self, EventError> {
        let event_type = event_type.as_ref();
        if event_type.contains(['\n', '\r']) {
            return Err(EventError::EventType { value: event_type.to_owned() });
        }
        self.event_type = Some(event_type).filter(|text| !text.is_empty()).map(Into::into);
        Ok(self)
    }

    /// Gives the event an id of its own. Default: none; the registry then sends the event's [`Position`](crate::Position).
    ///
    /// Prefer the registry's. An id of your own belongs to its topic, and is to be used once: also over restarts, and on one topic alone where
    /// a client reads several, as nobody can tell the events apart that have it. It goes out as it is. A client that comes back with it goes on after this event
    /// for as long as the event is retained and the client is subscribed to its topic again. In any other case nothing is known of
    /// the id: the client is told of a gap and goes on at the oldest retained events. Where an id is not certain, events are repeated or a
    /// gap is told, and nothing is lost in silence:
    ///
    /// - Several retained events of the topic have the same id: the client goes on after the oldest of them, and gets the others again.
    /// - An event with the same id was on the topic before and has been evicted: the client may have had that one, so it is told of a gap. The
    ///   registry remembers 16,384 such ids of all topics.
    /// - The id is one that this registry gave to another event, as in a copy of that event on another topic: the client goes on
    ///   after the older of the two. One that the registry has not given yet is refused, with [`PublishError::IdToCome`](crate::PublishError::IdToCome).
    /// - An id that only looks like a [`Position`](crate::Position), of another registry or of a Redis stream, is an id as any other.
    ///
    /// # Errors
    ///
    /// [`EventError::Id`] if it is empty, longer than 256 bytes, starts or ends with a space, or has anything but
    /// printable ASCII: such an id makes clients forget their position, or fail on each reconnect when it has to
    /// travel in the `Last-Event-ID` header. [`EventError::IdWithoutData`] if the event has no data: several clients do not
    /// take an id from such a block.
    pub fn id(mut self, id: impl AsRef<str>) -> Result<Self, EventError> {
        let id = id.as_ref();
        let printable = id.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if id.is_empty() || id.len() > Self::MAX_ID || !printable || id.trim().len() != id.len() {
            return Err(EventError::Id { value: id.to_owned() });
        }
        if self.data.is_empty() {
            return Err(EventError::IdWithoutData { value: id.to_owned() });
        }
        self.id = Some(id.into());
        Ok(self)
    }

    /// Sets the `retry:` field: how long the client waits before it reconnects, in whole milliseconds (rounded down).
    /// Default: none; the client keeps what it has (browsers start with a few seconds).
    ///
    /// The same value for everybody makes everybody come back at once: add jitter.
    #[must_use]
    pub fn retry(mut self, delay: Duration) -> Self {
        self.retry = Some(delay);
        self
    }

    /// Adds a comment, which clients ignore. Any text is safe: each of its lines becomes a comment line.
    #[must_use]
    pub fn comment(mut self, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut lines = Lines::with_capacity(COMMENT, text.len() + 16);
        lines.push(text.as_bytes());
        self.comment.append(&mut lines.finish());
        self
    }

    /// Leaves one client out, though it is subscribed: the one that the event comes from, say. Default: nobody.
    ///
    /// A client that comes back after a cut is a new one. What must not reach a user however often it reconnects is
    /// better left out by an [attribute](Self::attribute) and a [filter](crate::Subscription::filter).
    #[must_use]
    pub fn exclude_client(mut self, client: ClientId) -> Self {
        self.audience.get_or_insert_default().excluded_client = Some(client);
        self
    }

    /// Adds an attribute, which is not sent: for the [filters](crate::Subscription::filter) of subscriptions to look at.
    /// An event has at most one of each type. Default: none.
    ///
    /// It is kept for as long as the event is retained. How much memory it takes is not known, and only a map with one small value is counted.
    ///
    /// ```
    /// use tower_sse::{Event, Registry, Subscription};
    ///
    /// #[derive(Clone, PartialEq, PartialOrd)]
    /// enum Severity { Info, Error }
    ///
    /// let registry = Registry::new();
    /// let client = registry.connect();
    /// client.subscribe(Subscription::matching("log/**").filter(|event, _| event.attribute() >= Some(&Severity::Error)))?;
    /// registry.publish("log/web", Event::data("started").attribute(Severity::Info))?;
    /// registry.publish("log/mail", Event::data("mailbox unavailable").attribute(Severity::Error))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attribute<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.audience.get_or_insert_default().attributes.insert(value);
        self
    }

    /// All attributes.
    #[must_use]
    pub fn attributes(&self) -> Option<&Extensions> {
        self.audience.as_ref().map(|audience| &audience.attributes)
    }

    /// The longest id that an event may have, in bytes.
    pub const MAX_ID: usize = 256;

    /// The event in the wire format, its blank line included. An event with nothing in it is empty bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut wire = self.encode_fields();
        if let Some(id) = &self.id {
            push_field(&mut wire, "id", id);
        }
        finish(wire)
    }

    /// The same without its id: for what must not move a client's cursor.
    pub(crate) fn without_id(self) -> Self {
        Self { id: None, ..self }
    }

    pub(crate) fn encode_without_id(&self) -> Bytes {
        finish(self.encode_fields())
    }

    /// Everything but the id and the blank line, with room for both: what can be done before the position is known.
    pub(crate) fn encode_fields(&self) -> Vec<u8> {
        let event_type = self.event_type.as_ref().map_or(0, |text| text.len() + 8);
        let retry = self.retry.map(|delay| format!("retry: {}\n", delay.as_millis().min(u64::MAX.into())));
        let id = self.id.as_ref().map_or(ROOM_FOR_POSITION, |id| id.len() + ROOM_FOR_ID);
        let retry = retry.as_deref().unwrap_or_default();
        let mut wire = Vec::with_capacity(self.comment.len() + event_type + self.data.len() + retry.len() + id);
        wire.extend_from_slice(&self.comment);
        if let Some(event_type) = &self.event_type {
            push_field(&mut wire, "event", event_type);
        }
        wire.extend_from_slice(&self.data);
        wire.extend_from_slice(retry.as_bytes());
        wire
    }

    pub(crate) fn own_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(crate) fn is_typed(&self) -> bool {
        self.event_type.is_some()
    }

    pub(crate) fn audience(&self) -> Option<&Audience> {
        self.audience.as_deref()
    }

    pub(crate) fn has_data(&self) -> bool {
        !self.data.is_empty()
    }
}

/// What a literal in the program's own text gives.
#[track_caller]
pub(super) fn literal<T>(result: Result<T, EventError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Events are equal if the same goes out for both. Attributes are not compared.
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        let excluded = |event: &Self| event.audience().and_then(|audience| audience.excluded_client);
        (&self.comment, &self.event_type, &self.data, self.retry, &self.id, excluded(self))
            == (&other.comment, &other.event_type, &other.data, other.retry, &other.id, excluded(other))
    }
}

impl Eq for Event {}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.encode()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{decode_data, decode_type};

    #[test]
    fn data_is_split_at_every_kind_of_line_end() {
        assert_eq!(Event::data("a\r\nb\rc\nd").encode(), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(Event::data("\r\r\n\n\r").encode(), "data: \ndata: \ndata: \ndata: \ndata: \n\n");
    }

    #[test]
    fn line_ends_are_found_across_written_pieces() {
        let mut lines = Lines::with_capacity(DATA, 0);
        for piece in ["a\r", "", "\nb\r", "c\n", "\r"] {
            lines.push(piece.as_bytes());
        }
        assert_eq!(lines.finish(), b"data: a\ndata: b\ndata: c\ndata: \ndata: \n");
    }

    #[test]
    fn empty_data_is_data_and_trailing_empty_lines_are_kept() {
        assert_eq!(Event::data("").event("x").encode(), "event: x\ndata: \n\n");
        assert_eq!(Event::data("a\n").encode(), "data: a\ndata: \n\n");
        assert_eq!(Event::data(" lead").encode(), "data:  lead\n\n");
    }

    #[test]
    fn no_text_forges_a_field() {
        assert_eq!(Event::data("x\rid: 666").encode(), "data: x\ndata: id: 666\n\n");
        assert_eq!(Event::empty().comment("a\n\nevent: b\rc").encode(), ": a\n: \n: event: b\n: c\n\n");
    }

    #[test]
    fn a_value_that_cannot_be_sent_is_an_error_that_names_it() {
        for event_type in ["a\nb", "a\rb"] {
            let error = Event::data("").try_event(event_type).unwrap_err();
            assert!(matches!(&error, EventError::EventType { value } if value == event_type));
            assert!(error.to_string().contains(&format!("{event_type:?}")), "{error}");
        }
        let long = "x".repeat(257);
        for id in ["", "a\nb", "a\rb", "a\0b", "é", " a", "a ", "\u{7f}", &long] {
            assert!(matches!(Event::data("").id(id), Err(EventError::Id { value }) if value == id));
        }
        assert!(matches!(Event::empty().id("1"), Err(EventError::IdWithoutData { .. })));
    }

    #[test]
    #[should_panic(expected = r#"the event type "a\nb" contains a line end"#)]
    fn a_literal_that_cannot_be_an_event_type_panics() {
        let _ = Event::data("").event("a\nb");
    }

    #[test]
    fn an_error_message_stays_short_for_a_long_value() {
        let error = Event::data("").id("é".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 300 && error.contains("(20000 bytes)"), "{error}");
    }

    #[test]
    fn all_fields_go_out_in_the_customary_order() {
        let event = Event::data("d").event("t").id("7").unwrap().retry(Duration::from_millis(1500)).comment("c");
        assert_eq!(event.encode(), ": c\nevent: t\ndata: d\nretry: 1500\nid: 7\n\n");
        assert_eq!(event.encode_without_id(), ": c\nevent: t\ndata: d\nretry: 1500\n\n");
        assert_eq!(Event::empty().encode(), "");
        assert_eq!(Event::empty().retry(Duration::MAX).encode(), format!("retry: {}\n\n", u64::MAX));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let wire = Event::data("a\n\r b").event("t").comment("data: no").encode();
        assert_eq!((decode_type(&wire), decode_data(&wire).as_deref()), (Some("t"), Some("a\n\n b")));
        let empty = Event::data("").encode();
        assert_eq!((decode_type(&empty), decode_data(&empty).as_deref()), (None, Some("")));
        assert_eq!(decode_data(&Event::empty().comment("x").encode()), None);
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_with_line_ends_in_it_stays_one_event() {
        let raw = serde_json::value::RawValue::from_string("{\r\n  \"a\": 1\r}".into()).unwrap();
        assert_eq!(Event::json(&raw).unwrap().encode(), "data: {\ndata:   \"a\": 1\ndata: }\n\n");
        assert_eq!(Event::json(&("a\nb", 1.5)).unwrap().encode(), "data: [\"a\\nb\",1.5]\n\n");
        let bad = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(Event::json(&bad), Err(EventError::Json(_))));
    }
}
