use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

/// Whom a [`Limit`](crate::Limit) counts for: a text, a number, or an address.
///
/// Of a text with more than 64 bytes, a hash of 128 bits is kept, as whoever chooses a key shall not choose how much memory it takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitKey(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Text(Arc<str>),
    LongText([u64; 2]),
    Number(u128),
    Address(IpAddr),
    /// All those of whom no address is known.
    Unknown,
    Everybody,
}

impl LimitKey {
    pub(super) const UNKNOWN: Self = Self(Kind::Unknown);
    /// Of what is limited without keys.
    pub(super) const EVERYBODY: Self = Self(Kind::Everybody);

    pub(super) fn somebody(self) -> Option<Self> {
        Some(self).filter(|key| *key != Self::EVERYBODY)
    }
}

impl From<&str> for LimitKey {
    fn from(text: &str) -> Self {
        const LONGEST: usize = 64;
        // Random, so that nobody can look for two texts with one hash.
        static STATES: OnceLock<[RandomState; 2]> = OnceLock::new();
        Self(match text.len() {
            0..=LONGEST => Kind::Text(text.into()),
            _ => Kind::LongText(STATES.get_or_init(Default::default).each_ref().map(|state| state.hash_one(text))),
        })
    }
}

impl From<String> for LimitKey {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<u32> for LimitKey {
    fn from(number: u32) -> Self {
        u128::from(number).into()
    }
}

/// The same as the key of a number without a sign, if it is not negative.
impl From<i64> for LimitKey {
    fn from(number: i64) -> Self {
        (number as u128).into()
    }
}

impl From<u64> for LimitKey {
    fn from(number: u64) -> Self {
        Self(Kind::Number(number.into()))
    }
}

impl From<u128> for LimitKey {
    fn from(number: u128) -> Self {
        Self(Kind::Number(number))
    }
}

/// The whole address: see [`ClientAddress`](crate::ClientAddress) for networks.
impl From<IpAddr> for LimitKey {
    fn from(address: IpAddr) -> Self {
        Self(Kind::Address(address))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_the_same_if_what_they_are_made_of_is() {
        let long = |last: char| LimitKey::from(format!("{}{last}", "x".repeat(1000)));
        assert_eq!(long('a'), long('a'));
        let keys = [long('a'), long('b'), "a".into(), "7".into(), 7_u32.into(), (-7_i64).into()];
        assert_eq!(HashSet::from(keys).len(), 6);
        assert_eq!([LimitKey::from(7_i64), 7_u64.into()], [LimitKey::from(7_u32), 7_u128.into()]);
    }

    #[test]
    fn a_key_takes_no_more_memory_for_a_longer_text() {
        assert!(size_of::<LimitKey>() <= 32);
        assert!(matches!(LimitKey::from("x".repeat(64)).0, Kind::Text(_)));
        assert!(matches!(LimitKey::from("x".repeat(65)).0, Kind::LongText(_)));
    }
}
