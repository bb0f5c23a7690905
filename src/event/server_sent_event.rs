//! The [`Event`] that a program publishes.

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

/// One server-sent event.
///
/// An event has data and, optionally, an event type, an id, a reconnection time and a comment.
///
/// The event is encoded once, when it is published or [encoded](Event::encode), no matter how many clients get it. The
/// format is the `text/event-stream` of the [HTML standard, section 9.2.6][interpret].
///
/// Text arrives as you gave it, except that each line end in the data (CRLF, LF or CR) arrives as LF. Empty lines and
/// leading spaces are kept. No text can end the event or forge another field. A value that the format cannot carry, for
/// example an id with a line end, is an [`EventError`].
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
    pub(super) comment: Vec<u8>,
    pub(super) event_type: Option<Box<str>>,
    pub(super) data: Vec<u8>,
    pub(super) retry: Option<Duration>,
    pub(super) id: Option<Box<str>>,
    pub(super) audience: Option<Box<Audience>>,
}

impl Event {
    /// Makes an event with this text as its data.
    ///
    /// Empty data is data: browsers dispatch an event for it.
    ///
    /// Cost: the text is copied once, directly into its `data:` lines.
    #[must_use]
    pub fn data(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut lines = Lines::with_capacity(DATA, text.len() + 16);
        lines.push(text.as_bytes());
        Self { data: lines.finish(), ..Self::default() }
    }

    /// Makes an event with this value as JSON in its data.
    ///
    /// Cost: the value is serialized directly into its `data:` lines, without a `String` or `Value` of the whole
    /// document.
    ///
    /// # Errors
    ///
    /// [`EventError::Json`] if the value's own `Serialize` returns an error, or if a map has keys that are not strings.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, EventError> {
        let mut lines = Lines::with_capacity(DATA, 128);
        serde_json::to_writer(&mut lines, value).map_err(|error| EventError::Json(Arc::new(error)))?;
        Ok(Self { data: lines.finish(), ..Self::default() })
    }

    /// Makes an event without data, for a comment or a reconnection time only.
    ///
    /// Clients dispatch nothing for it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Sets the event type, from a literal.
    ///
    /// A page listens to an event type with `addEventListener`. Default: no event type, which browsers dispatch as
    /// `message`. An empty text means no event type.
    ///
    /// The method takes `&'static str` only. So no text of a client gets here, and the call needs no `?`. For an event
    /// type that is made at run time, or read from a configuration, use [`try_event`](Self::try_event).
    ///
    /// # Panics
    ///
    /// If the event type contains a line end (CR or LF), which would end the field.
    #[must_use]
    #[track_caller]
    pub fn event(self, event_type: &'static str) -> Self {
        literal(self.try_event(event_type))
    }

    /// Sets the event type, from a text that is made at run time.
    ///
    /// The same as [`event`](Self::event), but it returns an error instead of panicking.
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
    /// [`EventError::EventType`] if the event type contains a line end (CR or LF), which would end the field.
    pub fn try_event(mut self, event_type: impl AsRef<str>) -> Result<Self, EventError> {
        let event_type = event_type.as_ref();
        if event_type.contains(['\n', '\r']) {
            return Err(EventError::EventType { value: event_type.to_owned() });
        }
        self.event_type = Some(event_type).filter(|text| !text.is_empty()).map(Into::into);
        Ok(self)
    }

    /// Sets an id of your own, in place of the registry's.
    ///
    /// Default: no own id. The registry then sends the event's [`Position`](crate::Position) as its id. Prefer this
    /// default. An own id has 1 to 256 bytes and is sent unchanged.
    ///
    /// Use an own id only once on a topic, also across restarts. If a client reads several topics, use the id on only
    /// one of them, because events with the same id cannot be told apart.
    ///
    /// A client that reconnects with an own id continues after that event. For this, the event must still be retained,
    /// and the client must subscribe to its topic again. Otherwise the registry does not know the id: it tells the
    /// client of a gap, and the client continues at the oldest retained events.
    ///
    /// An ambiguous id never loses events silently. Events are repeated, or the client is told of a gap:
    ///
    /// - Several retained events of the topic have the same id. The client continues after the oldest of them, and gets
    ///   the others again.
    /// - An event with the same id was on the topic before and has been evicted. The client may have had that event, so
    ///   it is told of a gap. The registry remembers the last 16,384 evicted ids of all topics. A process that starts
    ///   later does not know them, also not with a backplane, and there such a client misses events without a word.
    /// - The registry issued the same id for another event. This happens if a program copies an event with its id to
    ///   another topic. The client continues after the older of the two events.
    /// - The id names a position that the registry has not issued yet. Publishing the event fails with
    ///   [`PublishError::IdToCome`](crate::PublishError::IdToCome).
    /// - The id only looks like a [`Position`](crate::Position), of another registry or of a Redis stream. It is
    ///   treated as any other own id.
    ///
    /// # Errors
    ///
    /// - [`EventError::Id`] if the id is empty, is longer than 256 bytes, starts or ends with a space, or contains
    ///   anything but printable ASCII. With such an id, clients forget their position, or each reconnect fails because
    ///   the `Last-Event-ID` header cannot carry the id.
    /// - [`EventError::IdWithoutData`] if the event has no data. Several clients do not take an id from such an event.
    pub fn id(mut self, id: impl AsRef<str>) -> Result<Self, EventError> {
        let id = id.as_ref();
        if !Self::is_valid_id(id) {
            return Err(EventError::Id { value: id.to_owned() });
        }
        if self.data.is_empty() {
            return Err(EventError::IdWithoutData { value: id.to_owned() });
        }
        self.id = Some(id.into());
        Ok(self)
    }

    /// Whether clients send an id back unchanged.
    pub(super) fn is_valid_id(id: &str) -> bool {
        let is_printable = id.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (1..=Self::MAX_ID).contains(&id.len()) && is_printable && id.trim().len() == id.len()
    }

    /// Sets the `retry:` field: how long the client waits before it reconnects.
    ///
    /// Default: no field, and the client keeps its reconnection time. Browsers start with a few seconds. The time is
    /// sent in whole milliseconds, rounded down.
    ///
    /// Add jitter: clients that get the same time reconnect at the same moment.
    #[must_use]
    pub fn retry(mut self, delay: Duration) -> Self {
        self.retry = Some(delay);
        self
    }

    /// Adds a comment, which clients ignore.
    ///
    /// Any text is safe: each of its lines becomes a comment line. Several calls add several comments.
    #[must_use]
    pub fn comment(mut self, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut lines = Lines::with_capacity(COMMENT, text.len() + 16);
        lines.push(text.as_bytes());
        self.comment.append(&mut lines.finish());
        self
    }

    /// Excludes one subscribed client, for example the sender of the event.
    ///
    /// Default: no client is excluded.
    ///
    /// A client that reconnects has a new id, and is no longer excluded. To keep an event from a user across
    /// reconnects, use an [attribute](Self::attribute) and a [filter](crate::Subscription::filter).
    #[must_use]
    pub fn exclude_client(mut self, client: ClientId) -> Self {
        self.audience.get_or_insert_default().excluded_client = Some(client);
        self
    }

    /// Adds an attribute, which filters of subscriptions read and clients never get.
    ///
    /// Default: no attributes. An event has at most one attribute of each type. See
    /// [`Subscription::filter`](crate::Subscription::filter).
    ///
    /// Cost: the attribute is kept as long as the event is retained. The registry does not know its size, and counts it
    /// as a map with one small value.
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

    /// Returns all attributes. `None` or empty: the event has no attributes.
    #[must_use]
    pub fn attributes(&self) -> Option<&Extensions> {
        self.audience.as_ref().map(|audience| &audience.attributes)
    }

    /// The maximum length of an id, in bytes.
    pub const MAX_ID: usize = 256;

    /// Encodes the event in the wire format, with its blank line.
    ///
    /// An event with no fields is empty bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut wire = self.encode_fields();
        if let Some(id) = &self.id {
            push_field(&mut wire, "id", id);
        }
        finish(wire)
    }

    /// Removes the id, for an event that must not move a client's cursor.
    pub(crate) fn without_id(self) -> Self {
        Self { id: None, ..self }
    }

    pub(crate) fn encode_without_id(&self) -> Bytes {
        finish(self.encode_fields())
    }

    /// Encodes all fields but the id, and reserves room for the id and the blank line.
    ///
    /// This is all that can be encoded before the position of the event is known.
    pub(crate) fn encode_fields(&self) -> Vec<u8> {
        let retry = self.retry_line();
        let retry = retry.as_deref().unwrap_or_default();
        let id = self.id.as_ref().map_or(ROOM_FOR_POSITION, |id| id.len() + ROOM_FOR_ID);
        let mut wire = Vec::with_capacity(self.length_without_retry() + retry.len() + id);
        wire.extend_from_slice(&self.comment);
        if let Some(event_type) = &self.event_type {
            push_field(&mut wire, "event", event_type);
        }
        wire.extend_from_slice(&self.data);
        wire.extend_from_slice(retry.as_bytes());
        wire
    }

    /// Returns the length of [`encode_fields`](Self::encode_fields).
    #[inline]
    pub(crate) fn fields_length(&self) -> usize {
        self.length_without_retry() + self.retry_line().map_or(0, |line| line.len())
    }

    #[inline]
    fn length_without_retry(&self) -> usize {
        let event_type = self.event_type.as_ref().map_or(0, |text| text.len() + 8);
        self.comment.len() + event_type + self.data.len()
    }

    fn retry_line(&self) -> Option<String> {
        self.retry.map(|delay| format!("retry: {}\n", delay.as_millis().min(u64::MAX.into())))
    }

    pub(crate) fn own_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(crate) fn is_typed(&self) -> bool {
        self.event_type.is_some()
    }

    /// The same event with these attributes.
    pub(crate) fn with_attributes(mut self, attributes: Extensions) -> Self {
        self.audience.get_or_insert_default().attributes = attributes;
        self
    }

    pub(crate) fn audience(&self) -> Option<&Audience> {
        self.audience.as_deref()
    }

    pub(crate) fn has_data(&self) -> bool {
        !self.data.is_empty()
    }
}

/// Returns the value that a literal gives, or panics with the error.
#[track_caller]
pub(super) fn literal<T>(result: Result<T, EventError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Two events are equal if they have the same fields and exclude the same client.
///
/// Attributes are not compared.
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
    fn empty_data_and_trailing_empty_lines_are_kept() {
        assert_eq!(Event::data("").event("x").encode(), "event: x\ndata: \n\n");
        assert_eq!(Event::data("a\n").encode(), "data: a\ndata: \n\n");
        assert_eq!(Event::data(" lead").encode(), "data:  lead\n\n");
    }

    #[test]
    fn no_text_can_forge_a_field() {
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
    fn an_invalid_literal_event_type_panics() {
        let _ = Event::data("").event("a\nb");
    }

    #[test]
    fn an_error_message_stays_short_for_a_long_value() {
        let error = Event::data("").id("é".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 300 && error.contains("(20000 bytes)"), "{error}");
    }

    #[test]
    fn fields_are_written_in_the_usual_order() {
        let event = Event::data("d").event("t").id("7").unwrap().retry(Duration::from_millis(1500)).comment("c");
        assert_eq!(event.encode(), ": c\nevent: t\ndata: d\nretry: 1500\nid: 7\n\n");
        assert_eq!(event.encode_without_id(), ": c\nevent: t\ndata: d\nretry: 1500\n\n");
        assert_eq!(Event::empty().encode(), "");
        assert_eq!(Event::empty().retry(Duration::MAX).encode(), format!("retry: {}\n\n", u64::MAX));
    }

    #[test]
    fn an_encoded_event_can_be_decoded() {
        let wire = Event::data("a\n\r b").event("t").comment("data: no").encode();
        assert_eq!((decode_type(&wire), decode_data(&wire).as_deref()), (Some("t"), Some("a\n\n b")));
        let empty = Event::data("").encode();
        assert_eq!((decode_type(&empty), decode_data(&empty).as_deref()), (None, Some("")));
        assert_eq!(decode_data(&Event::empty().comment("x").encode()), None);
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_with_line_ends_stays_one_event() {
        let raw = serde_json::value::RawValue::from_string("{\r\n  \"a\": 1\r}".into()).unwrap();
        assert_eq!(Event::json(&raw).unwrap().encode(), "data: {\ndata:   \"a\": 1\ndata: }\n\n");
        assert_eq!(Event::json(&("a\nb", 1.5)).unwrap().encode(), "data: [\"a\\nb\",1.5]\n\n");
        let bad = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(Event::json(&bad), Err(EventError::Json(_))));
    }
}
