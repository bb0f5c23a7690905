//! For which client a request counts.

use std::net::IpAddr;

use http::request::Parts;
use tower_sse::ClientIpKey;

/// A chain of trusted proxies has no more.
const MOST_PROXIES: usize = 8;

/// The address of the client, of IPv6 its network: the peer's, or whom trusted proxies got the request from.
///
/// Each trusted proxy adds that to the end of `x-forwarded-for`. The last entry that is no trusted proxy is the client.
pub(crate) fn address(head: &Parts, peer: IpAddr, trusted_proxies: &[IpAddr]) -> IpAddr {
    let key = ClientIpKey::new(move |_: &Parts| Some(peer));
    let whole = key.clone().ipv6_prefix(128);
    let is_a_proxy =
        |&number: &usize| whole.clone().proxies(number).of(head).is_some_and(|it| trusted_proxies.contains(&it));
    let proxies = (0..MOST_PROXIES).find(|number| !is_a_proxy(number)).unwrap_or(0);
    key.proxies(proxies).of(head).unwrap_or(peer)
}
