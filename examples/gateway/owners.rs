//! Whose a recording is, and whether two requests are the same.

use std::net::IpAddr;

use http::{HeaderName, Method, header::COOKIE, request::Parts};
use sha2::{Digest, Sha256};

use crate::names;

/// Headers that say who asks and that nobody else knows.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// What a trusted proxy was asked for, which the headers of a recorded answer repeat.
const ASKED_OF_A_PROXY: [&str; 2] = ["x-forwarded-host", "x-forwarded-proto"];

/// Headers that tell two requests apart, besides the method and the query.
const OF_THE_BODY: [&str; 7] =
    ["content-type", "content-length", "content-encoding", "content-digest", "repr-digest", "digest", "content-md5"];

/// Whose a recording is, as a text that tells nothing of the credentials.
#[derive(Clone)]
pub(crate) struct Owner(pub(crate) String);

/// Finds the owners of requests.
pub(crate) struct Owners {
    /// Keeps a digest from being compared with one of another process.
    salt: [u8; 32],
    /// The header in which a trusted proxy says who asks.
    header: Option<HeaderName>,
    trusted_proxies: Vec<IpAddr>,
}

impl Owners {
    pub(crate) fn new(header: Option<HeaderName>, trusted_proxies: &[IpAddr]) -> std::io::Result<Self> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self { salt, header, trusted_proxies: trusted_proxies.to_vec() })
    }

    /// The owner of a request with an `Idempotency-Key`: who has its credentials, for the host that it asks for.
    ///
    /// `None`: the request is not recorded. It has no credentials, or the gateway refuses its host anyway, or it is of a
    /// method that is never recorded.
    pub(crate) fn of(&self, request: &Parts, peer: IpAddr) -> Option<Owner> {
        let is_recorded = ![Method::HEAD, Method::OPTIONS, Method::CONNECT].contains(&request.method);
        if !is_recorded || !request.headers.contains_key("idempotency-key") {
            return None;
        }
        let mut digest = Texts(Sha256::new_with_prefix(self.salt));
        digest.add(names::asked(request).ok()?.map(|host| host.as_str().to_ascii_lowercase()).as_deref());
        let is_trusted = self.trusted_proxies.contains(&peer);
        for name in ASKED_OF_A_PROXY.iter().filter(|_| is_trusted) {
            digest.add_all(request, name);
        }
        let said = self.header.as_ref().filter(|_| is_trusted).map(HeaderName::as_str);
        let is_said = |name: &str| request.headers.get(name).is_some_and(|value| !value.is_empty());
        match said.filter(|name| is_said(name)) {
            Some(name) => {
                digest.add(Some("said"));
                digest.add_all(request, name);
            }
            None => {
                if !CREDENTIALS.into_iter().any(is_said) {
                    return None;
                }
                digest.add(Some("has"));
                // A cookie alone may be no secret. Beside credentials that many share, it can say who of them it is.
                for name in CREDENTIALS.into_iter().chain([COOKIE.as_str()]) {
                    digest.add_all(request, name);
                }
            }
        }
        Some(Owner(digest.finish()))
    }
}

/// What a request with the same key has to have in common with the first.
pub(crate) fn fingerprint(request: &Parts) -> String {
    let mut digest = Texts(Sha256::new());
    digest.add(Some(request.method.as_str()));
    digest.add(request.uri.query());
    for name in OF_THE_BODY {
        digest.add_all(request, name);
    }
    digest.finish()
}

/// A digest of several texts, which no other texts have.
struct Texts(Sha256);

impl Texts {
    fn add(&mut self, text: Option<impl AsRef<[u8]>>) {
        let Some(text) = text else { return self.0.update([0]) };
        self.0.update([1]);
        self.0.update((text.as_ref().len() as u64).to_be_bytes());
        self.0.update(text);
    }

    /// Adds all values of a header.
    fn add_all(&mut self, request: &Parts, name: &str) {
        for value in request.headers.get_all(name) {
            self.add(Some(value.as_bytes()));
        }
        self.add(None::<&str>);
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
