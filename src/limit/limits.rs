//! Limits on the number of streams.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::request::Parts;
use tokio::time::Instant;

use super::{
    admission::Claim,
    count::{Acquired, Counted, Rate},
    key::LimitKey,
    refused_reason::RefusedReason,
};
use crate::time::nanoseconds;

/// A limit on open streams, or on new streams in a period of time.
///
/// It counts in total, or for each key.
///
/// A limit is a handle: its clones count together. On [`SseLayer::limit`](crate::SseLayer::limit) it limits the streams
/// behind one layer. With a clone on another layer, it limits the streams behind both layers. On
/// [`RegistryConfig::limit`](crate::RegistryConfig::limit) it limits all streams of a registry.
///
/// Each limit counts a stream through nested layers once, unless something between the layers removes the request's
/// extensions.
///
/// ```
/// use std::time::Duration;
/// use http::request::Parts;
/// use tower_sse::{Limit, Registry, RegistryConfig, SseLayer};
///
/// #[derive(Clone)]
/// struct User(u64); // An outer authentication layer puts it into the extensions.
///
/// let in_all = Limit::streams(10_000);
/// let registry = Registry::with_config(RegistryConfig::default().limit(in_all.clone()));
/// let layer = SseLayer::new(&registry)
///     .limit(Limit::streams(5).per(|request: &Parts| Some(request.extensions.get::<User>()?.0)))
///     .limit(Limit::rate(200, Duration::from_secs(1), 500));
///
/// in_all.set_limit(20_000); // at any time
/// # let _ = layer;
/// ```
///
/// # When it counts
///
/// A request that asks for an event stream with its `Accept` header, as `EventSource` does, is counted before the
/// handler runs. So a refused request costs next to nothing. If the response is not a stream, it stops counting.
///
/// A response can be a stream although the request did not ask for one. It is counted when the handler answers. If
/// there is no room, it is refused, and its body is dropped unread.
/// [`ClientHandle::acquire_slot`](crate::ClientHandle::acquire_slot) takes the slot before the handler begins its work.
///
/// A stream counts until its body is dropped, or until its client counts as
/// [stalled](crate::RegistryConfig::stalled_client_timeout). If a peer reads nothing, the server may hold the body
/// until the socket is closed, which may be never. So a limit bounds the streams that are served, not the open sockets.
/// To bound those, use `TCP_USER_TIMEOUT` and HTTP/2 keep-alive. An observer can also close the connection when it is
/// told of [`CloseReason::Stalled`](crate::CloseReason::Stalled). For that, the program puts a handle of the connection
/// into the client's [metadata](crate::SseLayer::metadata).
///
/// [`Events`](crate::Events) count until they are dropped. Clients of [`Registry::connect`](crate::Registry::connect)
/// do not count.
///
/// There is no queue. If there is no room, the stream is refused at once: see
/// [`RefusedResponse`](crate::RefusedResponse).
///
/// # Cost
///
/// Each request that asks for a stream costs a few short locks and one allocation. Each open stream costs some 80
/// bytes. With a key, each key with open streams costs some 40 to 75 bytes more, and the bytes of a text key. `cargo
/// bench --bench limits` measures the time.
#[derive(Clone)]
#[must_use = "a limit does nothing unless a layer or a registry has it"]
pub struct Limit {
    inner: Arc<Inner>,
}

struct Inner {
    /// How many streams may be open, or how many may begin in the period of a rate.
    number: AtomicU32,
    rate: Option<Rate>,
    key: Option<KeyOf>,
    counted: Counted,
    /// The start of the time that a rate counts with.
    start: Instant,
}

/// The program's function that gives the key of a request.
struct KeyOf {
    of: Box<GiveKey>,
    /// The name of the program's function, which error messages and logs show.
    by: &'static str,
    /// A request without a key is not limited.
    is_optional: bool,
}

type GiveKey = dyn Fn(&Parts) -> Option<LimitKey> + Send + Sync;

impl Limit {
    /// Allows at most this many open streams. 0 allows none.
    pub fn streams(number: u32) -> Self {
        Self::with(number, None, None)
    }

    /// Allows at most `number` new streams in each period `per`.
    ///
    /// After a pause, up to `burst` streams may begin at once. With a `number` of 0, no stream may begin.
    ///
    /// It is a token bucket. The bucket holds `burst` tokens, at least one. `number` tokens come back evenly in each
    /// period `per`.
    ///
    /// A request takes a token when it is counted. If no stream comes of the request, the token is given back, except
    /// for the part that has come back by itself: the whole token at once, half of it after half of the time that a
    /// token takes, and nothing after that time. So abandoned requests never let more streams begin than the rate
    /// allows.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse::Limit;
    ///
    /// // After a restart, the clients come back at 100 a second. 20 of them may come at once.
    /// let limit = Limit::rate(100, Duration::from_secs(1), 20);
    /// # let _ = limit;
    /// ```
    pub fn rate(number: u32, per: Duration, burst: u32) -> Self {
        Self::with(number, Some(Rate::new(per, burst)), None)
    }

    /// Counts each key separately: for example a user, an address or a tenant.
    ///
    /// The result is a new limit, which starts at zero.
    ///
    /// A stream whose request has no key is refused with [`RefusedReason::MissingKey`], because the limit could not
    /// count it. The usual cause is that the layer that sets the key is missing, or is further
    /// in than [`SseLayer`](crate::SseLayer). If streams without a key are allowed, give them
    /// one common key, or use [`per_optional`](Self::per_optional). Requests that get no stream need no key.
    ///
    /// The function is called for each request that passes a layer with this limit, before the handler runs. It can
    /// read the extensions that outer layers have set. [`ClientIpKey::key`](crate::ClientIpKey::key) is such a function
    /// for addresses.
    ///
    /// Clients may choose keys. There are never more entries than streams. With a rate, there are never more entries
    /// than requests in the time that an empty bucket takes to be full.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_sse::Limit;
    ///
    /// let limit = Limit::streams(5).per(|request: &Parts| Some(request.headers.get("x-api-key")?.to_str().ok()?.to_owned()));
    /// # let _ = limit;
    /// ```
    pub fn per<K: Into<LimitKey>>(self, key: impl Fn(&Parts) -> Option<K> + Send + Sync + 'static) -> Self {
        self.by_key(key, false)
    }

    /// Counts each key separately, and does not limit a request without a key.
    ///
    /// Use it for a limit that concerns only some requests. If no request has a key, it limits nothing.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_sse::Limit;
    ///
    /// // No streams for this one client.
    /// let banned = |request: &Parts| request.headers.get("x-api-key").filter(|key| *key == "banned").map(|_| "banned");
    /// let limit = Limit::streams(0).per_optional(banned);
    /// # let _ = limit;
    /// ```
    pub fn per_optional<K: Into<LimitKey>>(self, key: impl Fn(&Parts) -> Option<K> + Send + Sync + 'static) -> Self {
        self.by_key(key, true)
    }

    fn by_key<F, K: Into<LimitKey>>(&self, key: F, is_optional: bool) -> Self
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    {
        let of = Box::new(move |request: &Parts| key(request).map(Into::into));
        Self::with(self.limit(), self.inner.rate, Some(KeyOf { of, by: std::any::type_name::<F>(), is_optional }))
    }

    fn with(number: u32, rate: Option<Rate>, key: Option<KeyOf>) -> Self {
        let (number, counted, start) = (AtomicU32::new(number), Counted::default(), Instant::now());
        Self { inner: Arc::new(Inner { number, rate, key, counted, start }) }
    }

    /// Changes the limit from now on, also for all clones.
    ///
    /// Open streams stay open, even if they are more than the new limit. With a rate, the number of streams in each
    /// period changes.
    pub fn set_limit(&self, number: u32) {
        self.inner.number.store(number, Ordering::Relaxed);
        if let Some(rate) = self.inner.rate {
            rate.set(&self.inner.counted, number, self.inner.now());
        }
    }

    /// Returns the limit: the number of open streams, or of new streams in each period.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.inner.number.load(Ordering::Relaxed)
    }

    /// Returns how many streams count now, over all keys. With a rate, always 0.
    ///
    /// Cost: a few nanoseconds for each key. No stream can begin or end during that time.
    #[must_use]
    pub fn open_streams(&self) -> u64 {
        match self.inner.rate {
            None => self.inner.counted.open(),
            Some(_) => 0,
        }
    }

    /// Returns the number of entries.
    ///
    /// An entry is a key with open streams or, with a rate, with a bucket that is not full. Without a key, there is at
    /// most one entry.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.inner.counted.entries(self.inner.rate.map(|_| self.inner.now()))
    }

    /// Returns the slot that a request needs. `None`: the limit does not apply to it.
    #[inline]
    pub(crate) fn ask(&self, request: &Parts) -> Option<Claim> {
        let key = self.inner.key.as_ref().map_or(Some(LimitKey::WITHOUT_KEY), |key| key.of(request))?;
        Some(Claim::new(self.clone(), key))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Takes a slot or a token, or returns why there is none.
    pub(super) fn take(&self, key: &LimitKey) -> Result<Acquired, RefusedReason> {
        if let Some(KeyOf { by, .. }) = self.inner.key.as_ref().filter(|_| key.is_missing()) {
            return Err(RefusedReason::MissingKey { by });
        }
        let (number, counted) = (self.limit(), &self.inner.counted);
        match self.inner.rate {
            None if counted.add(key, number) => Ok(Acquired::Slot),
            None => Err(RefusedReason::Full { key: key.clone().some_key(), limit: number }),
            Some(rate) => {
                let now = self.inner.now();
                match rate.take(counted, key, number, now) {
                    Ok(()) => Ok(Acquired::Token(now)),
                    Err(retry_in) => Err(RefusedReason::RateLimited { key: key.clone().some_key(), retry_in }),
                }
            }
        }
    }

    pub(super) fn give_back(&self, key: &LimitKey, taken: Acquired) {
        match taken {
            Acquired::Slot => self.inner.counted.remove(key),
            Acquired::Token(at) => self.inner.counted.give_back(key, at, self.inner.now()),
            Acquired::Nothing | Acquired::SpentToken => {}
        }
    }
}

impl KeyOf {
    fn of(&self, request: &Parts) -> Option<LimitKey> {
        match (self.of)(request) {
            None if !self.is_optional => Some(LimitKey::MISSING),
            key => key,
        }
    }
}

impl Inner {
    /// Returns the nanoseconds since the limit was made.
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Limit");
        debug
            .field("number", &self.limit())
            .field("rate", &self.inner.rate)
            .field("per_key", &self.inner.key.is_some());
        debug.field("entries", &self.entries()).finish()
    }
}
