//! The id of a client.

use std::{fmt, str::FromStr};

use super::quoted::Quoted;

/// The id of one client: 128 random bits from the operating system.
///
/// It is written as 32 lower-case hexadecimal digits.
///
/// Treat the id as you treat a session token. A program may let everyone who knows a client's id act for that client,
/// for example add a topic to its open stream. The id is as hard to guess as a session token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId([u8; 16]);

impl ClientId {
    pub(crate) fn random() -> Self {
        Self(random_bits())
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns 64 of the 128 bits: enough to tell all open clients apart.
    pub(crate) fn half(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// Returns a number that differs between most clients.
    pub(crate) fn spread(self) -> u32 {
        let [first, second, third, fourth, ..] = self.0;
        u32::from_ne_bytes([first, second, third, fourth])
    }
}

/// Returns random bits from the operating system.
///
/// # Panics
///
/// If the operating system returns no random bits. An id that can be guessed would be worse. `HashMap::new` panics in
/// the same case.
pub(crate) fn random_bits<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    match getrandom::fill(&mut bits) {
        Ok(()) => bits,
        Err(error) => panic!("the operating system returned no random bits: {error}"),
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

/// A text that is not a valid [`ClientId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidClientId {
    value: String,
}

impl fmt::Display for InvalidClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client id {} is invalid: use 32 lower-case hexadecimal digits", Quoted(&self.value))
    }
}

impl std::error::Error for InvalidClientId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_printed_id_can_be_parsed() {
        let id = ClientId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, ClientId::random());
        for text in ["", "1", &"f".repeat(33), &"F".repeat(32), &"+".repeat(32), &format!("{}g", "0".repeat(31))] {
            assert!(text.parse::<ClientId>().is_err(), "{text:?}");
        }
    }
}
