//! Settings from the environment.

use std::{env, io, str::FromStr};

/// Reads a number from the environment. A value that is not a number is an error, and the error names the variable.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> io::Result<T> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
