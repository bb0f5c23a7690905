use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderName, request::Parts};

use super::key::LimitKey;

/// The IP address of a request, as the key of a [`Limit`](crate::Limit).
///
/// Default: the address of the peer that opened the connection. The `x-forwarded-for` header is not read, because a
/// client can write anything into it. Only the entries at its end, which your own proxies have added, can be trusted.
/// [`proxies`](Self::proxies) says how many they are.
///
/// An IPv6 address counts together with its network, because whoever has one address has the whole network: see
/// [`ipv6_prefix`](Self::ipv6_prefix). An IPv6 address that stands for an IPv4 address counts as that IPv4 address:
/// `::ffff:192.0.2.1`, and `64:ff9b::192.0.2.1` of NAT64 (RFC 6052).
///
/// ```
/// use std::net::SocketAddr;
/// use http::request::Parts;
/// use tower_sse::{ClientIpKey, Limit, Registry, SseLayer};
///
/// // With axum: `request.extensions.get::<ConnectInfo<SocketAddr>>()`, and `into_make_service_with_connect_info`.
/// let address = ClientIpKey::new(|request: &Parts| Some(request.extensions.get::<SocketAddr>()?.ip())).proxies(1);
/// let layer = SseLayer::new(&Registry::new()).limit(Limit::streams(20).per(address.key()));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct ClientIpKey {
    peer: Arc<Peer>,
    proxies: usize,
    header: HeaderName,
    ipv6_prefix: u8,
}

type Peer = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

impl ClientIpKey {
    /// Uses the peer address that the server has put into the request's extensions.
    ///
    /// A request without a known address is [refused](crate::RefusedReason::MissingKey), because nobody can tell for
    /// whom it counts. With axum, this happens if the server was not made with `into_make_service_with_connect_info`.
    pub fn new(peer: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self { peer: Arc::new(peer), proxies: 0, header: HeaderName::from_static("x-forwarded-for"), ipv6_prefix: 64 }
    }

    /// Sets how many of your own proxies a request passes.
    ///
    /// Default: 0; the header is not read. Each proxy adds the address from which it got the request to the end of
    /// `x-forwarded-for`.
    ///
    /// With 1, the client is the last entry; with 2, the last but one. If the header has fewer entries, or the entry is
    /// not an address, the request did not pass the proxies. It then counts for the peer that opened the connection.
    #[must_use]
    pub fn proxies(self, number: usize) -> Self {
        Self { proxies: number, ..self }
    }

    /// Sets the header that the proxies write the address into.
    ///
    /// Default: `x-forwarded-for`. Other common headers are `x-real-ip` and `cf-connecting-ip`. Without
    /// [`proxies`](Self::proxies), no header is read.
    ///
    /// If each proxy replaces the header instead of adding to it, the header has one entry. Set
    /// [`proxies`](Self::proxies) to 1 then, however many proxies there are.
    #[must_use]
    pub fn header(self, name: HeaderName) -> Self {
        Self { header: name, ..self }
    }

    /// Sets how many bits of an IPv6 address count. Default: 64. Maximum: 128.
    ///
    /// 64 bits are the smallest network that a customer gets (RFC 6177). Choose fewer bits if your users' providers
    /// give each customer a /56 or /48.
    #[must_use]
    pub fn ipv6_prefix(self, bits: u8) -> Self {
        Self { ipv6_prefix: bits.min(128), ..self }
    }

    /// Returns a function that gives the key of a request, for [`Limit::per`](crate::Limit::per).
    ///
    /// A request without a known address has no key.
    pub fn key(self) -> impl Fn(&Parts) -> Option<LimitKey> + Send + Sync + 'static {
        move |request| self.of(request).map(LimitKey::from)
    }

    /// Returns the address that a request counts for. `None`: the address is unknown.
    ///
    /// For an IPv6 address, it is the address of the network.
    #[must_use]
    pub fn of(&self, request: &Parts) -> Option<IpAddr> {
        let address = self.forwarded(request).or_else(|| (self.peer)(request))?;
        let IpAddr::V6(address) = address else { return Some(address) };
        if let Some(address) = ipv4_in(address) {
            return Some(address.into());
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6_prefix)).unwrap_or(0);
        Some(Ipv6Addr::from_bits(address.to_bits() & mask).into())
    }

    fn forwarded(&self, request: &Parts) -> Option<IpAddr> {
        let nth = self.proxies.checked_sub(1)?;
        let lines = request.headers.get_all(&self.header).iter().rev();
        let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        parse(std::str::from_utf8(entries.nth(nth)?).ok()?.trim())
    }
}

/// Returns the IPv4 address that an IPv6 address stands for.
///
/// Such addresses come from a socket that accepts both families, and from a NAT64.
fn ipv4_in(address: Ipv6Addr) -> Option<Ipv4Addr> {
    const NAT64: u128 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).to_bits();
    let behind_nat64 = (address.to_bits() >> 32 == NAT64 >> 32).then(|| Ipv4Addr::from_bits(address.to_bits() as u32));
    behind_nat64.or_else(|| address.to_ipv4_mapped())
}

/// Parses an address with or without a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()))
}

impl fmt::Debug for ClientIpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIpKey")
            .field("proxies", &self.proxies)
            .field("header", &self.header)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(address: &ClientIpKey, lines: &[&'static str]) -> Option<String> {
        let mut request = Request::new(());
        lines.iter().for_each(|line| {
            request.headers_mut().append("x-forwarded-for", http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        });
        address.of(&request.into_parts().0).map(|address| address.to_string())
    }

    fn from(peer: &'static str) -> ClientIpKey {
        ClientIpKey::new(move |_| peer.parse().ok())
    }

    #[test]
    fn only_entries_of_own_proxies_are_trusted() {
        let forwarded = &["6.6.6.6, 1.2.3.4", "5.6.7.8 "];
        let by = |proxies| of(&from("9.9.9.9").proxies(proxies), forwarded).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(by), ["9.9.9.9", "5.6.7.8", "1.2.3.4", "6.6.6.6", "9.9.9.9"]);
    }

    #[test]
    fn an_invalid_address_counts_as_the_peer() {
        for forwarded in
            ["", ",", "unknown", "1.2.3", "1.2.3.4:x", "gr\u{fc}\u{df}e", "[::1", "::1]:8", "1.2.3.4 5.6.7.8"]
        {
            assert_eq!(of(&from("9.9.9.9").proxies(1), &[forwarded]).unwrap(), "9.9.9.9", "{forwarded:?}");
        }
        assert_eq!(of(&from("9.9.9.9").proxies(1), &[]).unwrap(), "9.9.9.9");
        assert_eq!(of(&from("").proxies(1), &["?"]), None);
    }

    #[test]
    fn addresses_may_have_ports() {
        let forwarded = ["1.2.3.4:567", "[2001:db8::1]:8", "[2001:db8::1]", "2001:db8::1", "::ffff:1.2.3.4"];
        let found = forwarded.map(|entry| of(&from("9.9.9.9").proxies(1).ipv6_prefix(128), &[entry]).unwrap());
        assert_eq!(found, ["1.2.3.4", "2001:db8::1", "2001:db8::1", "2001:db8::1", "1.2.3.4"]);
    }

    #[test]
    fn an_ipv6_address_counts_as_its_network() {
        let address = || from("2001:db8:1:2:3:4:5:6");
        assert_eq!(of(&address(), &[]).unwrap(), "2001:db8:1:2::");
        assert_eq!(of(&address().ipv6_prefix(48), &[]).unwrap(), "2001:db8:1::");
        assert_eq!(of(&address().ipv6_prefix(0), &[]).unwrap(), "::");
        assert_eq!(of(&address().ipv6_prefix(255), &[]).unwrap(), "2001:db8:1:2:3:4:5:6");
    }

    #[test]
    fn an_ipv6_address_of_an_ipv4_address_counts_as_the_ipv4_address() {
        for peer in ["::ffff:9.9.9.9", "64:ff9b::9.9.9.9", "64:ff9b::909:909"] {
            assert_eq!(of(&from(peer), &[]).unwrap(), "9.9.9.9", "{peer}");
            assert_eq!(of(&from("1.1.1.1").proxies(1), &[peer]).unwrap(), "9.9.9.9", "{peer}");
        }
        assert_ne!(of(&from("64:ff9b::1.1.1.1"), &[]), of(&from("64:ff9b::1.1.1.2"), &[]));
        assert_eq!(of(&from("64:ff9b:1::9.9.9.9"), &[]).unwrap(), "64:ff9b:1::", "a NAT64 prefix of another network");
        assert_eq!(of(&from("::1"), &[]).unwrap(), "::");
    }
}
