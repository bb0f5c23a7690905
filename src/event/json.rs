//! Writes JSON strings without serde_json.

/// Appends a text to JSON as a quoted string.
///
/// The events that the crate itself sends have few JSON fields. They do not justify a dependency on serde_json when the
/// `json` feature is off.
pub(crate) fn push_json_string(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            character if character < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(character))),
            character => json.push(character),
        }
    }
    json.push('"');
}

/// Appends an array of strings to JSON.
pub(crate) fn push_json_strings(json: &mut String, texts: &[String]) {
    json.push('[');
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_json_string(json, text);
    }
    json.push(']');
}

/// Appends a further field with a string to a JSON object, if there is a text. The name needs no escapes.
pub(crate) fn push_json_field(json: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        json.push_str(&format!(",\"{name}\":"));
        push_json_string(json, text);
    }
}
