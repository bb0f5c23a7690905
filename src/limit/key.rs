use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

/// The key that a [`Limit`](crate::Limit) counts by: a text, a number or an IP address.
///
/// Of a text with more than 64 bytes, only a hash of 128 bits is kept. So nobody can use much memory by sending long
/// keys.
#[derive(Clone, PartialEq, Eq)]
pub struct LimitKey(Kind);

/// A key with its hash.
///
/// The hash fits into padding, so it costs no memory. A key is looked up more than once.
#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Text(u32, Arc<str>),
    LongText([u64; 2]),
    Number(u32, [u64; 2]),
    Address(u32, IpAddr),
    /// The request has no key, but the limit needs one.
    Missing,
    /// The limit has no keys.
    NoKey,
}

/// Hashes with random state, so that nobody can search for keys with the same hash.
fn random_hash(nth: usize, of: impl Hash) -> u64 {
    static STATES: OnceLock<[RandomState; 2]> = OnceLock::new();
    STATES.get_or_init(Default::default)[nth].hash_one(of)
}

fn short_hash(of: impl Hash) -> u32 {
    random_hash(0, of) as u32
}

impl LimitKey {
    pub(super) const MISSING: Self = Self(Kind::Missing);
    /// The key of a limit without keys.
    pub(super) const WITHOUT_KEY: Self = Self(Kind::NoKey);

    pub(super) fn is_without_key(&self) -> bool {
        matches!(self.0, Kind::NoKey)
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self.0, Kind::Missing)
    }

    pub(super) fn some_key(self) -> Option<Self> {
        Some(self).filter(|key| !key.is_without_key())
    }
}

impl Hash for LimitKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(match &self.0 {
            Kind::Text(hash, _) | Kind::Number(hash, _) | Kind::Address(hash, _) => *hash,
            Kind::LongText([hash, _]) => *hash as u32,
            Kind::Missing | Kind::NoKey => 0,
        });
    }
}

impl fmt::Debug for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what: &dyn fmt::Debug = match &self.0 {
            Kind::Text(_, text) => text,
            Kind::LongText(hash) => hash,
            Kind::Number(_, [low, high]) => &(u128::from(*high) << 64 | u128::from(*low)),
            Kind::Address(_, address) => address,
            Kind::Missing => &"missing",
            Kind::NoKey => &"without_key",
        };
        f.debug_tuple("LimitKey").field(what).finish()
    }
}

/// The hasher for keys, which contain their hash already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, hash: u32) {
        // A hash map uses the lowest and the highest bits.
        self.0 = (self.0 ^ u64::from(hash)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl From<&str> for LimitKey {
    fn from(text: &str) -> Self {
        const LONGEST: usize = 64;
        Self(match text.len() {
            0..=LONGEST => Kind::Text(short_hash(text), text.into()),
            _ => Kind::LongText([0, 1].map(|nth| random_hash(nth, text))),
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

/// A number that is not negative gives the same key as an unsigned number.
impl From<i64> for LimitKey {
    fn from(number: i64) -> Self {
        (number as u128).into()
    }
}

impl From<u64> for LimitKey {
    fn from(number: u64) -> Self {
        u128::from(number).into()
    }
}

impl From<u128> for LimitKey {
    fn from(number: u128) -> Self {
        Self(Kind::Number(short_hash(number), [number as u64, (number >> 64) as u64]))
    }
}

/// The whole address is the key: see [`ClientIpKey`](crate::ClientIpKey) for networks.
impl From<IpAddr> for LimitKey {
    fn from(address: IpAddr) -> Self {
        Self(Kind::Address(short_hash(address), address))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_of_equal_values_are_equal() {
        let long = |last: char| LimitKey::from(format!("{}{last}", "x".repeat(1000)));
        assert_eq!(long('a'), long('a'));
        let keys = [long('a'), long('b'), "a".into(), "7".into(), 7_u32.into(), (-7_i64).into()];
        assert_eq!(HashSet::from(keys).len(), 6);
        assert_eq!([LimitKey::from(7_i64), 7_u64.into()], [LimitKey::from(7_u32), 7_u128.into()]);
    }

    #[test]
    fn a_longer_text_makes_no_larger_key() {
        assert!(size_of::<LimitKey>() <= 24);
        assert!(matches!(LimitKey::from("x".repeat(64)).0, Kind::Text(..)));
        assert!(matches!(LimitKey::from("x".repeat(65)).0, Kind::LongText(_)));
    }
}
