//! Encodes the events of a frame as one event whose data is a JSON array.

use crate::{
    event::{self, Event, push_json_string},
    reading::Picked,
};

/// Encodes the events as one event whose data is a JSON array. `has_ids`: each entry has the id that its event would have alone.
pub(crate) fn array(events: &[Picked], has_ids: bool) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut json = String::from("[");
    let mut id = None;
    for picked in events {
        let entry = &picked.entry;
        let Some(data) = event::decode_data(&entry.wire) else {
            entry.write(&mut wire, false, None);
            continue;
        };
        // A `retry:` field cannot be part of the array, so it is sent in front.
        for retry in entry.wire.split_inclusive(|byte| *byte == b'\n').filter(|line| line.starts_with(b"retry: ")) {
            wire.extend_from_slice(retry);
        }
        json.push_str(if json.len() > 1 { ",{" } else { "{" });
        if let Some(topic) = entry.public_topic() {
            json.push_str("\"topic\":");
            push_json_string(&mut json, topic);
            json.push(',');
        }
        if let Some(event_type) = event::decode_type(&entry.wire) {
            json.push_str("\"event\":");
            push_json_string(&mut json, event_type);
            json.push(',');
        }
        let own_id = entry.id().map(|own| picked.progress.as_deref().unwrap_or(own));
        if let Some(own_id) = own_id.filter(|_| has_ids) {
            json.push_str("\"id\":");
            push_json_string(&mut json, own_id);
            json.push(',');
        }
        id = own_id.or(id);
        json.push_str("\"data\":");
        match serde_json::from_str::<serde::de::IgnoredAny>(&data) {
            Ok(_) => json.push_str(&data),
            Err(_) => push_json_string(&mut json, &data),
        }
        json.push('}');
    }
    if let Some(id) = id {
        json.push(']');
        let batch = Event::data(json).event("batch");
        wire.extend_from_slice(&batch.encode_fields());
        event::push_field(&mut wire, "id", id);
        wire.push(b'\n');
    }
    wire
}
