//! What a client is called.

use std::{fmt, str::FromStr};

use super::quoted::Quoted;

/// The name of one client: 128 random bits from the operating system, written as 32 hexadecimal digits.
///
/// Whoever knows it can be allowed to act for the client (add a topic to its open stream, say), so it is as hard to
/// guess as a session token and should be treated as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId([u8; 16]);

impl ClientId {
    pub(crate) fn random() -> Self {
        Self(random_bits())
    }

    /// Half of it: enough to tell all open clients from each other.
    pub(crate) fn half(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// A number that is different for most clients.
    pub(crate) fn spread(self) -> u32 {
        let [first, second, third, fourth, ..] = self.0;
        u32::from_ne_bytes([first, second, third, fourth])
    }
}

/// # Panics
///
/// If the operating system has none to give: an id that can be guessed would be worse. `HashMap::new` does the same.
pub(crate) fn random_bits<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    match getrandom::fill(&mut bits) {
        Ok(()) => bits,
        Err(error) => panic!("the operating system has no randomness to give: {error}"),
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        bits.map(|bits| Self(bits.to_be_bytes())).ok_or_else(|| InvalidClientId { value: text.to_owned() })
    }
}

/// A text that is no [`ClientId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidClientId {
    value: String,
}

impl fmt::Display for InvalidClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no client id: expected 32 hexadecimal digits", Quoted(&self.value))
    }
}

impl std::error::Error for InvalidClientId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = ClientId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, ClientId::random());
        for text in ["", "1", &"f".repeat(33), &"F".repeat(32), &"+".repeat(32), &format!("{}g", "0".repeat(31))] {
            assert!(text.parse::<ClientId>().is_err(), "{text:?}");
        }
    }
}
