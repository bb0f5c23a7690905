use std::{net::IpAddr, sync::Arc};

/// Whom a [`Limit`](crate::Limit) counts for: a text, a number, or an address.
///
/// A text is kept as it is for as long as there is a stream of it. It costs its bytes once for each of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitKey(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Text(Arc<str>),
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
        Self(Kind::Text(text.into()))
    }
}

impl From<String> for LimitKey {
    fn from(text: String) -> Self {
        Self(Kind::Text(text.into()))
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
