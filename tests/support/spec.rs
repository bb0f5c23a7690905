//! A parser of event streams, written only from the standard's text:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

/// The result of parsing a whole stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) messages: Vec<Message>,
    /// Every reconnection time that was set, in milliseconds.
    pub(crate) retries: Vec<u64>,
    /// The `Last-Event-ID` of a client that reconnects at the end.
    pub(crate) last_event_id: String,
}

/// One dispatched event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) event_type: String,
    pub(crate) data: String,
    /// The `id` field of its own block.
    pub(crate) own_id: Option<String>,
    /// The `lastEventId` that a script sees: the block's own id, or the last one before it.
    pub(crate) last_event_id: String,
}

pub(crate) fn parse(stream: &[u8]) -> Parsed {
    let text = String::from_utf8_lossy(stream);
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut parsed, mut data, mut event_type, mut own_id) = (Parsed::default(), String::new(), String::new(), None);
    let mut last_event_id_buffer = String::new();
    while let Some(end) = rest.find(['\r', '\n']) {
        let (line, after) = rest.split_at(end);
        rest = after.strip_prefix("\r\n").unwrap_or(&after[1..]);
        if line.is_empty() {
            parsed.last_event_id.clone_from(&last_event_id_buffer);
            if let Some(data) = data.strip_suffix('\n') {
                parsed.messages.push(Message {
                    event_type: if event_type.is_empty() { "message".to_owned() } else { event_type.clone() },
                    data: data.to_owned(),
                    own_id: own_id.take(),
                    last_event_id: parsed.last_event_id.clone(),
                });
            }
            data.clear();
            event_type.clear();
            own_id = None;
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event_type),
            "data" => data.extend([value, "\n"]),
            "id" if !value.contains('\0') => {
                value.clone_into(&mut last_event_id_buffer);
                own_id = Some(value.to_owned());
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                parsed.retries.push(value.parse().unwrap_or(u64::MAX));
            }
            // A comment, or a field that the standard does not define.
            _ => {}
        }
    }
    parsed
}
