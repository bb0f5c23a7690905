//! Writes JSON strings without serde_json.

/// Appends a text to JSON as a quoted string.
///
/// The gap event has two JSON fields. They do not justify a dependency on serde_json when the `json` feature is off.
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
