//! The client for which a request counts.

use std::net::IpAddr;

use http::request::Parts;
use tower_sse::ClientIpKey;

/// The longest chain of trusted proxies that is considered.
const MOST_PROXIES: usize = 8;

/// The client's address, or its network for IPv6. That is the peer, or the client for which trusted proxies forwarded
/// the request.
///
/// Each trusted proxy appends the address of its peer to `x-forwarded-for`. The last entry that is not a trusted proxy
/// is the client.
pub(crate) fn address(head: &Parts, peer: IpAddr, trusted_proxies: &[IpAddr]) -> IpAddr {
    let key = ClientIpKey::new(move |_: &Parts| Some(peer));
    let whole = key.clone().ipv6_prefix(128);
    let is_a_proxy =
        |&number: &usize| whole.clone().proxies(number).of(head).is_some_and(|it| trusted_proxies.contains(&it));
    let proxies = (0..MOST_PROXIES).find(|number| !is_a_proxy(number)).unwrap_or(0);
    key.proxies(proxies).of(head).unwrap_or(peer)
}
