//! What an event is, apart from how it is encoded.

use std::{borrow::Cow, time::Duration};

use super::{
    Event,
    audience::Audience,
    client_id::ClientId,
    encoding::{COMMENT, DATA},
    error::EventError,
};

/// The fields of an event, as their publisher gave them.
///
/// A backplane keeps these, and the bytes for the wire are made when the event is loaded. So what is stored does not change with the encoding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Payload<'a> {
    /// One or more lines.
    pub(crate) comment: Option<Cow<'a, str>>,
    pub(crate) event_type: Option<Cow<'a, str>>,
    pub(crate) data: Option<Cow<'a, str>>,
    pub(crate) retry_ms: Option<u64>,
    pub(crate) id: Option<Cow<'a, str>>,
    pub(crate) excluded_client: Option<ClientId>,
}

impl Event {
    /// Returns the fields. The text of one line is not copied.
    pub(crate) fn payload(&self) -> Payload<'_> {
        Payload {
            comment: text_of(&self.comment, COMMENT),
            event_type: self.event_type.as_deref().map(Into::into),
            data: text_of(&self.data, DATA),
            retry_ms: self.retry.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            id: self.own_id().map(Into::into),
            excluded_client: self.audience().and_then(|audience| audience.excluded_client),
        }
    }

    /// Makes the event with these fields.
    ///
    /// # Errors
    ///
    /// [`EventError`] if a field cannot be sent, which was checked when the event was made.
    pub(crate) fn from_payload(payload: &Payload<'_>) -> Result<Self, EventError> {
        let mut event = match &payload.data {
            Some(data) => Self::data(data),
            None => Self::empty(),
        };
        if let Some(comment) = &payload.comment {
            event = event.comment(comment);
        }
        if let Some(event_type) = &payload.event_type {
            event = event.try_event(event_type)?;
        }
        if let Some(id) = &payload.id {
            event = event.id(id)?;
        }
        event.retry = payload.retry_ms.map(Duration::from_millis);
        if payload.excluded_client.is_some() {
            event.audience =
                Some(Box::new(Audience { excluded_client: payload.excluded_client, ..Audience::default() }));
        }
        Ok(event)
    }
}

/// Returns the text of encoded lines that all have a prefix.
fn text_of<'a>(lines: &'a [u8], prefix: &[u8]) -> Option<Cow<'a, str>> {
    let lines = lines.strip_prefix(prefix)?.strip_suffix(b"\n")?;
    if !lines.contains(&b'\n') {
        return Some(String::from_utf8_lossy(lines));
    }
    let mut text = Vec::with_capacity(lines.len());
    for (at, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        if at > 0 {
            text.push(b'\n');
        }
        text.extend_from_slice(if at > 0 { line.strip_prefix(prefix).unwrap_or(line) } else { line });
    }
    Some(String::from_utf8_lossy(&text).into_owned().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        "[ab:é \r\n]{0,12}"
    }

    proptest! {
        #[test]
        fn an_event_of_its_payload_has_the_same_bytes(
            data in prop::option::of(text()),
            comments in prop::collection::vec(text(), 0..3),
            event_type in prop::option::of("[a-z:é ]{0,5}"),
            id in prop::option::of("[a-z]{1,9}"),
            retry in prop::option::of(0u64..100_000),
        ) {
            let has_data = data.is_some();
            let mut event = data.map_or(Event::empty(), Event::data);
            event = comments.iter().fold(event, Event::comment);
            if let Some(event_type) = event_type {
                event = event.try_event(event_type).unwrap();
            }
            if let Some(id) = id.filter(|_| has_data) {
                event = event.id(id).unwrap();
            }
            if let Some(retry) = retry {
                event = event.retry(Duration::from_millis(retry));
            }
            prop_assert_eq!(event.fields_length(), event.encode_fields().len());
            let again = Event::from_payload(&event.payload()).unwrap();
            prop_assert_eq!(again.encode(), event.encode());
            prop_assert_eq!(again, event);
        }
    }
}
