//! Complaints.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, Write},
};

/// How much of what others wrote a line holds, in characters.
const MOST: usize = 300;

/// An error and what it came from.
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

/// What others wrote, as part of a line: escaped, and not too long.
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

/// To stderr; unlike `eprintln`, without a panic if nobody reads it any more.
pub(crate) fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "gateway: {what}");
}
