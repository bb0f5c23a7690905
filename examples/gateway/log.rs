//! Log lines.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, Write},
};

/// The largest part of a line that is text of clients or upstreams, in characters.
const MOST: usize = 300;

/// An error and its causes.
pub(crate) struct Causes<'a>(pub(crate) &'a dyn Error);

impl Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(cause) => write!(f, ": {}", Causes(cause)),
            None => Ok(()),
        }
    }
}

/// Escapes and shortens text of clients or upstreams, so that it fits into a log line.
pub(crate) fn one_line(what: impl Display) -> String {
    let text = what.to_string();
    let mut chars = text.chars();
    let mut line = String::new();
    for char in chars.by_ref().take(MOST) {
        match char {
            ' '..='~' if char != '\\' => line.push(char),
            _ => line.extend(char.escape_default()),
        }
    }
    if chars.next().is_some() { line + "..." } else { line }
}

/// Writes a line to stderr. Unlike `eprintln`, it does not panic if stderr is closed.
pub(crate) fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "gateway: {what}");
}
